"""Small parts that several rooms of the network share."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
