"""What worker processes do: look into batches of images and labels, and add up what was found.

Imports neither torch nor detectron2, so that a worker starts at once and stays small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maft.files import MAX_SEGMENT_ID, decode_panoptic
from reason.imagefile import ImageFileError, opened, orientation

EXAMPLES = 5
"""How many examples of one problem are kept; the rest is only counted."""

_TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


@dataclass
class Tally:
    """What was found in some files; several are added up by `add`.

    Attributes:
        checked: label maps, panoptic PNG or images that were looked into.
        types: label maps by pixel type, such as "uint8".
        lowest, highest: smallest and largest label value beside the ignored one; None if there was none.
        ignored: pixels with the ignored value.
        per_class: pixels (label maps) or segments (panoptic) by class.
        unknown: pixels by value outside the vocabulary.
        full_bytes: 8-bit label maps that hold 255.
        covered: panoptic segments that have fewer pixels than the annotation file lists.
        shared: panoptic segment ids that are listed for two classes.
        turned: images by EXIF orientation, where that is not upright.
        counts: problems by kind.
        examples: a few of each kind, one line each.
    """

    checked: int = 0
    types: Counter[str] = field(default_factory=Counter)
    lowest: int | None = None
    highest: int | None = None
    ignored: int = 0
    per_class: Counter[int] = field(default_factory=Counter)
    unknown: Counter[int] = field(default_factory=Counter)
    full_bytes: int = 0
    covered: int = 0
    shared: int = 0
    turned: Counter[int] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def problem(self, kind: str, line: str) -> None:
        """Count a problem and keep it as an example if there are few."""
        self.counts[kind] += 1
        kept = self.examples.setdefault(kind, [])
        if len(kept) < EXAMPLES:
            kept.append(line)

    def add(self, other: Tally) -> None:
        """Take another tally's findings over."""
        self.checked += other.checked
        self.ignored += other.ignored
        self.full_bytes += other.full_bytes
        self.covered += other.covered
        self.shared += other.shared
        for mine, theirs in (
            (self.types, other.types),
            (self.counts, other.counts),
        ):
            mine.update(theirs)
        self.per_class.update(other.per_class)
        self.unknown.update(other.unknown)
        self.turned.update(other.turned)
        lows = [value for value in (self.lowest, other.lowest) if value is not None]
        highs = [value for value in (self.highest, other.highest) if value is not None]
        self.lowest, self.highest = min(lows, default=None), max(highs, default=None)
        for kind, lines in other.examples.items():
            kept = self.examples.setdefault(kind, [])
            kept += lines[: EXAMPLES - len(kept)]


@dataclass(frozen=True)
class SemanticRules:
    """What label maps have to obey: values below `classes`, `ignore`, or one of `ignored_as_well`."""

    classes: int
    ignore: int
    ignored_as_well: tuple[int, ...] = ()


@dataclass(frozen=True)
class Segments:
    """One annotation of a panoptic file: PNG, image, its size, segments as (id, class index or -1, area or None)."""

    png: str
    image: str
    size: tuple[int, int] | None
    segments: tuple[tuple[int, int, int | None], ...]


def image_size(path: str) -> tuple[tuple[int, int], int]:
    """Width and height of the stored pixels, which labels lie on, and the EXIF orientation (1: upright).

    The whole file is decoded, JPEG at an eighth of its size, so that one that is cut off is found out.

    Raises:
        ImageFileError: not readable.
    """
    with opened(path) as image:
        width, height = image.size
        turned = orientation(image)
        image.draft("L", (max(1, width // 8), max(1, height // 8)))
        image.load()
    return (width, height), turned


def check_semantic(pairs: Sequence[tuple[str, str]], rules: SemanticRules) -> Tally:
    """Look into label maps and their images.

    Args:
        pairs: paths of label map and image.
        rules: what the values have to obey.
    """
    tally = Tally()
    for label, image in pairs:
        tally.checked += 1
        size = _check_label(label, rules, tally)
        _check_image(image, size, Path(label).name, tally)
    return tally


def check_images(images: Sequence[tuple[str, tuple[int, int]]]) -> Tally:
    """Look into images whose width and height an annotation file states."""
    tally = Tally()
    for path, size in images:
        tally.checked += 1
        _check_image(path, size, "the annotation file", tally)
    return tally


def check_panoptic(annotations: Sequence[Segments], overlaid: bool) -> Tally:
    """Look into panoptic PNG and their images: ids and areas have to be those of the annotation.

    Args:
        annotations: what to look into.
        overlaid: segments were laid over each other after their areas were taken, so that they may have fewer pixels.
    """
    tally = Tally()
    for annotation in annotations:
        tally.checked += 1
        size = _check_segments(annotation, overlaid, tally)
        if annotation.size is not None and size is not None and annotation.size != size:
            tally.problem("size", f"{annotation.png}: {_by(size)}, the annotation file says {_by(annotation.size)}")
        _check_image(annotation.image, size, Path(annotation.png).name, tally)
    return tally


def _check_image(path: str, size: tuple[int, int] | None, other: str, tally: Tally) -> None:
    try:
        found, turned = image_size(path)
    except ImageFileError as error:
        tally.problem("unreadable image", str(error))
        return
    if turned != 1:
        tally.turned[turned] += 1
    if size is not None and found != size:
        why = f" (EXIF orientation {turned}: labels must lie on the stored pixels, not on the turned image)"
        told = turned in _TURNED and found == size[::-1]
        tally.problem("size", f"{path}: {_by(found)}, but {other} has {_by(size)}{why if told else ''}")


def _check_label(path: str, rules: SemanticRules, tally: Tally) -> tuple[int, int] | None:
    """Add one label map to the tally; returns its width and height, None if it cannot be read."""
    try:
        with opened(path) as image:
            labels, mode = np.asarray(image), image.mode
    except ImageFileError as error:
        tally.problem("unreadable label", str(error))
        return None
    if labels.ndim != 2 or labels.dtype.kind not in "uib":
        tally.types[f"mode {mode}"] += 1
        tally.problem("no label map", f"{path}: mode {mode}; one channel of integers is needed, not a coloured image")
        return None
    tally.types[labels.dtype.newbyteorder("=").name] += 1
    values, counts = _values(labels)
    if labels.dtype == np.uint8 and values[-1] == 255:
        tally.full_bytes += 1
    outside: list[int] = []
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        if value == rules.ignore or value in rules.ignored_as_well:
            tally.ignored += count
            continue
        tally.lowest = value if tally.lowest is None else min(tally.lowest, value)
        tally.highest = value if tally.highest is None else max(tally.highest, value)
        if 0 <= value < rules.classes:
            tally.per_class[value] += count
        else:
            tally.unknown[value] += count
            outside.append(value)
    if outside:
        shown = ", ".join(map(str, outside[:EXAMPLES])) + (", …" if len(outside) > EXAMPLES else "")
        tally.problem(
            "unknown id", f"{path}: holds {shown}; classes are 0 to {rules.classes - 1}, {rules.ignore} ignored"
        )
    return labels.shape[1], labels.shape[0]


def _values(labels: NDArray[np.generic]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct values, ascending, and how many pixels each has."""
    if labels.dtype.kind == "u" and labels.dtype.itemsize <= 2:
        counts = np.bincount(labels.ravel(), minlength=1)
        values = np.flatnonzero(counts)
        return values, counts[values]
    values, counts = np.unique(labels.astype(np.int64), return_counts=True)
    return values, counts


def _check_segments(annotation: Segments, overlaid: bool, tally: Tally) -> tuple[int, int] | None:
    """Add one panoptic PNG to the tally; returns its width and height, None if it cannot be read."""
    try:
        with opened(annotation.png) as image:
            pixels, mode = np.asarray(image), image.mode
    except ImageFileError as error:
        tally.problem("unreadable label", str(error))
        return None
    if mode not in ("RGB", "RGBA"):
        tally.types[f"mode {mode}"] += 1
        tally.problem("no panoptic PNG", f"{annotation.png}: mode {mode}; segment ids are coded in RGB")
        return None
    tally.types["RGB"] += 1
    found, counts = np.unique(decode_panoptic(pixels), return_counts=True)
    areas = dict(zip(found.tolist(), counts.tolist(), strict=True))
    tally.ignored += areas.pop(0, 0)
    tally.per_class.update(index for _, index, _ in annotation.segments if index >= 0)
    if fault := _segment_fault(annotation, areas, overlaid, tally):
        tally.problem("segment", f"{annotation.png}: {fault}")
    return pixels.shape[1], pixels.shape[0]


def _segment_fault(annotation: Segments, areas: dict[int, int], overlaid: bool, tally: Tally) -> str:
    """The first thing that is wrong with the segments of a PNG, whose pixels by id are given; "" if nothing is."""
    listed = {segment: area for segment, _, area in annotation.segments}
    if wrong := [segment for segment in listed if not 1 <= segment <= MAX_SEGMENT_ID]:
        meaning = ", and 0 stands for pixels of no segment" if wrong[0] == 0 else ""
        return f"the annotation file lists segment id {wrong[0]}; ids are 1 to {MAX_SEGMENT_ID}{meaning}"
    if (twice := len(annotation.segments) - len(listed)) and not overlaid:
        return "the annotation file lists a segment twice"
    entries = Counter(segment for segment, _, _ in annotation.segments)
    tally.shared += twice
    if stray := sorted(areas.keys() - listed.keys()):
        return f"segment {stray[0]} is not in the annotation file"
    for segment, area in listed.items():
        pixels = areas.get(segment, 0)
        if not pixels and not area and not overlaid:
            return f"segment {segment} is listed and has no pixel, so that it counts as missed; take it off the list"
        if pixels == area or (area is None and pixels) or entries[segment] > 1:
            continue
        if overlaid and (area is None or pixels < area):
            tally.covered += 1
            continue
        return f"segment {segment} has {pixels} pixels, the annotation file says {'some' if area is None else area}"
    return ""


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
