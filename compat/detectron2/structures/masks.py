"""Masks of one image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .boxes import Boxes


class BitMasks:
    """N masks as bitmaps: `tensor` is (N, H, W), array or tensor, made bool."""

    def __init__(self, tensor: Any) -> None:
        self.tensor: Tensor = torch.as_tensor(tensor).to(torch.bool)
        assert self.tensor.dim() == 3, self.tensor.shape
        self.image_size = self.tensor.shape[1:]

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __getitem__(self, item: int | slice | Tensor) -> BitMasks:
        """One mask by an int, several by a slice, a bool vector or indices."""
        picked = self.tensor[item][None] if isinstance(item, int) else self.tensor[item]
        assert picked.dim() == 3, f"masks cannot be indexed by {item}"
        return BitMasks(picked)

    def to(self, *args: Any, **kwargs: Any) -> BitMasks:
        """The same masks as `torch.Tensor.to` gives them."""
        return BitMasks(self.tensor.to(*args, **kwargs))

    def get_bounding_boxes(self) -> Boxes:
        """The tight box of every mask, on the CPU, x1 and y1 one past the last pixel; zeros for an empty mask."""
        boxes = torch.zeros(len(self), 4)
        for box, mask in zip(boxes, self.tensor, strict=True):
            rows, columns = mask.nonzero(as_tuple=True)
            if len(rows):
                edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                box[:] = torch.tensor([float(edge) for edge in edges])
        return Boxes(boxes)
