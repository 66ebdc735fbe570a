"""Resizing, with Pillow for 8-bit images and torch for all others."""

import sys
from collections.abc import Sequence

import numpy as np
import torch
from fvcore.transforms.transform import NoOpTransform, Transform
from PIL import Image
from torch.nn import functional

from .augmentation import Augmentation


class ResizeTransform(Transform):
    """Resize images of (h, w) to (new_h, new_w) pixels, with one of Pillow's resampling filters (None: bilinear)."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        super().__init__()
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w
        self.interp = Image.Resampling.BILINEAR if interp is None else Image.Resampling(interp)

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize (h, w), (h, w, C) or (h, w, C1, C2): uint8 by Pillow (antialiased), other types by torch (not)."""
        assert img.shape[:2] == (self.h, self.w), f"{img.shape} is not of size {(self.h, self.w)}"
        assert img.ndim <= 4, img.shape
        resampling = self.interp if interp is None else Image.Resampling(interp)
        if img.dtype != np.uint8:
            return self._by_torch(img, resampling.name.lower())
        single = img.ndim == 3 and img.shape[2] == 1  # Pillow knows one channel only as (H, W)
        image = Image.fromarray(img[:, :, 0] if single else img).resize((self.new_w, self.new_h), resampling)
        return np.asarray(image)[:, :, None] if single else np.asarray(image)

    def _by_torch(self, img: np.ndarray, mode: str) -> np.ndarray:
        planes = torch.from_numpy(np.ascontiguousarray(img)).reshape(1, self.h, self.w, -1).permute(0, 3, 1, 2)
        corners = None if mode == "nearest" else False
        resized = functional.interpolate(planes, (self.new_h, self.new_w), mode=mode, align_corners=corners)
        return resized[0].permute(1, 2, 0).reshape(self.new_h, self.new_w, *img.shape[2:]).numpy()

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scale points (N, 2), x then y, in place."""
        coords[:, 0] *= self.new_w / self.w
        coords[:, 1] *= self.new_h / self.h
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize labels: every one becomes its nearest."""
        return self.apply_image(segmentation, interp=Image.Resampling.NEAREST)


class ResizeShortestEdge(Augmentation):
    """Scale the shorter side to a chosen length, but the longer one to no more than `max_size` pixels.

    `short_edge_length` is the length, or [lowest, highest] for `sample_style` "range", or the lengths to choose from
    for "choice"; length 0 leaves the image as it is. `interp` is one of Pillow's resampling filters.
    """

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = Image.Resampling.BILINEAR,
    ) -> None:
        assert sample_style in ("range", "choice"), sample_style
        self.is_range = sample_style == "range"
        lengths = [short_edge_length] * 2 if isinstance(short_edge_length, int) else list(short_edge_length)
        assert len(lengths) == 2 or not self.is_range, f"'range' needs [lowest, highest], not {lengths}"
        self.short_edge_length = lengths
        self.max_size = max_size
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        """The resize for an image of this shape (H, W, ...)."""
        lengths = self.short_edge_length
        length = np.random.randint(lengths[0], lengths[1] + 1) if self.is_range else np.random.choice(lengths)
        if length == 0:
            return NoOpTransform()
        h, w = image.shape[:2]
        return ResizeTransform(h, w, *self.get_output_shape(h, w, length, self.max_size), self.interp)

    @staticmethod
    def get_output_shape(oldh: int, oldw: int, short_edge_length: int, max_size: int) -> tuple[int, int]:
        """Height and width after the resize: scale, cap, then round halves up (docs/numerics.md, "Image").

        The order of the operations is detectron2's: another would round some sizes otherwise.
        """
        short = short_edge_length * 1.0
        scale = short / min(oldh, oldw)
        height, width = (short, scale * oldw) if oldh < oldw else (scale * oldh, short)
        longer = max(height, width)
        if longer > max_size:
            cap = max_size * 1.0 / longer
            height, width = height * cap, width * cap
        return int(height + 0.5), int(width + 0.5)
