"""What evaluations of the mini world say: groups of classes, one table, and results.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tabulate import tabulate

from maft.errors import UserError
from reason.files import write_text
from reason.jsonfile import JsonError, read_json

from .world import GROUPS, TRAIN_CLASSES, VAL_CLASSES, MiniClass

DATASET = "mini_val_panoptic"
"""One data set for both tasks: it has class maps and segments."""

COLUMNS = (*GROUPS, "varying")
QUALITIES = ("PQ", "SQ", "RQ")


def group_miou(metrics: Mapping[str, Any], belongs: Callable[[MiniClass], bool]) -> float:
    """mIoU in percent over some classes, in the reference's definition restricted to them.

    The IoU of those of them that are in the ground truth, summed, over the number of those that are in ground truth or
    prediction. The IoU itself is that of the whole vocabulary: a pixel given to a class outside the group counts.

    Args:
        metrics: "sem_seg" of an evaluation of the validation vocabulary.
        belongs: which classes.

    Raises:
        ValueError: none of them occurs, or the metrics are of another vocabulary.
    """
    total, count = 0.0, 0
    for entry, values in zip(VAL_CLASSES, metrics["per_class"].values(), strict=True):
        if belongs(entry) and (values["pixels"] or values["predicted_pixels"]):
            total += values["IoU"] or 0.0
            count += 1
    if not count:
        raise ValueError("none of these classes occurs")
    return total / count


def scores_of(results: Mapping[str, Any]) -> dict[str, float]:
    """mIoU by group, of the new classes whose colour varies ("varying"), and panoptic qualities, in percent.

    An evaluation of class maps alone has no panoptic qualities.
    """
    semantic, panoptic = results["metrics"]["sem_seg"], results["metrics"].get("panoptic_seg")
    scores: dict[str, float] = {}
    for group in GROUPS:
        scores[group] = group_miou(semantic, partial(_is_of, group))
    scores["varying"] = group_miou(semantic, lambda entry: entry.kind.varies)
    return scores | {quality: float(panoptic["all"][quality]) for quality in QUALITIES if panoptic}


def _is_of(group: str, entry: MiniClass) -> bool:
    return entry.group == group


def results_document(evaluations: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The value of results.json: method to mIoU by group, and "panoptic", methods with segments to PQ, SQ, RQ.

    Args:
        evaluations: method to the content of its evaluation's results.json.
    """
    scores = {name: scores_of(results) for name, results in evaluations.items()}
    document: dict[str, Any] = {name: {group: values[group] for group in GROUPS} for name, values in scores.items()}
    document["panoptic"] = {
        name: {key: values[key] for key in QUALITIES} for name, values in scores.items() if "PQ" in values
    }
    return document


def table(evaluations: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    """One row a method."""
    rows: list[list[Any]] = []
    for name, results in evaluations.items():
        scores = scores_of(results)
        rows.append([titles[name], *(scores.get(key) for key in (*COLUMNS, *QUALITIES)), results["seconds"]])
    headers = ["", *(f"mIoU {group}" for group in GROUPS), "varying", *QUALITIES, "seconds"]
    return str(tabulate(rows, headers=headers, floatfmt=".1f", tablefmt="github", missingval="-"))


def read_evaluation(folder: Path, dataset: str = DATASET, *, panoptic: bool = True) -> dict[str, Any]:
    """The results of an evaluation of the mini world.

    Args:
        folder: its OUTPUT_DIR.
        dataset: registered name of the data set.
        panoptic: segments are needed as well as class maps.

    Raises:
        UserError: it has none.
    """
    path = folder / "inference" / dataset / "results.json"
    try:
        results = read_json(path)
    except JsonError as error:
        raise UserError(f"{path}: {error}; run bash eval_reason_base.sh mini") from error
    needed = {"sem_seg", "panoptic_seg"} if panoptic else {"sem_seg"}
    if not isinstance(results, dict) or needed - results.get("metrics", {}).keys():
        raise UserError(f"{path}: lacks class maps or segments; delete it and run bash eval_reason_base.sh mini")
    return results


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file, aside and renamed into place.

    Raises:
        UserError: it cannot be written.
    """
    try:
        write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); make room or choose --output"
        ) from error


def closed_sentence(results: Mapping[str, Any]) -> str:
    """What the evaluation of seen kinds alone says."""
    semantic, panoptic = results["metrics"]["sem_seg"], results["metrics"]["panoptic_seg"]["all"]
    return (
        f"Seen kinds alone, by names only ({results['images']['total']} other images, {len(TRAIN_CLASSES)} classes): "
        f"mIoU {semantic['mIoU_reference']:.1f}, PQ {panoptic['PQ']:.1f}."
    )


def weights_hash(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """The hash of the weights that all evaluations were made with.

    Raises:
        UserError: they were made with different ones.
    """
    hashes = {results["provenance"]["weights_hash"] for results in evaluations}
    if len(hashes) != 1:
        raise UserError("the evaluations were made with different weights; run bash eval_reason_base.sh mini again")
    return str(hashes.pop())
