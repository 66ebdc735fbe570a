"""Images and label maps between bytes and arrays, where decoders refuse bombs and errors name the member."""

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
"""Largest image that is decoded; the largest of any of the releases has about 30 million pixels."""


def open_image(member: Member) -> Image.Image:
    """The opened, not yet decoded image of a member.

    Raises:
        UserError: no image, or one of more than `PIXEL_LIMIT` pixels.
    """
    content = member.read()
    try:
        image = Image.open(io.BytesIO(content))
    except UNREADABLE as error:
        raise UserError(f"{member}: not readable as an image ({error}); download it again") from error
    if image.width * image.height > PIXEL_LIMIT:
        raise UserError(f"{member}: {image.width}x{image.height} pixels, refused; this is no official image")
    return image


def decode(member: Member) -> NDArray[Any]:
    """The decoded image of a member.

    Returns:
        (H, W, C) or (H, W) uint8 or wider integers, as stored: no colour conversion, a palette's indices.

    Raises:
        UserError: damaged, or as `open_image`.
    """
    image = open_image(member)
    try:
        return np.asarray(image)
    except UNREADABLE as error:
        raise UserError(f"{member}: not readable as an image ({error}); download it again") from error


def image_size(member: Member) -> tuple[int, int]:
    """Height and width of an image, without decoding it; UserError as `open_image`."""
    image = open_image(member)
    return image.height, image.width


def encode_tiff16(labels: NDArray[np.uint16]) -> bytes:
    """A 16-bit TIFF of (H, W) uint16 labels, losslessly compressed: a fiftieth of the plain size."""
    if labels.dtype != np.uint16:
        raise ValueError(f"16-bit labels are uint16, not {labels.dtype}")
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, format="TIFF", compression="tiff_adobe_deflate")
    return buffer.getvalue()
