"""Representation compensation: the tuned backbone stays near the frozen one (MAFT+, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SCALES = (1, 2, 4)
"""Pooling windows across the map."""


def representation_compensation(student: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 between the strip-pooled, rectified features of two backbones.

    Args:
        student, teacher: (B, C, H, W) "clip_vis_dense" of the same pixels.

    Returns:
        A scalar.
    """
    return F.smooth_l1_loss(strip_pool(student), strip_pool(teacher))


def strip_pool(features: Tensor) -> Tensor:
    """Averages over square windows at every scale, summed along the columns and along the rows.

    A map that is not square is stretched to a square of its longer side first; the windows' side keeps following the
    width that the map had before, as in the published training.

    Args:
        features: (B, C, H, W).

    Returns:
        (B, strips).
    """
    height, width = features.shape[-2:]
    x = F.relu(features)
    if height != width:
        side = max(height, width)
        x = F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
    strips = []
    for scale in SCALES:
        # Maps narrower than the scale, of small images, are pooled cell by cell.
        pooled = F.avg_pool2d(x, kernel_size=max(width // scale, 1))
        strips += [pooled.sum(dim=2).flatten(1), pooled.sum(dim=3).flatten(1)]
    return torch.cat(strips, dim=1)
