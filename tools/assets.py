"""Looking at what the user brings: checkpoints and folders, by their content and without reading them whole."""

from __future__ import annotations

import os
from pathlib import Path

from maft.weights.impostors import impostor, read_head

_PICKLE = b"\x80"
_ZIP = b"PK\x03\x04"
_PLAUSIBLE_BYTES = 100_000_000
"""The smallest published checkpoint has several hundred megabytes; a download that broke early has less than this."""


def checkpoint_problem(path: str | Path) -> str | None:
    """What keeps a file from being a checkpoint, or None if it looks like one; a few bytes are read.

    Whether names and shapes fit the model is found out by `tools.fetch_weights --check`, or when it is loaded.
    """
    path = Path(path)
    try:
        head, size = read_head(path), path.stat().st_size
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if found := impostor(head):
        return found
    if path.suffix != ".safetensors" and not head.startswith((_ZIP, _PICKLE)):
        return "not a PyTorch checkpoint"
    if size < _PLAUSIBLE_BYTES:
        return f"only {size / 1e6:.1f} MB: the download broke off"
    return None


def count_files(folder: Path, ending: str) -> int:
    """How many files with this ending lie in a folder (not below it); 0 if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sum(1 for entry in entries if entry.name.endswith(ending) and not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return 0
