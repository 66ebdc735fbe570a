"""Panoptic quality: segments matched image by image, and PQ, SQ and RQ from the counts.

The definition is Kirillov et al., "Panoptic Segmentation" (CVPR 2019), section 4, as COCO applies it. A predicted and a
true segment of one class match where their IoU exceeds 0.5; pixels of the prediction on void do not count in the union.
A predicted segment without a match is forgiven if more than half of it lies on void or on crowd regions of its class. A
true segment without a match is missed, unless it is a crowd region.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maft.errors import UserError
from maft.evaluation.metrics import none_if_nan, unique_names

VOID = 0
"""The segment id of pixels that belong to no segment, in ground truth and prediction."""

MATCH_THRESHOLD = 0.5


class GroundTruthError(ValueError):
    """The ground truth of an image contradicts itself."""


@dataclass(frozen=True)
class CategoryCounts:
    """What one class contributes: the summed IoU of its matches, and counts of segments."""

    iou: float = 0.0
    matched: int = 0  # true positives
    wrong: int = 0  # false positives: predicted, without a match
    missed: int = 0  # false negatives: true, without a match


def read_panoptic_png(path: str | Path) -> NDArray[np.int64]:
    """Read a COCO panoptic PNG: the segment ids, (H, W) int64, where id = R + 256 G + 256^2 B.

    Raises:
        UserError: the file cannot be read, or is not an 8-bit colour image.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("RGB", "RGBA"):
                raise UserError(
                    f"{path}: a panoptic label map must be an RGB PNG with id = R + 256 G + 65536 B, "
                    f"this one has mode {image.mode}; prepare the data set again"
                )
            channels = np.asarray(image, dtype=np.int64)
    except (OSError, SyntaxError, ValueError) as error:
        reason = f"cannot be read as a panoptic label map ({error})"
        raise UserError(f"{path}: {reason}; fetch or prepare it again") from error
    return channels[..., :3] @ np.array([1, 256, 65536], dtype=np.int64)


def encode_panoptic(segment_ids: NDArray[Any]) -> NDArray[np.uint8]:
    """The inverse of `read_panoptic_png`'s decoding: ids (H, W) in [0, 2^24) to RGB (H, W, 3)."""
    if segment_ids.size and not 0 <= int(segment_ids.min()) <= int(segment_ids.max()) < 2**24:
        raise ValueError(f"segment ids must lie in [0, 2^24), got {segment_ids.min()} to {segment_ids.max()}")
    ids = segment_ids.astype(np.int64)
    return np.stack([(ids >> shift) & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


@dataclass(frozen=True)
class _Segments:
    """Segments of one map, aligned with the distinct ids that occur in it; void has category -1."""

    ids: NDArray[np.int64]  # (N,)
    categories: NDArray[np.int64]  # (N,)
    crowd: NDArray[np.bool_]  # (N,)


def _describe(ids: NDArray[np.int64], infos: Sequence[Mapping[str, Any]], error: type[ValueError]) -> _Segments:
    by_id = {int(info["id"]): info for info in infos}
    unknown = [int(i) for i in ids if i != VOID and int(i) not in by_id]
    if unknown:
        raise error(f"has pixels of segment {unknown[0]}, which is not in the list of segments")
    return _Segments(
        ids=ids,
        categories=np.array([-1 if i == VOID else by_id[int(i)]["category_id"] for i in ids], dtype=np.int64),
        crowd=np.array([i != VOID and bool(by_id[int(i)].get("iscrowd", 0)) for i in ids], dtype=bool),
    )


def match_segments(
    predicted_map: NDArray[Any],
    predicted_infos: Sequence[Mapping[str, Any]],
    true_map: NDArray[Any],
    true_infos: Sequence[Mapping[str, Any]],
) -> dict[int, CategoryCounts]:
    """Match the segments of one image.

    Args:
        predicted_map: (H, W) integers, segment ids, 0 is void.
        predicted_infos: one mapping a predicted segment with "id" and "category_id".
        true_map: (H, W) integers, as `read_panoptic_png` gives them.
        true_infos: one mapping a true segment with "id", "category_id" and optionally "iscrowd". A listed segment
            without a pixel counts as missed, as in COCO's definition.

    Returns:
        Category id to its counts; categories without any segment are absent.

    Raises:
        GroundTruthError: the true map holds an id that its list lacks.
        ValueError: the maps differ in shape, the predicted map holds an id that its list lacks, or a predicted segment
            has no pixel.
    """
    if predicted_map.shape != true_map.shape:
        raise ValueError(f"the prediction has shape {predicted_map.shape}, the ground truth {true_map.shape}")
    true_ids, true_index = np.unique(true_map, return_inverse=True)
    predicted_ids, predicted_index = np.unique(predicted_map, return_inverse=True)
    shape = (len(true_ids), len(predicted_ids))
    overlap = np.bincount(
        true_index.ravel() * shape[1] + predicted_index.ravel(), minlength=shape[0] * shape[1]
    ).reshape(shape)
    true = _describe(true_ids, true_infos, GroundTruthError)
    predicted = _describe(predicted_ids, predicted_infos, ValueError)
    empty = {int(info["id"]) for info in predicted_infos} - {int(i) for i in predicted_ids}
    if empty:
        raise ValueError(f"the prediction lists segment {min(empty)}, which has no pixel")

    on_void = overlap[true.ids == VOID].sum(axis=0)  # (P,)
    union = overlap.sum(axis=1)[:, None] + overlap.sum(axis=0)[None, :] - overlap - on_void[None, :]
    same_class = (true.categories[:, None] == predicted.categories[None, :]) & (true.ids != VOID)[:, None]
    # Only in the row of void, which never counts, can this "union" be 0 or negative.
    iou = np.divide(overlap, union, out=np.zeros(shape), where=union > 0)
    matches = same_class & ~true.crowd[:, None] & (iou > MATCH_THRESHOLD)

    forgiven_pixels = on_void + (overlap * (same_class & true.crowd[:, None])).sum(axis=0)
    forgiven = forgiven_pixels > 0.5 * overlap.sum(axis=0)
    wrong = (predicted.ids != VOID) & ~matches.any(axis=0) & ~forgiven
    missed = (true.ids != VOID) & ~true.crowd & ~matches.any(axis=1)
    pixels_of = {int(i) for i in true_ids}
    without_pixels = [i["category_id"] for i in true_infos if int(i["id"]) not in pixels_of and not i.get("iscrowd", 0)]

    missed_categories = [*true.categories[missed].tolist(), *without_pixels]
    wrong_categories = predicted.categories[wrong].tolist()
    matched_categories = np.broadcast_to(true.categories[:, None], shape)[matches].tolist()
    matched_iou = iou[matches].tolist()
    return {
        category: CategoryCounts(
            iou=math.fsum(value for value, of in zip(matched_iou, matched_categories, strict=True) if of == category),
            matched=matched_categories.count(category),
            wrong=wrong_categories.count(category),
            missed=missed_categories.count(category),
        )
        for category in sorted({*missed_categories, *wrong_categories, *matched_categories})
    }


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
