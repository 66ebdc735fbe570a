"""Multi-scale deformable attention as a module (Deformable DETR, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maft.modeling.pixel_decoder.ops.fused import locations_and_weights, ms_deform_attn_fused
from maft.modeling.pixel_decoder.ops.ops import ms_deform_attn


class MSDeformAttn(nn.Module):
    """Every query looks at `n_points` learned places around its reference point on each of `n_levels` feature maps.

    Args:
        d_model: channels of queries, values and result; a multiple of n_heads.
        n_levels: feature maps.
        n_heads: attention heads.
        n_points: places a head looks at on each feature map.

    Raises:
        ValueError: n_heads does not divide d_model.
    """

    def __init__(self, d_model: int, n_levels: int, n_heads: int, n_points: int) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"MSDeformAttn: d_model {d_model} is not a multiple of n_heads {n_heads}")
        self.n_levels = n_levels
        self.n_heads = n_heads
        self.n_points = n_points
        places = n_heads * n_levels * n_points
        self.sampling_offsets = nn.Linear(d_model, places * 2)
        self.attention_weights = nn.Linear(d_model, places)
        self.value_proj = nn.Linear(d_model, d_model)
        self.output_proj = nn.Linear(d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as in the paper (section A.4): uniform attention, point k of a head k + 1 pixels off in its direction.

        The heads' directions stand at equal angles and end on a square, so that 8 heads look at the 8 neighbours.
        """
        angles = torch.arange(self.n_heads, dtype=torch.float32) * (2 * math.pi / self.n_heads)
        directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.n_points + 1, dtype=torch.float32)
        offsets = directions[:, None, None, :] * steps[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.n_levels, -1, -1).flatten())
        for zeroed in (self.sampling_offsets.weight, self.attention_weights.weight, self.attention_weights.bias):
            nn.init.zeros_(zeroed)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value_input: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, d_model).
            reference_points: (B or 1, Q, n_levels, 2) as (x, y) in [0, 1].
            value_input: (B, S, d_model), the feature maps' positions one after the other.
            spatial_shapes: (height, width) of each of the n_levels feature maps; the products sum to S.

        Returns:
            (B, Q, d_model).

        Raises:
            ValueError: shapes that do not go together.
        """
        if len(spatial_shapes) != self.n_levels:
            raise ValueError(f"MSDeformAttn: {self.n_levels} levels, but {len(spatial_shapes)} spatial shapes")
        batch, queries, _ = query.shape
        value = self.value_proj(value_input).unflatten(-1, (self.n_heads, -1))
        with torch.autocast(query.device.type, enabled=False):  # half precision would look pixels away
            logits = self.attention_weights(query).reshape(batch, queries, self.n_heads, self.n_levels, self.n_points)
            offsets = self.sampling_offsets(query).reshape(*logits.shape, 2)
        reference_points = reference_points.to(torch.promote_types(value.dtype, torch.float32))
        # Without gradients nobody needs locations and weights, which take as long as the sampling itself.
        if torch.is_grad_enabled() and any(x.requires_grad for x in (value, offsets, logits, reference_points)):
            locations, weights = locations_and_weights(spatial_shapes, reference_points, offsets, logits)
            attended = ms_deform_attn(value, spatial_shapes, locations, weights)
        else:
            attended = ms_deform_attn_fused(value, spatial_shapes, reference_points, offsets, logits)
        return self.output_proj(attended)
