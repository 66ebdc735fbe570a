"""Boxes of one image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Boxes:
    """N boxes (x0, y0, x1, y1) in pixels: `tensor` is (N, 4), made float32; an empty one becomes (0, 4)."""

    def __init__(self, tensor: Any) -> None:
        tensor = torch.as_tensor(tensor).to(torch.float32)
        self.tensor: Tensor = tensor if tensor.numel() else tensor.reshape(-1, 4)
        assert self.tensor.dim() == 2 and self.tensor.shape[1] == 4, tensor.shape

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __getitem__(self, item: int | slice | Tensor) -> Boxes:
        """One box by an int, several by a slice, a bool vector or indices."""
        picked = self.tensor[item][None] if isinstance(item, int) else self.tensor[item]
        assert picked.dim() == 2, f"boxes cannot be indexed by {item}"
        return Boxes(picked)

    def to(self, device: Any) -> Boxes:
        """The same boxes on another device."""
        return Boxes(self.tensor.to(device=device))

    def area(self) -> Tensor:
        """Area of every box in square pixels, (N,)."""
        return (self.tensor[:, 2] - self.tensor[:, 0]) * (self.tensor[:, 3] - self.tensor[:, 1])
