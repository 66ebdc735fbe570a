"""Pixel decoder: multi-scale deformable attention over the image features, and one FPN step to stride 4.

docs/numerics.md, "Masks and decoder logits"; Mask2Former, section 3.2.1; Deformable DETR, section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..grids import cell_centres, sine_positions
from ..layers import NormedConv
from .ops import MSDeformAttn


class EncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, each followed by residual and LayerNorm."""

    def __init__(self, width: int, feedforward: int, levels: int, heads: int, points: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = MSDeformAttn(width, levels, heads, points)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, feedforward)
        self.linear2 = nn.Linear(feedforward, width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, reference: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
        """(B, S, width) cells of all levels in a row -> the same shape."""
        attended = self.self_attn(x + positions, reference, x, shapes)
        x = self.norm1(x + self.dropout(attended))
        hidden = self.dropout(F.relu(self.linear1(x), inplace=True))
        return self.norm2(x + self.dropout(self.linear2(hidden)))


class Encoder(nn.Module):
    """A stack of encoder layers (its own module because the state dict names it so)."""

    def __init__(self, layers: Sequence[EncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, positions: Tensor, reference: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
        """Apply every layer in turn."""
        for layer in self.layers:
            x = layer(x, positions, reference, shapes)
        return x


class DeformableEncoder(nn.Module):
    """Level embedding and encoder stack over several feature maps of one width."""

    def __init__(
        self, width: int, *, levels: int, layers: int, heads: int, points: int, feedforward: int, dropout: float
    ) -> None:
        super().__init__()
        self.encoder = Encoder(
            [EncoderLayer(width, feedforward, levels, heads, points, dropout) for _ in range(layers)]
        )
        self.level_embed = nn.Parameter(torch.empty(levels, width))
        nn.init.normal_(self.level_embed)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """(B, width, H, W) maps, coarse to fine -> encoded maps of the same shapes."""
        shapes = [(int(m.shape[-2]), int(m.shape[-1])) for m in maps]
        device, width = maps[0].device, maps[0].shape[1]
        positions = [
            sine_positions(height, columns, width // 2, device).flatten(1).T + embedding
            for (height, columns), embedding in zip(shapes, self.level_embed, strict=True)
        ]
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        reference = cell_centres(shapes, device)[None, :, None].expand(-1, -1, len(shapes), -1)
        x = self.encoder(x, torch.cat(positions), reference, shapes)
        parts = x.split([height * columns for height, columns in shapes], dim=1)
        return [part.transpose(1, 2).unflatten(2, shape) for part, shape in zip(parts, shapes, strict=True)]


class MSDeformAttnPixelDecoder(nn.Module):
    """Feature maps of the backbone -> mask features at stride 4, and three maps for the decoder.

    Args:
        channels: feature name -> channels, finest first; the first feature joins by the FPN step, the three named in
            `encoder_features` go through the deformable encoder.
        encoder_features: names of the features that the encoder sees, finest first.
        width: width of encoder and FPN.
        mask_dim: channels of the mask features.
        heads, layers, points, feedforward, dropout: of the deformable encoder.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        *,
        encoder_features: Sequence[str] = ("res3", "res4", "res5"),
        width: int = 256,
        mask_dim: int = 256,
        heads: int = 8,
        layers: int = 6,
        points: int = 4,
        feedforward: int = 1024,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        finer = [name for name in channels if name not in encoder_features]
        if len(finer) != 1 or len(encoder_features) != 3:
            raise ValueError(
                f"the pixel decoder takes one feature at stride 4 and three for its encoder, not {list(channels)} "
                f"with {list(encoder_features)} for the encoder"
            )
        self.fine_feature = finer[0]
        self.coarse_to_fine = list(reversed(encoder_features))
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels[name], width, 1), nn.GroupNorm(32, width)) for name in self.coarse_to_fine
        )
        for projection in self.input_proj:
            nn.init.xavier_uniform_(projection[0].weight)
            nn.init.zeros_(projection[0].bias)
        self.transformer = DeformableEncoder(
            width,
            levels=len(encoder_features),
            layers=layers,
            heads=heads,
            points=points,
            feedforward=feedforward,
            dropout=dropout,
        )
        self.adapter_1 = NormedConv(channels[self.fine_feature], width, 1, relu=False)
        self.layer_1 = NormedConv(width, width, 3, relu=True)
        self.mask_features = nn.Conv2d(width, mask_dim, 1)
        nn.init.kaiming_uniform_(self.mask_features.weight, a=1)
        assert self.mask_features.bias is not None
        nn.init.zeros_(self.mask_features.bias)

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decode one batch in float32, as the reference does: sampling positions do not survive half precision.

        Where nothing is to learn and the caller's autocast is to bfloat16, convolutions, values and feed-forward
        networks follow it; positions, attention logits and what is summed up stay float32.

        Args:
            features: name -> (B, channels, H, W).

        Returns:
            Mask features (B, mask_dim, H / 4, W / 4), and the encoder's three maps (B, width, h, w), coarse to fine.
        """
        device = features[self.fine_feature].device.type
        low = not torch.is_grad_enabled() and torch.is_autocast_enabled(device)
        low = low and torch.get_autocast_dtype(device) == torch.bfloat16
        with torch.autocast(device, dtype=torch.bfloat16, enabled=low):
            # Channels last, as the encoder's tokens are: no copies between maps and tokens, nor before convolutions.
            given = {
                name: (values if low else values.float()).contiguous(memory_format=torch.channels_last)
                for name, values in features.items()
                if name in self.coarse_to_fine or name == self.fine_feature
            }
            fine = given[self.fine_feature]
            projected = [
                projection(given[name]).float()
                for name, projection in zip(self.coarse_to_fine, self.input_proj, strict=True)
            ]
            maps = self.transformer(projected)
            lateral = self.adapter_1(fine)
            upsampled = F.interpolate(maps[-1], size=lateral.shape[-2:], mode="bilinear", align_corners=False)
            return self.mask_features(self.layer_1(lateral + upsampled)), maps
