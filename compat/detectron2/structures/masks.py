"""Masks of one image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .boxes import Boxes

__all__ = ["BitMasks"]


class BitMasks:
    """N masks as bitmaps.

    Args:
        tensor: (N, H, W), made bool; array or tensor.
    """

    def __init__(self, tensor: Any) -> None:
        tensor = torch.as_tensor(tensor).to(torch.bool)
        assert tensor.dim() == 3, tensor.shape
        self.tensor = tensor
        self.image_size = tensor.shape[1:]

    def to(self, *args: Any, **kwargs: Any) -> BitMasks:
        """The same masks as `torch.Tensor.to` gives them."""
        return BitMasks(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        """Where the masks are."""
        return self.tensor.device

    def __getitem__(self, item: int | slice | Tensor) -> BitMasks:
        """Some of the masks: an int picks one, a slice, a bool vector or indices pick several."""
        picked = self.tensor[item][None] if isinstance(item, int) else self.tensor[item]
        assert picked.dim() == 3, f"masks cannot be indexed by {item}"
        return BitMasks(picked)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensor)

    def __repr__(self) -> str:
        return f"BitMasks(num_instances={len(self)})"

    def nonempty(self) -> Tensor:
        """Which masks have a pixel, (N,) bool."""
        return self.tensor.flatten(1).any(dim=1)

    def get_bounding_boxes(self) -> Boxes:
        """The tight box of every mask on the CPU, x1 and y1 one past the last pixel; zeros for an empty mask."""
        boxes = torch.zeros(len(self), 4)
        columns, rows = self.tensor.any(dim=1), self.tensor.any(dim=2)
        for index in self.nonempty().nonzero()[:, 0].tolist():
            x, y = columns[index].nonzero()[:, 0], rows[index].nonzero()[:, 0]
            boxes[index] = torch.tensor([float(x[0]), float(y[0]), float(x[-1]) + 1, float(y[-1]) + 1])
        return Boxes(boxes)

    @staticmethod
    def cat(bitmasks_list: Sequence[BitMasks]) -> BitMasks:
        """All masks of several lists, one after the other."""
        assert isinstance(bitmasks_list, (list, tuple)) and len(bitmasks_list) > 0
        return BitMasks(torch.cat([masks.tensor for masks in bitmasks_list]))
