"""`openseg_r::ms_deform_attn`: schema, fake kernels, plain kernels and autograd formula.

The dispatcher chooses the kernel. The plain one stands under CompositeExplicitAutograd, that is, it serves every device
for which no kernel of its own is registered; the compiled libraries register theirs under CPU and CUDA. The libraries
are loaded at the first call (nothing is read at import): the plain kernel, which that call reaches, loads them and
calls the operator again if one of them now serves the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maft.modeling.pixel_decoder.ops import backend
from maft.modeling.pixel_decoder.ops.plain import check_inputs, plain_backward, plain_forward

_library = torch.library.Library(backend.NAMESPACE, "DEF")
_library.define(
    "ms_deform_attn(Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, Tensor attention_weights)"
    " -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "ms_deform_attn_backward(Tensor grad, Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations,"
    " Tensor attention_weights) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_FORWARD = f"{backend.NAMESPACE}::ms_deform_attn"
_BACKWARD = f"{backend.NAMESPACE}::ms_deform_attn_backward"


def ms_deform_attn(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Sample value at the locations of every query and sum with the attention weights (Deformable DETR, equation 3).

    Args:
        value: (B, S, heads, dim) float16, bfloat16, float32 or float64; S runs over the levels, each row by row.
        spatial_shapes: (height, width) of each level, in pixels; the products sum to S.
        sampling_locations: (B, Q, heads, levels, points, 2) as (x, y), 0 and 1 being the level's outer edges; what lies
            outside counts as zero. Value's dtype or float32; bfloat16 places points whole pixels off.
        attention_weights: (B, Q, heads, levels, points), value's dtype or float32; used as they are, not normalised.

    Returns:
        (B, Q, heads * dim) in value's dtype, summed in float32 (float64 for float64 inputs).

    Raises:
        ValueError: shapes, dtypes or devices do not go together.
        UserError: OPENSEG_R_OP asks for a compiled kernel that is not there.

    The gradient of the CUDA kernel with respect to value is summed by atomic additions: equal up to rounding from run
    to run.
    """
    flat = [size for shape in spatial_shapes for size in shape]
    check_inputs(value, flat, sampling_locations, attention_weights)
    return torch.ops.openseg_r.ms_deform_attn(value, flat, sampling_locations, attention_weights)


@torch.library.impl(_library, "ms_deform_attn", "CompositeExplicitAutograd")
def _forward_kernel(value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    if backend.load_for(value.device.type):
        return torch.ops.openseg_r.ms_deform_attn(value, spatial_shapes, locations, weights)
    check_inputs(value, spatial_shapes, locations, weights)
    return plain_forward(value, spatial_shapes, locations, weights)


@torch.library.impl(_library, "ms_deform_attn_backward", "CompositeExplicitAutograd")
def _backward_kernel(
    grad: Tensor, value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    if backend.load_for(value.device.type):
        return torch.ops.openseg_r.ms_deform_attn_backward(grad, value, spatial_shapes, locations, weights)
    check_inputs(value, spatial_shapes, locations, weights)
    return plain_backward(grad, value, spatial_shapes, locations, weights)


@torch.library.register_fake(_FORWARD, lib=_library)
def _forward_fake(value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    check_inputs(value, spatial_shapes, locations, weights)
    return value.new_empty((value.shape[0], locations.shape[1], value.shape[2] * value.shape[3]))


@torch.library.register_fake(_BACKWARD, lib=_library)
def _backward_fake(
    grad: Tensor, value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return value.new_empty(value.shape), locations.new_empty(locations.shape), weights.new_empty(weights.shape)


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, ctx.spatial_shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    value, locations, weights = ctx.saved_tensors
    grads = torch.ops.openseg_r.ms_deform_attn_backward(grad, value, ctx.spatial_shapes, locations, weights)
    return grads[0], None, grads[1], grads[2]


def _refuse_second_order(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "openseg_r::ms_deform_attn has no second derivative; use ms_deform_attn_plain where one is needed"
    )


torch.library.register_autograd(_FORWARD, _gradients, setup_context=_save_inputs, lib=_library)
torch.library.register_autograd(_BACKWARD, _refuse_second_order, lib=_library)
