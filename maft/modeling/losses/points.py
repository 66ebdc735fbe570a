"""Masks looked at in a few points instead of all pixels (Mask2Former, section 3.3; PointRend, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sample_at(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps at points; beyond the outermost cell centres the surroundings count as zero.

    Args:
        maps: (N, C, H, W) float.
        points: (N, P, 2) as (x, y), 0 to 1 over the map's extent: maps of different resolutions agree in them.

    Returns:
        (N, C, P).
    """
    if not maps.numel():
        # grid_sample refuses empty maps; the sum, a zero, keeps the result connected to them.
        return maps.new_zeros(*maps.shape[:2], points.shape[1]) + maps.sum()
    return F.grid_sample(maps, (2 * points - 1)[:, None], mode="bilinear", align_corners=False)[:, :, 0]


@torch.no_grad()
def uncertain_points(mask_logits: Tensor, *, count: int, oversample: float, importance: float) -> Tensor:
    """Points to judge masks in, most of them where the prediction wavers (logits near zero), the rest anywhere.

    Draws from the generator of the masks' device: (N, int(count * oversample), 2) candidates, then
    (N, count - int(count * importance), 2) free points if there are any.

    Args:
        mask_logits: (N, h, w).
        count: P, points a mask.
        oversample: candidates a point, at least 1.
        importance: part of the points that comes from the most uncertain candidates, 0 to 1.

    Returns:
        (N, P, 2) in [0, 1).
    """
    masks = mask_logits.shape[0]
    candidates = torch.rand(masks, int(count * oversample), 2, device=mask_logits.device)
    certainty = sample_at(mask_logits[:, None], candidates)[:, 0].abs()
    kept = int(count * importance)
    chosen = certainty.topk(kept, dim=1, largest=False).indices
    points = candidates.gather(1, chosen[:, :, None].expand(-1, -1, 2))
    if kept == count:
        return points
    return torch.cat((points, torch.rand(masks, count - kept, 2, device=mask_logits.device)), dim=1)
