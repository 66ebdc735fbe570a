"""Augmentations: they look at an input, choose a transform, and apply it in place."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList

__all__ = ["AugInput", "Augmentation", "AugmentationList", "apply_augmentations"]


class AugInput:
    """What augmentations read and change.

    Args:
        image: (H, W) or (H, W, C), uint8 in [0, 255] or floating point.
        boxes: (N, 4) float32, x0 y0 x1 y1 in pixels.
        sem_seg: (H, W) labels.
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
    """A policy. Subclasses define `get_transform(self, image)`, or with other names of an input's attributes."""

    input_args: tuple[str, ...] | None = None
    """The input's attributes that get_transform takes; None: its only parameter is the image, several go by name."""

    def get_transform(self, *args: Any) -> Transform:
        """Choose a transform for these inputs."""
        raise NotImplementedError

    def __call__(self, aug_input: Any) -> Transform:
        """Transform `aug_input` in place and return the transform.

        Raises:
            TypeError: get_transform takes *args or **kwargs, so that its inputs are unknown.
            AttributeError: `aug_input` has not what get_transform takes.
            AssertionError: get_transform returned no Transform.
        """
        if self.input_args is None:
            self.input_args = self._inputs_by_signature()
        missing = [name for name in self.input_args if not hasattr(aug_input, name)]
        if missing:
            raise AttributeError(f"{type(self)}.get_transform needs {missing}, which {type(aug_input)} has not")
        tfm = self.get_transform(*(getattr(aug_input, name) for name in self.input_args))
        assert isinstance(tfm, (Transform, TransformList)), (
            f"{type(self)}.get_transform must return a Transform, not {type(tfm)}"
        )
        aug_input.transform(tfm)
        return tfm

    def _inputs_by_signature(self) -> tuple[str, ...]:
        parameters = inspect.signature(self.get_transform).parameters
        if len(parameters) == 1:
            return ("image",)
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
            raise TypeError(f"{type(self)}.get_transform must name its inputs: *args and **kwargs do not")
        return tuple(parameters)

    def __repr__(self) -> str:
        """The constructor call, without the arguments that are at their defaults."""
        parameters = inspect.signature(type(self)).parameters
        given = ((name, getattr(self, name, p.default)) for name, p in parameters.items())
        shown = (f"{name}={value!r}" for name, value in given if value is not parameters[name].default)
        return f"{type(self).__name__}({', '.join(shown)})"

    __str__ = __repr__


class _Fixed(Augmentation):
    """Always the same transform."""

    def __init__(self, tfm: Transform) -> None:
        self.tfm = tfm

    def get_transform(self, *args: Any) -> Transform:
        return self.tfm

    def __repr__(self) -> str:
        return repr(self.tfm)

    __str__ = __repr__


class AugmentationList(Augmentation):
    """Augmentations (or transforms) one after the other; a later one sees what the earlier ones made."""

    def __init__(self, augs: Sequence[Augmentation | Transform]) -> None:
        for aug in augs:
            assert isinstance(aug, (Augmentation, Transform)), aug
        self.augs = [aug if isinstance(aug, Augmentation) else _Fixed(aug) for aug in augs]

    def __call__(self, aug_input: Any) -> TransformList:
        return TransformList([aug(aug_input) for aug in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList[{', '.join(map(str, self.augs))}]"

    __str__ = __repr__


def apply_augmentations(
    augmentations: Sequence[Augmentation | Transform], inputs: np.ndarray | AugInput
) -> tuple[Any, TransformList]:
    """Apply augmentations to an image or an AugInput; returns the same kind, and the transforms."""
    if isinstance(inputs, np.ndarray):
        holder = AugInput(inputs)
        tfms = holder.apply_augmentations(augmentations)
        return holder.image, tfms
    tfms = inputs.apply_augmentations(augmentations)
    return inputs, tfms
