"""What is now and then saved under the name of a weight file, told from its first bytes. Light: no torch."""

from __future__ import annotations

from pathlib import Path

HEAD_BYTES = 512
"""As much of a file as `impostor` needs."""

_POINTER = b"version https://git-lfs"
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<!--", b"<?xml")
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7-Zip",
    b"Rar!": "RAR",
    b"\x28\xb5\x2f\xfd": "Zstandard",
}
_OTHERS = {b"GGUF": "GGUF (llama.cpp)", b"\x89HDF": "HDF5 (Keras)"}
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
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it and name the file inside"
    for start, name in _COMPRESSED.items():
        if head.startswith(start):
            return f"compressed ({name}): unpack it and name the file inside"
    for start, name in _OTHERS.items():
        if head.startswith(start):
            return f"weights of another format, {name}, not PyTorch's"
    if head.lstrip(_BLANK).startswith(b"{"):
        return "a JSON text, such as the index of a checkpoint in parts, not weights"
    return None


def is_safetensors(head: bytes) -> bool:
    """Whether a file is of the safetensors format: the length of a JSON text in eight bytes, then the text."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32


def read_head(path: str | Path) -> bytes:
    """The first bytes of a file, for `impostor`.

    Raises:
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file:
        return file.read(HEAD_BYTES)
