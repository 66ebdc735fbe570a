"""Content-dependent transfer: classifier rows adapt to the image that they are held against (MAFT+, section 3.2)."""

from __future__ import annotations

from torch import Tensor, nn

from .grids import sine_positions


class RowImageAttention(nn.Module):
    """One cross-attention of classifier rows onto image features, added to the rows.

    Args:
        width: E, of rows and features alike.
        heads: attention heads, a divisor of `width`.
        norm_last: normalise the sum of row and change (semantic models), or only the change, so that a fresh layer
            leaves the rows as they are (panoptic models).
    """

    def __init__(self, width: int, heads: int, *, norm_last: bool) -> None:
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.MLP = nn.Linear(width, width)
        self.norm_last = norm_last
        nn.init.xavier_uniform_(self.multihead_attn.in_proj_weight)
        nn.init.xavier_uniform_(self.multihead_attn.out_proj.weight)
        if not norm_last:
            nn.init.zeros_(self.MLP.weight)
            nn.init.zeros_(self.MLP.bias)

    def forward(self, rows: Tensor, features: Tensor, positions: Tensor) -> Tensor:
        """(B, R, E) rows, (B, N, E) features and (N, E) positions of the features -> changed (B, R, E) rows."""
        attended, _ = self.multihead_attn(rows, features + positions, features, need_weights=False)
        change = self.MLP(attended)
        return self.norm(rows + change) if self.norm_last else rows + self.norm(change)


class ContentDependentTransfer(nn.Module):
    """Rows of a vocabulary, changed by what the image shows.

    Args:
        width: E.
        heads: attention heads.
        panoptic: the panoptic models' order of normalisation (see `RowImageAttention`).
    """

    def __init__(self, width: int, heads: int, *, panoptic: bool) -> None:
        super().__init__()
        self.cross_atten = RowImageAttention(width, heads, norm_last=not panoptic)

    def forward(self, image_features: Tensor, rows: Tensor) -> Tensor:
        """Change the rows by the image.

        Args:
            image_features: (B, E, H, W) of the image, from `CLIPBackbone.scrambled_features`.
            rows: (R, E) with void, or (B, R, E).

        Returns:
            (B, R, E), not normalised: their lengths need not be one (docs/numerics.md, "CLIP logits").
        """
        batch, width, height, cells = image_features.shape
        # Only the keys carry positions; values and rows do not.
        positions = sine_positions(height, cells, width // 2, image_features.device).flatten(1).T
        if rows.dim() == 2:
            rows = rows.expand(batch, -1, -1)
        return self.cross_atten(rows, image_features.flatten(2).transpose(1, 2), positions.to(image_features.dtype))
