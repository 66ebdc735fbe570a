"""Images of different sizes in one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class ImageList:
    """Images padded at right and bottom: `tensor` (N, ..., H, W), `image_sizes` (h, w) of each without padding."""

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> Tensor:
        """Image `idx` without its padding, (..., h, w)."""
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> ImageList:
        """The same images as `torch.Tensor.to` gives them."""
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.tensor.device

    @staticmethod
    def from_tensors(tensors: Sequence[Tensor], size_divisibility: int = 0, pad_value: float = 0.0) -> ImageList:
        """Pad images (..., H, W) with `pad_value` to one size, a multiple of `size_divisibility` unless that is 0."""
        assert isinstance(tensors, (tuple, list)) and len(tensors) > 0, "no list of images"
        lead = tensors[0].shape[:-2]
        assert all(image.shape[:-2] == lead for image in tensors), [tuple(image.shape) for image in tensors]
        sizes = [(image.shape[-2], image.shape[-1]) for image in tensors]
        step = max(size_divisibility, 1)
        padded = [-(-max(side) // step) * step for side in zip(*sizes, strict=True)]
        batch = tensors[0].new_full((len(tensors), *lead, *padded), pad_value)
        for row, image, (h, w) in zip(batch, tensors, sizes, strict=True):
            row[..., :h, :w].copy_(image)
        return ImageList(batch, sizes)
