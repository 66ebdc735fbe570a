"""Per-image counts of saved label maps against the ground truth, as they are and as two oracles would have them.

The oracles follow "What Holds Back Open-Vocabulary Segmentation?" (arXiv 2508.04211). The third, the true classes as
the only candidates, needs the scores: the evaluation itself saves it (`maft.evaluation.evaluators.CANDIDATES_GIVEN`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from maft.evaluation.metrics import confusion_matrix

Labels = NDArray[np.integer]


@dataclass(frozen=True)
class Counts:
    """Pixels per image and class, (N, C) int64 each: right ones, true ones, predicted ones."""

    hits: NDArray[np.int64]
    true: NDArray[np.int64]
    predicted: NDArray[np.int64]


def count(confusions: Iterable[NDArray[np.int64]]) -> Counts:
    """The counts of per-image confusion matrices (rows predicted, columns true)."""
    rows = [(matrix.diagonal(), matrix.sum(0), matrix.sum(1)) for matrix in confusions]
    hits, true, predicted = (np.stack(part) for part in zip(*rows, strict=True))
    return Counts(hits, true, predicted)


def confusion(prediction: Labels, label: Labels, num_classes: int, ignore: int) -> NDArray[np.int64]:
    """One image's confusion matrix; see `maft.evaluation.metrics.confusion_matrix`."""
    return confusion_matrix(prediction, label, num_classes, ignore)


def with_true_classes(prediction: Labels, label: Labels, ignore: int) -> Labels:
    """The oracle "classes given": every predicted region keeps its shape and gets the class most of its pixels have.

    Args:
        prediction, label: (H, W) class indices.
        ignore: the value of `label` that does not vote.

    Returns:
        (H, W); a region without an annotated pixel stays as it is.
    """
    return _vote(regions_of=prediction, votes=label, counted=label != ignore, otherwise=prediction)


def with_true_masks(prediction: Labels, label: Labels, ignore: int) -> Labels:
    """The oracle "masks right": every true region is one mask, of the class that most of its pixels were given."""
    return _vote(regions_of=label, votes=prediction, counted=label != ignore, otherwise=prediction)


def _vote(*, regions_of: Labels, votes: Labels, counted: NDArray[np.bool_], otherwise: Labels) -> Labels:
    """Per connected region of one value, the most frequent vote; of equal ones the smallest class."""
    result = otherwise.copy()
    for value in np.unique(regions_of[counted]):
        regions, number = ndimage.label(regions_of == value)
        classes, place = np.unique(votes[counted], return_inverse=True)
        table = np.zeros((number + 1, len(classes)), dtype=np.int64)
        np.add.at(table, (regions[counted], place), 1)
        voted = table[1:].sum(axis=1) > 0
        winners = classes[table.argmax(axis=1)]
        inside = (regions > 0) & np.concatenate([[False], voted])[regions]
        result[inside] = winners[regions[inside]]
    return result
