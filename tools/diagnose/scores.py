"""mIoU in both definitions from counts, what confusions cost, and the paired bootstrap of two runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from .counts import Counts

Floats = NDArray[np.float64]
DEFINITIONS = ("mIoU_reference", "mIoU_present")


def class_iou(counts: Counts, weights: Floats) -> Floats:
    """IoU in percent per draw and class, (R, C); NaN where the class is not in the ground truth.

    Args:
        counts: of N images.
        weights: (R, N), how often each image counts.
    """
    hits, true, predicted = (weights @ part for part in (counts.hits, counts.true, counts.predicted))
    union = true + predicted - hits
    return np.where(true > 0, 100 * hits / np.maximum(union, 1), np.nan)


def mean_iou(counts: Counts, weights: Floats) -> dict[str, Floats]:
    """Definition -> mIoU in percent of each draw, (R,)."""
    iou, true, predicted = class_iou(counts, weights), weights @ counts.true, weights @ counts.predicted
    total = np.nansum(iou, axis=1)
    return {
        "mIoU_reference": total / np.maximum(((true > 0) | (predicted > 0)).sum(axis=1), 1),
        "mIoU_present": total / np.maximum((true > 0).sum(axis=1), 1),
    }


def whole(counts: Counts) -> dict[str, float]:
    """Definition -> mIoU of all images."""
    found = mean_iou(counts, np.ones((1, len(counts.hits))))
    return {name: float(values[0]) for name, values in found.items()}


def costly_confusions(confusion: NDArray[np.int64], number: int) -> list[dict[str, Any]]:
    """The confusions that cost most, each alone: what mIoU would gain if its pixels were right.

    Args:
        confusion: (C, C), rows predicted and columns true, over all images.
        number: how many at most.

    Returns:
        "predicted", "true" (class indices), "pixels" and the points of each definition, by `mIoU_present`.
    """
    hits, true, predicted = confusion.diagonal(), confusion.sum(0), confusion.sum(1)
    base = whole(Counts(hits[None], true[None], predicted[None]))
    found = []
    for row, column in np.argwhere(confusion * (1 - np.eye(len(confusion), dtype=np.int64))):
        pixels = confusion[row, column]
        better = [part.copy() for part in (hits, true, predicted)]
        better[0][column] += pixels
        better[2][column] += pixels
        better[2][row] -= pixels
        gained = whole(Counts(*(part[None] for part in better)))
        points = {name: gained[name] - base[name] for name in DEFINITIONS}
        found.append({"predicted": int(row), "true": int(column), "pixels": int(pixels), **points})
    return sorted(found, key=lambda entry: -entry["mIoU_present"])[:number]


@dataclass(frozen=True)
class Difference:
    """B minus A in points, with a confidence interval."""

    value: float
    low: float
    high: float


def paired_bootstrap(
    first: Counts, second: Counts, *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[dict[str, Difference], list[dict[str, Any]]]:
    """Draw images with replacement, the same for both runs.

    Args:
        first, second: counts of the same images in the same order.
        draws: how often.
        level: of the intervals. Over all classes: so many standard errors to either side of the difference, with the
            factor of small samples; of a class: percentiles.
        seed: of the draws.

    Returns:
        Definition to difference; and per class in the ground truth "class", "difference", "low", "high", and
        "holds_up": whether it stands at a false discovery rate of 1 - level over all classes (Benjamini-Hochberg).

    Raises:
        ValueError: the runs have different images.
    """
    if first.true.shape != second.true.shape or (first.true != second.true).any():
        raise ValueError("the two runs have different ground truth")
    images = len(first.true)
    weights = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), draws).astype(np.float64)
    tails = [100 * (1 - level) / 2, 100 * (1 + level) / 2]
    drawn, once = (mean_iou(first, weights), mean_iou(second, weights)), (whole(first), whole(second))
    # Percentiles hold the truth too seldom where images are few and some classes rare (docs/diagnose.md).
    reach = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(images / max(images - 1, 1))
    overall = {}
    for name in DEFINITIONS:
        difference, error = once[1][name] - once[0][name], float((drawn[1][name] - drawn[0][name]).std(ddof=1))
        overall[name] = Difference(difference, difference - reach * error, difference + reach * error)
    everything = np.ones((1, images))
    value = (class_iou(second, everything) - class_iou(first, everything))[0]
    differences = class_iou(second, weights) - class_iou(first, weights)
    rows: list[dict[str, Any]] = []
    chances = []
    for index in np.flatnonzero(~np.isnan(value)):
        column = differences[:, index]
        column = column[~np.isnan(column)]
        low, high = np.percentile(column, tails).tolist()
        rows.append({"class": int(index), "difference": float(value[index]), "low": low, "high": high})
        least = min((column <= 0).sum(), (column >= 0).sum())
        chances.append(min(1.0, 2 * (least + 1) / (len(column) + 1)))
    for row, chance in zip(rows, _adjusted(chances), strict=True):
        row["holds_up"] = bool(chance <= 1 - level)
    return overall, rows


def _adjusted(chances: Sequence[float]) -> list[float]:
    return false_discovery_control(chances).tolist() if chances else []
