"""Files that are whole or as they were, and folders that one process holds at a time; light, shared with the segmentor.

`reason.runs.claims` takes its locks itself: it asks about another process's lock without waiting for it, and must let
go of its own in a forked child, neither of which filelock offers.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import time
from argparse import ArgumentTypeError
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

logger = logging.getLogger(__name__)

ASIDE_SUFFIX = ".aside"
_STALE_SECONDS = 24 * 3600
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


def user_path(text: str) -> Path:
    """A path that a user wrote, for argparse: shells leave the "~" in --option=~/folder and between quotes.

    Raises:
        ArgumentTypeError: an empty one, as of a variable that is not set; `Path` would take it for the current folder.
    """
    if not text.strip():
        raise ArgumentTypeError('an empty path; name a file or a folder (".": the current one)')
    return Path(text).expanduser()


class FileBusyError(Exception):
    """Another process holds the lock; the message is the path of the lock file."""


@contextlib.contextmanager
def replacing(path: str | Path, *, sync: bool = False, aside: Path | None = None) -> Iterator[BinaryIO]:
    """A binary stream whose content replaces `path` when the block ends, whole and at once; folders are made.

    If the block raises, or writing fails, `path` stays as it was and nothing is left beside it. A process that is
    killed meanwhile leaves a hidden file that ends in `.aside` (see `remove_stale`). What is no file, as a pipe or
    /dev/null, is written into: root could replace it, for everybody.

    Args:
        path: the file to write.
        sync: flush the content to the disk before the renaming, so that a power failure cannot leave an empty file.
        aside: where to write first, on the same file system; default: a name of its own beside `path`.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    path = Path(path)
    if _is_special(path):
        with path.open("wb") as stream:
            yield stream
        return
    # The name is short and knows nothing of the file's own, which may be as long as a file system allows.
    aside = aside or path.with_name(f".{secrets.token_hex(8)}{ASIDE_SUFFIX}")
    try:
        stream = aside.open("wb")
    except FileNotFoundError:
        aside.parent.mkdir(parents=True, exist_ok=True)
        stream = aside.open("wb")
    try:
        with stream:
            yield stream
            if sync:
                stream.flush()
                os.fsync(stream.fileno())
        try:
            aside.replace(path)
        except FileNotFoundError:  # only where `aside` lies in another folder
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def _is_special(path: Path) -> bool:
    """Whether `path` is a device, a pipe or this process's output, itself or behind links."""
    with contextlib.suppress(OSError):
        if path.exists() and not path.is_file() and not path.is_dir():
            return True
    return path.parent == Path("/dev/fd") or path in (Path("/dev/stdout"), Path("/dev/stderr"))


def write_bytes(path: str | Path, content: bytes, *, sync: bool = False) -> None:
    """Replace `path` by `content`; see `replacing`."""
    with replacing(path, sync=sync) as stream:
        stream.write(content)


def write_text(path: str | Path, text: str, *, sync: bool = False) -> None:
    """Replace `path` by `text` as UTF-8, line ends as they are; see `replacing`.

    Raises:
        UnicodeEncodeError: half of a surrogate pair in `text`; nothing was written.
    """
    write_bytes(path, text.encode("utf-8"), sync=sync)


def remove_stale(folder: Path) -> None:
    """Delete what killed processes left half written in `folder` more than a day ago; errors are ignored."""
    for aside in folder.glob(f".*{ASIDE_SUFFIX}"):
        with contextlib.suppress(OSError):
            if time.time() - aside.stat().st_mtime > _STALE_SECONDS:
                aside.unlink()


@contextlib.contextmanager
def locked(path: str | Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` for this process; it ends with the process, however that ends, and the file stays.

    On a file system without locks the block runs without one, after a warning.

    Args:
        path: the lock file; its folder is made.
        wait: seconds to wait for another process at most.

    Raises:
        FileBusyError: another process holds it.
        OSError: the file cannot be written.
    """
    import filelock  # a tenth of a second, which who only writes need not spend

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path, timeout=wait, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise FileBusyError(str(path)) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning("%s: this file system has no locks (%s); run one process at a time", path, error.strerror)
    try:
        yield
    finally:
        lock.release()
