"""Where an image is resized for a network (docs/numerics.md, "Image")."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def network_size(height: int, width: int, short_edge: int, longest: int) -> tuple[int, int]:
    """(height, width) that an image is resized to: the short edge becomes `short_edge`, the long one at most `longest`.

    Scale, cap, then round halves up, in detectron2's order: another would round some sizes otherwise.

    Args:
        height, width: of the image, in pixels.
        short_edge: in pixels; 0 leaves the image as it is.
        longest: in pixels.
    """
    if short_edge == 0:
        return height, width
    scale = float(short_edge) / min(height, width)
    high, wide = (float(short_edge), scale * width) if height < width else (scale * height, float(short_edge))
    longer = max(high, wide)
    if longer > longest:
        cap = longest * 1.0 / longer
        high, wide = high * cap, wide * cap
    return int(high + 0.5), int(wide + 0.5)


def resized(pixels: NDArray[np.uint8], short_edge: int, longest: int) -> Tensor:
    """An image at the size that the network is given, interpolated bilinearly by PIL.

    Args:
        pixels: (H, W, 3) uint8.
        short_edge, longest: see `network_size`.

    Returns:
        (3, height, width) uint8.
    """
    height, width = network_size(pixels.shape[0], pixels.shape[1], short_edge, longest)
    image = pixels
    if (height, width) != pixels.shape[:2]:
        image = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))  # a copy: PIL's own memory is read-only
