"""A folder of safetensors shards: rows of features under 128-bit keys, written by several processes at once.

A shard is written whole by one process and never changed: "keys" (n, 2) int64, sorted; "checks" (n,) int64, the CRC-32
of every row; "features" (n, E). Keys and checks are read when a shard is first seen; feature rows come from the mapped
file as they are asked for. The same key in two shards is harmless: both hold the same feature.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from maft.errors import UserError
from reason.files import FileBusyError, locked, remove_stale, write_bytes

logger = logging.getLogger(__name__)

DAMAGED_SUFFIX = ".damaged"
COMPACT_SHARDS = 16
"""Small shards that are allowed to pile up before they are merged."""
COMPACT_ROWS = 65_536
"""A shard with fewer rows is small; a merged shard holds at most twice as many."""
FORMAT = "openseg-r text bank 1"


def sentence_keys(sentences: Iterable[str]) -> np.ndarray:
    """(N, 2) uint64: the 128-bit BLAKE2b hash of every sentence, in which two texts do not meet."""
    digests = b"".join(hashlib.blake2b(sentence.encode(), digest_size=16).digest() for sentence in sentences)
    return np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)


@dataclass(frozen=True)
class _Shard:
    keys: np.ndarray
    checks: np.ndarray
    features: Tensor
    damaged: np.ndarray  # (n,) bool, rows found not to fit their checks

    def find(self, keys: np.ndarray) -> np.ndarray:
        """(N,) row of every key, -1 where the shard has none."""
        rows = np.full(len(keys), -1, dtype=np.int64)
        start = np.searchsorted(self.keys[:, 0], keys[:, 0])
        # Two keys of one shard may in theory agree in their first half: then the second candidate is the one.
        for candidate in (start, start + 1):
            inside = np.minimum(candidate, len(self.keys) - 1)
            hit = (candidate < len(self.keys)) & (self.keys[inside] == keys).all(axis=1)
            rows[hit] = inside[hit]
        rows[(rows >= 0) & self.damaged[rows]] = -1
        return rows


class ShardFolder:
    """The shards of one encoder, template set and storage type.

    Args:
        folder: made on the first write; need not exist.
        dim: E, width of the rows.
        dtype: torch.float32 or torch.float16.
        identity: what the rows belong to; written into every shard and compared on reading.
    """

    def __init__(self, folder: Path, dim: int, dtype: torch.dtype, identity: Mapping[str, str]) -> None:
        self.folder = folder
        self.damaged_shards = 0
        self.damaged_rows = 0
        self._dim = dim
        self._dtype = dtype
        self._metadata = {"format": FORMAT, **identity}
        self._shards: dict[str, _Shard] = {}
        self._refused: set[str] = set()
        remove_stale(folder)
        self.refresh()

    def __len__(self) -> int:
        """Rows on the disk, keys that stand in two shards counted twice."""
        return sum(len(shard.keys) for shard in self._shards.values())

    @property
    def shards(self) -> int:
        """Shards in use."""
        return len(self._shards)

    def refresh(self) -> None:
        """See what other processes have added, merged or removed since."""
        try:
            names = {entry.name for entry in os.scandir(self.folder) if entry.name.endswith(".safetensors")}
        except FileNotFoundError:
            names = set()
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot be read ({error.strerror}); mend it, or name another MODEL.REASON.BANK_DIR"
            ) from error
        for name in sorted(names - self._shards.keys() - self._refused):
            shard = self._open(self.folder / name)
            if shard is not None:
                self._shards[name] = shard
        for name in self._shards.keys() - names:
            del self._shards[name]

    def contains(self, keys: np.ndarray) -> np.ndarray:
        """(N,) bool: which of the (N, 2) keys are stored."""
        found = np.zeros(len(keys), dtype=bool)
        for shard in self._shards.values():
            found |= shard.find(keys) >= 0
        return found

    def read(self, keys: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """The stored rows of (N, 2) keys: (N, E) in the storage type, zeros where not found; (N,) bool: found.

        A row that no longer fits its check counts as not found.
        """
        rows = torch.zeros(len(keys), self._dim, dtype=self._dtype)
        found = np.zeros(len(keys), dtype=bool)
        for name, shard in self._shards.items():
            wanted = np.flatnonzero(~found)
            if not len(wanted):
                break
            places = shard.find(keys[wanted])
            wanted, places = wanted[places >= 0], places[places >= 0]
            values = shard.features[torch.from_numpy(places)]
            good = _checks(values) == shard.checks[places]
            if not good.all():
                shard.damaged[places[~good]] = True
                self.damaged_rows += int((~good).sum())
                logger.warning(
                    "%s: %d of its rows are damaged; those sentences are encoded again",
                    self.folder / name,
                    int((~good).sum()),
                )
            rows[torch.from_numpy(wanted[good])] = values[torch.from_numpy(good)]
            found[wanted[good]] = True
        return rows, found

    def write(self, keys: np.ndarray, rows: Tensor) -> None:
        """Store (N, E) rows of the storage type under (N, 2) distinct keys, as one new shard.

        Raises:
            UserError: the disk is full or the folder is not writable; what was stored before is untouched.
        """
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        keys, rows = np.ascontiguousarray(keys[order]), rows[torch.from_numpy(order)].contiguous()
        checks = _checks(rows)
        content = safetensors.torch.save(
            {"keys": torch.from_numpy(keys.view(np.int64)), "checks": torch.from_numpy(checks), "features": rows},
            metadata=self._metadata,
        )
        path = self.folder / f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}.safetensors"
        try:
            write_bytes(path, content, sync=True)
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot store text features ({error.strerror}); free some space or mend the folder, or "
                "set MODEL.REASON.BANK_DIR to another one, or to '' to keep features in memory only"
            ) from error
        shard = self._open(path)
        if shard is not None:
            self._shards[path.name] = shard

    def compact(self) -> int:
        """Merge small shards if many have piled up; only one process at a time does.

        Returns:
            How many shards were merged into one: 0 if there was no need, or another process is at it.

        Raises:
            UserError: as `write`; the small shards are then still there.
        """
        if len(self._small()) < COMPACT_SHARDS:
            return 0
        if not os.access(self.folder, os.W_OK):
            return 0  # A bank that one may only read stays as it is.
        try:
            with locked(self.folder / ".compact.lock"):
                return self._merge()
        except FileBusyError:
            return 0  # Another process is at it.

    def _merge(self) -> int:
        self.refresh()
        names = self._small()
        if len(names) < COMPACT_SHARDS:
            return 0
        keys = np.unique(np.concatenate([self._shards[name].keys for name in names]), axis=0)
        rows, found = self.read(keys)
        if found.any():
            self.write(keys[found], rows[torch.from_numpy(found)])
        for name in names:
            with suppress(OSError):
                (self.folder / name).unlink()
            self._shards.pop(name, None)
        return len(names)

    def _small(self) -> list[str]:
        """The smallest shards that together fit into one merged shard."""
        every = sorted((len(shard.keys), name) for name, shard in self._shards.items())
        sizes = [(size, name) for size, name in every if size < COMPACT_ROWS]
        totals = np.cumsum([size for size, _ in sizes])
        return [name for (_, name), total in zip(sizes, totals, strict=True) if total <= 2 * COMPACT_ROWS]

    def _open(self, path: Path) -> _Shard | None:
        """The shard, or None if another process removed it or it is damaged."""
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                tensors = [file.get_tensor(name) for name in ("keys", "checks", "features")]
        except FileNotFoundError:
            return None
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            self._set_aside(path, str(error))
            return None
        if metadata != self._metadata:
            self._set_aside(path, "it belongs to another encoder, template set or format")
            return None
        keys, checks, features = tensors
        problem = _shape_problem(tensors, self._dim, self._dtype)
        if problem:
            self._set_aside(path, problem)
            return None
        return _Shard(keys.numpy().view(np.uint64), checks.numpy(), features, np.zeros(len(keys), dtype=bool))

    def _set_aside(self, path: Path, why: str) -> None:
        self.damaged_shards += 1
        self._refused.add(path.name)
        aside = path.with_name(path.name + DAMAGED_SUFFIX)
        try:
            path.replace(aside)
            what = f"renamed to {aside.name}"
        except OSError as error:
            what = f"left in place ({error.strerror})"
        logger.warning("%s: not a usable shard (%s); %s, its sentences are encoded again", path, why, what)


def _shape_problem(tensors: Sequence[Tensor], dim: int, dtype: torch.dtype) -> str | None:
    keys, checks, features = tensors
    rows = len(keys)
    if rows == 0 or keys.shape != (rows, 2) or keys.dtype != torch.int64:
        return f"keys of shape {tuple(keys.shape)}"
    if checks.shape != (rows,) or checks.dtype != torch.int64:
        return f"checks of shape {tuple(checks.shape)} for {rows} keys"
    if features.shape != (rows, dim) or features.dtype != dtype:
        return f"features {tuple(features.shape)} of {features.dtype} instead of ({rows}, {dim}) of {dtype}"
    table = keys.numpy().view(np.uint64)
    higher = (table[1:, 0] > table[:-1, 0]) | ((table[1:, 0] == table[:-1, 0]) & (table[1:, 1] > table[:-1, 1]))
    return None if higher.all() else "keys that are not in order"


def _checks(rows: Tensor) -> np.ndarray:
    """(n,) int64 CRC-32 of the bytes of every row."""
    return np.array([zlib.crc32(row) for row in rows.contiguous().numpy()], dtype=np.int64)
