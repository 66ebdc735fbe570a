"""From the values of a release's label maps to class indices, and the files that hold them. Pure functions."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maft.data.specs import IGNORE_8BIT, IGNORE_16BIT
from maft.errors import UserError

UNKNOWN = -1
"""In a table: a value that the release does not have, so that the file is another one than was expected."""

_SHOWN = 8


def code_table(codes: Mapping[int, int], size: int) -> NDArray[np.int32]:
    """A table for `recode`.

    Args:
        codes: what becomes of each value that the release has.
        size: number of values that its files can hold: 256 or 65536.

    Returns:
        (size,) int32; `UNKNOWN` where `codes` says nothing.
    """
    table = np.full(size, UNKNOWN, dtype=np.int32)
    for value, code in codes.items():
        table[value] = code
    return table


def recode(values: NDArray[np.integer], table: NDArray[np.int32], where: str) -> NDArray[np.int32]:
    """Replace every value by its entry of the table.

    Args:
        values: (H, W) integers.
        table: of `code_table`.
        where: the file, for the error.

    Returns:
        (H, W) int32.

    Raises:
        UserError: a value that the table does not have.
    """
    inside = (values >= 0) & (values < len(table))
    codes = table[np.where(inside, values, 0)]
    unknown = ~inside | (codes == UNKNOWN)
    if unknown.any():
        found = np.unique(values[unknown])
        shown = ", ".join(map(str, found[:_SHOWN])) + (", …" if len(found) > _SHOWN else "")
        raise UserError(f"{where}: holds {shown}, which this data set does not have; give the label maps of the release")
    return codes


def decode_values(data: bytes, where: str) -> NDArray[np.integer]:
    """The values of a label map.

    Args:
        data: a PNG or TIFF with one channel; of one with a palette the indices count, not the colours.
        where: the file, for the error.

    Returns:
        (H, W) uint8, uint16 or int32.

    Raises:
        UserError: not readable, or a picture with several channels.
    """
    values, mode = _decode(data, where)
    if values.ndim != 2 or values.dtype.kind not in "ui":
        raise UserError(
            f"{where}: has mode {mode}, a label map has one channel of integers; this may be the coloured picture of "
            "one: give the label maps of the release"
        )
    return values


def decode_identifiers(data: bytes, where: str) -> NDArray[np.int32]:
    """The segment identifiers of a COCO panoptic PNG: R + 256 G + 65536 B, 0 where there is no segment.

    Returns:
        (H, W) int32, values from 0 to 2**24 - 1.

    Raises:
        UserError: not readable, or not an RGB picture.
    """
    values, mode = _decode(data, where)
    if values.ndim != 3 or values.shape[2] != 3 or values.dtype != np.uint8:
        raise UserError(f"{where}: has mode {mode}, a panoptic PNG is an RGB picture; give those of the release")
    wide = values.astype(np.int32)
    return wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]


def _decode(data: bytes, where: str) -> tuple[NDArray, str]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image), image.mode
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{where}: not readable as an image ({error}); download or unpack it again") from error


def encode_8bit(labels: NDArray[np.integer]) -> bytes:
    """A label map as PNG; the same bytes for the same labels.

    Args:
        labels: (H, W), values from 0 to 255.
    """
    return _encode(labels, np.uint8, IGNORE_8BIT, {"format": "PNG"})


def encode_16bit(labels: NDArray[np.integer]) -> bytes:
    """A label map as 16-bit TIFF with lossless compression; the same bytes for the same labels.

    Args:
        labels: (H, W), values from 0 to 65535.
    """
    return _encode(labels, np.uint16, IGNORE_16BIT, {"format": "TIFF", "compression": "tiff_deflate"})


def _encode(labels: NDArray[np.integer], kind: type, highest: int, options: Mapping[str, str]) -> bytes:
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) <= highest:
        raise ValueError(f"labels from {labels.min()} to {labels.max()} do not fit 0 to {highest}")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(labels, dtype=kind)).save(buffer, **options)
    return buffer.getvalue()
