"""Label maps: one class index a pixel, in 8- or 16-bit files, read and written without clipping.

See docs/findings.md 2.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maft.errors import UserError

_SHOWN = 8


def read_label_map(path: str | Path, num_classes: int, ignore_label: int) -> NDArray[np.int32]:
    """Read a label map.

    Args:
        path: a PNG or TIFF with one channel, 8 or 16 bit; a palette's indices are taken, not its colours.
        num_classes: size of the vocabulary.
        ignore_label: the one value allowed beside 0 to num_classes - 1.

    Returns:
        (H, W) int32, values in [0, num_classes) or `ignore_label`.

    Raises:
        UserError: missing or unreadable, not a map of integers, or values outside the vocabulary.
    """
    try:
        with Image.open(path) as image:
            labels = np.asarray(image)
            mode = image.mode
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such label map; prepare the data set as datasets/README.md says") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not readable as a label map ({error}); prepare or copy it again") from error
    if labels.ndim != 2 or labels.dtype.kind not in "uib":
        raise UserError(
            f"{path}: has mode {mode}, a label map has one channel of integers (8- or 16-bit PNG or TIFF); "
            "this may be the coloured picture of one"
        )
    labels = labels.astype(np.int32)
    outside = ((labels < 0) | (labels >= num_classes)) & (labels != ignore_label)
    if outside.any():
        values = np.unique(labels[outside])
        shown = ", ".join(map(str, values[:_SHOWN])) + (", …" if len(values) > _SHOWN else "")
        raise UserError(
            f"{path}: holds {shown}, outside the vocabulary of {num_classes} classes (0 to {num_classes - 1}, ignored "
            f"{ignore_label}); use the prepared label maps of this data set"
        )
    return labels


def write_label_map(array: NDArray[np.integer], path: str | Path) -> None:
    """Write a label map as PNG, aside and renamed into place; folders are made as needed.

    Args:
        array: (H, W) integers from 0 to 65535; 8 bit are written where they suffice, else 16.
        path: the file, named .png.

    Raises:
        ValueError: another shape, type or range.
    """
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "uib":
        raise ValueError(f"a label map is an (H, W) array of integers, not {array.dtype} {array.shape}")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 65535:
        raise ValueError(f"a label map holds 0 to 65535, not {low} to {high}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8 if high <= 255 else np.uint16))
    aside = path.with_name(f".{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        image.save(aside, format="PNG")
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
