"""SED's losses: every class is an independent yes or no at every pixel (docs/numerics_sed.md section 9)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def class_losses(
    maps: Sequence[Tensor], labels: Tensor, *, ignored: int = 255, ignored_are_negatives: bool = True
) -> list[Tensor]:
    """Binary cross-entropy of every map against one-hot labels, mean over images, classes and pixels.

    Args:
        maps: each (B, N, h, w) of logits; resized bilinearly to the labels.
        labels: (B, H, W) int64 in [0, N), or `ignored`.
        ignored: the label of pixels that nobody labelled.
        ignored_are_negatives: count them as "no" of every class, as the reference does (quirk 6), or leave them out.

    Returns:
        One scalar a map.
    """
    classes = maps[0].shape[1]
    labelled = labels != ignored
    target = F.one_hot(labels.masked_fill(~labelled, 0), classes).permute(0, 3, 1, 2) * labelled[:, None]
    losses = []
    for logits in maps:
        resized = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        goal = target.to(resized.dtype)
        if ignored_are_negatives:
            losses.append(F.binary_cross_entropy_with_logits(resized, goal))
            continue
        each = F.binary_cross_entropy_with_logits(resized, goal, reduction="none").mean(dim=1)
        losses.append((each * labelled).sum() / labelled.sum().clamp(min=1))
    return losses
