"""What the page shows of a labelling beside its picture."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tools.pictures import NONE, Maps

_JPEG_QUALITY = 82


def agreement(prediction: Maps, truth: Maps) -> float:
    """The part of the labelled pixels, in [0, 1], whose class is predicted; NaN where nothing is labelled."""
    labelled = truth.classes != NONE
    return float((prediction.classes == truth.classes)[labelled].mean()) if labelled.any() else float("nan")


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """The picture (H, W, 3) as a JPEG data URI."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="JPEG", quality=_JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
