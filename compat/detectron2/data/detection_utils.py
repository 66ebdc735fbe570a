"""Reading images."""

from __future__ import annotations

import numpy as np
from PIL import Image

from detectron2.utils.file_io import PathManager

__all__ = ["read_image"]

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the stored pixels upright."""


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # damaged EXIF blocks raise errors of many kinds, while the pixels are fine
        return image
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Read an image file, turned as its EXIF orientation says.

    Args:
        file_name: the file.
        format: "BGR", or a mode of Pillow such as "RGB" or "L"; None keeps the file's own.

    Returns:
        uint8 in [0, 255] for the 8-bit modes: (H, W, 3) for "RGB" and "BGR", (H, W, 1) for "L"; without `format`
        whatever Pillow decodes, (H, W) for one channel.

    Raises:
        OSError: the file is missing or no image (PIL.UnidentifiedImageError).
        ValueError: Pillow has no such mode.
    """
    with PathManager.open(file_name, "rb") as file:
        image = _upright(Image.open(file))
        if format is not None:
            image = image.convert("RGB" if format == "BGR" else format)
        pixels = np.asarray(image)
    if format == "BGR":
        return pixels[:, :, ::-1]
    return pixels[:, :, None] if format == "L" else pixels
