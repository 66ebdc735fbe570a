"""Reading images."""

import numpy as np
from PIL import Image

from detectron2.utils.file_io import PathManager

_ORIENTATION_TAG = 0x0112
# What turns stored pixels upright, for the EXIF orientations from 2 to 8.
_TURNS = ["FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"]
_UPRIGHT = {orientation: Image.Transpose[turn] for orientation, turn in enumerate(_TURNS, start=2)}


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged EXIF blocks raise errors of many kinds, while the pixels are fine
        return image
    return image if turn is None else image.transpose(turn)


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Read an image file, turned as its EXIF orientation says; OSError if it is missing or no image.

    `format` is "BGR", or a mode of Pillow such as "RGB" or "L"; None keeps the file's own. Returns uint8 in [0, 255]
    for 8-bit modes: (H, W, 3) for "RGB" and "BGR", (H, W, 1) for "L"; without `format` what Pillow decodes.
    """
    with PathManager.open(file_name, "rb") as file:
        image = _upright(Image.open(file))
        if format is not None:
            image = image.convert("RGB" if format == "BGR" else format)
        pixels = np.asarray(image)
    if format == "BGR":
        return pixels[:, :, ::-1]
    return pixels[:, :, None] if format == "L" else pixels
