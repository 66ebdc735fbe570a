"""The report: what the evaluations gave, group by group, class by class, and image by image with its reasons."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maft.drawing import NONE, Maps, agreement, overlay, shares
from maft.errors import UserError
from reason.files import write_text
from reason.jsonfile import JsonError, read_json
from reason.triplets import ImageTriplet, load_image
from reason.vocabulary import Vocabulary

from . import page
from .dataset import LIST_ONLY, MODEL, REASON_DATA, Layout
from .lmm.grading import Corrections, Grade, corrected_description, corrections, grade
from .methods import CLOSED, Method, main_methods, sed_methods
from .observer import LEVELS
from .predictions import read_classes, read_predicted_segments, read_segments
from .results import COLUMNS, DATASET, QUALITIES, closed_sentence, read_evaluation, scores_of, weights_hash
from .scenes import render_scene
from .world import GROUPS, VAL_CLASSES, vocabulary

SWEEP_FILE = "observer_sweep.json"
SHIPPED_SWEEP = Path(__file__).resolve().parent / SWEEP_FILE
"""Figures for other reasons that were measured with the weights of the repository."""

_BEFORE, _AFTER = "names", "image"
_HELPED, _HARMED = 8, 6
_WEBP_QUALITY = 78
_GROUP_TITLES = {
    "seen": "Seen: trained on under this name",
    "synonym": "Synonym: kinds of the training images under a name that the segmentor never met",
    "new": "New: made-up names for combinations that no training image shows",
}
_BOTH = " Rows that name no segmentor are MAFT+'s; SED gives class maps and no segments."
_SEEDED = "The weights are random stand-ins: nothing on this page means anything."


@dataclass(frozen=True)
class _Seen:
    """One image: its labels, what every shown method predicted, and what the model wrote about it, judged."""

    stem: str
    pixels: NDArray[np.uint8]
    truth: Maps
    predictions: Mapping[str, Maps]
    segments: Maps
    triplet: ImageTriplet
    grade: Grade
    description: Sequence[tuple[str, Corrections]]

    def right(self, method: str) -> dict[int, float]:
        """Class of the image to the part of its pixels that a method gets right, in [0, 1]."""
        classes = self.predictions[method].classes
        return {
            int(index): float((classes[self.truth.classes == index] == index).mean())
            for index in np.unique(self.truth.classes[self.truth.classes != NONE])
        }

    @property
    def gain(self) -> float:
        """What reasons add to these parts, on average over the image's classes."""
        before, after = self.right(_BEFORE), self.right(_AFTER)
        return sum(after[index] - before[index] for index in after) / len(after)


def evaluated(layout: Layout, output: Path) -> tuple[Method, ...]:
    """What a report of `output` shows: MAFT+, and SED if it was evaluated there."""
    sed = sed_methods(layout)
    return (*main_methods(layout), *(sed if all((output / method.name).is_dir() for method in sed) else ()))


def write_report(layout: Layout, output: Path, path: Path, methods: Sequence[Method] | None = None) -> Path:
    """Write the page of the evaluations in `output`.

    Args:
        layout: of the validation split.
        output: OUTPUT_DIR of the methods lie in it, by their names.
        path: the HTML file.
        methods: those of MAFT+, and perhaps those of SED; None: what `evaluated` finds.

    Returns:
        `path`.

    Raises:
        UserError: something was not evaluated or is damaged, or the page cannot be written.
    """
    methods = evaluated(layout, output) if methods is None else methods
    evaluations = {method.name: read_evaluation(output / method.name, panoptic=method.panoptic) for method in methods}
    try:
        pictures = _pictures(layout, output, [method for method in methods if method.shown])
        parts = [*_head(evaluations), *_tables(methods, evaluations, output), *_classes(methods, evaluations)]
        text = page.document("mini: OpenSeg-R in a drawn world", [*parts, *_sections(pictures, methods)])
    except (JsonError, ValueError) as error:
        raise UserError(f"{output}: {error}; run bash eval_reason_base.sh mini again") from error
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); give another --output") from error
    return path


def _head(evaluations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    count = next(iter(evaluations.values()))["images"]["total"]
    seeded = any(results["provenance"]["weights_file"] is None for results in evaluations.values())
    return [
        page.heading("mini: OpenSeg-R in a drawn world", 1),
        page.paragraphs(_SEEDED, style="wrong") if seeded else "",
        page.paragraphs(
            f"{count} drawn images of things that combine a shape, a colour, a texture and a part, on grounds of a "
            "colour and a pattern. A small CLIP and a small segmentor, trained on other images, name them out of "
            f"{len(VAL_CLASSES)} classes: by names alone, or with reasons, which say what a class looks like.",
            "The reasons were written by a Qwen2.5-VL of two million parameters under vLLM, asked in the three steps "
            "of the paper with the prompts that every other model gets. This repository trained it: it has seen other "
            "images, none with the combination of a new class, and has read what the new classes look like. Its errors "
            "are its own; below each image they are marked against what was drawn (docs/mini_lmm.md).",
        ),
    ]


def _tables(methods: Sequence[Method], evaluations: Mapping[str, Mapping[str, Any]], output: Path) -> list[str]:
    header = ["", *(f"mIoU {group}" for group in GROUPS), "of which varying", *QUALITIES]
    rows = []
    for method in methods:
        scores = scores_of(evaluations[method.name])
        rows.append([method.title, *(f"{scores[key]:.1f}" if key in scores else "" for key in (*COLUMNS, *QUALITIES))])
    counts = {group: sum(entry.group == group for entry in VAL_CLASSES) for group in GROUPS}
    return [
        page.heading("Results"),
        page.table(page.Table(header, rows)),
        page.paragraphs(
            f"Percent. mIoU of {counts['seen']} seen, {counts['synonym']} synonym and {counts['new']} new classes, in "
            "the reference's definition restricted to each group; panoptic quality over all classes. Varying: new "
            "classes whose colour is another one in every image, so that only reasons for the image can tell it."
            + (_BOTH if any(not method.panoptic for method in methods) else ""),
            style="soft",
        ),
        page.paragraphs(closed_sentence(read_evaluation(output / CLOSED.name, CLOSED.dataset))),
        *_sweep(output, weights_hash([evaluations[method.name] for method in methods if method.panoptic])),
    ]


def _sweep(output: Path, weights: str) -> list[str]:
    """The figures of other reasons: of this evaluation if it has them, else the shipped ones."""
    own = output / SWEEP_FILE
    path = own if own.is_file() else SHIPPED_SWEEP
    if not path.is_file():
        return []
    sweep = read_json(path)
    where = (
        ""
        if path == own
        else " Measured beforehand; python -m tools.mini evaluate --observer-sweep measures them again."
    )
    if sweep["weights_hash"] != weights:
        where += " NOT with the weights of this page."
    rows = []
    for row in sweep["rows"]:
        who, kind = row["observer"], "image-specific" if row["reasons"] == "image" else row["reasons"]
        if who == MODEL:
            title = f"the model: {kind} reasons"
        elif who == LIST_ONLY:
            title = "the model: generic reasons, of the classes it named in the image"
        else:
            title = f"what if, {LEVELS[who].miss:.0%} errors: {kind} reasons"
        rows.append([title, *(f"{row['scores'][key]:.1f}" for key in (*COLUMNS, *QUALITIES))])
    return [
        page.heading("What better or worse reasons would give", 3),
        page.table(page.Table(["reasons of", *GROUPS, "varying", *QUALITIES], rows)),
        page.paragraphs(
            "What if: reasons from the truth, with random errors; the rate holds for missed classes, added classes and "
            "misnamed values alike. The classes that the model named in an image, with nothing but their generic "
            f"reasons, say what the list alone is worth.{where}",
            style="soft",
        ),
    ]


def _classes(methods: Sequence[Method], evaluations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    parts = [page.heading("IoU of every class"), page.key((method.name, method.title) for method in methods)]
    per_class = {
        name: list(results["metrics"]["sem_seg"]["per_class"].values()) for name, results in evaluations.items()
    }
    for group in GROUPS:
        entries = []
        for index, entry in enumerate(VAL_CLASSES):
            if entry.group == group:
                values = [(method.name, per_class[method.name][index]["IoU"]) for method in methods]
                entries.append(page.Bars(entry.name, _looks(index), values))
        parts += [page.heading(_GROUP_TITLES[group], 3), page.bars(entries)]
    return parts


def _looks(index: int) -> str:
    kind = VAL_CLASSES[index].kind
    color = ["colour varies"] if kind.varies else []
    values = [value for axis, value in kind.attributes.items() if (axis, value) != ("part", "none")]
    return ", ".join((*color, *values))


def _pictures(layout: Layout, output: Path, methods: Sequence[Method]) -> list[_Seen]:
    document = read_json(layout.panoptic_json)
    folders = {method.name: output / method.name / "inference" / DATASET for method in methods}
    seen = []
    for image in document["images"]:
        name = image["file_name"]
        stem = Path(name).stem
        predictions = {key: read_classes(folder, stem, len(VAL_CLASSES)) for key, folder in folders.items()}
        with Image.open(layout.images / name) as drawn:
            pixels = np.asarray(drawn.convert("RGB"))
        triplet = load_image(layout.reason_dir() / REASON_DATA / f"{stem}.json")
        scene = render_scene(int(image["id"]), "val")
        seen.append(
            _Seen(
                stem,
                pixels,
                read_segments(layout.panoptic / name, document),
                predictions,
                read_predicted_segments(folders[_AFTER], stem),
                triplet,
                grade(scene, triplet),
                corrected_description(scene, triplet),
            )
        )
    return seen


def _sections(pictures: Sequence[_Seen], methods: Sequence[Method]) -> list[str]:
    """Where reasons changed most to the better, where they changed least or to the worse, then all others."""
    order = sorted(pictures, key=lambda seen: -seen.gain)
    helped, harmed = order[:_HELPED], order[_HELPED:][-_HARMED:][::-1]
    chosen = {seen.stem for seen in (*helped, *harmed)}
    others = [seen for seen in pictures if seen.stem not in chosen]
    titles = {method.name: method.title for method in methods}
    words = vocabulary("val")

    def show(some: Sequence[_Seen]) -> str:
        return "\n".join(page.picture(_picture(seen, titles, words)) for seen in some)

    parts = [
        page.heading("Images where reasons helped most"),
        page.paragraphs(
            "Most: on average over the classes of an image. Under each image: the class of which the largest part "
            "changed from wrong to right or back, between names only and image-specific reasons, and the reason that "
            "did it. Colours stand for classes.",
            style="soft",
        ),
        show(helped),
    ]
    if harmed:
        parts += [page.heading("Images where they helped least, or did harm"), show(harmed)]
    if others:
        parts += [page.heading("All other images"), page.folded(f"show {len(others)} images", show(others))]
    return parts


def _picture(seen: _Seen, titles: Mapping[str, str], words: Vocabulary) -> page.Picture:
    figures = [
        page.Figure("Image", f"{seen.pixels.shape[1]} x {seen.pixels.shape[0]} pixels", data_uri(seen.pixels)),
        _figure("Ground truth", "", seen, seen.truth, words),
    ]
    for name, maps in seen.predictions.items():
        note = f"{agreement(maps, seen.truth):.0%} of the pixels right"
        title = titles[name][0].upper() + titles[name][1:]
        figures.append(_figure(title, note, seen, maps, words))
        if name == _AFTER:
            figures.append(_figure("Panoptic, image-specific", "segments", seen, seen.segments, words))
    judged = seen.grade
    verdicts = [(name, "right" if name in judged.right else "wrong") for name in seen.triplet.reasons]
    return page.Picture(
        seen.stem.replace("_", " "),
        figures,
        _difference(seen),
        seen.description,
        [*verdicts, *((name, "missed") for name in judged.missed)],
        [(reason, corrections(judged, name)) for name, reason in seen.triplet.reasons.items()],
        judged.remarks,
    )


def _figure(title: str, note: str, seen: _Seen, maps: Maps, words: Vocabulary) -> page.Figure:
    legend = [(words.class_names[index], words.palette[index]) for index, share in shares(maps) if share >= 0.005]
    return page.Figure(title, note, data_uri(overlay(seen.pixels, maps, words.palette)), legend)


def _difference(seen: _Seen) -> page.Difference | None:
    """The class of which the largest part changed from wrong to right or back; of equals, new ones first."""
    before, after = seen.right(_BEFORE), seen.right(_AFTER)
    index = max(after, key=lambda index: (round(abs(after[index] - before[index]), 2), index))
    if after[index] == before[index]:
        return None
    name = VAL_CLASSES[index].name
    headline = (
        f"{name} ({VAL_CLASSES[index].group}): {before[index]:.0%} of its pixels right by names only, "
        f"{after[index]:.0%} with image-specific reasons"
    )
    remarks = [text for text in seen.grade.remarks if text.startswith(f"{name}:")]
    reason, wrong = seen.triplet.reasons.get(name), corrections(seen.grade, name)
    return page.Difference(headline, after[index] > before[index], reason, wrong, remarks)


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """The image (H, W, 3) as a WebP data URI."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="WEBP", quality=_WEBP_QUALITY, method=2)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
