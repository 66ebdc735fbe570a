"""Candidate recall and precision: how many of an image's classes the model named, by the label maps of a data set.

For every image that has a triplet file, the classes that the segmentor would take from it are held against the classes
of its label map. Recall of a class: of the images that show it, the part whose file names it. Precision: of the images
whose file names it, the part that shows it. "micro" counts every (image, class) pair alike; "macro" is the mean over
the classes for which the number is defined.

Labels are partial: what stands on unlabelled pixels counts as not there, so precision is a lower bound.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason.cli.options import add_dataset, take_dataset
from reason.errors import ReasonError
from reason.files import user_path, write_text
from reason.labelmaps import IGNORED, class_pixels, label_files, read_labels
from reason.names import named_classes
from reason.triplets import find_image_file, load_image
from reason.vocabulary import Vocabulary

if TYPE_CHECKING:
    pass

_LISTED = 8


@dataclass(frozen=True)
class ClassScore:
    """Counts of images for one class, or sums over classes.

    Attributes:
        shown: images whose label map shows it.
        named: images whose file names it, those left out where its share is too small to ask for.
        both: images that show it and whose file names it.
    """

    shown: int = 0
    named: int = 0
    both: int = 0

    @property
    def recall(self) -> float | None:
        """both / shown in [0, 1]; None where no image shows the class."""
        return self.both / self.shown if self.shown else None

    @property
    def precision(self) -> float | None:
        """both / named in [0, 1]; None where no file names the class."""
        return self.both / self.named if self.named else None


@dataclass(frozen=True)
class Score:
    """What `score_folder` found.

    Attributes:
        classes: one entry a class, in vocabulary order.
        label_maps: images that have a label map.
        scored: of these, the images that have a triplet file; only they count in `classes`.
        failed: of those without, the ones that the generation recorded as failed.
        complete: scored images whose file names every class that the label map shows.
        unlabelled: triplet files that belong to no label map.
        missing: names of images without a triplet file, sorted.
        outside: names in the files that are in no class of the vocabulary, with the number of images.
        min_share: classes below this part of an image's pixels were neither asked for nor held against a file.
    """

    vocabulary: Vocabulary
    classes: tuple[ClassScore, ...]
    label_maps: int
    scored: int
    failed: int
    complete: int
    unlabelled: int
    missing: tuple[str, ...] = ()
    outside: Counter[str] = field(default_factory=Counter)
    min_share: float = 0.0

    @property
    def total(self) -> ClassScore:
        """The sums over all classes; its recall and precision are the micro averages."""
        return ClassScore(
            sum(entry.shown for entry in self.classes),
            sum(entry.named for entry in self.classes),
            sum(entry.both for entry in self.classes),
        )

    @property
    def macro_recall(self) -> float | None:
        """Mean recall of the classes that some image shows; None without any."""
        return _mean(entry.recall for entry in self.classes)

    @property
    def macro_precision(self) -> float | None:
        """Mean precision of the classes that some file names; None without any."""
        return _mean(entry.precision for entry in self.classes)


def score_folder(
    results: Path,
    labels: Path,
    vocabulary: Vocabulary,
    *,
    min_share: float = 0.0,
    ignore: int | None = None,
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> Score:
    """Hold the triplet files of `results` against the label maps of `labels`.

    Args:
        results: folder of `<image stem>.json`.
        labels: folder of label maps, `<image stem>.png` or `.tif`, one class index a pixel.
        vocabulary: what the indices mean.
        min_share: a class counts as shown from this part of the image's pixels on, in [0, 1); 0: from one pixel on.
        ignore: value of unlabelled pixels; None: 255 and 65535, where the vocabulary has no such class.
        progress: wraps the list of label maps while it is walked through.

    Raises:
        ReasonError: a folder is missing or empty, or a label map cannot be used.
        TripletError: a triplet file cannot be used.
    """
    if not results.is_dir():
        raise ReasonError(f"{results}: no such folder; give the one that holds the triplet files with --results")
    maps = label_files(labels)
    shown, named, both = ([0] * len(vocabulary.classes) for _ in range(3))
    outside: Counter[str] = Counter()
    missing: list[str] = []
    used: set[Path] = set()
    failed = complete = 0
    for path in progress(maps):
        file = find_image_file([results], path.name)
        if file is None:
            missing.append(path.stem)
            failed += (results / ".reason" / "failed" / f"{path.stem}.json").is_file()
            continue
        used.add(file)
        pixels = class_pixels(read_labels(path), len(vocabulary.classes), ignore, path)
        least = min_share * int(pixels.sum())
        present = {index for index, count in enumerate(pixels[:-1]) if count and count >= least}
        small = {index for index, count in enumerate(pixels[:-1]) if count} - present
        candidates, unknown = named_classes(load_image(file).reasons, vocabulary)
        outside.update(unknown)
        complete += present <= candidates
        for index in present:
            shown[index] += 1
        for index in candidates - small:
            named[index] += 1
            both[index] += index in present
    if not used:
        raise ReasonError(
            f"{results}: has no file for any of the {len(maps)} label maps in {labels}; check both folders"
        )
    return Score(
        vocabulary=vocabulary,
        classes=tuple(ClassScore(*counts) for counts in zip(shown, named, both, strict=True)),
        label_maps=len(maps),
        scored=len(maps) - len(missing),
        failed=failed,
        complete=complete,
        unlabelled=sum(1 for file in results.glob("*.json") if file not in used),
        missing=tuple(missing),
        outside=outside,
        min_share=min_share,
    )


def format_score(score: Score) -> str:
    """The score as text: counts, averages, and a table of the classes that are shown or named."""
    total, scored = score.total, max(score.scored, 1)
    asked = f"from {score.min_share:g} of the pixels on" if score.min_share else "from one pixel on"
    without = len(score.missing)
    lines = [
        f"{score.vocabulary.title}: {score.scored} of {score.label_maps} images have a triplet file; "
        f"{without} without ({score.failed} of them failed) count nowhere below",
        f"a class is shown {asked}; an image shows {total.shown / scored:.2f} classes, its file names "
        f"{total.named / scored:.2f}; all were found in {score.complete} images ({_percent(score.complete / scored)})",
        "",
        f"{'':8}{'recall':>8}{'precision':>11}",
        f"{'micro':8}{_percent(total.recall):>8}{_percent(total.precision):>11}",
        f"{'macro':8}{_percent(score.macro_recall):>8}{_percent(score.macro_precision):>11}",
        "",
    ]
    rows = [
        (entry.name, counts)
        for entry, counts in zip(score.vocabulary.classes, score.classes, strict=True)
        if counts.shown or counts.named
    ]
    width = max([len(name) for name, _ in rows], default=0)
    lines.append(f"{'class':{width}}{'shown':>8}{'named':>8}{'both':>8}{'recall':>9}{'precision':>11}")
    for name, counts in rows:
        share = f"{_percent(counts.recall):>9}{_percent(counts.precision):>11}"
        lines.append(f"{name:{width}}{counts.shown:8}{counts.named:8}{counts.both:8}{share}")
    if score.outside:
        common = ", ".join(f"{name!r} ({count})" for name, count in score.outside.most_common(_LISTED))
        lines += ["", f"names outside the vocabulary, which the segmentor ignores: {len(score.outside)}: {common}"]
    if score.missing:
        some = ", ".join(score.missing[:_LISTED]) + (", …" if without > _LISTED else "")
        lines += ["", f"without a triplet file: {some}"]
    if score.unlabelled:
        lines += ["", f"{score.unlabelled} triplet files belong to no label map"]
    return "\n".join(lines) + "\n"


def score_document(score: Score) -> dict[str, Any]:
    """The score as a JSON value; shares in [0, 1], null where undefined."""
    total = score.total
    names = score.vocabulary.class_names
    return {
        "vocabulary": score.vocabulary.name,
        "min_share": score.min_share,
        "images": {
            "label_maps": score.label_maps,
            "scored": score.scored,
            "without_file": len(score.missing),
            "failed": score.failed,
            "complete": score.complete,
            "files_without_label_map": score.unlabelled,
        },
        "micro": {"recall": total.recall, "precision": total.precision, **asdict(total)},
        "macro": {"recall": score.macro_recall, "precision": score.macro_precision},
        "classes": [
            {"name": name, **asdict(counts), "recall": counts.recall, "precision": counts.precision}
            for name, counts in zip(names, score.classes, strict=True)
        ],
        "outside_vocabulary": dict(score.outside.most_common()),
        "missing": list(score.missing),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `python -m reason score`."""
    parser.description = (
        "Candidate recall and precision: how many of the classes that the label maps show the model named, for every "
        "class and overall. Labels are partial, so precision is a lower bound."
    )
    add_dataset(parser)
    parser.add_argument("--results", type=user_path, metavar="DIR", help="folder of the triplet files")
    parser.add_argument(
        "--labels",
        type=user_path,
        metavar="DIR",
        help="folder of label maps (.png, .tif; 8 or 16 bit) of class indices, as in prepared data sets",
    )
    parser.add_argument("--vocabulary", metavar="V", help='name of a benchmark (pc59), a file, or "cat, dog, sofa"')
    parser.add_argument(
        "--min-share",
        type=float,
        default=0.0,
        metavar="S",
        help="ask only for classes with at least this part of the image's pixels, such as 0.001 (default: one pixel)",
    )
    parser.add_argument(
        "--ignore", type=int, metavar="VALUE", help="of unlabelled pixels (default: 255 and 65535, if no class)"
    )
    parser.add_argument("--json", type=user_path, metavar="FILE", help="write everything as JSON, too")


def run(args: argparse.Namespace) -> int:
    """The body of `python -m reason score`; returns the exit status.

    Raises:
        ReasonError, TripletError, VocabularyError: see `score_folder`.
    """
    from reason.bars import Bar

    if not 0 <= args.min_share < 1:
        raise ReasonError(f"--min-share {args.min_share:g}: must be at least 0 and below 1, such as 0.001")
    if args.ignore is not None and not 0 <= args.ignore <= IGNORED[-1]:
        raise ReasonError(f"--ignore {args.ignore}: must be a pixel value, 0 to {IGNORED[-1]}")
    vocabulary = take_dataset(args, labels="label_maps", results="image_reasons", ignore="ignore")
    for option in ("results", "labels"):
        if getattr(args, option) is None:
            raise ReasonError(
                f"--{option}: missing; name the folder, or a yaml file with --dataset that does "
                "(label maps beside panoptic annotations: its key semantic)"
            )
    sys.stdout.write(f"{vocabulary.summary}\n")
    score = score_folder(
        args.results,
        args.labels,
        vocabulary,
        min_share=args.min_share,
        ignore=args.ignore,
        progress=lambda paths: Bar(paths, desc="label maps", unit="image", leave=False),
    )
    sys.stdout.write(format_score(score))
    if args.json is not None:
        try:
            write_text(args.json, json.dumps(score_document(score), ensure_ascii=False, indent=1) + "\n")
        except OSError as error:
            raise ReasonError(f"{args.json}: cannot be written ({error.strerror or error})") from error
    return 0
