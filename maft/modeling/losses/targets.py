"""The ground truth of a batch, side by side in tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """Instances (things and stuff regions alike) of B images, filled up to the largest number N of an image.

    labels: (B, N) int64 in [0, classes); filling is 0.
    masks: (B, N, H, W) float32, 0 or 1, on the padded size of the batch; filling and padding are 0.
    counts: how many of the N are real, an image each.
    """

    labels: Tensor
    masks: Tensor
    counts: tuple[int, ...]

    @classmethod
    def collate(
        cls, labels: Sequence[Tensor], masks: Sequence[Tensor], size: Sequence[int], device: torch.device | str
    ) -> Targets:
        """Put the instances of several images together.

        Args:
            labels: (n,) int64 an image; n may be 0.
            masks: (n, h, w) bool an image, with h <= size[0] and w <= size[1].
            size: (H, W) of the padded batch.
            device: where the result lies.

        Raises:
            ValueError: an image has other numbers of labels and masks, or masks larger than `size`.
        """
        counts = tuple(len(of_image) for of_image in labels)
        for number, (count, of_image) in enumerate(zip(counts, masks, strict=True)):
            if len(of_image) != count:
                raise ValueError(f"image {number} of the batch: {count} labels for {len(of_image)} masks")
            if count and (of_image.shape[-2] > size[0] or of_image.shape[-1] > size[1]):
                raise ValueError(f"image {number} of the batch: masks {tuple(of_image.shape)} beyond {tuple(size)}")
        most = max(counts, default=0)
        all_labels = torch.zeros(len(counts), most, dtype=torch.int64, device=device)
        all_masks = torch.zeros(len(counts), most, *size, device=device)
        for number, count in enumerate(counts):
            if count:
                height, width = masks[number].shape[-2:]
                all_labels[number, :count] = labels[number].to(device)
                all_masks[number, :count, :height, :width] = masks[number].to(device)
        return cls(all_labels, all_masks, counts)

    @property
    def total(self) -> int:
        """Real instances of all images."""
        return sum(self.counts)

    def members(self) -> tuple[Tensor, Tensor]:
        """(total,) image indices and (total,) indices within the image, of the real instances in order."""
        per_image = torch.tensor(self.counts, device=self.labels.device)
        real = torch.arange(self.labels.shape[1], device=self.labels.device) < per_image[:, None]
        image, index = real.nonzero(as_tuple=True)
        return image, index
