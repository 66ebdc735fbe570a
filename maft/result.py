"""What `maft.predictor.Segmentor` returns for one image and vocabulary."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maft import drawing, legend
from maft.inference import Segment
from maft.region_names import write_names
from reason.triplets import Reason
from reason.vocabulary import Vocabulary

Origin = Literal["names", "generic", "image"]
NOT_LATIN = 0x250
"""Pillow's own font has Latin letters only."""


@dataclass(frozen=True)
class FoundClass:
    """A class that occurs in an image.

    index: in the vocabulary.
    name: its first name.
    share: part of the image's pixels, in (0, 1].
    score: mean over its pixels of its score there; with a panoptic model, too, a larger one is surer, and it is no
        probability.
    """

    index: int
    name: str
    share: float
    score: float


@dataclass(frozen=True, eq=False)
class Result:
    """One image, segmented by one vocabulary.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        vocabulary: the classes that were asked for.
        label_map: (H, W) int32 class indices; -1 where there is none.
        classes: the classes that occur, largest first.
        segments: of panoptic models: id, isthing and category_id of every segment; None otherwise.
        segment_map: of panoptic models: (H, W) int32 segment ids, 0 where there is none; None otherwise.
        reasons: the reasons that were used, by the class's first name; empty where names alone were.
        origin: "names", "generic" or "image": which kind of reasons the rows come from.
        note: what the user should know about the reasons, such as a class that none was found for; "" for nothing.
    """

    image: NDArray[np.uint8]
    vocabulary: Vocabulary
    label_map: NDArray[np.int32]
    classes: tuple[FoundClass, ...]
    segments: tuple[Segment, ...] | None
    segment_map: NDArray[np.int32] | None
    reasons: Mapping[str, Reason]
    origin: Origin
    note: str = ""

    @property
    def maps(self) -> drawing.Maps:
        """Class and segment maps, as the drawing functions take them."""
        return drawing.Maps(self.label_map, self.label_map if self.segment_map is None else self.segment_map)

    @property
    def without_class(self) -> float:
        """The part of the image's pixels, in [0, 1], that has no class."""
        return float((self.label_map == drawing.NONE).mean())

    def overlay(
        self, *, with_legend: bool = True, with_names: bool = True, alarm: str = "", pixels: int | None = None
    ) -> Image.Image:
        """The image tinted by class, as an RGB image.

        Args:
            with_legend: add a legend of the classes and their shares below it.
            with_names: write the classes' names into the regions that have room for them.
            alarm: a sentence to put above it that nobody may miss; "" for none.
            pixels: make the image smaller if it has more than so many; None keeps its size.
        """
        palette = self.vocabulary.palette
        image, maps = self._shrunk(pixels)
        tinted = Image.fromarray(drawing.overlay(image, maps, palette))
        names = [_drawable(entry.synonyms[0], entry.index) for entry in self.vocabulary.classes]
        if with_names:
            write_names(tinted, maps, names)
        entries: list[legend.Entry] = []
        if with_legend:
            entries = [(f"{names[found.index]} {percent(found.share)}", palette[found.index]) for found in self.classes]
            if self.without_class:
                entries.append((f"(none) {percent(self.without_class)}", (210, 210, 210)))
        return legend.compose(np.asarray(tinted), entries, alarm) if with_legend or alarm else tinted

    def _shrunk(self, pixels: int | None) -> tuple[NDArray[np.uint8], drawing.Maps]:
        """Image and maps at no more than so many pixels."""
        height, width = self.label_map.shape
        if pixels is None or height * width <= pixels:
            return self.image, self.maps
        scale = (pixels / (height * width)) ** 0.5
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        maps = (
            np.asarray(Image.fromarray(values).resize(size, Image.Resampling.NEAREST))
            for values in (self.maps.classes, self.maps.segments)
        )
        image = Image.fromarray(self.image).resize(size, Image.Resampling.LANCZOS)
        return np.asarray(image), drawing.Maps(*maps)

    def _repr_png_(self) -> bytes:
        """How Jupyter shows the result."""
        stream = io.BytesIO()
        self.overlay().save(stream, format="PNG")
        return stream.getvalue()

    def __repr__(self) -> str:
        height, width = self.label_map.shape
        found = ", ".join(f"{entry.name} {percent(entry.share)}" for entry in self.classes) or "no class"
        return f"Result({width}x{height}, {self.origin}: {found})"


def percent(share: float) -> str:
    """A part in (0, 1] for people: what occurs is not 0.0 %, and what is not all is not 100.0 %."""
    if share < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= share < 1 else f"{share:.1%}"


def _drawable(name: str, index: int) -> str:
    latin = all(ord(letter) < NOT_LATIN for letter in name)
    return name if latin else f"{name} [class {index}]"
