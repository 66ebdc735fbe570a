"""Qwen2.5-VL for training on a CPU: the arithmetic of the published architecture, batched, in bfloat16.

Weights are a dictionary under transformers' names, so that a trained one is loaded by
`Qwen2_5_VLForConditionalGeneration` as it is; only the patch embedding differs: both of its temporal halves see the
same image, so their sum is trained (`export`). All images have one size, all sequences of a batch one layout, and what
they begin with alike, the system turn, is computed once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .looks import GRID

Weights = Mapping[str, Tensor]
KeysValues = list[tuple[Tensor, Tensor]]
"""Of every layer, each (1, heads, P, head size)."""

VISION, TEXT = "model.visual", "model.language_model"
EMBEDDING = f"{TEXT}.embed_tokens.weight"
PATCH_EMBEDDING = f"{VISION}.patch_embed.proj.weight"
PATCH, MERGE = 14, 2
WINDOW = 3
"""Side of a window of the vision tower's attention in image tokens, a divisor of `GRID`."""
SIDE = GRID * PATCH * MERGE
"""Pixels along a side of an image as the model sees it."""

_EPS = 1e-6


@dataclass(frozen=True)
class Shape:
    """The sizes of the network.

    Attributes:
        vocabulary: tokens.
        vision_width, vision_layers, vision_inner: of the vision tower; its heads have 32 channels each.
        vision_full: the layers whose attention spans the image; that of the others spans windows of `WINDOW` tokens.
        width, layers, inner: of the text tower; its heads have 32 channels each.
        theta: base of the text tower's rotary frequencies. With the usual million, rows and columns of a grid of 9 turn
            by hardly any angle.
        sections: rotary frequencies for time, rows and columns.
    """

    vocabulary: int
    vision_width: int = 128
    vision_layers: int = 4
    vision_inner: int = 256
    vision_full: tuple[int, ...] = (1, 3)
    width: int = 128
    layers: int = 5
    inner: int = 384
    theta: float = 100.0
    sections: tuple[int, int, int] = (2, 7, 7)


HEAD = 32
"""Channels of an attention head."""


def patches(images: Tensor) -> Tensor:
    """Images cut into patches, in the order of windows, of tokens in a window, of patches in a token.

    Args:
        images: (B, 3, SIDE, SIDE), normalised.

    Returns:
        (B, 324, 3 * 14 * 14).
    """
    batch, windows = images.shape[0], GRID // WINDOW
    cut = images.reshape(batch, 3, windows, WINDOW, MERGE, PATCH, windows, WINDOW, MERGE, PATCH)
    return cut.permute(0, 2, 6, 3, 7, 4, 8, 1, 5, 9).reshape(batch, (GRID * MERGE) ** 2, 3 * PATCH**2)


def see(weights: Weights, shape: Shape, pixels: Tensor) -> Tensor:
    """The tokens of images.

    Args:
        weights: under transformers' names.
        shape: of the network.
        pixels: (B, 324, 588), as `patches` gives them, in the weights' dtype.

    Returns:
        (B, 81, width), row by row.
    """
    hidden = F.linear(pixels, weights[PATCH_EMBEDDING])
    batch, count, width = hidden.shape
    cosine, sine = (table.to(hidden) for table in _vision_rotation())
    for layer in range(shape.vision_layers):
        at = f"{VISION}.blocks.{layer}"
        normal = _norm(hidden, weights[f"{at}.norm1.weight"])
        qkv = _linear(normal, weights, f"{at}.attn.qkv").view(batch, count, 3, width // HEAD, HEAD)
        turned, value = _rotate(qkv[:, :, :2].permute(2, 0, 3, 1, 4), cosine, sine), qkv[:, :, 2].transpose(1, 2)
        query, key = turned
        if layer not in shape.vision_full:
            query, key, value = (
                part.reshape(*part.shape[:2], -1, (WINDOW * MERGE) ** 2, HEAD) for part in (query, key, value)
            )
        mixed = _attend(query, key, value, None).reshape(batch, width // HEAD, count, HEAD)
        hidden = hidden + _linear(mixed.transpose(1, 2).reshape(batch, count, width), weights, f"{at}.attn.proj")
        hidden = hidden + _gated(_norm(hidden, weights[f"{at}.norm2.weight"]), weights, f"{at}.mlp")
    merged = _norm(hidden, weights[f"{VISION}.merger.ln_q.weight"]).view(batch, GRID**2, width * MERGE**2)
    merged = F.gelu(_linear(merged, weights, f"{VISION}.merger.mlp.0"))
    return _linear(merged, weights, f"{VISION}.merger.mlp.2")[:, _raster_order()]


def read(
    weights: Weights, shape: Shape, tokens: Tensor, positions: Tensor, before: KeysValues | None = None
) -> tuple[Tensor, KeysValues]:
    """The text tower.

    Args:
        weights: under transformers' names.
        shape: of the network.
        tokens: (B, T, width) embeddings.
        positions: (3, T) int64, in time, rows and columns, of every sequence of the batch.
        before: keys and values of what all sequences begin with.

    Returns:
        (B, T, width) after the last norm, and keys and values, of which those of one sequence may go on as `before`.
    """
    batch, count, width = tokens.shape
    cosine, sine = (table.to(tokens) for table in _text_rotation(shape, positions))
    past = 0 if before is None else before[0][0].shape[2]
    mask = torch.full((count, past + count), float("-inf"), dtype=tokens.dtype, device=tokens.device).triu(past + 1)
    hidden, made = tokens, []
    for layer in range(shape.layers):
        at = f"{TEXT}.layers.{layer}"
        normal = _norm(hidden, weights[f"{at}.input_layernorm.weight"])
        weight, bias = (
            torch.cat([weights[f"{at}.self_attn.{name}_proj.{part}"] for name in "qkv"]) for part in ("weight", "bias")
        )
        qkv = F.linear(normal, weight, bias).view(batch, count, 3, width // HEAD, HEAD)
        turned, value = _rotate(qkv[:, :, :2].permute(2, 0, 3, 1, 4), cosine, sine), qkv[:, :, 2].transpose(1, 2)
        query, key = turned
        made.append((key, value))
        if before is not None:
            key, value = (
                torch.cat((early.expand(batch, -1, -1, -1), late), dim=2)
                for early, late in zip(before[layer], (key, value), strict=True)
            )
        mixed = _attend(query, key, value, mask).transpose(1, 2).reshape(batch, count, width)
        hidden = hidden + F.linear(mixed, weights[f"{at}.self_attn.o_proj.weight"])
        hidden = hidden + _gated(_norm(hidden, weights[f"{at}.post_attention_layernorm.weight"]), weights, f"{at}.mlp")
    return _norm(hidden, weights[f"{TEXT}.norm.weight"]), made


def positions(before: int, image_at: int | None, count: int) -> Tensor:
    """(3, T) int64: where the tokens of a sequence stand (M-RoPE): text alike in all three, images in rows and columns.

    Args:
        before: tokens of text before the sequence.
        image_at: where its image begins; None: it has none.
        count: T.
    """
    plain = torch.arange(count).expand(3, -1)
    if image_at is None:
        return plain + before
    rows, columns = torch.arange(GRID).repeat_interleave(GRID), torch.arange(GRID).repeat(GRID)
    image = torch.stack((torch.zeros_like(rows), rows, columns)) + image_at
    rest = torch.arange(count - image_at - GRID**2).expand(3, -1) + image_at + GRID
    return torch.cat((plain[:, :image_at], image, rest), dim=1) + before


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Plain products: at these sizes twice as fast on a CPU as the fused kernel with its backward pass."""
    scores = (query * HEAD**-0.5) @ key.transpose(-1, -2)
    return (scores if mask is None else scores + mask).softmax(dim=-1) @ value


class _RootMeanSquareNorm(torch.autograd.Function):
    """RMSNorm with its gradient by hand: a third of the passes over memory that autograd takes."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        square = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True, dtype=torch.float32).square_()
        scale = square.div_(hidden.shape[-1]).add_(_EPS).rsqrt_().to(hidden.dtype)
        normal = hidden * scale
        ctx.save_for_backward(normal, scale, weight)
        return normal * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        normal, scale, weight = ctx.saved_tensors
        of_weight = (gradient * normal).flatten(0, -2).sum(dim=0)
        inner = gradient * weight
        along = (inner * normal).mean(dim=-1, keepdim=True)
        return torch.addcmul(inner, normal, along, value=-1).mul_(scale), of_weight


def _norm(hidden: Tensor, weight: Tensor) -> Tensor:
    normal: Tensor = _RootMeanSquareNorm.apply(hidden, weight)
    return normal


def _linear(hidden: Tensor, weights: Weights, name: str) -> Tensor:
    return F.linear(hidden, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _gated(hidden: Tensor, weights: Weights, name: str) -> Tensor:
    gate, up = (
        F.linear(hidden, weights[f"{name}.{part}_proj.weight"], weights.get(f"{name}.{part}_proj.bias"))
        for part in ("gate", "up")
    )
    down = weights.get(f"{name}.down_proj.bias")
    return F.linear(F.silu(gate) * up, weights[f"{name}.down_proj.weight"], down)


def _rotate(values: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = values.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


@cache
def _raster_order() -> Tensor:
    """(81,) int64: where the token of each cell stands among those in the order of windows."""
    cells = torch.arange(GRID**2).view(GRID // WINDOW, GRID // WINDOW, WINDOW, WINDOW)
    return cells.permute(0, 2, 1, 3).reshape(-1)


@cache
def _vision_rotation() -> tuple[Tensor, Tensor]:
    """Cosine and sine (324, 16) of the patches, a half by rows and a half by columns."""
    side = GRID * MERGE
    grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
    planes = grid.view(2, *(GRID // WINDOW, WINDOW, MERGE) * 2).permute(0, 1, 4, 2, 5, 3, 6).reshape(2, side**2)
    frequencies = 1e4 ** -(torch.arange(0, HEAD // 2, 2) / (HEAD // 2))
    angles = (planes[..., None] * frequencies).permute(1, 0, 2).reshape(side**2, HEAD // 2)
    return angles.cos(), angles.sin()


def _text_rotation(shape: Shape, places: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine (T, 16) of positions (3, T)."""
    frequencies = shape.theta ** -(torch.arange(0, HEAD, 2) / HEAD)
    angles = places[..., None].float() * frequencies
    parts = angles.split(shape.sections, dim=-1)
    mixed = torch.cat([parts[axis][axis] for axis in range(3)], dim=-1)
    return mixed.cos(), mixed.sin()
