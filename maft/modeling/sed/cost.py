"""The cost map: how alike every cell of the image and every sentence are (docs/numerics_sed.md section 4)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cost_map(dense: Tensor, planes: Tensor) -> Tensor:
    """Cosines of every cell with every class's sentences.

    Args:
        dense: (B, E, h, w) image features.
        planes: (G, N, T, E) text features, L2-normalised; B or G is 1, or both are equal.

    Returns:
        (max(B, G), N, T, h, w).
    """
    cells = F.normalize(dense, dim=1)
    if len(cells) == len(planes):
        return torch.einsum("gehw,gnte->gnthw", cells, planes)
    if len(cells) == 1:
        return torch.einsum("ehw,gnte->gnthw", cells[0], planes)
    return torch.einsum("gehw,nte->gnthw", cells, planes[0])
