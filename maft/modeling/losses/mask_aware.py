"""The mask-aware loss: CLIP shall be as sure of a class as the mask is good (MAFT+; MAFT, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .targets import Targets


def mask_aware_loss(clip_logits: Tensor, mask_logits: Tensor, targets: Targets) -> Tensor:
    """Smooth L1 between class probability and relative mask quality, over all instances and queries.

    Quality of a query for an instance is the soft IoU of their masks, stretched so that the worst query of the image
    has 0 and the best has 1.

    Args:
        clip_logits: (B, Q, C + 1), void last; void takes no part in the softmax.
        mask_logits: (B, Q, h, w); no gradient flows through them.
        targets: the ground truth.

    Returns:
        A scalar; without any instance a zero that still carries (zero) gradients.
    """
    image, index = targets.members()
    if not len(image):
        return clip_logits[:0].sum()
    probability = clip_logits[..., :-1].softmax(dim=-1)
    of_instance = probability[image, :, targets.labels[image, index]]
    with torch.no_grad():
        quality = soft_iou(mask_logits.sigmoid(), targets)[image, :, index]
        low, high = quality.aminmax(dim=1, keepdim=True)
        quality = (quality - low) / (high - low + 1e-8)
    return F.smooth_l1_loss(of_instance, quality)


def soft_iou(masks: Tensor, targets: Targets) -> Tensor:
    """Intersection over union of small soft masks, enlarged bilinearly to the ground truth's size, with every instance.

    The enlarged masks are not made: the ground truth is carried down by the transposed enlargement instead, which
    gives the same sums at a fraction of the work (instances are fewer than queries).

    Args:
        masks: (B, Q, h, w) in [0, 1].
        targets: with (B, N, H, W) masks.

    Returns:
        (B, Q, N).
    """
    rows, columns = enlargement(targets.masks.shape[-2:], masks.shape[-2:], masks)
    shrunk = rows.T @ targets.masks @ columns
    flat = masks.flatten(2)
    overlap = flat @ shrunk.flatten(2).mT
    area = flat @ torch.outer(rows.sum(dim=0), columns.sum(dim=0)).flatten()
    wanted = targets.masks.sum(dim=(-2, -1))
    return overlap / (area[:, :, None] + wanted[:, None] - overlap + 1e-7)


def enlargement(size: Sequence[int], small: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
    """The matrices of bilinear enlargement from `small` to `size`, (H, h) and (W, w), of the type of `like`.

    Enlarging a map m is `rows @ m @ columns.T`; the transposed product carries masks of the large size down so that
    their inner products with small maps equal those of the enlarged ones.
    """

    def one_axis(large: int, cells: int) -> Tensor:
        unit = torch.eye(cells, dtype=like.dtype, device=like.device)
        return F.interpolate(unit[None], size=large, mode="linear", align_corners=False)[0].T

    return one_axis(size[0], small[0]), one_axis(size[1], small[1])
