"""Augmentations: they look at an input, choose a transform, and apply it in place."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList


class AugInput:
    """What augmentations change: `image` (H, W) or (H, W, C), uint8 in [0, 255] or floating point; `boxes` (N, 4)
    float32, x0 y0 x1 y1 in pixels; `sem_seg` (H, W) labels.
    """

    def __init__(
        self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None
    ) -> None:
        assert isinstance(image, np.ndarray), f"an image is an ndarray, not a {type(image)}"
        assert image.ndim in (2, 3), image.ndim
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Apply `tfm` to everything there is."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(self, augmentations: Sequence[Augmentation | Transform]) -> TransformList:
        """Apply them one after the other; returns the transforms that were chosen."""
        return AugmentationList(augmentations)(self)


class Augmentation:
    """A policy. Subclasses define `get_transform(self, image)`, or with several parameters of an input's names."""

    def get_transform(self, *args: Any) -> Transform:
        """Choose a transform for these inputs."""
        raise NotImplementedError

    def __call__(self, aug_input: Any) -> Transform:
        """Transform `aug_input` in place and return the transform."""
        names = list(inspect.signature(self.get_transform).parameters)
        if len(names) == 1:
            names = ["image"]
        tfm = self.get_transform(*(getattr(aug_input, name) for name in names))
        assert isinstance(tfm, (Transform, TransformList)), f"{type(self)}.get_transform returned a {type(tfm)}"
        aug_input.transform(tfm)
        return tfm


class AugmentationList(Augmentation):
    """Augmentations or transforms one after the other; a later one sees what the earlier ones made."""

    def __init__(self, augs: Sequence[Augmentation | Transform]) -> None:
        assert all(isinstance(aug, (Augmentation, Transform)) for aug in augs), augs
        self.augs = list(augs)

    def __call__(self, aug_input: Any) -> TransformList:
        chosen = []
        for aug in self.augs:
            if isinstance(aug, Transform):
                aug_input.transform(aug)
            chosen.append(aug if isinstance(aug, Transform) else aug(aug_input))
        return TransformList(chosen)


def apply_augmentations(
    augmentations: Sequence[Augmentation | Transform], inputs: np.ndarray | AugInput
) -> tuple[Any, TransformList]:
    """Apply augmentations to an image or an AugInput; returns the same kind, and the transforms."""
    if isinstance(inputs, AugInput):
        return inputs, inputs.apply_augmentations(augmentations)
    holder = AugInput(inputs)
    transforms = holder.apply_augmentations(augmentations)
    return holder.image, transforms
