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
    labelled = labels != ignored
    known = labels.masked_fill(~labelled, 0)[:, None]
    return [_loss(logits, known, labelled, ignored_are_negatives) for logits in maps]


def _loss(logits: Tensor, labels: Tensor, labelled: Tensor, ignored_are_negatives: bool) -> Tensor:
    """softplus(x) for every "no", softplus(x) - x for the one "yes": cross-entropy without a one-hot map of targets."""
    resized = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False).float()
    yes = resized.gather(1, labels)[:, 0] * labelled
    no = F.softplus(resized)
    if ignored_are_negatives:
        return (no.sum() - yes.sum()) / resized.numel()
    return ((no.mean(dim=1) * labelled).sum() - yes.sum() / resized.shape[1]) / labelled.sum().clamp(min=1)
