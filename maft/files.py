"""Files with errors for the user: whole or as they were, and the one codec each of label maps and panoptic maps.

A label map holds one class index per pixel, in 8 or 16 bits, read and written without clipping (docs/findings.md 2). A
panoptic map is an RGB PNG that holds one segment id per pixel, id = R + 256 G + 65536 B, 0 where there is no segment.
"""

from __future__ import annotations

import io
import os
import struct
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maft.errors import UserError
from reason.files import FileBusyError
from reason.files import locked as _locked
from reason.files import replacing as _replacing
from reason.files import user_path as user_path
from reason.imagefile import ImageFileError, opened

UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    RuntimeError,
    MemoryError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What decoders raise over damaged files; Pillow's are not of one family."""

MAX_SEGMENT_ID = 2**24 - 1
_SHOWN = 8
_SHOWN_NAME = 120


def check_folder(key: str, folder: str | Path) -> None:
    """Find out whether a folder can be written to, or made, before hours of work depend on it.

    Args:
        key: what names the folder, for the message.

    Raises:
        UserError: a file stands in its place, or on the way to it, or it cannot be written.
    """
    place = Path(folder).absolute()
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
    except OSError as error:
        raise UserError(f"{key} {str(folder)[:_SHOWN_NAME]}: {error.strerror}; choose another folder") from error
    if not place.is_dir():
        raise UserError(f"{key} {folder}: {place} is a file, not a folder; choose another folder")
    problem = "" if os.access(place, os.W_OK | os.X_OK) else f"{place} cannot be written"
    try:
        with tempfile.TemporaryFile(dir=place):  # permissions alone do not tell what a file system allows
            pass
    except OSError as error:
        problem = problem or f"{place} cannot be written ({error.strerror})"
    if problem:
        raise UserError(f"{key} {folder}: {problem}; choose another folder")


@contextmanager
def user_errors(path: str | Path, way_out: str = "make room and start again") -> Iterator[None]:
    """Turn an OSError of writing `path` into a UserError that names it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); {way_out}") from error


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A stream whose content replaces `path` at once when the block ends well; see `reason.files.replacing`.

    Raises:
        UserError: the folder or the file cannot be written.
    """
    with user_errors(path), _replacing(path) as stream:
        yield stream


def write_bytes(path: str | Path, content: bytes) -> None:
    """Replace `path` by `content`; see `replacing`."""
    with replacing(path) as stream:
        stream.write(content)


def write_text(path: str | Path, text: str) -> None:
    """Replace `path` by `text` as UTF-8; see `replacing`."""
    write_bytes(path, text.encode())


@contextmanager
def locked(path: str | Path, busy: str, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` for this process; see `reason.files.locked`.

    Args:
        path: the lock file; its folder is made.
        busy: what to say of its folder if another process holds it.
        wait: seconds to wait for another process at most.

    Raises:
        UserError: another process holds it, or the file cannot be written.
    """
    # The block's own errors are not about the lock.
    lock = _locked(path, wait=wait)
    try:
        with user_errors(Path(path).parent, "choose another folder"):
            lock.__enter__()
    except FileBusyError as error:
        raise UserError(f"{Path(path).parent}: {busy}") from error
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def read_label_map(
    path: str | Path, num_classes: int, ignore_label: int, ignored_as_well: Sequence[int] = ()
) -> NDArray[np.int32]:
    """Read a label map.

    Args:
        path: a PNG or TIFF with one channel, 8 or 16 bit; a palette's indices are taken, not its colours.
        num_classes: size of the vocabulary.
        ignore_label: the one value allowed beside 0 to num_classes - 1.
        ignored_as_well: further values, which become `ignore_label`.

    Returns:
        (H, W) int32, values in [0, num_classes) or `ignore_label`.

    Raises:
        UserError: missing or unreadable, not a map of integers, or values outside the vocabulary.
    """
    labels, mode = _read(path, "label map")
    if labels.ndim != 2 or labels.dtype.kind not in "uib":
        raise UserError(
            f"{path}: has mode {mode}, a label map has one channel of integers (8- or 16-bit PNG or TIFF); "
            "this may be the coloured image of one"
        )
    labels = labels.astype(np.int32)
    if ignored_as_well:
        labels[np.isin(labels, ignored_as_well)] = ignore_label
    outside = ((labels < 0) | (labels >= num_classes)) & (labels != ignore_label)
    if outside.any():
        values = np.unique(labels[outside])
        shown = ", ".join(map(str, values[:_SHOWN])) + (", …" if len(values) > _SHOWN else "")
        raise UserError(
            f"{path}: holds {shown}, outside the vocabulary of {num_classes} classes (0 to {num_classes - 1}, ignored "
            f"{ignore_label}); use the prepared label maps of this data set"
        )
    return labels


def encode_label_map(labels: NDArray[np.integer]) -> bytes:
    """A label map as PNG.

    Args:
        labels: (H, W) integers from 0 to 65535; 8 bits are written where they suffice, else 16.

    Raises:
        ValueError: another shape, type or range.
    """
    if labels.ndim != 2 or labels.size == 0 or labels.dtype.kind not in "uib":
        raise ValueError(f"a label map is an (H, W) array of integers, not {labels.dtype} {labels.shape}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > 65535:
        raise ValueError(f"a label map holds 0 to 65535, not {low} to {high}")
    return encode_png(np.ascontiguousarray(labels, dtype=np.uint8 if high <= 255 else np.uint16))


def write_label_map(labels: NDArray[np.integer], path: str | Path) -> None:
    """Write a label map as PNG, whole or not at all; see `encode_label_map`.

    Raises:
        ValueError: see `encode_label_map`.
        UserError: the file cannot be written.
    """
    write_bytes(path, encode_label_map(labels))


def read_panoptic(path: str | Path) -> NDArray[np.int32]:
    """The segment ids of a panoptic PNG, (H, W) int32 in [0, 2^24).

    Raises:
        UserError: the file is missing or cannot be read, or is not an 8-bit colour image.
    """
    pixels, mode = _read(path, "panoptic label file")
    if mode not in ("RGB", "RGBA"):
        raise UserError(
            f"{path}: a panoptic label map must be an RGB PNG with id = R + 256 G + 65536 B, "
            f"this one has mode {mode}; prepare the data set again"
        )
    return decode_panoptic(pixels)


def decode_panoptic(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Segment ids (H, W) int32 from the pixels (H, W, 3 or more) uint8 of a panoptic PNG."""
    wide = pixels[..., :3].astype(np.int32)
    return wide[..., 0] + (wide[..., 1] << 8) + (wide[..., 2] << 16)


def encode_panoptic(segment_ids: NDArray[Any]) -> NDArray[np.uint8]:
    """The inverse of `decode_panoptic`: ids (H, W) in [0, 2^24) to RGB (H, W, 3).

    Raises:
        ValueError: an id outside of that range.
    """
    if segment_ids.size and not 0 <= int(segment_ids.min()) <= int(segment_ids.max()) <= MAX_SEGMENT_ID:
        raise ValueError(f"segment ids must lie in [0, 2^24), got {segment_ids.min()} to {segment_ids.max()}")
    ids = segment_ids.astype(np.int64)
    return np.stack([(ids >> shift) & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


def encode_png(pixels: NDArray[np.generic]) -> bytes:
    """A PNG of an (H, W) uint8 or uint16, or (H, W, 3) uint8 array."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _read(path: str | Path, what: str) -> tuple[NDArray[Any], str]:
    """Pixels as stored (no colour conversion, a palette's indices) and Pillow's mode."""
    try:
        with opened(path) as image:
            return np.asarray(image), image.mode
    except ImageFileError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise UserError(f"{path}: no such {what}; prepare the data set as datasets/README.md says") from error
        problem = str(error).removeprefix(f"{path}: ")
        raise UserError(f"{path}: not readable as a {what} ({problem}); prepare or copy it again") from error


def prediction_names(images: Sequence[str]) -> dict[str, str]:
    """Image file to a name, without suffix, that its prediction is saved under: distinct, relative, readable.

    It is the path below the folder that all images share, less the suffix where no other image could have that name.
    """
    root = os.path.commonpath([os.path.dirname(os.path.abspath(image)) for image in images])
    relative = {image: os.path.relpath(os.path.abspath(image), root) for image in images}
    bare = {image: os.path.splitext(name)[0] for image, name in relative.items()}
    taken = Counter(bare.values()) + Counter(set(relative.values()))
    return {image: bare[image] if taken[bare[image]] == 1 else name for image, name in relative.items()}
