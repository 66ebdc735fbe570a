"""Masked-attention decoder: learned queries become masks and class embeddings.

docs/numerics.md, "Masks and decoder logits"; Mask2Former, section 3.2; the class side is FC-CLIP's in-vocabulary head.
The decoder knows no vocabulary: its class embeddings are held against classifier rows elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..grids import sine_positions
from ..layers import MLP, mask_pool


@dataclass(frozen=True)
class DecoderOutput:
    """What the decoder says after one of its layers.

    mask_logits: (B, Q, H / 4, W / 4).
    class_embeddings: (B, Q, E), not normalised.
    """

    mask_logits: Tensor
    class_embeddings: Tensor


class SelfAttention(nn.Module):
    """Queries look at each other; residual, then LayerNorm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)
        _xavier(self)

    def forward(self, queries: Tensor, query_positions: Tensor) -> Tensor:
        """(B, Q, width) -> (B, Q, width)."""
        placed = queries + query_positions
        attended, _ = self.self_attn(placed, placed, queries, need_weights=False)
        return self.norm(queries + attended)


class CrossAttention(nn.Module):
    """Queries look at one feature map, where their own mask lets them; residual, then LayerNorm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)
        _xavier(self)

    def forward(
        self, queries: Tensor, query_positions: Tensor, cells: Tensor, positions: Tensor, forbidden: Tensor
    ) -> Tensor:
        """(B, Q, width) onto (B, N, width) cells; `forbidden` (B, Q, N) is True where a query may not look."""
        attention = self.multihead_attn
        inputs = (queries + query_positions, cells + positions, cells)
        projections = zip(inputs, attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True)
        query, key, value = (
            F.linear(x, weight, bias).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for x, weight, bias in projections
        )
        # One mask for all heads, which nn.MultiheadAttention takes only as a copy for each.
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=~forbidden[:, None])
        return self.norm(queries + attention.out_proj(attended.transpose(1, 2).flatten(2)))


class FeedForward(nn.Module):
    """Two linear layers with ReLU between; residual, then LayerNorm."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)
        _xavier(self)

    def forward(self, queries: Tensor) -> Tensor:
        """(B, Q, width) -> (B, Q, width)."""
        return self.norm(queries + self.linear2(F.relu(self.linear1(queries), inplace=True)))


def _xavier(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


class MultiScaleMaskedTransformerDecoder(nn.Module):
    """Queries through `layers` rounds of masked cross-attention, self-attention and feed-forward.

    Args:
        width: of queries and of the maps that come in.
        mask_dim: channels of the mask features.
        embed_dim: E, width of the class embeddings.
        queries: Q.
        layers: rounds; round i looks at map i mod 3.
        heads, feedforward: of the attention and feed-forward layers.
    """

    LEVELS = 3

    def __init__(
        self,
        *,
        embed_dim: int,
        width: int = 256,
        mask_dim: int = 256,
        queries: int = 100,
        layers: int = 9,
        heads: int = 8,
        feedforward: int = 2048,
    ) -> None:
        super().__init__()
        if mask_dim != width:
            raise ValueError(f"the class side adds pooled mask features ({mask_dim} wide) to queries ({width} wide)")
        self.transformer_self_attention_layers = nn.ModuleList(SelfAttention(width, heads) for _ in range(layers))
        self.transformer_cross_attention_layers = nn.ModuleList(CrossAttention(width, heads) for _ in range(layers))
        self.transformer_ffn_layers = nn.ModuleList(FeedForward(width, feedforward) for _ in range(layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.query_feat = nn.Embedding(queries, width)
        self.query_embed = nn.Embedding(queries, width)
        self.level_embed = nn.Embedding(self.LEVELS, width)
        self.mask_embed = MLP(width, width, width, mask_dim)
        self._mask_pooling_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.class_embed = MLP(width, width, width, embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(
        self, maps: Sequence[Tensor], mask_features: Tensor, *, every_layer: bool = False
    ) -> list[DecoderOutput]:
        """Decode one batch.

        Args:
            maps: three (B, width, h, w) maps, coarse to fine.
            mask_features: (B, mask_dim, H / 4, W / 4).
            every_layer: also give the predictions before the first layer and after each of the others, as training
                wants them; without it masks and class side at full size run once instead of ten times.

        Returns:
            The predictions in the order of the layers; the last one is the result.
        """
        cells = [m.flatten(2).transpose(1, 2) + self.level_embed.weight[i] for i, m in enumerate(maps)]
        positions = [
            sine_positions(m.shape[-2], m.shape[-1], m.shape[1] // 2, m.device).flatten(1).T.to(m.dtype) for m in maps
        ]
        batch = mask_features.shape[0]
        queries = self.query_feat.weight.expand(batch, -1, -1)
        query_positions = self.query_embed.weight.expand(batch, -1, -1)
        rounds = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )
        outputs = []
        # Attention masks are needed at the maps' sizes only. Resizing is linear, so the mask features are resized once
        # per map and multiplied with the queries there; the full-size product is left to the results.
        resized = [_resize(mask_features.detach(), m.shape[-2:]) for m in maps]
        for number, (cross_attention, self_attention, feed_forward) in enumerate(rounds):
            normed = self.decoder_norm(queries)
            mask_embeddings = self.mask_embed(normed)
            if every_layer:
                outputs.append(self._predict(normed, mask_embeddings, mask_features))
            level = number % self.LEVELS
            forbidden = self._forbidden(mask_embeddings, resized[level])
            queries = cross_attention(queries, query_positions, cells[level], positions[level], forbidden)
            queries = feed_forward(self_attention(queries, query_positions))
        normed = self.decoder_norm(queries)
        return [*outputs, self._predict(normed, self.mask_embed(normed), mask_features)]

    def _predict(self, normed: Tensor, mask_embeddings: Tensor, mask_features: Tensor) -> DecoderOutput:
        mask_logits = torch.einsum("bqc,bchw->bqhw", mask_embeddings, mask_features)
        pooled = self._mask_pooling_proj(mask_pool(mask_features, mask_logits))
        return DecoderOutput(mask_logits, self.class_embed(pooled + normed))

    @staticmethod
    def _forbidden(mask_embeddings: Tensor, mask_features: Tensor) -> Tensor:
        """(B, Q, h * w) bool: cells outside a query's mask, unless the mask would forbid all of them."""
        logits = torch.einsum("bqc,bcn->bqn", mask_embeddings.detach(), mask_features.flatten(2))
        # The sigmoid is not dropped: rounding makes a tiny negative logit exactly 0.5, which is still allowed.
        forbidden = logits.sigmoid() < 0.5
        return forbidden & ~forbidden.all(dim=-1, keepdim=True)


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
