"""Category early rejection: classes that win nowhere leave the decoder (docs/numerics_sed.md section 6)."""

from __future__ import annotations

import torch
from torch import Tensor


def kept_classes(scores: Tensor, keep: int) -> Tensor:
    """Which classes are among the `keep` best of at least one cell.

    Args:
        scores: (G, N, h, w) of one image. G holds the image's attributes, one score map a class and attribute: a class
            that any of them keeps is kept with all of its maps, or it would lose the part of the mean that they bear.
        keep: k, at least 1.

    Returns:
        (N,) bool.
    """
    if keep < 1:
        raise ValueError(f"at least one class a cell must be kept, not {keep}")
    best = scores.topk(min(keep, scores.shape[1]), dim=1).indices
    kept = torch.zeros(scores.shape[1], dtype=torch.bool, device=scores.device)
    kept[best.flatten()] = True
    return kept
