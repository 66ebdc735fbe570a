"""Semantic metrics from pixel counts: a confusion matrix and what follows from it (docs/numerics.md "mIoU")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUALITIES = ("PQ", "SQ", "RQ")
APS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""COCO's, in the order of `COCOeval.stats`: over IoU 0.5 to 0.95, at 0.5, at 0.75; small, medium, large masks."""
MAIN_FIGURES = {"sem_seg": ("mIoU_reference", "mIoU_present"), "panoptic_seg": QUALITIES, "instances": APS}
"""Task -> the figures that tables show."""


def main_figures(task: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The `MAIN_FIGURES` of a task's metrics, over all classes, in percent.

    Raises:
        KeyError: an unknown task, or a figure is missing.
    """
    values = metrics["all"] if task == "panoptic_seg" else metrics
    return {name: values[name] for name in MAIN_FIGURES[task]}


def confusion_matrix(
    prediction: NDArray[Any], label: NDArray[Any], num_classes: int, ignore_label: int | None
) -> NDArray[np.int64]:
    """Count pixels by (predicted class, true class), pixels whose true class is ignored left out altogether.

    Args:
        prediction: integer class indices in [0, num_classes), any shape.
        label: integers of the same shape, in [0, num_classes) or equal to `ignore_label`.
        num_classes: size of the vocabulary.
        ignore_label: the label value that stands for "not annotated"; None if there is none.

    Returns:
        (num_classes, num_classes) int64; rows are predicted classes, columns true ones.

    Raises:
        ValueError: shapes differ, or a value that counts lies outside the vocabulary.
    """
    if prediction.shape != label.shape:
        raise ValueError(f"the prediction has shape {prediction.shape}, the label map {label.shape}")
    counted = np.ones(label.shape, dtype=bool) if ignore_label is None else label != ignore_label
    rows = prediction[counted].astype(np.int64)
    columns = label[counted].astype(np.int64)
    for what, values in (("prediction", rows), ("label map", columns)):
        if values.size and (values.min() < 0 or values.max() >= num_classes):
            raise ValueError(
                f"the {what} holds values from {values.min()} to {values.max()}, "
                f"the vocabulary has {num_classes} classes"
            )
    counts = np.bincount(rows * num_classes + columns, minlength=num_classes * num_classes)
    return counts.astype(np.int64).reshape(num_classes, num_classes)


@dataclass(frozen=True)
class SemanticScores:
    """All semantic metrics of a data set, in percent.

    `miou_reference` and `miou_present` sum the IoU of the classes that occur in the ground truth. The first divides by
    the number of classes in ground truth or prediction, the second by the number in the ground truth: published
    numbers come in both definitions (docs/findings.md 1).
    """

    miou_reference: float
    miou_present: float
    fwiou: float
    macc: float
    pacc: float
    iou: NDArray[np.float64]  # (num_classes,), NaN for a class that is not in the ground truth
    acc: NDArray[np.float64]  # (num_classes,), NaN likewise
    true_pixels: NDArray[np.int64]  # (num_classes,)
    predicted_pixels: NDArray[np.int64]  # (num_classes,), over annotated pixels only

    def as_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The metrics as JSON-able values; what is not defined (NaN) becomes None."""
        in_truth, in_prediction = self.true_pixels > 0, self.predicted_pixels > 0
        return {
            "mIoU_reference": self.miou_reference,
            "mIoU_present": self.miou_present,
            "fwIoU": self.fwiou,
            "mACC": self.macc,
            "pACC": self.pacc,
            "classes": {
                "vocabulary": len(self.iou),
                "in_ground_truth": int(in_truth.sum()),
                "in_ground_truth_or_prediction": int((in_truth | in_prediction).sum()),
            },
            "per_class": {
                name: {
                    "IoU": none_if_nan(self.iou[index]),
                    "ACC": none_if_nan(self.acc[index]),
                    "pixels": int(self.true_pixels[index]),
                    "predicted_pixels": int(self.predicted_pixels[index]),
                }
                for index, name in enumerate(unique_names(class_names))
            },
        }


def semantic_scores(confusion: NDArray[np.int64]) -> SemanticScores:
    """Derive every semantic metric from one confusion matrix.

    Args:
        confusion: (C, C) pixel counts, rows predicted and columns true, as `confusion_matrix` gives them, summed over
            images.

    Raises:
        ValueError: the matrix counts no pixel, so that no metric is defined.
    """
    if not confusion.any():
        raise ValueError("no pixel of the ground truth is annotated")
    hits = confusion.diagonal().astype(np.float64)
    true_pixels, predicted_pixels = confusion.sum(axis=0), confusion.sum(axis=1)
    occurs = true_pixels > 0
    iou = np.full(len(hits), np.nan)
    acc = np.full(len(hits), np.nan)
    iou[occurs] = 100 * hits[occurs] / (true_pixels + predicted_pixels - hits)[occurs]
    acc[occurs] = 100 * hits[occurs] / true_pixels[occurs]
    total = true_pixels.sum()
    return SemanticScores(
        miou_reference=float(iou[occurs].sum() / np.count_nonzero(occurs | (predicted_pixels > 0))),
        miou_present=float(iou[occurs].mean()),
        fwiou=float((iou[occurs] * (true_pixels[occurs] / total)).sum()),
        macc=float(acc[occurs].mean()),
        pacc=float(100 * hits.sum() / total),
        iou=iou,
        acc=acc,
        true_pixels=true_pixels,
        predicted_pixels=predicted_pixels,
    )


def none_if_nan(value: float) -> float | None:
    """`value` as a float that JSON can hold: None in place of NaN."""
    return None if np.isnan(value) else float(value)


def unique_names(names: Sequence[str]) -> list[str]:
    """The class names, with "(index)" added to the second and later of equal ones, so that they can be keys."""
    seen: set[str] = set()
    unique = []
    for index, name in enumerate(names):
        unique.append(name if name not in seen else f"{name} ({index})")
        seen.add(unique[-1])
    return unique
