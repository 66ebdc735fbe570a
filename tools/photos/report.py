"""The page that shows what evaluations of the photographs gave: pictures, labels, predictions, reasons and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maft.errors import UserError
from reason.files import write_text
from reason.jsonfile import JsonError, read_json
from reason.triplets import Reason, load_generic, load_image
from reason.vocabulary import Vocabulary, load_vocabulary
from tools.photos.content import load_photographs
from tools.photos.page import Figure, Legend, Page, Section, Table, render, rows_of
from tools.photos.pictures import agreement, data_uri
from tools.photos.prepare import Layout
from tools.photos.runs import (
    Run,
    decode_segments,
    find_runs,
    read_pixels,
    read_prediction,
    segment_categories,
    task_name,
)
from tools.pictures import Maps, overlay, panoptic_maps, shares

PREFIX = "photos_"
TITLE = "OpenSeg-R on eight photographs"

_SEEDED = (
    "Seeded weights: random numbers stand in for the published ones. The segmentation on this page means nothing, and "
    "agreement comes about by chance: the reasons name just the two to five classes that a photograph shows. "
    "Put the published weights into pretrained/ and run again."
)
_UNKNOWN = "No finished evaluation says which weights were used: treat the segmentation on this page as meaningless."
_INTRODUCTION = (
    "Photographs that ship with scikit-image and scikit-learn, with reasons written by hand.",
    "The labels are rough polygons drawn by hand. They show whether a result is plausible; they are no benchmark of "
    "quality, and the numbers compare with nothing. Pale areas are not labelled, or not predicted.",
)
_SEMANTIC_COLUMNS = {
    "mIoU_reference": "mIoU (reference)",
    "mIoU_present": "mIoU (present)",
    "fwIoU": "fwIoU",
    "mACC": "mACC",
    "pACC": "pACC",
}
_DEFINITIONS = (
    "mIoU (reference) divides by the number of classes in labels or prediction, mIoU (present) by the number in the "
    "labels."
)


@dataclass(frozen=True)
class _Data:
    """What was prepared: vocabulary, generic reasons, and the panoptic document, which lists the photographs."""

    layout: Layout
    vocabulary: Vocabulary
    generic: Mapping[str, Reason]
    panoptic: Mapping[str, Any]
    credits: Mapping[str, str]


def write_report(root: str | Path, out_dirs: Sequence[Path], output: Path) -> Path:
    """Write the page for the evaluations in `out_dirs`.

    Args:
        root: where the photographs were prepared.
        out_dirs: OUTPUT_DIR of one or more evaluations.
        output: the HTML file.

    Returns:
        `output`.

    Raises:
        UserError: nothing was prepared or evaluated there, or the page cannot be written.
    """
    page = build_page(Layout(Path(root)), find_runs(out_dirs, PREFIX))
    try:
        write_text(output, render(page))
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror or error}); give another --output") from error
    return output


def build_page(layout: Layout, runs: Sequence[Run]) -> Page:
    """The page's content.

    Raises:
        UserError: the photographs are not prepared, or a file of theirs is damaged.
    """
    data = _load(layout)
    sections = tuple(_section(data, image, runs) for image in data.panoptic["images"])
    return Page(TITLE, _alarm(runs), _INTRODUCTION, tuple(_tables(runs, data.vocabulary)), sections)


def _load(layout: Layout) -> _Data:
    try:
        panoptic = read_json(layout.panoptic_json)
    except JsonError as error:
        again = f"run python -m tools.photos prepare --root {layout.root}"
        raise UserError(f"{layout.panoptic_json}: {error}; {again}") from error
    credits = {photograph.stem: photograph.credit for photograph in load_photographs()}
    return _Data(layout, load_vocabulary(layout.vocabulary), load_generic(layout.generic_reason), panoptic, credits)


def _alarm(runs: Sequence[Run]) -> str:
    if any(run.seeded for run in runs):
        names = sorted({run.name for run in runs if run.seeded})
        only_some = not all(run.seeded for run in runs)
        return f"{', '.join(names)}: {_SEEDED}" if only_some else _SEEDED
    return _UNKNOWN if any(run.seeded is None for run in runs) else ""


def _section(data: _Data, image: Mapping[str, Any], runs: Sequence[Run]) -> Section:
    stem = Path(image["file_name"]).stem
    picture = read_pixels(data.layout.images / image["file_name"]).astype(np.uint8)
    category_of = segment_categories(data.panoptic, image["file_name"])
    truth = panoptic_maps(decode_segments(read_pixels(data.layout.panoptic / image["file_name"])), category_of)
    triplet_file = data.layout.image_reason / f"{stem}.json"
    triplet = load_image(triplet_file) if triplet_file.is_file() else None
    figures = [
        Figure("Photograph", data_uri(picture), f"{image['width']} x {image['height']} pixels"),
        _figure("Labels", picture, truth, data.vocabulary, "drawn by hand"),
    ]
    for run in runs:
        for task in run.tasks:
            title = f"{run.name}, {task_name(task)}"
            prediction = read_prediction(run, task, stem, len(data.vocabulary))
            figures.append(_prediction_figure(title, picture, prediction, truth, data.vocabulary))
    title, reasons = _reasons(runs, data, triplet.reasons if triplet else {}, truth)
    return Section(
        title=stem.capitalize(),
        description=str(triplet.extra.get("description", "")) if triplet else "",
        credit=data.credits.get(stem, ""),
        figures=tuple(figures),
        reasons_title=title,
        reasons=tuple(reasons),
    )


def _figure(title: str, picture: NDArray[np.uint8], maps: Maps, vocabulary: Vocabulary, note: str) -> Figure:
    palette, names = vocabulary.palette, vocabulary.class_names
    legend = tuple(Legend(names[index], palette[index], share) for index, share in shares(maps))
    return Figure(title, data_uri(overlay(picture, maps, palette)), note, legend)


def _prediction_figure(
    title: str, picture: NDArray[np.uint8], prediction: Maps | str, truth: Maps, vocabulary: Vocabulary
) -> Figure:
    if isinstance(prediction, str):
        return Figure(title, note=prediction)
    try:
        figure = _figure(title, picture, prediction, vocabulary, "")
    except (ValueError, IndexError) as error:
        return Figure(title, note=f"The prediction cannot be shown: {error}.")
    agreeing = agreement(prediction, truth)
    note = "" if np.isnan(agreeing) else f"{agreeing:.0%} of the labelled pixels agree"
    return Figure(title, figure.uri, note, figure.legend)


def _reasons(
    runs: Sequence[Run], data: _Data, image_reasons: Mapping[str, Reason], truth: Maps
) -> tuple[str, list[Reason]]:
    """The title over the reasons of a photograph, from what the runs say about their use, and the reasons."""
    usage = [run.results.get("usage", {}) for run in runs]
    used = {run.results.get("provenance", {}).get("reasons", {}).get("attributes") for run in runs} - {None}
    first = f" (the first {used.pop()} attributes of each were used)" if len(used) == 1 else ""
    if any(counts.get("image", 0) for counts in usage) or not any(counts for counts in usage):
        return f"Reasons for this photograph{first}", list(image_reasons.values())
    if any(str(key).startswith("generic") and count for counts in usage for key, count in counts.items()):
        names = [data.vocabulary.class_names[index] for index, _ in shares(truth)]
        generic = [data.generic[name] for name in names if name in data.generic]
        return f"Generic reasons of the labelled classes{first}", generic
    return "Reasons for this photograph (not used: class names only)", list(image_reasons.values())


def _tables(runs: Sequence[Run], vocabulary: Vocabulary) -> list[Table]:
    semantic, panoptic, details = [], [], []
    for run in runs:
        metrics = run.results.get("metrics", {})
        if "sem_seg" in metrics:
            semantic.append([run.name, *(_number(metrics["sem_seg"].get(key)) for key in _SEMANTIC_COLUMNS)])
            details.append(_class_table(run, "sem_seg", metrics["sem_seg"], vocabulary))
        if "panoptic_seg" in metrics:
            panoptic.append([run.name, *_qualities(metrics["panoptic_seg"])])
            details.append(_class_table(run, "panoptic_seg", metrics["panoptic_seg"], vocabulary))
    tables = []
    if semantic:
        columns = ["evaluation", *_SEMANTIC_COLUMNS.values()]
        tables.append(Table("Semantic segmentation, percent", columns, semantic, note=_DEFINITIONS))
    if panoptic:
        columns = ["evaluation", "PQ", "SQ", "RQ", "PQ things", "PQ stuff"]
        tables.append(Table("Panoptic segmentation, percent", columns, panoptic))
    columns = ["evaluation", "weights", "reasons used", "photographs", "data set"]
    rows = [[run.name, _weights(run), _usage(run), _images(run), run.dataset] for run in runs]
    tables.append(Table("What was run", columns, rows, texts=len(columns)))
    return [*tables, *details, *(_provenance_table(run) for run in runs if run.results.get("provenance"))]


def _qualities(metrics: Mapping[str, Any]) -> list[str]:
    every = metrics.get("all", {})
    split = [metrics.get(part, {}).get("PQ") for part in ("things", "stuff")]
    return [_number(value) for value in (every.get("PQ"), every.get("SQ"), every.get("RQ"), *split)]


def _class_table(run: Run, task: str, metrics: Mapping[str, Any], vocabulary: Vocabulary) -> Table:
    """Per class, of those that occur; results.json lists the classes in the vocabulary's order."""
    columns = ("IoU", "ACC") if task == "sem_seg" else ("PQ", "SQ", "RQ")
    found = list(metrics.get("per_class", {}).values())
    names = vocabulary.class_names if len(found) == len(vocabulary) else tuple(metrics.get("per_class", {}))
    rows = [
        [name, *(_number(values.get(column)) for column in columns)]
        for name, values in zip(names, found, strict=True)
        if any(values.get(column) is not None for column in columns)
    ]
    return Table(f"Classes: {run.name}, {task_name(task)}", ["class", *columns], rows, folded=True)


def _provenance_table(run: Run) -> Table:
    rows = rows_of(run.results["provenance"])
    return Table(f"Provenance: {run.name}, {run.dataset}", ["", "value"], rows, texts=2, folded=True)


def _weights(run: Run) -> str:
    if run.seeded is None:
        return "not known"
    return "SEEDED (random)" if run.seeded else Path(run.results["provenance"]["weights_file"]).name


def _images(run: Run) -> str:
    if not run.results:
        return "not finished: there is no results.json"
    return str(run.results.get("images", {}).get("total", "not known"))


def _usage(run: Run) -> str:
    usage = run.results.get("usage", {})
    return ", ".join(f"{str(name).replace('_', ' ')}: {count}" for name, count in usage.items()) or "none"


def _number(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, (int, float)) else "-"
