"""What is now and then saved under the name of a weight file, told from its first bytes. Light: no torch."""

from __future__ import annotations

from pathlib import Path

HEAD_BYTES = 512
"""As much of a file as `impostor` needs."""

_POINTER = b"version https://git-lfs"
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<!--", b"<?xml")
_BLANK = b"\xef\xbb\xbf \t\r\n"


def impostor(head: bytes) -> str | None:
    """What a file is instead of weights, with the way out where there is one; None if nothing gives it away.

    Args:
        head: the first `HEAD_BYTES` bytes of the file, fewer where it is shorter.
    """
    if not head:
        return "the file is empty: the download broke off"
    if head.startswith(_POINTER):
        return "a git-lfs pointer, not the file itself: run 'git lfs pull' where it came from"
    if head.lstrip(_BLANK).lower().startswith(_PAGES):
        return "a web page, not a checkpoint: the download was refused or asks for a confirmation"
    return None


def read_head(path: str | Path) -> bytes:
    """The first bytes of a file, for `impostor`.

    Raises:
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file:
        return file.read(HEAD_BYTES)
