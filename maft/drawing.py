"""Labellings, and images of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NONE = -1
"""The class of pixels that have none."""

Color = tuple[int, int, int]

_TINT = 0.62


@dataclass(frozen=True)
class Maps:
    """A labelling of one image.

    Attributes:
        classes: (H, W) int32 class indices, `NONE` where there is none.
        segments: (H, W) int32; neighbouring pixels of different value are parted by a line in overlays.
    """

    classes: NDArray[np.int32]
    segments: NDArray[np.int32]


def panoptic_maps(segments: NDArray[np.int32], category_of: Mapping[int, int]) -> Maps:
    """Maps from segment ids and their classes; segments without a class, such as 0, get `NONE`."""
    ids, places = np.unique(segments, return_inverse=True)
    categories = np.array([category_of.get(int(segment), NONE) for segment in ids], dtype=np.int32)
    return Maps(categories[places].reshape(segments.shape), segments)


def overlay(image: NDArray[np.uint8], maps: Maps, palette: Sequence[Color]) -> NDArray[np.uint8]:
    """The image tinted by class, with white lines between segments; what has no class is pale and grey.

    Args:
        image: (H, W, 3) uint8.
        maps: of the same height and width.
        palette: one RGB colour in [0, 255] a class.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: the sizes differ, or a class has no colour.
    """
    if maps.classes.shape != image.shape[:2]:
        height, width = maps.classes.shape
        raise ValueError(f"it has {width}x{height} pixels, the image {image.shape[1]}x{image.shape[0]}")
    if maps.classes.max() >= len(palette):
        raise ValueError(f"class {maps.classes.max()} is not in the vocabulary of {len(palette)}")
    grey = image.mean(axis=2, keepdims=True)
    pale = np.repeat(0.35 * grey + 0.65 * 235, 3, axis=2)
    colors = np.array([*palette, (0, 0, 0)], dtype=np.float64)[maps.classes]  # the last one stands for NONE = -1
    tinted = (1 - _TINT) * (0.5 * image + 0.5 * grey) + _TINT * colors
    result = np.where((maps.classes == NONE)[..., None], pale, tinted)
    result[_borders(maps.segments)] = 255
    return result.round().astype(np.uint8)


def _borders(segments: NDArray[np.int32]) -> NDArray[np.bool_]:
    border = np.zeros(segments.shape, dtype=bool)
    border[:, 1:] |= segments[:, 1:] != segments[:, :-1]
    border[1:] |= segments[1:] != segments[:-1]
    return border


def shares(maps: Maps) -> list[tuple[int, float]]:
    """(class index, part of the image in [0, 1]) of the classes that occur, largest first."""
    every = np.bincount(maps.classes[maps.classes != NONE])
    classes = np.flatnonzero(every)
    counts = every[classes]
    order = np.argsort(-counts, kind="stable")
    return [(int(classes[place]), float(counts[place] / maps.classes.size)) for place in order]


def agreement(prediction: Maps, truth: Maps) -> float:
    """The part of the labelled pixels, in [0, 1], whose class is predicted; NaN where nothing is labelled."""
    labelled = truth.classes != NONE
    return float((prediction.classes == truth.classes)[labelled].mean()) if labelled.any() else float("nan")
