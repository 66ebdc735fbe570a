"""What `content/` holds: vocabulary, generic reasons, and per photograph its source, polygons and reasons."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from maft.errors import UserError
from reason.jsonfile import JsonError, read_json
from reason.triplets import ImageTriplet, Reason, parse_generic
from reason.vocabulary import Vocabulary, load_vocabulary

CONTENT = Path(__file__).resolve().parent / "content"
IGNORE_LABEL = 255
LONG_SIDE = 640
"""The long side of an exported photograph is at most this many pixels."""

_SOURCES = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
_AUTHOR = "written by hand"


@dataclass(frozen=True)
class Region:
    """Polygons of one class, painted over what was painted before.

    Attributes:
        name: class name, or None for "not labelled".
        polygons: corners (x, y) in pixels of the exported photograph. For a countable class all polygons of a region
            are parts of one object.
    """

    name: str | None
    polygons: tuple[tuple[tuple[int, int], ...], ...]


@dataclass(frozen=True)
class Photograph:
    """One photograph and what was written for it.

    Attributes:
        stem: file name without suffix, in every folder.
        package: the package that ships it, "skimage" or "sklearn".
        file: its path inside the package.
        size: (width, height) in pixels after export.
        credit: author and licence.
        description: what is to be seen, in a sentence.
        regions: rough labels, in the order of painting.
        reasons: image-specific reasons of the visible classes.
    """

    stem: str
    package: str
    file: str
    size: tuple[int, int]
    credit: str
    description: str
    regions: tuple[Region, ...]
    reasons: dict[str, Reason]

    @property
    def visible(self) -> frozenset[str]:
        """The names of the labelled classes."""
        return frozenset(region.name for region in self.regions if region.name is not None)


@dataclass(frozen=True)
class Labels:
    """The rasterised regions of one photograph.

    Attributes:
        classes: (H, W) uint8 class indices, `IGNORE_LABEL` where nothing is labelled.
        segments: (H, W) int32 segment ids from 1, 0 where nothing is labelled.
        segments_info: one COCO panoptic record a segment: id, category_id, area, bbox (x, y, width, height), iscrowd.
    """

    classes: NDArray[np.uint8]
    segments: NDArray[np.int32]
    segments_info: list[dict[str, Any]]


def load_photo_vocabulary() -> Vocabulary:
    """The classes of the photographs, some of which are in none of them."""
    return load_vocabulary(CONTENT / "vocabulary.json")


def load_generic_reasons() -> dict[str, Reason]:
    """The generic reasons of every class, each with the answer that a model would have given."""
    path = CONTENT / "generic_reason.json"
    document = {name: {"raw_response": _answer(name, entry), **entry} for name, entry in _read(path).items()}
    return parse_generic(document, where=str(path))


def load_photographs() -> tuple[Photograph, ...]:
    """All photographs, by name."""
    return tuple(_photograph(path) for path in sorted((CONTENT / "photographs").glob("*.json")))


def image_triplet(photograph: Photograph) -> ImageTriplet:
    """The photograph's triplet as a file's content, with its description and origin."""
    extra = {"description": photograph.description, "provenance": {"author": _AUTHOR}}
    return ImageTriplet(photograph.reasons, extra)


def open_photograph(photograph: Photograph) -> Image.Image:
    """Read the photograph from the package that ships it: RGB, resized to `photograph.size`.

    Raises:
        UserError: the package or the file is not installed, or the picture is not the one that was labelled.
    """
    spec = importlib.util.find_spec(photograph.package)  # the package itself need not be imported
    if spec is None or spec.origin is None:
        raise UserError(f"{_SOURCES[photograph.package]}: not installed, it ships a photograph; run bash install.sh")
    path = Path(spec.origin).parent / photograph.file
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except OSError as error:
        raise UserError(f"{path}: the photograph cannot be read ({error}); run bash install.sh") from error
    scale = min(1.0, LONG_SIDE / max(picture.size))
    size = (round(picture.width * scale), round(picture.height * scale))
    if size != photograph.size:
        raise UserError(f"{path}: {size[0]}x{size[1]} pixels, labelled was another version; run bash install.sh")
    return picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)


def rasterise(photograph: Photograph, vocabulary: Vocabulary) -> Labels:
    """Paint the regions one over the other.

    Every region of a countable class is a segment; the regions of any other class are one segment together. What is
    painted over completely has no segment.
    """
    index_of = {name: index for index, name in enumerate(vocabulary.class_names)}
    canvas = Image.new("I", photograph.size, 0)
    draw = ImageDraw.Draw(canvas)
    category_of: dict[int, int] = {}
    stuff: dict[int, int] = {}
    for region in photograph.regions:
        segment = 0
        if region.name is not None:
            category = index_of[region.name]
            segment = len(category_of) + 1
            if category not in vocabulary.thing_indices:
                segment = stuff.setdefault(category, segment)
            category_of[segment] = category
        for polygon in region.polygons:
            draw.polygon(polygon, fill=segment)
    segments = np.asarray(canvas, dtype=np.int32)
    classes = np.full(segments.shape, IGNORE_LABEL, dtype=np.uint8)
    infos = []
    for segment, category in category_of.items():
        mask = segments == segment
        if mask.any():
            classes[mask] = category
            infos.append({"id": segment, "category_id": category, "iscrowd": 0, **_extent(mask)})
    return Labels(classes, segments, infos)


def _extent(mask: NDArray[np.bool_]) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return {"area": int(mask.sum()), "bbox": [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]}


def _photograph(path: Path) -> Photograph:
    entry = _read(path)
    reasons = {
        name: Reason(name, category, sub_category, tuple(attributes))
        for name, (category, sub_category, attributes) in entry["reasons"].items()
    }
    regions = tuple(
        Region(region["class"], tuple(tuple((x, y) for x, y in polygon) for polygon in region["polygons"]))
        for region in entry["regions"]
    )
    width, height = entry["size"]
    return Photograph(
        stem=path.stem,
        package=entry["package"],
        file=entry["file"],
        size=(width, height),
        credit=entry["credit"],
        description=entry["description"],
        regions=regions,
        reasons=reasons,
    )


def _answer(name: str, entry: dict[str, Any]) -> str:
    """The reason in the answer form of the published files (docs/design.md section 5)."""
    category, sub_category = entry["general_category"], entry["sub_category"]
    attributes = ", ".join(entry["class_des"])
    return (
        f"A1: This object belongs to [{category}]. A2: This '{category}' is [{sub_category}]. "
        f"A3: This '{sub_category}' '{category}' can be recognized as {name} because it contains visual attributes: "
        f"[{attributes}]."
    )


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except JsonError as error:
        raise UserError(f"{path}: {error}") from error
