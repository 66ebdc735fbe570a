"""Resizing, with Pillow for 8-bit images and torch for all others."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch
from fvcore.transforms.transform import NoOpTransform, Transform
from PIL import Image
from torch.nn import functional

from .augmentation import Augmentation

__all__ = ["ResizeShortestEdge", "ResizeTransform"]

_TORCH_MODES = {
    Image.Resampling.NEAREST: "nearest",
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "bicubic",
}


class ResizeTransform(Transform):
    """Resize from (h, w) to (new_h, new_w) pixels.

    Args:
        h, w: size of the images this will be applied to.
        new_h, new_w: size of the result.
        interp: one of Pillow's resampling filters; default bilinear.
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        super().__init__()
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w
        self.interp = Image.Resampling.BILINEAR if interp is None else Image.Resampling(interp)

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize `img`, (h, w), (h, w, C) or (h, w, C1, C2): uint8 by Pillow (antialiased), other types by torch."""
        assert img.shape[:2] == (self.h, self.w), f"{img.shape} is not of size {(self.h, self.w)}"
        assert img.ndim <= 4, img.shape
        resampling = self.interp if interp is None else Image.Resampling(interp)
        return self._by_pillow(img, resampling) if img.dtype == np.uint8 else self._by_torch(img, resampling)

    def _by_pillow(self, img: np.ndarray, resampling: Image.Resampling) -> np.ndarray:
        single = img.ndim == 3 and img.shape[2] == 1  # Pillow knows one channel only as (H, W)
        picture = Image.fromarray(img[:, :, 0] if single else img).resize((self.new_w, self.new_h), resampling)
        resized = np.asarray(picture)
        return resized[:, :, None] if single else resized

    def _by_torch(self, img: np.ndarray, resampling: Image.Resampling) -> np.ndarray:
        tail = img.shape[2:]
        planes = torch.from_numpy(np.ascontiguousarray(img)).reshape(self.h, self.w, -1).permute(2, 0, 1)[None]
        mode = _TORCH_MODES[resampling]
        corners = None if mode == "nearest" else False
        resized = functional.interpolate(planes, (self.new_h, self.new_w), mode=mode, align_corners=corners)
        return resized[0].permute(1, 2, 0).reshape(self.new_h, self.new_w, *tail).numpy()

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scale points (N, 2), x then y, in place."""
        coords[:, 0] *= self.new_w / self.w
        coords[:, 1] *= self.new_h / self.h
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize labels: every one becomes its nearest."""
        return self.apply_image(segmentation, interp=Image.Resampling.NEAREST)

    def inverse(self) -> ResizeTransform:
        """The resize back to (h, w)."""
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class ResizeShortestEdge(Augmentation):
    """Scale the shorter side to a chosen length, but the longer one to no more than `max_size`.

    Args:
        short_edge_length: in pixels; an int, or [lowest, highest] for "range", or the lengths to choose from for
            "choice". Length 0 leaves the image as it is.
        max_size: limit of the longer side, in pixels.
        sample_style: "range" or "choice".
        interp: one of Pillow's resampling filters.
    """

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = Image.Resampling.BILINEAR,
    ) -> None:
        assert sample_style in ("range", "choice"), sample_style
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        assert sample_style == "choice" or len(short_edge_length) == 2, (
            f"short_edge_length must be [lowest, highest] for sample_style 'range', not {short_edge_length}"
        )
        self.short_edge_length = short_edge_length
        self.max_size = max_size
        self.sample_style = sample_style
        self.is_range = sample_style == "range"
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        """The resize for an image of this shape (H, W, ...)."""
        if self.is_range:
            lowest, highest = self.short_edge_length
            length = np.random.randint(lowest, highest + 1)
        else:
            length = np.random.choice(self.short_edge_length)
        if length == 0:
            return NoOpTransform()
        h, w = image.shape[:2]
        return ResizeTransform(h, w, *self.get_output_shape(h, w, length, self.max_size), self.interp)

    @staticmethod
    def get_output_shape(oldh: int, oldw: int, short_edge_length: int, max_size: int) -> tuple[int, int]:
        """Height and width after the resize: scale, cap, then round halves up (NUMERICS.md, "Image").

        The operations and their order are detectron2's, since another order rounds some sizes otherwise.
        """
        short = short_edge_length * 1.0
        scale = short / min(oldh, oldw)
        height, width = (short, scale * oldw) if oldh < oldw else (scale * oldh, short)
        longer = max(height, width)
        if longer > max_size:
            cap = max_size * 1.0 / longer
            height, width = height * cap, width * cap
        return int(height + 0.5), int(width + 0.5)
