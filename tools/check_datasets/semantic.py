"""The check of a data set of label maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from maft.data.locate import IMAGE_EXTENSIONS, DatasetPaths, label_files, stems
from maft.data.specs import IGNORE_16BIT, DatasetSpec
from reason.vocabulary import Vocabulary

from ..dataset_facts import Fact, split_facts
from .files import SemanticRules, Tally, check_semantic
from .findings import Findings
from .pool import tally_all

Entry = TypeVar("Entry")
_BYTE = 255


@dataclass(frozen=True)
class Options:
    """How to check.

    Attributes:
        root: folder of the data sets.
        sample: look into so many files of each data set, evenly spread; None: into all.
        counts: compare with the published counts.
        workers: processes; None: one a core.
    """

    root: Path
    sample: int | None = None
    counts: bool = True
    workers: int | None = None


def check_label_maps(
    report: Findings, spec: DatasetSpec, paths: DatasetPaths, vocabulary: Vocabulary, options: Options
) -> None:
    """Fill the report of a semantic data set."""
    assert paths.labels is not None, paths
    labels, _ = label_files(paths.labels, spec.label_extensions)
    images = stems(paths.images, IMAGE_EXTENSIONS)
    pairs = [(str(label), str(images[stem])) for stem, label in labels.items() if stem in images]
    report.places = {"images": str(paths.images), "labels": str(paths.labels)}
    report.images, report.labels, report.pairs = len(images), len(labels), len(pairs)
    missing_partners(report, [str(path) for stem, path in labels.items() if stem not in images], "label without image")
    unlabelled(report, [str(path) for stem, path in images.items() if stem not in labels])
    rules = SemanticRules(len(vocabulary), spec.ignore_label, spec.ignored_as_well)
    tally = tally_all(
        sampled(pairs, options.sample),
        partial(check_semantic, rules=rules),
        workers=options.workers,
        description=report.dataset,
    )
    take_over(report, tally, vocabulary)
    _judge_types(report, tally, rules)
    if not tally.per_class and not tally.counts:
        report.problem("empty", f"{paths.labels}: no pixel of any class, everything is ignored")
    compare_counts(report, options)


def missing_partners(report: Findings, files: Sequence[str], kind: str) -> None:
    """Record files whose partner is missing."""
    report.problem(kind, *files)


def unlabelled(report: Findings, files: Sequence[str]) -> None:
    """Record images without label: a fault, unless the folder is one of several splits."""
    facts = split_facts(report.dataset)
    if facts is not None and facts.shared_images:
        if files:
            report.notes.append(f"{len(files)} images without label; the image folder is one of several splits")
        return
    missing_partners(report, files, "image without label")


def sampled(entries: Sequence[Entry], number: int | None) -> Sequence[Entry]:
    """`number` of the entries, evenly spread and the same every time; all for None."""
    if number is None or number >= len(entries):
        return entries
    return [entries[place * len(entries) // number] for place in range(number)]


def take_over(report: Findings, tally: Tally, vocabulary: Vocabulary) -> None:
    """Put what the workers found into the report."""
    names = vocabulary.class_names
    report.looked_into, report.types = tally.checked, dict(tally.types.most_common())
    report.lowest, report.highest, report.ignored = tally.lowest, tally.highest, tally.ignored
    report.per_class = {names[index]: tally.per_class[index] for index in sorted(tally.per_class)}
    for kind, count in tally.counts.items():
        report.problem(kind, *tally.examples[kind], count=count)
    if tally.turned:
        kinds = ", ".join(f"{orientation}: {count}" for orientation, count in sorted(tally.turned.items()))
        report.notes.append(
            f"{tally.turned.total()} images have an EXIF orientation ({kinds}); it is ignored, as by the makers of the "
            "data sets: labels lie on the stored pixels"
        )
    if report.looked_into < report.pairs:
        report.notes.append(f"looked into {report.looked_into} of {report.pairs} pairs")


def _judge_types(report: Findings, tally: Tally, rules: SemanticRules) -> None:
    """Find 16-bit label maps that went through 8 bits, and pixel types that nobody expects.

    In a vocabulary of more than 255 classes 65535 is ignored. Written as 8 bits, every value from 255 on becomes 255
    (clipped) or its remainder by 256, and either way 65535 becomes 255: then 255 is the highest value of the whole data
    set and nothing is ignored. That also shows in 16-bit files which were made from clipped ones.
    """
    sixteen = rules.ignore == IGNORE_16BIT
    expected = "uint16" if sixteen else "uint8"
    if sixteen and rules.classes > _BYTE and tally.highest == _BYTE and not tally.ignored:
        report.problem(
            "clipped to 8 bits",
            f"{report.places['labels']}: 255 occurs, no value above it does, and nothing has the ignored value 65535: "
            "an image library wrote 16-bit labels as 8-bit ones; prepare the data set again",
            count=tally.checked,
        )
    elif sixteen and tally.full_bytes:
        report.problem(
            "clipped to 8 bits",
            f"{report.places['labels']}: {tally.full_bytes} of {tally.checked} label maps are 8-bit and hold 255, "
            "which stands for all that does not fit; prepare them again as 16-bit files",
            count=tally.full_bytes,
        )
    others = {name: count for name, count in tally.types.items() if name != expected and not name.startswith("mode ")}
    if others:
        shown = ", ".join(f"{count} of {name}" for name, count in others.items())
        report.notes.append(
            f"label maps of another pixel type than {expected}: {shown}; their values are read all right"
        )


def compare_counts(report: Findings, options: Options) -> None:
    """Compare with what is published; what is not verified gives a note."""
    facts = split_facts(report.dataset)
    if facts is None or not options.counts:
        return
    report.expected_images = facts.images
    _compare(report, "number of labelled images", report.pairs, facts.images)
    if facts.occurring is not None and report.looked_into == report.pairs:
        report.expected_classes = facts.occurring
        _compare(report, "number of classes that occur", len(report.per_class), facts.occurring)


def _compare(report: Findings, what: str, found: int, fact: Fact) -> None:
    if found in fact.values:
        return
    line = f"{found}, published are {fact} [{fact.source}]"
    if fact.verified:
        report.problem(what, line, count=abs(found - min(fact.values, key=lambda value: abs(found - value))))
    else:
        report.notes.append(f"{what}: {line}")
