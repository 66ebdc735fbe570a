"""Which query answers for which instance: the cheapest one-to-one assignment (DETR, section 3.1; Mask2Former, 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from .points import sample_at
from .targets import Targets


@dataclass(frozen=True)
class Matching:
    """M pairs of a batch, by image and within an image by query: min(Q, instances) pairs an image.

    image, query, target: (M,) int64 on the device of the predictions.
    """

    image: Tensor
    query: Tensor
    target: Tensor


@torch.no_grad()
def match(
    class_logits: Tensor,
    mask_logits: Tensor,
    targets: Targets,
    *,
    points: int,
    class_weight: float,
    mask_weight: float,
    dice_weight: float,
) -> Matching:
    """Assign instances to queries by class probability and by the masks' values in common random points.

    Draws (1, points, 2) an image, also for one without instances, from the generator of the predictions' device.

    Args:
        class_logits: (B, Q, C + 1), void last.
        mask_logits: (B, Q, h, w).
        targets: of the same B images.
        points: how many points the masks are compared in.
        class_weight, mask_weight, dice_weight: of the three costs, as of the losses.

    Raises:
        FloatingPointError: a cost is not finite, the network has diverged.
    """
    batch = class_logits.shape[0]
    drawn = torch.cat([torch.rand(1, points, 2, device=mask_logits.device) for _ in range(batch)])
    predicted = sample_at(mask_logits.float(), drawn)
    wanted = sample_at(targets.masks, drawn)
    probability = class_logits.float().softmax(dim=-1)
    class_cost = -probability.gather(2, targets.labels[:, None].expand(-1, probability.shape[1], -1))
    cost = (
        class_weight * class_cost
        + mask_weight * _cross_entropies(predicted, wanted)
        + dice_weight * _dice_losses(predicted, wanted)
    )
    return _assign(cost, targets.counts)


def _cross_entropies(logits: Tensor, wanted: Tensor) -> Tensor:
    """(B, Q, P) and (B, N, P) -> (B, Q, N): mean binary cross-entropy of every pair.

    softplus(-x) t + softplus(x) (1 - t) is softplus(x) - x t, which takes one product instead of two.
    """
    pairs = F.softplus(logits).sum(dim=-1, keepdim=True) - logits @ wanted.mT
    return pairs / logits.shape[-1]


def _dice_losses(logits: Tensor, wanted: Tensor) -> Tensor:
    """(B, Q, P) and (B, N, P) -> (B, Q, N): soft dice loss of every pair, one added to both sides of the fraction."""
    inside = logits.sigmoid()
    total = inside.sum(dim=-1, keepdim=True) + wanted.sum(dim=-1)[:, None]
    return 1 - (2 * inside @ wanted.mT + 1) / (total + 1)


def _assign(cost: Tensor, counts: tuple[int, ...]) -> Matching:
    # One transfer for the whole batch: the assignment itself runs on the CPU.
    table = cost.cpu().numpy()
    pairs = []
    for image, count in enumerate(counts):
        of_image = table[image, :, :count]
        if not np.isfinite(of_image).all():
            raise FloatingPointError(
                "the costs of the matching are not finite: training has diverged; "
                "lower the learning rate, or train without mixed precision"
            )
        query, target = linear_sum_assignment(of_image)
        pairs.append(np.stack((np.full_like(query, image), query, target)))
    image, query, target = torch.from_numpy(np.concatenate(pairs, axis=1).astype(np.int64)).to(cost.device)
    return Matching(image, query, target)
