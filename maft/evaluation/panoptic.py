"""Panoptic quality: segments matched image by image, and PQ, SQ and RQ from the counts.

The definition is Kirillov et al., "Panoptic Segmentation" (CVPR 2019), section 4. A predicted and a true segment of one
class match where their IoU exceeds 0.5; pixels of the prediction on void do not count in the union. A predicted segment
without a match is forgiven if more than half of it lies on void or on a crowd region of its class. A true segment
without a match is missed, unless it is a crowd region.

Published figures come from panopticapi, which differs from this text in two points, and so do ours by default
(`Overlap.counts`): the size of a true segment is the `area` of the annotation file, not its pixels; and of several
crowd regions of one class in an image only the one listed last forgives. `Overlap.counts(by_pixels=True)` follows the
text.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maft.evaluation.metrics import none_if_nan, unique_names

VOID = 0
"""The segment id of pixels that belong to no segment, in ground truth and prediction."""

MATCH_THRESHOLD = 0.5
_COUNTED = 2**16
"""Segment ids below this are looked up in a table."""


class GroundTruthError(ValueError):
    """The ground truth of an image contradicts itself."""


@dataclass(frozen=True)
class CategoryCounts:
    """What one class contributes: the summed IoU of its matches, and counts of segments."""

    iou: float = 0.0
    matched: int = 0  # true positives
    wrong: int = 0  # false positives: predicted, without a match
    missed: int = 0  # false negatives: true, without a match


@dataclass(frozen=True)
class _Segments:
    """Segments of one image's list; of an id that is listed twice, the last entry, as panopticapi reads it."""

    ids: NDArray[np.int64]  # (N,), in the order of the list
    categories: NDArray[np.int64]  # (N,)
    crowd: NDArray[np.bool_]  # (N,)
    areas: NDArray[np.float64]  # (N,), as listed; NaN where the list has none

    @classmethod
    def of(cls, infos: Sequence[Mapping[str, Any]], error: type[ValueError]) -> _Segments:
        by_id = {int(info["id"]): info for info in infos}
        if VOID in by_id:
            raise error(f"lists a segment with id {VOID}, which stands for pixels of no segment")
        listed = list(by_id.values())
        return cls(
            np.array(list(by_id), dtype=np.int64),
            np.array([info["category_id"] for info in listed], dtype=np.int64),
            np.array([info.get("iscrowd", 0) == 1 for info in listed], dtype=bool),
            np.array([math.nan if info.get("area") is None else info["area"] for info in listed], dtype=np.float64),
        )


@dataclass(frozen=True)
class Overlap:
    """How the segments of one image's prediction and ground truth overlap, in pixels.

    Attributes:
        true, predicted: the segments, T and P of them.
        pixels: (T + 1, P + 1) int64; row 0 is void in the ground truth, column 0 void in the prediction.
    """

    true: _Segments
    predicted: _Segments
    pixels: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        predicted_map: NDArray[Any],
        predicted_infos: Sequence[Mapping[str, Any]],
        true_map: NDArray[Any],
        true_infos: Sequence[Mapping[str, Any]],
    ) -> Overlap:
        """Count the overlaps of one image.

        Args:
            predicted_map: (H, W) integers, segment ids, 0 is void.
            predicted_infos: one mapping per predicted segment with "id" and "category_id".
            true_map: (H, W) integers, as `maft.files.read_panoptic` gives them.
            true_infos: one mapping per true segment with "id", "category_id" and optionally "area" and "iscrowd". A
                listed segment without a pixel counts as missed, as in panopticapi.

        Raises:
            GroundTruthError: the true map holds an id that its list lacks, or the list has id 0.
            ValueError: the maps differ in shape, the predicted map holds an id that its list lacks, or a predicted
                segment has no pixel or id 0.
        """
        if predicted_map.shape != true_map.shape:
            raise ValueError(f"the prediction has shape {predicted_map.shape}, the ground truth {true_map.shape}")
        true = _Segments.of(true_infos, GroundTruthError)
        predicted = _Segments.of(predicted_infos, ValueError)
        rows = _places(true_map, true.ids, GroundTruthError)
        columns = _places(predicted_map, predicted.ids, ValueError)
        shape = (len(true.ids) + 1, len(predicted.ids) + 1)
        pixels = np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)
        empty = predicted.ids[pixels.sum(axis=0)[1:] == 0]
        if empty.size:
            raise ValueError(f"the prediction lists segment {empty.min()}, which has no pixel")
        return cls(true, predicted, pixels)

    def counts(self, *, by_pixels: bool = False) -> dict[int, CategoryCounts]:
        """Match the segments.

        Args:
            by_pixels: the size of a true segment is the number of its pixels, and every crowd region of a class
                forgives. Otherwise as panopticapi: the listed area (its pixels where none is listed), and the last
                listed crowd region of a class.

        Returns:
            Category id to its counts; categories without any segment are absent.

        Raises:
            GroundTruthError: a listed area is so much smaller than the segment that its IoU is not defined.
        """
        true, predicted, inside = self.true, self.predicted, self.pixels[1:, 1:]
        on_void, sizes = self.pixels[0, 1:], self.pixels[:, 1:].sum(axis=0)
        areas = self.pixels[1:].sum(axis=1)
        if not by_pixels:
            areas = np.where(np.isnan(true.areas), areas, true.areas)
        same_class = true.categories[:, None] == predicted.categories[None, :]
        candidates = same_class & ~true.crowd[:, None] & (inside > 0)
        union = areas[:, None] + sizes[None, :] - inside - on_void[None, :]
        if (candidates & (union == 0)).any():
            segment = int(np.flatnonzero((candidates & (union == 0)).any(axis=1))[0])
            raise GroundTruthError(
                f"lists segment {true.ids[segment]} with area {areas[segment]:g}, it has more pixels"
            )
        iou = np.divide(inside, union, out=np.zeros(inside.shape), where=candidates)
        matches = candidates & (iou > MATCH_THRESHOLD)

        forgiving = _crowds(true, all_of_them=by_pixels)[:, None] & same_class
        forgiven = on_void + (inside * forgiving).sum(axis=0) > 0.5 * sizes
        wrong = predicted.categories[~matches.any(axis=0) & ~forgiven].tolist()
        missed = true.categories[~true.crowd & ~matches.any(axis=1)].tolist()
        matched = np.broadcast_to(true.categories[:, None], inside.shape)[matches].tolist()
        values = iou[matches].tolist()
        return {
            category: CategoryCounts(
                iou=math.fsum(value for value, of in zip(values, matched, strict=True) if of == category),
                matched=matched.count(category),
                wrong=wrong.count(category),
                missed=missed.count(category),
            )
            for category in sorted({*missed, *wrong, *matched})
        }


def _places(segment_map: NDArray[Any], ids: NDArray[np.int64], error: type[ValueError]) -> NDArray[np.int64]:
    """(H * W,) the place of every pixel's segment in `ids`, from 1; 0 for void."""
    found, inverse = _unique(segment_map.ravel())
    place_of = {VOID: 0, **{int(segment): place for place, segment in enumerate(ids, start=1)}}
    unknown = [int(segment) for segment in found if int(segment) not in place_of]
    if unknown:
        raise error(f"has pixels of segment {unknown[0]}, which is not in the list of segments")
    return np.array([place_of[int(segment)] for segment in found], dtype=np.int64)[inverse]


def _unique(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The distinct values, ascending, and the place of each value among them; small ones without sorting."""
    if not values.size or values.min() < 0 or values.max() >= _COUNTED:
        found, inverse = np.unique(values, return_inverse=True)
        return found, inverse.ravel()
    found = np.flatnonzero(np.bincount(values))
    table = np.zeros(_COUNTED, dtype=np.int64)
    table[found] = np.arange(len(found))
    return found, table[values]


def _crowds(true: _Segments, *, all_of_them: bool) -> NDArray[np.bool_]:
    """(T,) the crowd regions that forgive."""
    if all_of_them:
        return true.crowd
    last = {int(true.categories[place]): int(place) for place in np.flatnonzero(true.crowd)}
    return np.isin(np.arange(len(true.ids)), list(last.values()))


def match_segments(
    predicted_map: NDArray[Any],
    predicted_infos: Sequence[Mapping[str, Any]],
    true_map: NDArray[Any],
    true_infos: Sequence[Mapping[str, Any]],
    *,
    by_pixels: bool = False,
) -> dict[int, CategoryCounts]:
    """The counts of one image; see `Overlap.of` and `Overlap.counts`."""
    return Overlap.of(predicted_map, predicted_infos, true_map, true_infos).counts(by_pixels=by_pixels)


def add_counts(images: Iterable[Mapping[int, CategoryCounts]]) -> dict[int, CategoryCounts]:
    """Sum the counts of many images, the same to the last bit in whatever order they come."""
    collected: dict[int, list[CategoryCounts]] = {}
    for image in images:
        for category, counts in image.items():
            collected.setdefault(category, []).append(counts)
    return {
        category: CategoryCounts(
            iou=math.fsum(c.iou for c in parts),  # exactly rounded, hence independent of the order
            matched=sum(c.matched for c in parts),
            wrong=sum(c.wrong for c in parts),
            missed=sum(c.missed for c in parts),
        )
        for category, parts in sorted(collected.items())
    }


@dataclass(frozen=True)
class Quality:
    """PQ, SQ and RQ in percent, over `classes` classes; NaN over none."""

    pq: float
    sq: float
    rq: float
    classes: int = 1

    def as_dict(self) -> dict[str, Any]:
        """The three as JSON-able values, None where undefined, beside the number of classes."""
        values = {"PQ": none_if_nan(self.pq), "SQ": none_if_nan(self.sq), "RQ": none_if_nan(self.rq)}
        return {**values, "classes": self.classes}


def category_quality(counts: CategoryCounts) -> Quality:
    """The quality of one class; a class without any segment has none (NaN)."""
    weight = counts.matched + 0.5 * counts.wrong + 0.5 * counts.missed
    if weight == 0:
        return Quality(math.nan, math.nan, math.nan, 0)
    segmentation = counts.iou / counts.matched if counts.matched else 0.0
    return Quality(100 * counts.iou / weight, 100 * segmentation, 100 * counts.matched / weight)


def mean_quality(qualities: Iterable[Quality]) -> Quality:
    """The mean over the classes that have a segment in ground truth or prediction."""
    defined = [quality for quality in qualities if quality.classes]
    if not defined:
        return Quality(math.nan, math.nan, math.nan, 0)
    return Quality(
        pq=math.fsum(q.pq for q in defined) / len(defined),
        sq=math.fsum(q.sq for q in defined) / len(defined),
        rq=math.fsum(q.rq for q in defined) / len(defined),
        classes=len(defined),
    )


def panoptic_scores(
    counts: Mapping[int, CategoryCounts], class_names: Sequence[str], thing_indices: Collection[int]
) -> dict[str, Any]:
    """All panoptic metrics of a data set as JSON-able values, in percent.

    Args:
        counts: class index to its counts, summed over images.
        class_names: the names of all classes; the index is the category id.
        thing_indices: the indices of the countable classes; all others are stuff.

    Returns:
        {"all" | "things" | "stuff": {"PQ", "SQ", "RQ", "classes"}, "per_class": {name: {..., "matched", ...}}}.
    """
    per_class = [category_quality(counts.get(index, CategoryCounts())) for index in range(len(class_names))]
    things = set(thing_indices)
    named = {}
    for index, name in enumerate(unique_names(class_names)):
        of = counts.get(index, CategoryCounts())
        named[name] = {
            **{key: value for key, value in per_class[index].as_dict().items() if key != "classes"},
            "thing": index in things,
            "matched": of.matched,
            "false_positives": of.wrong,
            "false_negatives": of.missed,
        }
    return {
        "all": mean_quality(per_class).as_dict(),
        "things": mean_quality(q for i, q in enumerate(per_class) if i in things).as_dict(),
        "stuff": mean_quality(q for i, q in enumerate(per_class) if i not in things).as_dict(),
        "per_class": named,
    }
