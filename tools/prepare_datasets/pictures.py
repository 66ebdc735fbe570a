"""Pictures and label maps between bytes and arrays, where decoders refuse bombs and errors name the member."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maft.errors import UserError
from maft.files import UNREADABLE

from .archives import Member

PIXEL_LIMIT = 100_000_000
"""Largest picture that is decoded; the largest of any of the releases has about 30 million pixels."""


def open_picture(member: Member) -> Image.Image:
    """The opened, not yet decoded picture of a member.

    Raises:
        UserError: no picture, or one of more than `PIXEL_LIMIT` pixels.
    """
    content = member.read()
    try:
        picture = Image.open(io.BytesIO(content))
    except UNREADABLE as error:
        raise UserError(f"{member}: not readable as a picture ({error}); download it again") from error
    if picture.width * picture.height > PIXEL_LIMIT:
        raise UserError(f"{member}: {picture.width}x{picture.height} pixels, refused; this is no official picture")
    return picture


def decode(member: Member) -> NDArray[Any]:
    """The decoded picture of a member.

    Returns:
        (H, W, C) or (H, W) uint8 or wider integers, as stored: no colour conversion, a palette's indices.

    Raises:
        UserError: damaged, or as `open_picture`.
    """
    picture = open_picture(member)
    try:
        return np.asarray(picture)
    except UNREADABLE as error:
        raise UserError(f"{member}: not readable as a picture ({error}); download it again") from error


def picture_size(member: Member) -> tuple[int, int]:
    """Height and width of a picture, without decoding it; UserError as `open_picture`."""
    picture = open_picture(member)
    return picture.height, picture.width


def encode_tiff16(labels: NDArray[np.uint16]) -> bytes:
    """A 16-bit TIFF of (H, W) uint16 labels, losslessly compressed: a fiftieth of the plain size."""
    if labels.dtype != np.uint16:
        raise ValueError(f"16-bit labels are uint16, not {labels.dtype}")
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, format="TIFF", compression="tiff_adobe_deflate")
    return buffer.getvalue()
