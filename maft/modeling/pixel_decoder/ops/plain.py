"""Multi-scale deformable attention in plain PyTorch: the fallback of every device, and what the kernels are held to.

The formula is equation 3 of "Deformable DETR" (Zhu et al., ICLR 2021) without its projections: for every query and head

    out = sum over levels l and points p of  weight[l, p] * bilinear(value of level l, location[l, p])

A location (x, y) in [0, 1] spans a level from edge to edge, so its pixel coordinates are x * W - 0.5 and y * H - 0.5
(`align_corners=False`); what lies outside the level counts as zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_LEVELS = 16
"""The compiled kernels hold the levels' shapes in a fixed table (csrc/sampling.h); every kernel accepts the same."""

# torch's enumeration of grid_sample's modes, as aten::grid_sampler_2d_backward wants them.
_BILINEAR, _ZEROS = 0, 0


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are formed in: float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_inputs(
    value: Tensor,
    spatial_shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    *,
    names: tuple[str, str] = ("sampling_locations", "attention_weights"),
) -> None:
    """Say in one line what does not fit.

    Args:
        value, locations, weights: as in `ms_deform_attn`.
        spatial_shapes: flat [H0, W0, H1, W1, ...].
        names: what the error calls locations and weights.

    Raises:
        ValueError: shapes, dtypes or devices do not go together.
    """
    if value.dim() != 4:
        raise ValueError(f"ms_deform_attn: value must be (batch, positions, heads, channels), got {_shape(value)}")
    if len(spatial_shapes) == 0 or len(spatial_shapes) % 2:
        raise ValueError(f"ms_deform_attn: spatial_shapes must hold height and width of each level: {spatial_shapes}")
    batch, positions, heads, _ = value.shape
    levels = len(spatial_shapes) // 2
    expected = sum(spatial_shapes[2 * i] * spatial_shapes[2 * i + 1] for i in range(levels))
    if levels > MAX_LEVELS:
        raise ValueError(f"ms_deform_attn: at most {MAX_LEVELS} levels, got {levels}")
    if positions != expected:
        raise ValueError(
            f"ms_deform_attn: value holds {positions} positions, but the levels {list(spatial_shapes)} hold {expected}"
        )
    if locations.dim() != 6 or locations.shape[5] != 2 or locations.shape[3] != levels:
        raise ValueError(
            f"ms_deform_attn: {names[0]} must be (batch, queries, heads, {levels} levels, points, 2), "
            f"got {_shape(locations)}"
        )
    if weights.shape != locations.shape[:5]:
        raise ValueError(f"ms_deform_attn: {names[1]} {_shape(weights)} do not match {names[0]} {_shape(locations)}")
    if locations.shape[0] != batch or locations.shape[2] != heads:
        raise ValueError(
            f"ms_deform_attn: {names[0]} {_shape(locations)} do not match batch and heads of value {_shape(value)}"
        )
    for name, tensor in zip(names, (locations, weights), strict=True):
        if tensor.device != value.device:
            raise ValueError(f"ms_deform_attn: {name} is on {tensor.device}, value on {value.device}")
        if tensor.dtype not in (value.dtype, compute_dtype(value.dtype)):
            raise ValueError(f"ms_deform_attn: {name} is {tensor.dtype}, which does not go with value's {value.dtype}")
    if value.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(f"ms_deform_attn: value must be float16, bfloat16, float32 or float64, got {value.dtype}")


def _shape(tensor: Tensor) -> str:
    return "(" + ", ".join(str(size) for size in tensor.shape) + ")"


def _levels(value: Tensor, spatial_shapes: Sequence[int]) -> list[Tensor]:
    """Cut value (B, S, heads, dim) into one (B * heads, dim, H, W) image a level, in the compute dtype."""
    batch, _, heads, dim = value.shape
    # F.grid_sample in half precision on a CPU returns wrong values, hence the wider dtype.
    images = value.to(compute_dtype(value.dtype)).permute(0, 2, 3, 1).reshape(batch * heads, dim, value.shape[1])
    shapes = list(zip(spatial_shapes[0::2], spatial_shapes[1::2], strict=True))
    pieces = images.split([height * width for height, width in shapes], dim=2)
    return [
        piece.reshape(batch * heads, dim, height, width) for piece, (height, width) in zip(pieces, shapes, strict=True)
    ]


def _grids(locations: Tensor) -> Tensor:
    """Locations (B, Q, heads, L, P, 2) in [0, 1] as grid_sample's coordinates in [-1, 1]: (L, B * heads, Q, P, 2)."""
    batch, queries, heads, levels, points, _ = locations.shape
    grids = 2 * locations.to(compute_dtype(locations.dtype)) - 1
    return grids.permute(3, 0, 2, 1, 4, 5).reshape(levels, batch * heads, queries, points, 2)


def _level_weights(weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights (B, Q, heads, L, P) as (L, B * heads, 1, Q, P), which broadcasts over channels."""
    batch, queries, heads, levels, points = weights.shape
    return weights.to(dtype).permute(3, 0, 2, 1, 4).reshape(levels, batch * heads, 1, queries, points)


def ms_deform_attn_plain(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """`ms_deform_attn` in plain PyTorch, without the operator: differentiable to any order that grid_sample is.

    Arguments, result and errors are those of `ms_deform_attn`.
    """
    flat = [size for shape in spatial_shapes for size in shape]
    check_inputs(value, flat, sampling_locations, attention_weights)
    return plain_forward(value, flat, sampling_locations, attention_weights)


def plain_forward(value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    """The formula of the module's head. spatial_shapes is flat; result (B, Q, heads * dim) in value's dtype."""
    batch, _, heads, dim = value.shape
    queries = locations.shape[1]
    dtype = compute_dtype(value.dtype)
    result = value.new_zeros((batch * heads, dim, queries), dtype=dtype)
    if result.numel() > 0:
        parts = zip(_levels(value, spatial_shapes), _grids(locations), _level_weights(weights, dtype), strict=True)
        for image, grid, weight in parts:
            sampled = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            result = result + (sampled * weight).sum(-1)
    result = result.reshape(batch, heads * dim, queries).transpose(1, 2)
    return result.to(value.dtype).clone(memory_format=torch.contiguous_format)


def plain_backward(
    grad: Tensor, value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `plain_forward` with respect to value, locations and weights, each in its input's dtype.

    Written out, because a kernel below autograd cannot ask autograd. grad is (B, Q, heads * dim).

    Raises:
        ValueError: grad has another shape.
    """
    batch, queries, heads, levels, points, _ = locations.shape
    dim = value.shape[3]
    dtype = compute_dtype(value.dtype)
    if grad.shape != (batch, queries, heads * dim):
        raise ValueError(f"ms_deform_attn_backward: grad must be (batch, queries, heads * dim), got {_shape(grad)}")
    if grad.numel() == 0:
        return value.new_zeros(value.shape), locations.new_zeros(locations.shape), weights.new_zeros(weights.shape)
    grad_rows = grad.to(dtype).transpose(1, 2).reshape(batch * heads, dim, queries, 1)
    grad_images, grad_grids, grad_weights = [], [], []
    parts = zip(_levels(value, spatial_shapes), _grids(locations), _level_weights(weights, dtype), strict=True)
    for image, grid, weight in parts:
        sampled = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        grad_weights.append((sampled * grad_rows).sum(1))
        grad_image, grad_grid = torch.ops.aten.grid_sampler_2d_backward(
            grad_rows * weight, image, grid, _BILINEAR, _ZEROS, False, [True, True]
        )
        grad_images.append(grad_image.flatten(2))
        grad_grids.append(2 * grad_grid)  # the grid is 2 * location - 1
    grad_value = torch.cat(grad_images, dim=2).reshape(batch, heads, dim, -1).permute(0, 3, 1, 2)
    grad_locations = torch.stack(grad_grids).reshape(levels, batch, heads, queries, points, 2)
    grad_attention = torch.stack(grad_weights).reshape(levels, batch, heads, queries, points)
    return (
        grad_value.to(value.dtype).clone(memory_format=torch.contiguous_format),
        grad_locations.permute(1, 3, 2, 0, 4, 5).to(locations.dtype).clone(memory_format=torch.contiguous_format),
        grad_attention.permute(1, 3, 2, 0, 4).to(weights.dtype).clone(memory_format=torch.contiguous_format),
    )
