"""Writing results for programs (results.json) and for people (results.md, the log)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from maft.evaluation.journal import mark_finished
from maft.evaluation.metrics import APS, QUALITIES
from maft.files import write_text

logger = logging.getLogger(__name__)

SEMANTIC = ("mIoU_reference", "mIoU_present", "fwIoU", "mACC", "pACC")
DEFINITIONS = (
    "mIoU_reference divides by the classes in ground truth or prediction, mIoU_present by those in the ground truth."
)
BY_PIXELS = (
    "PQ is panopticapi's, which takes the sizes of true segments from the annotation file. By pixels: sizes are "
    "counted, and every crowd region of a class counts, not the last one only."
)

GENERIC_ORIGIN = "generic_origin"
"""Entry of the provenance's "reasons", a text, where generic reasons have an origin that must be told."""
GENERIC_COUNTERS = ("generic", "generic_missing_file", "generic_no_class")
"""Counters of images that were asked for with generic reasons (`maft.text.source.TextSource.usage`)."""


def results_folder(output_dir: str | Path, dataset_name: str) -> Path:
    """Where a data set's results, journal and predictions go."""
    return Path(output_dir) / "inference" / dataset_name


def write_results(
    output_dir: str | Path, dataset_name: str, evaluation: Mapping[str, Any], provenance: Mapping[str, Any]
) -> Path:
    """Write results.json and results.md of a data set, log the table, and mark the journal finished.

    Args:
        output_dir: the run's OUTPUT_DIR; the files go to `results_folder(output_dir, dataset_name)`.
        dataset_name: the data set's registered name.
        evaluation: what `maft.evaluation.loop.evaluate` returned.
        provenance: what `maft.evaluation.provenance.collect` returned.

    Returns:
        The path of results.json.

    Raises:
        UserError: a file cannot be written.
    """
    folder = results_folder(output_dir, dataset_name)
    path = folder / "results.json"
    content = {"dataset": dataset_name, **evaluation, "provenance": dict(provenance)}
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_text(folder / "results.md", _page(dataset_name, evaluation, provenance))
    mark_finished(folder)
    logger.info("%s\n%s\nwritten to %s", dataset_name, results_table({**evaluation, "provenance": provenance}), path)
    return path


def results_table(evaluation: Mapping[str, Any]) -> str:
    """The metrics of one data set as text tables, with the counts of images and reasons below.

    Args:
        evaluation: what `evaluate` returned; a "provenance" in it may say where its reasons come from.
    """
    blocks = [_task_table(task, metrics) for task, metrics in evaluation["metrics"].items()]
    images = evaluation["images"]
    blocks.append(
        f"{images['total']} images ({images['this_run']} in this run, {images['earlier_run']} by an earlier one)"
    )
    if evaluation["usage"]:
        blocks.append("reasons: " + ", ".join(f"{name} {count}" for name, count in evaluation["usage"].items()))
    if origin := generic_origin(evaluation["usage"], evaluation.get("provenance")):
        blocks.append(f"generic reasons: {origin}")
    return "\n\n".join(blocks)


def summary(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    """One row a data set and task, for the end of a run over several data sets.

    Args:
        evaluations: data set name to what `evaluate` returned, with "provenance" or without.
    """
    semantic, panoptic, instances = [], [], []
    for dataset_name, evaluation in evaluations.items():
        images = evaluation["images"]["total"]
        reasons = ", ".join(f"{name} {count}" for name, count in evaluation["usage"].items())
        for task, metrics in evaluation["metrics"].items():
            if task == "sem_seg":
                semantic.append([dataset_name, *(metrics[key] for key in SEMANTIC), images, reasons])
            elif task == "instances":
                instances.append([dataset_name, *(metrics[key] for key in APS), images, reasons])
            else:
                qualities = (metrics["all"][key] for key in QUALITIES)
                split = (metrics[part]["PQ"] for part in ("things", "stuff"))
                panoptic.append([dataset_name, *qualities, *split, images, reasons])
                if other := metrics.get("by_pixels"):
                    values = [other["all"][key] for key in QUALITIES]
                    parts = [other[part]["PQ"] for part in ("things", "stuff")]
                    panoptic.append([f"{dataset_name}, by pixels", *values, *parts, images, reasons])
    blocks = []
    if semantic:
        blocks.append(_table(semantic, ["semantic", *SEMANTIC, "images", "reasons"]))
        blocks.append(DEFINITIONS)
    if panoptic:
        blocks.append(_table(panoptic, ["panoptic", *QUALITIES, "PQ things", "PQ stuff", "images", "reasons"]))
        blocks += [BY_PIXELS] if any(row[0].endswith("by pixels") for row in panoptic) else []
    if instances:
        blocks.append(_table(instances, ["instances", *APS, "images", "reasons"]))
    for dataset_name, evaluation in evaluations.items():
        if origin := generic_origin(evaluation["usage"], evaluation.get("provenance")):
            blocks.append(f"generic reasons of {dataset_name}: {origin}")
    return "\n\n".join(blocks)


def generic_origin(usage: Mapping[str, int], provenance: Mapping[str, Any] | None) -> str:
    """What must be said of the generic reasons of a result; "" for nothing, or where none was used.

    Args:
        usage: how often which reasons were used (`maft.text.source.TextSource.usage`).
        provenance: of the result.
    """
    reasons = (provenance or {}).get("reasons")
    if not isinstance(reasons, Mapping) or not any(usage.get(name) for name in GENERIC_COUNTERS):
        return ""
    return str(reasons.get(GENERIC_ORIGIN, ""))


def _table(rows: list[list[Any]], headers: list[str]) -> str:
    return str(tabulate(rows, headers=headers, tablefmt="github", floatfmt=".3f", missingval="-"))


def _task_table(task: str, metrics: Mapping[str, Any]) -> str:
    if task == "sem_seg":
        classes = metrics["classes"]
        note = (
            f"{classes['vocabulary']} classes, {classes['in_ground_truth']} in the ground truth, "
            f"{classes['in_ground_truth_or_prediction']} in ground truth or prediction. {DEFINITIONS}"
        )
        return f"{_table([[metrics[key] for key in SEMANTIC]], list(SEMANTIC))}\n\n{note}"
    if task == "instances":
        return _table([[*(metrics[key] for key in APS), metrics["classes"]]], [*APS, "classes with objects"])
    keys, parts = (*QUALITIES, "classes"), ("all", "things", "stuff")
    rows = [[part, *(metrics[part][key] for key in keys)] for part in parts]
    other = metrics.get("by_pixels")
    if other:
        rows += [[f"{part}, by pixels", *(other[part][key] for key in keys)] for part in parts]
    table = _table(rows, ["classes", "PQ", "SQ", "RQ", "number"])
    return f"{table}\n\n{BY_PIXELS} They differ in {other['images']} images." if other else table


def _page(dataset_name: str, evaluation: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    table = results_table({**evaluation, "provenance": provenance})
    parts = [f"# {dataset_name}", table, "## Provenance", _provenance_list(provenance)]
    for task, metrics in evaluation["metrics"].items():
        columns = list(next(iter(metrics["per_class"].values())))
        rows = [[name, *(values[column] for column in columns)] for name, values in metrics["per_class"].items()]
        parts += [f"## Classes ({task})", _table(rows, ["class", *columns])]
    return "\n\n".join(parts) + "\n"


def _provenance_list(provenance: Mapping[str, Any], indent: str = "") -> str:
    lines = []
    for key, value in provenance.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}- {key}:", _provenance_list(value, indent + "  ")]
        else:
            lines.append(f"{indent}- {key}: {value}")
    return "\n".join(line for line in lines if line)
