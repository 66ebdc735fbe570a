"""Bringing a file in: from Google Drive, from open_clip's hub, or from a file on this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import open_clip
from open_clip.pretrained import download_pretrained

from maft.errors import UserError, one_line
from maft.files import locked, replacing, user_errors
from reason.bars import Bar

from .catalogue import Checkpoint, Clip, by_hand

INCOMING = ".incoming"
"""Folder beside the weights for downloads under way: what lies in pretrained/ itself is whole and checked."""

_TIMEOUT = 60.0
_RETRIES = 5
_MESSAGE = 160
_COPY_BYTES = 1 << 24


@contextmanager
def incoming_folder(folder: Path) -> Iterator[Path]:
    """The folder for downloads under way, held for this process: two of them must not append to one file.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    incoming = folder / INCOMING
    with locked(incoming / ".lock", "another download is writing here; wait for it"):
        yield incoming


def download(entry: Checkpoint, incoming: Path) -> Path:
    """Download a checkpoint, or the rest of it where an earlier download broke off.

    Args:
        entry: what to fetch.
        incoming: folder for the download.

    Returns:
        The whole file in `incoming`; what it holds has not been checked.

    Raises:
        UserError: gdown is not installed, the drive cannot be reached or refuses, or the disk is full. What has arrived
            stays for the next attempt.
    """
    try:
        import gdown
    except ImportError as error:
        raise UserError(f"{entry.name}: gdown is not installed; run bash install.sh, or {by_hand(entry)}") from error
    target = incoming / entry.file
    with Bar(desc=entry.file, unit="B", unit_scale=True, unit_divisor=1000) as bar:

        def progress(done: int, total: int | None) -> None:
            if total and bar.total is None:
                free = shutil.disk_usage(incoming).free
                if free < total - done:
                    raise UserError(
                        f"{target}: {(total - done) / 1e6:,.0f} MB are still to come, but the disk has only "
                        f"{free / 1e6:,.0f} MB left; make room and start again"
                    )
                bar.total = total
            bar.update(done - bar.n)

        try:
            gdown.download(
                entry.url,
                str(target),
                quiet=True,
                use_cookies=False,
                resume=True,
                progress=progress,
                timeout=_TIMEOUT,
                retries=_RETRIES,
            )
        except (gdown.DownloadError, OSError) as error:  # what requests raises is an OSError
            raise UserError(
                f"{entry.name}: could not be fetched ({_short(error)}); "
                f"start again to go on where it stopped, or {by_hand(entry)}"
            ) from error
    return target


def _short(error: Exception) -> str:
    """The message without the addresses and retries that network errors enumerate."""
    text = f"{type(error).__name__}: {one_line(error)}"
    return text if len(text) <= _MESSAGE else f"{text[:_MESSAGE]}…"


def from_hub(entry: Clip) -> Path:
    """The file of CLIP's weights in open_clip's cache (the Hugging Face hub's), downloaded where it is not there.

    Raises:
        UserError: it is not in the cache, and the hub cannot be reached.
    """
    settings = open_clip.get_pretrained_cfg(entry.architecture, entry.tag)
    try:
        return Path(download_pretrained(settings))
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{entry.name}: not in open_clip's cache and could not be fetched ({_short(error)}); {by_hand(entry)}"
        ) from error


def copy_into_place(source: Path, target: Path) -> None:
    """Copy a file aside and rename it, so that `target` is whole or what it was.

    Raises:
        UserError: the disk is full, or a file cannot be read or written.
    """
    with user_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        size, free = source.stat().st_size, shutil.disk_usage(target.parent).free
    if free < size:
        raise UserError(
            f"{target}: needs {size / 1e6:,.0f} MB, but the disk has only {free / 1e6:,.0f} MB left; make room"
        )
    with source.open("rb") as stream, replacing(target) as out:
        shutil.copyfileobj(stream, out, _COPY_BYTES)


def set_aside(path: Path, ending: str) -> Path:
    """Rename a file to a free name with a further ending, so that nothing of the user's is lost."""
    aside = path.with_name(path.name + ending)
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}{ending}{number}")
    os.replace(path, aside)
    return aside
