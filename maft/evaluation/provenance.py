"""What a result depends on, as hashes and versions that are written beside it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maft.errors import UserError

ABSENT = "absent"
"""Stands for the hash of something that is not there, so that its arrival changes a fingerprint."""

IRRELEVANT_KEYS = frozenset({"OUTPUT_DIR", "VIS_PERIOD", "DATALOADER", "DATASETS", "SOLVER"})
"""Top-level config keys that do not change what the network says about an image."""

_CHUNK = 1 << 22
_DIGEST_BYTES = 16
_GIT_SECONDS = 10
_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("torchvision", "numpy", "pillow", "open_clip_torch", "timm")


def _digest() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=_DIGEST_BYTES)


def hash_text(text: str) -> str:
    """The blake2b hash of a text, 32 hexadecimal digits."""
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def hash_file(path: str | Path) -> str:
    """The blake2b hash of a file's content; remembered while its size and time of change stay the same.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        status = os.stat(path)
        return _hash_file(os.fspath(path), status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error


@lru_cache(maxsize=1 << 16)
def _hash_file(path: str, size: int, changed_ns: int) -> str:
    digest = _digest()
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def hash_files(paths: Iterable[str | Path], relative_to: str | Path) -> str:
    """One hash over the names (relative to a folder) and contents of files, whatever order they come in.

    Raises:
        UserError: a file cannot be read.
    """
    digest = _digest()
    for path in sorted(Path(path) for path in paths):
        digest.update(f"{path.relative_to(relative_to).as_posix()}\0{hash_file(path)}\n".encode())
    return digest.hexdigest()


def hash_folder(folder: str | Path, pattern: str = "**/*.json") -> str:
    """One hash over the files of a folder, of triplets for example; `ABSENT` where there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        return ABSENT
    return hash_files((path for path in folder.glob(pattern) if path.is_file()), folder)


def hash_state(model: nn.Module) -> str:
    """The blake2b hash over names and values of a model's state, 32 hexadecimal digits."""
    digest = _digest()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_config(config: Mapping[str, Any], exclude: Iterable[str] = IRRELEVANT_KEYS) -> str:
    """A hash over a config's values, without the top-level keys that do not change a result.

    Args:
        config: a CfgNode or nested mappings of plain values.
        exclude: top-level keys that are left out.
    """
    left_out = set(exclude)
    kept = {key: value for key, value in config.items() if key not in left_out}
    return hash_text(json.dumps(kept, sort_keys=True, default=str))


def hash_records(records: Sequence[Mapping[str, Any]]) -> str:
    """A hash over a data set: its records, and size and time of change of every file that they name."""
    digest = _digest()
    for record in records:
        digest.update(json.dumps(record, sort_keys=True, default=str).encode())
        for key in sorted(key for key in record if key.endswith("file_name")):
            try:
                status = os.stat(record[key])
            except OSError:
                continue  # a missing file is reported by whoever reads it; here its absence is part of the hash
            digest.update(f"{key}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def detectron2_kind() -> str:
    """Which `detectron2` is importable here, "real <version>" or "subset <version>"; `ABSENT` if none is."""
    if importlib.util.find_spec("detectron2") is None:
        return ABSENT
    version = importlib.import_module("detectron2").__version__
    return f"subset {version}" if version.endswith(".subset") else f"real {version}"


def versions() -> dict[str, str]:
    """Versions of what a result may depend on: Python, the libraries, and which detectron2 is active."""
    found = {"python": platform.python_version(), "detectron2": detectron2_kind(), "torch": torch.__version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = ABSENT
    return found


def commit(repository: str | Path = _ROOT) -> str:
    """The checked-out git commit, 40 hexadecimal digits, "-dirty" behind it where tracked files were changed.

    Args:
        repository: a checkout's root.

    Returns:
        `ABSENT` where the folder is not the root of a git checkout, or git cannot tell.
    """
    if not Path(repository, ".git").exists():  # a copy inside another project's checkout must not take that commit
        return ABSENT
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True, timeout=_GIT_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return ABSENT
    return done.stdout.strip() or ABSENT


def collect(
    *,
    config_file: str,
    weights_file: str | None,
    fingerprint: Mapping[str, str],
    op_backend: str,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The provenance block of results.json.

    Args:
        config_file: the yaml file that was given.
        weights_file: the checkpoint that was loaded; None for seeded weights.
        fingerprint: part to hash, as given to `evaluate` ("config", "weights", "triplets", "code").
        op_backend: which deformable-attention implementation ran.
        extra: further entries, "triplets folder" for example.

    Raises:
        UserError: the weights file cannot be read.
    """
    return {
        "config_file": config_file,
        "weights_file": weights_file,
        "weights_hash": hash_file(weights_file) if weights_file else ABSENT,
        "fingerprint": dict(fingerprint),
        "commit": commit(),
        "op_backend": op_backend,
        "versions": versions(),
        **(extra or {}),
    }
