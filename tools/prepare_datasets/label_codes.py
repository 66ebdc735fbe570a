"""From the values of a release's label maps to class indices."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from maft.errors import UserError
from maft.files import decode_panoptic

from .archives import Member
from .images import decode

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


def recode(values: NDArray[np.integer], table: NDArray[np.int32], where: object) -> NDArray[np.int32]:
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
        raise UserError(
            f"{where}: holds {shown}, which this data set does not have; give the label maps of the release"
        )
    return codes


def read_values(member: Member) -> NDArray[np.integer]:
    """The values of a label map: a PNG with one channel; of one with a palette the indices count, not the colours.

    Returns:
        (H, W) integers.

    Raises:
        UserError: not readable, or an image with several channels.
    """
    values = decode(member)
    if values.ndim != 2 or values.dtype.kind not in "ui":
        raise UserError(
            f"{member}: is {values.dtype} {values.shape}, a label map has one channel of integers; this may be the "
            "coloured image of one: give the label maps of the release"
        )
    return values


def read_identifiers(member: Member) -> NDArray[np.int32]:
    """The segment identifiers of a COCO panoptic PNG: R + 256 G + 65536 B, 0 where there is no segment.

    Returns:
        (H, W) int32, values from 0 to 2**24 - 1.

    Raises:
        UserError: not readable, or not an RGB image.
    """
    values = decode(member)
    if values.ndim != 3 or values.shape[2] != 3:
        raise UserError(f"{member}: is {values.dtype} {values.shape}, a panoptic PNG is an RGB image of 8 bit")
    return decode_panoptic(values)
