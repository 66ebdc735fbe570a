"""Parts of the gradual fusion decoder (docs/numerics_sed.md section 5); state-dict names are the published ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CELLS_AT_ONCE = 2**22
"""Numbers of the map that one step of the class attention looks at: 16 MB of float32, some ten times that in work."""


def by_rows(function: Callable[..., Tensor], rows_at_once: int, *inputs: Tensor, in_place: bool = False) -> Tensor:
    """Apply a function whose rows (first axis) are independent of each other, a few rows at a time.

    With gradients everything is done in one step, for nothing may be overwritten then.

    Args:
        function: takes the inputs' rows, gives as many.
        rows_at_once: rows of one step, at least 1.
        inputs: of equal length, at least one row.
        in_place: the result takes the place of the first input, whose shape it has.
    """
    count = len(inputs[0])
    if torch.is_grad_enabled() or count <= rows_at_once:
        return function(*inputs)
    result = inputs[0] if in_place else None
    for start in range(0, count, rows_at_once):
        part = function(*(values[start : start + rows_at_once] for values in inputs))
        if result is None:
            result = part.new_empty((count, *part.shape[1:]))
        result[start : start + len(part)] = part
    assert result is not None
    return result


class ChannelNorm(nn.Module):
    """LayerNorm over the last axis, eps 1e-6.

    A class of its own and no nn.LayerNorm, since the optimiser decays the weights of this one, as the reference does
    (docs/numerics_sed.md, quirk 7).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> the same."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, eps=1e-6)


class SpatialBlock(nn.Module):
    """A ConvNeXt block on every class's map: depthwise convolution, norm, two linear layers, layer scale, residual.

    Args:
        width: channels.
        kernel: side of the depthwise convolution, odd.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = ChannelNorm(width)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, width, H, W) -> the same."""
        cells = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        cells = self.gamma * self.pwconv2(F.gelu(self.pwconv1(cells)))
        return x + cells.permute(0, 3, 1, 2)


class LinearAttention(nn.Module):
    """Attention whose cost grows linearly: softmax is replaced by the feature map elu + 1 of queries and keys.

    Args:
        width: channels, divisible by heads.
        heads: number of them.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} does not divide by {heads} heads")
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(cells, N, width) -> the same; every cell attends among its N classes."""
        queries, keys, values = (part(x).unflatten(-1, (self.heads, -1)) for part in (self.q, self.k, self.v))
        queries, keys = F.elu(queries) + 1, F.elu(keys) + 1
        # Divided by N and multiplied again, as in the reference: it keeps half precision from overflowing.
        count = x.shape[1]
        memory = torch.einsum("cnhd,cnhe->chde", keys, values / count)
        norm = torch.einsum("cnhd,chd->cnh", queries, keys.sum(dim=1)) + 1e-6
        return (torch.einsum("cnhd,chde->cnhe", queries, memory) / norm[..., None] * count).flatten(-2)


class ClassAttention(nn.Module):
    """Every cell lets its classes look at each other, on maps averaged by `pooling` first.

    Args:
        width: channels.
        heads: of the attention.
        pooling: side of the averaged squares; 1 does without.
    """

    def __init__(self, width: int, heads: int, pooling: int) -> None:
        super().__init__()
        self.pooling = pooling
        self.attention = LinearAttention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.MLP = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(G, N, width, H, W) -> the same; without gradients and pooling, `x` itself is overwritten.

        The result holds `x` twice: the residual branch begins with it and it is added again (quirk 2).
        """
        if self.pooling > 1:
            pooled = F.avg_pool2d(x.flatten(0, 1), self.pooling).unflatten(0, x.shape[:2])
            small = self._attend(pooled).flatten(0, 1)
            back = F.interpolate(small, size=x.shape[-2:], mode="bilinear", align_corners=True)
            return x + back.unflatten(0, x.shape[:2])
        if torch.is_grad_enabled():
            return x + self._attend(x)
        lines = max(1, CELLS_AT_ONCE // (x.numel() // x.shape[-2]))
        for start in range(0, x.shape[-2], lines):
            part = x[..., start : start + lines, :]
            part += self._attend(part)
        return x

    def _attend(self, x: Tensor) -> Tensor:
        groups, _, _, height, width = x.shape
        cells = x.permute(0, 3, 4, 1, 2).flatten(0, 2)
        cells = cells + self.attention(self.norm1(cells))
        cells = cells + self.MLP(self.norm2(cells))
        return cells.unflatten(0, (groups, height, width)).permute(0, 3, 4, 1, 2)


class DoubleConv(nn.Module):
    """Twice: 3 x 3 convolution without bias, GroupNorm of 16 channels a group, ReLU.

    Args:
        in_channels, out_channels: widths; out_channels divisible by 16.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers += [
                nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
                nn.GroupNorm(out_channels // 16, out_channels),
                nn.ReLU(),
            ]
        self.double_conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, in_channels, H, W) -> (rows, out_channels, H, W)."""
        return self.double_conv(x)


class FusionLayer(nn.Module):
    """One step of the decoder: look around, compare classes, double the resolution with guidance.

    Args:
        width: channels of the incoming state.
        out_channels: channels of the outgoing state.
        guidance: channels of each of the two guiding maps.
        heads, pooling: of the class attention.
        kernel: side of the depthwise convolution.
    """

    def __init__(self, width: int, out_channels: int, guidance: int, *, heads: int, kernel: int, pooling: int) -> None:
        super().__init__()
        self.cnext = SpatialBlock(width, kernel)
        self.attention = ClassAttention(width, heads, pooling)
        self.up = nn.ConvTranspose2d(width, width - guidance, 2, stride=2)
        self.conv = DoubleConv(width + guidance, out_channels)

    def enlarge(self, state: Tensor, image_guidance: Tensor, cost_guidance: Tensor) -> Tensor:
        """(rows, width, H, W) and two times (rows, guidance, 2H, 2W) -> (rows, out_channels, 2H, 2W)."""
        return self.conv(torch.cat((self.up(state), image_guidance, cost_guidance), dim=1))
