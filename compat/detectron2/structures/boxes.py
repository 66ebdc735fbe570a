"""Boxes of one image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Boxes"]


class Boxes:
    """N boxes, x0 y0 x1 y1 in pixels.

    Args:
        tensor: (N, 4), made float32; an empty one of any shape becomes (0, 4).
    """

    def __init__(self, tensor: Any) -> None:
        tensor = torch.as_tensor(tensor).to(torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape(-1, 4)
        assert tensor.dim() == 2 and tensor.shape[1] == 4, tensor.shape
        self.tensor = tensor

    def area(self) -> Tensor:
        """Area of every box in square pixels, (N,)."""
        return (self.tensor[:, 2] - self.tensor[:, 0]) * (self.tensor[:, 3] - self.tensor[:, 1])

    def to(self, device: Any) -> Boxes:
        """The same boxes on another device."""
        return Boxes(self.tensor.to(device=device))

    @property
    def device(self) -> torch.device:
        """Where the boxes are."""
        return self.tensor.device

    def __getitem__(self, item: int | slice | Tensor) -> Boxes:
        """Some of the boxes: an int picks one, a slice, a bool vector or indices pick several."""
        picked = self.tensor[item : item + 1 or None] if isinstance(item, int) else self.tensor[item]
        assert picked.dim() == 2, f"boxes cannot be indexed by {item}"
        return Boxes(picked)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensor)

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"

    @classmethod
    def cat(cls, boxes_list: Sequence[Boxes]) -> Boxes:
        """All boxes of several lists, one after the other."""
        assert isinstance(boxes_list, (list, tuple)) and all(isinstance(boxes, Boxes) for boxes in boxes_list)
        return cls(torch.cat([boxes.tensor for boxes in boxes_list]) if boxes_list else torch.empty(0))
