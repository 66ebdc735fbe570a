"""Where an image supports an attribute (docs/demo.md says what these maps are, and what they are not)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from maft import Seen
from maft.inference import upsampled
from maft.modeling.maft_plus import View as MaskView

_STOPS = np.array([(48, 18, 120), (30, 110, 190), (60, 180, 140), (220, 200, 60), (220, 50, 30)], dtype=np.float32)
_TINT = 0.6


def support(seen: Seen, class_name: str, attribute: str) -> NDArray[np.float32]:
    """The cosine of CLIP's features with the sentence "CLASS that has ATTRIBUTE", at every pixel of the image.

    MAFT+: CLIP's features are pooled under every mask, and a pixel takes the mean over its masks, weighted by how
    surely it belongs to them. SED has no masks: its dense features are compared cell by cell.

    Args:
        seen: an image that was looked at.
        class_name: as it stands in the sentence.
        attribute: the visual attribute.

    Returns:
        (H, W) float32 in [-1, 1], H and W the image's.

    Raises:
        UserError: the class or the attribute is empty.
    """
    height, width = seen.image.shape[:2]
    with torch.inference_mode():
        row = seen.segmentor.sentence_feature(class_name, attribute)
        view = seen.view
        if isinstance(view, MaskView):
            values = F.normalize(view.regions.clip_embeddings[0].float(), dim=-1) @ row
            masks = upsampled(view.regions.mask_logits[0].float(), view.padded_size, view.image_size).sigmoid()
            weighted = torch.einsum("q,qhw->hw", values, masks) / masks.sum(dim=0).clamp(min=1e-6)
        else:
            weighted = torch.einsum("e,ehw->hw", row, F.normalize(view.features.dense[0].float(), dim=0))
        return _resized(weighted, (height, width))


def _resized(values: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
    full = F.interpolate(values[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    return full.cpu().numpy().astype(np.float32)


def coloured(image: NDArray[np.uint8], values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image tinted from blue (the least of this map) to red (the most); equal values everywhere stay blue.

    Args:
        image: (H, W, 3) uint8 RGB.
        values: (H, W).
    """
    low, high = float(values.min()), float(values.max())
    place = (values - low) / (high - low if high > low else 1.0) * (len(_STOPS) - 1)
    below = place.astype(np.int64).clip(0, len(_STOPS) - 2)
    part = (place - below)[..., None]
    colour = _STOPS[below] * (1 - part) + _STOPS[below + 1] * part
    return (image * (1 - _TINT) + colour * _TINT).clip(0, 255).astype(np.uint8)
