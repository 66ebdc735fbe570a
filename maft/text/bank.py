"""The feature bank: every distinct sentence goes through CLIP's text tower once ever (per weights and template set)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from maft.errors import UserError
from maft.text.encoder import TextEncoder
from maft.text.shards import ShardFolder, sentence_keys
from maft.text.templates import TemplateSet, template_set

logger = logging.getLogger(__name__)

Progress = Callable[[int], object]

_PIECE = 4096
"""Sentences encoded between two looks at the clock: half a minute of work for the base model on two CPU cores."""

DTYPES = {"float32": torch.float32, "float16": torch.float16}


class FeatureBank:
    """Sentences -> un-normalised CLIP text features, kept on disk.

    Rows lie in `folder/<encoder fingerprint>/<template set>-<hash>-<dtype>/`, see `maft.text.shards`, so that different
    weights, template sets or storage types never meet. New rows are collected in memory and written together: after
    `flush_rows` of them, when `flush_seconds` have passed since the last write, and on `flush` and `close` (which the
    end of a `with` block calls). A process that is killed loses what it has not written, nothing else. Several
    processes may use one folder: each writes shards of its own and finds those of the others.

    A write that fails (disk full) raises UserError from whatever call it happened in. What lies on the disk is
    untouched and the rows stay in memory: the same call repeated is served from there, the next write takes them along.

    With float16 storage new rows are rounded at once, so that a value does not depend on whether it came from the disk.
    Not for use by several threads at once.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        templates: str | TemplateSet = "vild",
        folder: str | Path | None = None,
        *,
        storage_dtype: Literal["float32", "float16"] = "float32",
        flush_rows: int = 4096,
        flush_seconds: float = 60.0,
        memory_rows: int = 200_000,
    ) -> None:
        """
        Args:
            encoder: encodes what the bank lacks. Its fingerprint is asked for on use, so weights may be loaded later.
            templates: the set that the sentences are made with, or its name.
            folder: None or "" keeps features in memory only.
            storage_dtype: MODEL.REASON.BANK_DTYPE.
            flush_rows, flush_seconds: when new rows are written, see above.
            memory_rows: without a folder, the oldest rows beyond so many are forgotten.

        Raises:
            UserError: a storage type or template set that there is not.
        """
        if storage_dtype not in DTYPES:
            raise UserError(
                f"MODEL.REASON.BANK_DTYPE: {storage_dtype!r} is no storage type; choose one of {', '.join(DTYPES)}"
            )
        self._encoder = encoder
        self._templates = template_set(templates) if isinstance(templates, str) else templates
        self._root = Path(folder) if folder and str(folder) else None
        self._dtype = DTYPES[storage_dtype]
        self._flush_rows = max(1, flush_rows)
        self._flush_seconds = flush_seconds
        self._memory_rows = max(1, memory_rows)
        self._fingerprint = ""
        self._shards: ShardFolder | None = None
        self._recent: dict[bytes, Tensor] = {}
        self._last_flush = time.monotonic()
        self._counts = dict.fromkeys(("encoded", "read", "remembered", "forgotten"), 0)

    @property
    def encoder(self) -> TextEncoder:
        """What encodes the sentences that the bank lacks."""
        return self._encoder

    @property
    def folder(self) -> Path | None:
        """Where this encoder's rows lie; None for memory only."""
        if self._root is None:
            return None
        name = f"{self._templates.name}-{self._templates.hash}-{str(self._dtype).removeprefix('torch.')}"
        return self._root / self._encoder.fingerprint / name

    def get(self, sentences: Sequence[str], on_progress: Progress | None = None) -> Tensor:
        """The features of `sentences`, encoded if need be.

        Args:
            sentences: N of them.
            on_progress: called with the number of distinct sentences just found or encoded.

        Returns:
            (N, E) float32 on the CPU, not normalised, in the order asked for; repeated sentences are encoded once.

        Raises:
            UserError: new rows could not be written, or the text tower gives values that are not finite.
        """
        places = {sentence: place for place, sentence in enumerate(dict.fromkeys(sentences))}
        distinct = list(places)
        keys = sentence_keys(distinct)
        self._open()
        rows, found = self._look_up(keys)
        if not found.all() and self._shards is not None:
            self._shards.refresh()
            missing = np.flatnonzero(~found)
            later, now_found = self._shards.read(keys[missing])
            self._counts["read"] += int(now_found.sum())
            rows[torch.from_numpy(missing[now_found])] = later[torch.from_numpy(now_found)]
            found[missing[now_found]] = True
        report = on_progress or _silent
        report(int(found.sum()))
        for part, values in self._encode(distinct, keys, np.flatnonzero(~found)):
            rows[torch.from_numpy(part)] = values
            report(len(part))
        return rows.float()[[places[sentence] for sentence in sentences]]

    def prefetch(self, sentences: Iterable[str], on_progress: Progress | None = None) -> int:
        """Encode those of `sentences` that the bank lacks.

        Args:
            sentences: may repeat.
            on_progress: called with the number of distinct sentences just found or encoded.

        Returns:
            How many were encoded.

        Raises:
            UserError: as `get`.
        """
        distinct = list(dict.fromkeys(sentences))
        keys = sentence_keys(distinct)
        missing = self._missing(keys)
        report = on_progress or _silent
        report(len(distinct) - len(missing))
        for part, _ in self._encode(distinct, keys, missing):
            report(len(part))
        return len(missing)

    def lacks(self, sentences: Iterable[str]) -> list[str]:
        """Those of `sentences` that have no row yet, each once, in their order.

        Raises:
            UserError: the folder cannot be read.
        """
        distinct = list(dict.fromkeys(sentences))
        return [distinct[place] for place in self._missing(sentence_keys(distinct))]

    @property
    def row_bytes(self) -> int:
        """What a row takes on the disk, key and check included."""
        return self._encoder.dim * self._dtype.itemsize + 24

    def flush(self) -> None:
        """Write the rows that are only in memory so far; without a folder nothing happens.

        Raises:
            UserError: they could not be written; they stay in memory.
        """
        if self._shards is None or not self._recent:
            return
        keys = np.frombuffer(b"".join(self._recent), dtype=np.uint64).reshape(-1, 2)
        self._shards.write(keys, torch.stack(list(self._recent.values())))
        self._recent.clear()
        self._last_flush = time.monotonic()
        self._shards.compact()

    def close(self) -> None:
        """`flush`, at the end of the work. The bank may still be used afterwards."""
        self.flush()

    def stats(self) -> dict[str, int]:
        """Distinct sentences so far: encoded, read from disk, remembered; rows forgotten; damaged shards and rows."""
        shards = self._shards
        return {
            **self._counts,
            "damaged_shards": 0 if shards is None else shards.damaged_shards,
            "damaged_rows": 0 if shards is None else shards.damaged_rows,
        }

    def __enter__(self) -> FeatureBank:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except UserError as failure:
            if error is None:
                raise
            logger.warning("%s", failure)  # The error under way says more than this consequence of it.

    def _open(self) -> None:
        """Turn to the folder of the encoder's present weights."""
        fingerprint = self._encoder.fingerprint
        if fingerprint == self._fingerprint:
            return
        self.flush()
        self._recent.clear()
        folder = self.folder
        if folder is not None:
            identity = {
                "encoder": fingerprint,
                "templates": f"{self._templates.name} {self._templates.hash}",
                "dtype": str(self._dtype),
            }
            self._shards = ShardFolder(folder, self._encoder.dim, self._dtype, identity)
            logger.info("text features of %s: %d rows stored", folder, len(self._shards))
        self._fingerprint = fingerprint

    def _missing(self, keys: np.ndarray) -> np.ndarray:
        """Which of the (N, 2) keys have no row in memory or on the disk."""
        self._open()
        known = np.array([key.tobytes() in self._recent for key in keys], dtype=bool)
        if self._shards is not None:
            self._shards.refresh()
            known |= self._shards.contains(keys)
        return np.flatnonzero(~known)

    def _look_up(self, keys: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Rows of (N, 2) keys from memory and from the shards seen so far, and which were found."""
        rows = torch.zeros(len(keys), self._encoder.dim, dtype=self._dtype)
        found = np.zeros(len(keys), dtype=bool)
        for place, key in enumerate(keys):
            row = self._recent.get(key.tobytes())
            if row is not None:
                rows[place] = row
                found[place] = True
        self._counts["remembered"] += int(found.sum())
        rest = np.flatnonzero(~found)
        if self._shards is not None and len(rest):
            stored, hit = self._shards.read(keys[rest])
            rows[torch.from_numpy(rest)] = stored
            found[rest] = hit
            self._counts["read"] += int(hit.sum())
        return rows, found

    def _encode(
        self, sentences: Sequence[str], keys: np.ndarray, missing: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Encode and remember sentences[missing] piece by piece; yields (places, rows)."""
        for start in range(0, len(missing), _PIECE):
            part = missing[start : start + _PIECE]
            values = self._encoder.encode([sentences[place] for place in part])
            stored = values.to(self._dtype)
            bad = (~torch.isfinite(stored)).any(dim=1).nonzero().flatten().tolist()
            if bad:
                sentence = sentences[part[bad[0]]]
                if torch.isfinite(values[bad[0]]).all():
                    raise UserError(
                        f"MODEL.REASON.BANK_DTYPE: float16 cannot hold the feature of {sentence!r}; use float32"
                    )
                raise UserError(f"the text feature of {sentence!r} is not finite: the CLIP weights are damaged")
            self._counts["encoded"] += len(part)
            for place, row in zip(part, stored, strict=True):
                self._recent[keys[place].tobytes()] = row
            self._settle()
            yield part, stored

    def _settle(self) -> None:
        """Write new rows to disk, or evict the oldest from memory, when due."""
        if self._shards is not None:
            late = time.monotonic() - self._last_flush >= self._flush_seconds
            if late or len(self._recent) >= self._flush_rows:
                self.flush()
            return
        surplus = len(self._recent) - self._memory_rows
        if surplus > 0:
            if not self._counts["forgotten"]:
                logger.warning(
                    "more than %d text features in memory: the oldest are forgotten and encoded again when needed; "
                    "set MODEL.REASON.BANK_DIR to a folder to keep all",
                    self._memory_rows,
                )
            for key in list(islice(self._recent, surplus)):
                del self._recent[key]
            self._counts["forgotten"] += surplus


def _silent(count: int) -> None:
    """No progress is wanted."""
