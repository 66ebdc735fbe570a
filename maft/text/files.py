"""Whole files or none: written aside and renamed into place."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

ASIDE_SUFFIX = ".aside"
_STALE_SECONDS = 24 * 3600


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to a file beside `path`, flush it to the disk, and rename it into place; folders are made.

    Raises:
        OSError: it could not be written (disk full, no permission); `path` is then as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{secrets.token_hex(8)}{ASIDE_SUFFIX}")
    try:
        with aside.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def remove_stale(folder: Path) -> None:
    """Delete what killed processes left half written in `folder` more than a day ago; errors are nobody's problem."""
    for aside in folder.glob(f".*{ASIDE_SUFFIX}"):
        try:
            if time.time() - aside.stat().st_mtime > _STALE_SECONDS:
                aside.unlink()
        except OSError:
            continue
