"""Small parts that several rooms of the network share."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_TEMPERATURE = 10000.0
_EPSILON = 1e-6


def sine_positions(height: int, width: int, features: int, device: torch.device | str = "cpu") -> Tensor:
    """Sine position encoding of a grid, as in DETR ("Attention is all you need", carried over to two axes).

    A cell's row and column, counted from 1 and scaled so that the last is 2 pi, are each turned into `features`
    numbers: sine and cosine in turn, at wavelengths that rise geometrically.

    Args:
        height, width: size of the grid in cells.
        features: numbers an axis, even.
        device: where the result lies.

    Returns:
        (2 * features, height, width) float32: the row's numbers, then the column's.
    """
    exponent = torch.arange(0, features, 2, dtype=torch.float32, device=device) / features
    wavelengths = _TEMPERATURE**exponent

    def encode(cells: int) -> Tensor:
        steps = torch.arange(1, cells + 1, dtype=torch.float32, device=device)
        angles = (steps / (cells + _EPSILON) * (2 * math.pi))[:, None] / wavelengths
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)

    rows = encode(height).T[:, :, None].expand(-1, -1, width)
    columns = encode(width).T[:, None, :].expand(-1, height, -1)
    return torch.cat((rows, columns))


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        widths: input width, hidden widths, output width; at least two entries.
    """

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """(..., widths[0]) -> (..., widths[-1])."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class NormedConv(nn.Conv2d):
    """A convolution without bias, then GroupNorm of 32 groups (state-dict names: weight, norm.weight, norm.bias).

    Args:
        in_channels, out_channels: widths; out_channels divisible by 32.
        kernel: side of the square kernel, odd; the size of the map is kept.
        relu: whether a ReLU follows.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, relu: bool) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(32, out_channels)
        self.relu = relu
        nn.init.kaiming_uniform_(self.weight, a=1)

    def forward(self, input: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        x = self.norm(super().forward(input))
        return F.relu(x, inplace=True) if self.relu else x


def mask_pool(features: Tensor, mask_logits: Tensor) -> Tensor:
    """Average `features` over the cells where a mask is positive (docs/numerics.md, "Masks and decoder logits").

    Args:
        features: (B, C, H, W).
        mask_logits: (B, Q, H, W); no gradient flows through them.

    Returns:
        (B, Q, C). A query without a positive cell gets zeros.
    """
    member = (mask_logits.detach() > 0).to(features.dtype)
    weights = member / (member.sum(dim=(-2, -1), keepdim=True) + 1e-8)
    return torch.einsum("bchw,bqhw->bqc", features, weights)
