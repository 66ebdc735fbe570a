"""The checks of data sets with an annotation file: COCO panoptic and COCO instances."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from maft.data.locate import IMAGE_EXTENSIONS, DatasetPaths, stems
from maft.data.records import SHARED_IDS
from maft.data.specs import DatasetSpec
from reason.vocabulary import Vocabulary, VocabularyClass

from ..dataset_facts import split_facts
from .files import Segments, Tally, check_images, check_panoptic
from .findings import Findings
from .pool import tally_all
from .semantic import (
    Options,
    compare_counts,
    missing_partners,
    sampled,
    take_over,
    unlabelled,
)

_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError)


def category_of(entry: VocabularyClass) -> int:
    """A class's identifier in annotation files."""
    return entry.index if entry.dataset_id is None else entry.dataset_id


def check_panoptic_set(
    report: Findings, spec: DatasetSpec, paths: DatasetPaths, vocabulary: Vocabulary, options: Options
) -> None:
    """Fill the report of a panoptic data set."""
    assert paths.labels is not None and paths.json_file is not None, paths
    report.places = {
        "images": str(paths.images),
        "labels": str(paths.labels),
        "annotations": str(paths.json_file),
    }
    # As for the loader: the annotations name their files, so the list of images may be left out.
    document = _document(report, paths.json_file, needs_images=False)
    if document is None:
        return
    images, pngs = stems(paths.images, IMAGE_EXTENSIONS), stems(paths.labels, (".png",))
    entries = {str(entry.get("id")): entry for entry in document["images"] if isinstance(entry, dict)}
    index_of = {category_of(entry): entry.index for entry in vocabulary.classes}
    faults = Tally()
    tasks, annotated, named = [], set(), Counter[str]()
    for place, annotation in enumerate(document["annotations"]):
        try:
            label = str(annotation["file_name"])
            entry = entries.get(str(annotation["image_id"]), {})
            stem = PurePath(str(entry.get("file_name") or label)).stem
            segments = _segments(annotation, index_of, faults)
            size = (int(entry["width"]), int(entry["height"])) if "width" in entry else None
        except _MALFORMED as error:
            faults.problem("malformed", f"{paths.json_file}: annotation {place} lacks or has a wrong field ({error!r})")
            continue
        annotated.add(stem)
        named[PurePath(label).stem] += 1
        image, png = images.get(stem), paths.labels / label
        if image is None:
            faults.problem("label without image", f"{paths.json_file}: {label} has no image in {paths.images}")
        if PurePath(label).stem not in pngs:
            faults.problem("annotation without PNG", f"{png}: no such file")
        elif image is not None:
            tasks.append(Segments(str(png), str(image), size, segments))
    for label, times in named.items():
        if times > 1:
            faults.problem("malformed", f"{paths.json_file}: {label} is annotated {times} times")
    report.images, report.labels, report.pairs = len(images), len(document["annotations"]), len(tasks)
    _take_faults(report, faults)
    unlabelled(report, [str(path) for stem, path in images.items() if stem not in annotated])
    strays = [str(path) for stem, path in pngs.items() if stem not in named]
    missing_partners(report, strays, "PNG that the annotation file does not name")
    facts = split_facts(report.dataset)
    check = partial(check_panoptic, overlaid=facts is not None and facts.overlaid)
    tally = tally_all(sampled(tasks, options.sample), check, workers=options.workers, description=report.dataset)
    take_over(report, tally, vocabulary)
    if tally.covered:
        report.notes.append(f"{tally.covered} segments have fewer pixels than listed: others were laid over them")
    if tally.shared:
        report.notes.append(f"{tally.shared} segment ids are listed for two classes; {SHARED_IDS}")
    if paths.semantic is not None and not paths.semantic.is_dir():
        report.notes.append(f"no label maps in {paths.semantic}: panoptic quality can be evaluated, mIoU cannot")
    compare_counts(report, options)


def check_instance_set(
    report: Findings, spec: DatasetSpec, paths: DatasetPaths, vocabulary: Vocabulary, options: Options
) -> None:
    """Fill the report of an instance data set."""
    assert paths.json_file is not None, paths
    report.places = {"images": str(paths.images), "annotations": str(paths.json_file)}
    document = _document(report, paths.json_file)
    if document is None:
        return
    images = stems(paths.images, IMAGE_EXTENSIONS)
    faults, sizes, tasks, known = Tally(), {}, [], set()
    for place, entry in enumerate(document["images"]):
        try:
            size, stem = (int(entry["width"]), int(entry["height"])), PurePath(entry["file_name"]).stem
            sizes[entry["id"]] = size
        except _MALFORMED as error:
            faults.problem("malformed", f"{paths.json_file}: image {place} lacks or has a wrong field ({error!r})")
            continue
        known.add(stem)
        if stem in images:
            tasks.append((str(images[stem]), size))
        else:
            faults.problem("label without image", f"{entry['file_name']}: not in {paths.images}")
    things = {category_of(entry): entry.index for entry in vocabulary.classes if entry.thing}
    objects: Counter[int] = Counter()
    for place, annotation in enumerate(document["annotations"]):
        where = f"{paths.json_file}: annotation {place}"
        try:
            kind, line = _object_fault(annotation, things, sizes)
            if kind:
                faults.problem(kind, f"{where}: {line}")
            if annotation["category_id"] in things:
                objects[things[annotation["category_id"]]] += 1
        except _MALFORMED as error:
            faults.problem("malformed", f"{where} lacks or has a wrong field ({error!r})")
    report.images, report.labels, report.pairs = len(images), len(document["images"]), len(tasks)
    _take_faults(report, faults)
    unlabelled(report, [str(path) for stem, path in images.items() if stem not in known])
    tally = tally_all(sampled(tasks, options.sample), check_images, workers=options.workers, description=report.dataset)
    tally.per_class = objects
    take_over(report, tally, vocabulary)
    compare_counts(report, options)


def _document(report: Findings, path: Path, *, needs_images: bool = True) -> dict[str, Any] | None:
    """The annotation file; None, with a problem recorded, if it is none."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        report.problem("malformed", f"{path}: cannot be read as JSON ({error}); it may be cut off")
        return None
    fields = ("images", "annotations")
    if isinstance(document, dict) and not needs_images:
        document.setdefault("images", [])
    if not isinstance(document, dict) or not all(isinstance(document.get(name), list) for name in fields):
        report.problem("malformed", f"{path}: no COCO annotation file: it needs the lists images and annotations")
        return None
    return document


def _take_faults(report: Findings, faults: Tally) -> None:
    for kind, count in faults.counts.items():
        report.problem(kind, *faults.examples[kind], count=count)


def _segments(
    annotation: Mapping[str, Any], index_of: Mapping[int, int], faults: Tally
) -> tuple[tuple[int, int, int | None], ...]:
    """The segments of an annotation; one of an unknown category is recorded and gets class -1."""
    found = []
    for segment in annotation["segments_info"]:
        category, area = segment["category_id"], segment.get("area")
        identifier = segment["id"]
        if isinstance(identifier, bool) or not isinstance(identifier, int):
            raise TypeError(f"segment id {identifier!r} is no whole number")
        if segment.get("iscrowd", 0) not in (0, 1):
            raise ValueError(f"segment {identifier}: iscrowd {segment['iscrowd']!r} is neither 0 nor 1")
        if category not in index_of:
            faults.problem("unknown id", f"{annotation['file_name']}: category {category!r} is not in the vocabulary")
        found.append((identifier, index_of.get(category, -1), None if area is None else int(area)))
    return tuple(found)


def _object_fault(
    annotation: Mapping[str, Any], things: Mapping[int, int], sizes: Mapping[Any, tuple[int, int]]
) -> tuple[str, str]:
    """Kind and description of the first thing that is wrong with an object; ("", "") if nothing is."""
    category, size = annotation["category_id"], sizes.get(annotation["image_id"])
    if category not in things:
        return "unknown id", f"category {category!r} is none of the {len(things)} countable classes"
    if size is None:
        return "label without image", f"image {annotation['image_id']!r} is not listed"
    left, top, width, height = (float(value) for value in annotation["bbox"])
    inside = left >= 0 and top >= 0 and left + width <= size[0] + 1 and top + height <= size[1] + 1
    if width <= 0 or height <= 0 or not inside:
        return "box", f"box {annotation['bbox']} does not lie in the image of {size[0]}×{size[1]}"
    mask = annotation["segmentation"]
    if isinstance(mask, dict):
        if [int(value) for value in mask["size"]] != [size[1], size[0]]:
            return "size", f"its mask has {mask['size'][1]}×{mask['size'][0]}, its image {size[0]}×{size[1]}"
    elif not mask or any(len(polygon) < 6 for polygon in mask):
        return "malformed", "its polygon has less than three points"
    return "", ""
