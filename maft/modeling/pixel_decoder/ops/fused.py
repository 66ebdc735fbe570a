"""`openseg_r::ms_deform_attn_fused`: deformable attention from offsets and logits, as an attention module has them.

A kernel of its own (the CPU has one) writes neither locations nor attention weights to memory. Everywhere else,
and for the gradients, the operator is `ms_deform_attn` after softmax and locations in plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maft.modeling.pixel_decoder.ops import backend
from maft.modeling.pixel_decoder.ops.ops import ms_deform_attn
from maft.modeling.pixel_decoder.ops.plain import check_inputs, compute_dtype

_library = torch.library.Library(backend.NAMESPACE, "FRAGMENT")
_library.define(
    "ms_deform_attn_fused(Tensor value, SymInt[] spatial_shapes, Tensor reference_points, Tensor sampling_offsets,"
    " Tensor attention_logits) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_OPERATOR = f"{backend.NAMESPACE}::ms_deform_attn_fused"


def ms_deform_attn_fused(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """`ms_deform_attn` at reference points plus offsets, with the softmax of the logits over levels and points.

    Args:
        value, spatial_shapes: as in `ms_deform_attn`.
        reference_points: (B or 1, Q, levels, 2) as (x, y) in [0, 1], value's dtype or float32.
        sampling_offsets: (B, Q, heads, levels, points, 2) as (x, y) in pixels of the level, value's dtype or float32.
        attention_logits: (B, Q, heads, levels, points), value's dtype or float32.

    Returns:
        (B, Q, heads * dim) in value's dtype; locations, softmax and sums are formed in float32 (float64 for float64).

    Raises:
        ValueError: shapes, dtypes or devices do not go together.
        UserError: OPENSEG_R_OP asks for a compiled kernel that is not there.
    """
    flat = [size for shape in spatial_shapes for size in shape]
    _check(value, flat, reference_points, sampling_offsets, attention_logits)
    return torch.ops.openseg_r.ms_deform_attn_fused(value, flat, reference_points, sampling_offsets, attention_logits)


def locations_and_weights(
    spatial_shapes: Sequence[tuple[int, int]], reference_points: Tensor, sampling_offsets: Tensor, logits: Tensor
) -> tuple[Tensor, Tensor]:
    """Sampling locations and attention weights of the unfused operator, in float32 (float64 for float64).

    Half-precision locations would land pixels away from where they should.

    Args:
        spatial_shapes, reference_points, sampling_offsets, logits: as in `ms_deform_attn_fused`.

    Returns:
        (B, Q, heads, levels, points, 2) and (B, Q, heads, levels, points).
    """
    dtype = compute_dtype(sampling_offsets.dtype)
    offsets = sampling_offsets.to(dtype)
    locations = reference_points[:, :, None, :, None, :].to(dtype) + offsets / _sizes(spatial_shapes, offsets)
    return locations, logits.to(compute_dtype(logits.dtype)).flatten(-2).softmax(dim=-1).view_as(logits)


def _sizes(spatial_shapes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """(levels, 1, 2) widths and heights, which broadcasts against sampling locations."""
    sizes = torch.tensor([(width, height) for height, width in spatial_shapes], dtype=like.dtype)
    return sizes[:, None].to(like.device, non_blocking=True)


def _pairs(flat: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(flat[0::2], flat[1::2], strict=True))


def _check(value: Tensor, flat: Sequence[int], reference: Tensor, offsets: Tensor, logits: Tensor) -> None:
    check_inputs(value, flat, offsets, logits, names=("sampling_offsets", "attention_logits"))
    batch, queries, _, levels = offsets.shape[:4]
    if reference.dim() != 4 or reference.shape[0] not in (1, batch) or reference.shape[1:] != (queries, levels, 2):
        raise ValueError(
            f"ms_deform_attn: reference_points must be ({batch} or 1, {queries}, {levels}, 2), "
            f"got {tuple(reference.shape)}"
        )
    if reference.device != value.device or reference.dtype not in (value.dtype, compute_dtype(value.dtype)):
        raise ValueError(
            f"ms_deform_attn: reference_points are {reference.dtype} on {reference.device}, "
            f"value is {value.dtype} on {value.device}"
        )


@torch.library.impl(_library, "ms_deform_attn_fused", "CompositeExplicitAutograd")
def _composed_kernel(
    value: Tensor, spatial_shapes: Sequence[int], reference: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    device = value.device.type
    # The kernel may have come with the libraries that the first call loads.
    if backend.load_for(device) and backend.has_compiled_kernel(device, _OPERATOR):
        return torch.ops.openseg_r.ms_deform_attn_fused(value, spatial_shapes, reference, offsets, logits)
    _check(value, spatial_shapes, reference, offsets, logits)
    shapes = _pairs(spatial_shapes)
    return ms_deform_attn(value, shapes, *locations_and_weights(shapes, reference, offsets, logits))


@torch.library.register_fake(_OPERATOR, lib=_library)
def _fake(value: Tensor, spatial_shapes: Sequence[int], reference: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
    _check(value, spatial_shapes, reference, offsets, logits)
    return value.new_empty((value.shape[0], offsets.shape[1], value.shape[2] * value.shape[3]))


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, ctx.spatial_shapes, reference, offsets, logits = inputs
    ctx.save_for_backward(value, reference, offsets, logits)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor, Tensor]:
    value, reference, offsets, logits = ctx.saved_tensors
    shapes = _pairs(ctx.spatial_shapes)
    locations, weights = locations_and_weights(shapes, reference, offsets, logits)
    grad_value, grad_locations, grad_weights = torch.ops.openseg_r.ms_deform_attn_backward(
        grad, value, ctx.spatial_shapes, locations, weights
    )
    grad_reference = grad_locations.sum(dim=(2, 4))
    if reference.shape[0] == 1:
        grad_reference = grad_reference.sum(dim=0, keepdim=True)
    weighted = weights * grad_weights
    grad_logits = weighted - weights * weighted.sum(dim=(-2, -1), keepdim=True)
    return (
        grad_value,
        None,
        grad_reference.to(reference.dtype),
        (grad_locations / _sizes(shapes, grad_locations)).to(offsets.dtype),
        grad_logits.to(logits.dtype),
    )


torch.library.register_autograd(_OPERATOR, _gradients, setup_context=_save_inputs, lib=_library)
