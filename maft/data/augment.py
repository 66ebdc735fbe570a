"""Random changes of an image and its labels for training, drawn from a generator that the caller hands in.

What is drawn is a function of that generator alone, so an image's augmentation can be repeated exactly. The amounts
are those of Mask2Former and MAFT+: shortest-edge resize, crop without a dominating class, SSD's colour changes, flip,
and large-scale jitter (resize to a random scale, then cut or pad to a square).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from detectron2.data.transforms import ResizeShortestEdge
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int32]
Flip = Literal["none", "horizontal", "vertical"]
CropType = Literal["relative", "relative_range", "absolute", "absolute_range"]

PADDING = 128
"""Colour of what is added to an image, in all channels: about the mean of CLIP's training images."""

CROP_ATTEMPTS = 10
BRIGHTNESS = 32
CONTRAST = SATURATION = (0.5, 1.5)
HUE_DEGREES = 36


@dataclass(frozen=True)
class Sample:
    """An image on its way to the network.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) int32: what belongs to each pixel, a class or a segment.
        void: the value of pixels that belong to nothing.
    """

    image: Pixels
    labels: Labels
    void: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.labels.shape[0], self.labels.shape[1]


def resize(sample: Sample, height: int, width: int) -> Sample:
    """Resize to `height` x `width` pixels: the image bilinearly (antialiased), each label pixel from its nearest."""
    if (height, width) == sample.size:
        return sample
    image = np.asarray(Image.fromarray(sample.image).resize((width, height), Image.Resampling.BILINEAR))
    rows, columns = (_nearest(old, new) for old, new in zip(sample.size, (height, width), strict=True))
    return replace(sample, image=image, labels=sample.labels[rows[:, None], columns])


def _nearest(old: int, new: int) -> NDArray[np.int64]:
    """For each of `new` pixels the one of `old` that lies under its centre, the later one of two."""
    return (2 * np.arange(new) + 1) * old // (2 * new)


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """The window of at most `height` x `width` pixels at (`top`, `left`)."""
    window = (slice(top, top + height), slice(left, left + width))
    return replace(sample, image=sample.image[window], labels=sample.labels[window])


def pad(sample: Sample, height: int, width: int) -> Sample:
    """Add `PADDING` and void at the bottom and the right up to `height` x `width` pixels; a larger side stays."""
    below, right = max(height - sample.size[0], 0), max(width - sample.size[1], 0)
    if not below and not right:
        return sample
    image = np.pad(sample.image, ((0, below), (0, right), (0, 0)), constant_values=PADDING)
    return replace(
        sample, image=image, labels=np.pad(sample.labels, ((0, below), (0, right)), constant_values=sample.void)
    )


def random_flip(sample: Sample, rng: np.random.Generator, direction: Flip) -> Sample:
    """Mirror every second image."""
    if direction == "none" or rng.random() >= 0.5:
        return sample
    axis = 1 if direction == "horizontal" else 0
    return replace(sample, image=np.flip(sample.image, axis), labels=np.flip(sample.labels, axis))


def random_shortest_edge(
    sample: Sample, rng: np.random.Generator, lengths: Sequence[int], longest: int, style: Literal["choice", "range"]
) -> Sample:
    """Resize the shorter side to a random length, unless the longer one would exceed `longest`.

    Args:
        sample: the image.
        rng: where randomness comes from.
        lengths: pixels to choose from, or (lowest, highest) for `style` "range"; a length of 0 leaves the image.
        longest: pixels.
        style: how the length is drawn.
    """
    length = int(rng.integers(lengths[0], lengths[1] + 1) if style == "range" else rng.choice(list(lengths)))
    if not length:
        return sample
    return resize(sample, *ResizeShortestEdge.get_output_shape(*sample.size, length, longest))


def random_crop(
    sample: Sample,
    rng: np.random.Generator,
    crop_type: CropType,
    amount: tuple[float, float],
    *,
    largest_share: float = 1.0,
    classes: Labels | None = None,
    void_class: int = -1,
) -> Sample:
    """Cut a random window, such that no class covers too much of it, if ten attempts find one.

    Args:
        sample: the image.
        rng: where randomness comes from.
        crop_type: what `amount` means: (height, width) as a share of the image ("relative"), as the lowest share
            ("relative_range"), in pixels ("absolute"), or (lowest, highest) of both in pixels ("absolute_range").
        amount: see `crop_type`.
        largest_share: what one class may cover of the window's pixels that have a class; 1 asks for nothing.
        classes: (H, W), the class of every pixel; default: the sample's labels.
        void_class: what in `classes` is no class.
    """
    classes = sample.labels if classes is None else classes
    height = width = top = left = 0
    for _ in range(CROP_ATTEMPTS if largest_share < 1.0 else 1):
        height, width = _crop_size(sample.size, rng, crop_type, amount)
        top = int(rng.integers(sample.size[0] - height + 1))
        left = int(rng.integers(sample.size[1] - width + 1))
        values, counts = np.unique(classes[top : top + height, left : left + width], return_counts=True)
        counts = counts[values != void_class]
        if len(counts) > 1 and counts.max() < counts.sum() * largest_share:
            break
    return crop(sample, top, left, height, width)


def _crop_size(
    size: tuple[int, int], rng: np.random.Generator, crop_type: CropType, amount: tuple[float, float]
) -> tuple[int, int]:
    if crop_type == "absolute":
        return min(int(amount[0]), size[0]), min(int(amount[1]), size[1])
    if crop_type == "absolute_range":
        low, high = int(amount[0]), int(amount[1])
        height, width = (int(rng.integers(min(side, low), min(side, high) + 1)) for side in size)
        return height, width
    shares = np.asarray(amount, dtype=np.float64)
    if crop_type == "relative_range":
        shares = shares + rng.random(2) * (1 - shares)
    return int(size[0] * shares[0] + 0.5), int(size[1] * shares[1] + 0.5)


def random_colour(sample: Sample, rng: np.random.Generator) -> Sample:
    """Change brightness, contrast, saturation and hue, each with probability one half, as SSD does.

    Contrast comes before or after the other two, at random. Hue and saturation are changed in Pillow's HSV, in steps
    of 1/256 of their range.
    """
    image = sample.image
    if rng.random() < 0.5:
        image = _affine(image, 1.0, rng.uniform(-BRIGHTNESS, BRIGHTNESS))
    contrast = rng.uniform(*CONTRAST) if rng.random() < 0.5 else 1.0
    saturation = rng.uniform(*SATURATION) if rng.random() < 0.5 else 1.0
    hue = int(rng.integers(-HUE_DEGREES, HUE_DEGREES + 1)) if rng.random() < 0.5 else 0
    if rng.random() < 0.5:
        image = _hue_and_saturation(_affine(image, contrast, 0.0), hue, saturation)
    else:
        image = _affine(_hue_and_saturation(image, hue, saturation), contrast, 0.0)
    return replace(sample, image=image)


def _affine(image: Pixels, factor: float, shift: float) -> Pixels:
    if factor == 1.0 and shift == 0.0:
        return image
    # One look-up a pixel: the result depends on the old value alone.
    table = np.clip(np.arange(256, dtype=np.float32) * factor + shift, 0, 255).astype(np.uint8)
    return table[image]


def _hue_and_saturation(image: Pixels, degrees: int, factor: float) -> Pixels:
    if degrees == 0 and factor == 1.0:
        return image
    hsv = np.array(Image.fromarray(np.ascontiguousarray(image)).convert("HSV"))
    hsv[..., 0] += np.uint8(round(degrees * 256 / 360) % 256)
    hsv[..., 1] = _affine(hsv[..., 1], factor, 0.0)
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))


def large_scale_jitter(sample: Sample, rng: np.random.Generator, side: int, lowest: float, highest: float) -> Sample:
    """Fit the image into a square of a random multiple of `side`, then cut or pad it to `side` x `side` pixels.

    Args:
        sample: the image.
        rng: where randomness comes from.
        side: pixels.
        lowest, highest: range of the multiple.
    """
    height, width = sample.size
    scale = side * rng.uniform(lowest, highest) / max(height, width)
    sample = resize(sample, max(round(height * scale), 1), max(round(width * scale), 1))
    share = rng.random()
    top, left = (round(max(length - side, 0) * share) for length in sample.size)
    return pad(crop(sample, top, left, side, side), side, side)
