"""The deformable-attention operator `openseg_r::ms_deform_attn`, its kernels and the attention module on top of it."""

from maft.modeling.pixel_decoder.ops.backend import active_backend, build_report, load_problems
from maft.modeling.pixel_decoder.ops.fused import ms_deform_attn_fused
from maft.modeling.pixel_decoder.ops.module import MSDeformAttn
from maft.modeling.pixel_decoder.ops.ops import ms_deform_attn
from maft.modeling.pixel_decoder.ops.plain import ms_deform_attn_plain

__all__ = [
    "MSDeformAttn",
    "active_backend",
    "build_report",
    "load_problems",
    "ms_deform_attn",
    "ms_deform_attn_fused",
    "ms_deform_attn_plain",
]
