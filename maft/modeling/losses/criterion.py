"""Class, mask and dice loss of every prediction of the decoder.

See Mask2Former, section 3.3; docs/numerics.md, "Training".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from .matching import Matching, match
from .points import sample_at, uncertain_points
from .targets import Targets


@dataclass(frozen=True)
class LossOptions:
    """Weights and sampling of the losses; the defaults are those of the published training.

    class_weight, mask_weight, dice_weight: of the losses and of the matching's costs alike.
    void_weight: weight of void against one class, in the classification loss.
    deep_supervision: judge the prediction before the decoder's first layer and after each layer, not only the last.
    points: a mask and prediction.
    oversample, importance: see `points.uncertain_points`.
    compensation_weight: of representation compensation; 0 does without a teacher.
    """

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    void_weight: float = 0.1
    deep_supervision: bool = True
    points: int = 12544
    oversample: float = 3.0
    importance: float = 0.75
    compensation_weight: float = 0.1

    def __post_init__(self) -> None:
        if self.points < 1 or self.oversample < 1 or not 0 <= self.importance <= 1:
            raise ValueError(
                f"{self.points} points, {self.oversample} candidates each, {self.importance} of them by uncertainty: "
                "at least 1, at least 1, and a part of 1 are meant"
            )


class Criterion(nn.Module):
    """Matches every prediction with the ground truth and judges the matched pairs.

    Args:
        classes: C, of the training vocabulary.
        options: weights and sampling.
    """

    empty_weight: Tensor

    def __init__(self, classes: int, options: LossOptions) -> None:
        super().__init__()
        self.options = options
        # An entry of the published state dicts: the weight of every class, less for void, which most queries are.
        self.register_buffer("empty_weight", torch.tensor([1.0] * classes + [options.void_weight]))

    @property
    def classes(self) -> int:
        """C, void not counted."""
        return len(self.empty_weight) - 1

    def forward(
        self, class_logits: Sequence[Tensor], mask_logits: Sequence[Tensor], targets: Targets
    ) -> dict[str, Tensor]:
        """The weighted losses of all predictions.

        Args:
            class_logits: (B, Q, C + 1) float32 a prediction, in the order of the decoder's layers.
            mask_logits: (B, Q, h, w) float32 a prediction, in the same order.
            targets: the ground truth.

        Returns:
            "loss_ce", "loss_mask", "loss_dice" of the last prediction, and with the endings "_0", "_1", ... those of
            the others: scalars. Without any instance the mask losses are zeros that still carry (zero) gradients.

        Raises:
            FloatingPointError: see `matching.match`.
        """
        masks = average_over_processes(targets.total, targets.masks.device)
        predictions = list(zip(class_logits, mask_logits, strict=True))
        # The last one first: this is the order in which points are drawn.
        losses = self._judge(*predictions[-1], targets, masks, "")
        for number, prediction in enumerate(predictions[:-1]):
            losses |= self._judge(*prediction, targets, masks, f"_{number}")
        return losses

    def _judge(
        self, class_logits: Tensor, mask_logits: Tensor, targets: Targets, masks: float, ending: str
    ) -> dict[str, Tensor]:
        options = self.options
        pairs = match(
            class_logits,
            mask_logits,
            targets,
            points=options.points,
            class_weight=options.class_weight,
            mask_weight=options.mask_weight,
            dice_weight=options.dice_weight,
        )
        cross_entropy, dice = self._mask_losses(mask_logits, targets, pairs)
        return {
            f"loss_ce{ending}": options.class_weight * self._class_loss(class_logits, targets, pairs),
            f"loss_mask{ending}": options.mask_weight * cross_entropy / masks,
            f"loss_dice{ending}": options.dice_weight * dice / masks,
        }

    def _class_loss(self, class_logits: Tensor, targets: Targets, pairs: Matching) -> Tensor:
        wanted = class_logits.new_full(class_logits.shape[:2], self.classes, dtype=torch.int64)
        wanted[pairs.image, pairs.query] = targets.labels[pairs.image, pairs.target]
        return F.cross_entropy(class_logits.flatten(0, 1), wanted.flatten(), self.empty_weight)

    def _mask_losses(self, mask_logits: Tensor, targets: Targets, pairs: Matching) -> tuple[Tensor, Tensor]:
        """Sums over the pairs of the mean binary cross-entropy and of the dice loss, in sampled points."""
        predicted = mask_logits[pairs.image, pairs.query]
        points = uncertain_points(
            predicted,
            count=self.options.points,
            oversample=self.options.oversample,
            importance=self.options.importance,
        )
        logits = sample_at(predicted[:, None], points)[:, 0]
        with torch.no_grad():
            wanted = sample_at(targets.masks[pairs.image, pairs.target][:, None], points)[:, 0]
        cross_entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=1).sum()
        inside = logits.sigmoid()
        overlap = (inside * wanted).sum(dim=1)
        dice = 1 - (2 * overlap + 1) / (inside.sum(dim=1) + wanted.sum(dim=1) + 1)
        return cross_entropy, dice.sum()


def average_over_processes(count: int, device: torch.device) -> float:
    """The mean of a count over the processes of a distributed run, at least 1; without one, the count itself."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return max(float(count), 1.0)
    total = torch.tensor(float(count), device=device)
    distributed.all_reduce(total)
    return max(total.item() / distributed.get_world_size(), 1.0)
