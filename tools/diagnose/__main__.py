"""Say where mIoU is lost, and whether two runs differ, from saved label maps.

    python -m tools.diagnose out/A --dataset NAME --page diagnosis.html
    python -m tools.diagnose out/A out/B --dataset NAME --output diagnosis.json
    python -m tools.diagnose out/A --dataset NAME --image-reasons FOLDER                  what the lists of classes cost
    python -m tools.diagnose out/A --dataset NAME --image-reasons FOLDER --attributes mini    which attributes help

A and B are folders that train_net.py (with TEST.SAVE_PREDICTIONS True) or tools.evaluate has written to. A paragraph of
plain words goes to the terminal; the page shows it with tables and images; the JSON file holds all figures, in both
definitions of mIoU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from maft import load_segmentor
from maft.data import dataset_names, register_all, register_modules, registered_name
from maft.errors import UserError, run_command, run_process
from maft.files import user_path, write_text
from maft.meta_arch.vocabularies import registered_vocabulary
from reason.bars import Bar
from reason.suggest import did_you_mean

from ..commands import command, described
from .attributes import attributes_given, effects, ranked
from .counts import Counts, confusion, count, with_true_classes, with_true_masks
from .html_page import write_page
from .lists import ImageList, figures, gain_by_recall, read_list, with_whole_list
from .saved import Truth
from .scores import DEFINITIONS, costly_confusions, paired_bootstrap, whole
from .words import in_words

SHOWN = 20
HOW_TO_SAVE = (
    "label maps hold no second choice of the network; evaluate with train_net.py and TEST.SAVE_ORACLE True, which "
    "saves what is best among the classes of each image's ground truth"
)
IMAGES_OF_A_CONFUSION = 3
ATTRIBUTES = 3


@dataclass(frozen=True)
class Diagnosis:
    """One run: figures as JSON-able values, and counts per image for a comparison."""

    figures: dict[str, Any]
    counts: Counts


def diagnose(run: Path, truth: Truth, lists: Sequence[ImageList] | None = None) -> Diagnosis:
    """Where a run loses mIoU.

    Args:
        run: OUTPUT_DIR of its evaluation.
        truth: the data set.
        lists: the lists of classes of its images' reasons, if they are known.

    Raises:
        UserError: predictions or label maps are missing, or are of other classes or sizes.
    """
    size = len(truth.classes)
    total = np.zeros((size, size), dtype=np.int64)
    most: dict[tuple[int, int], list[tuple[int, str]]] = {}
    given = truth.candidates_given(run)
    names = ["as it is", "classes given", "masks right"]
    names += ["candidates given"] * (given is not None) + ["lists complete"] * bool(lists)
    parts: dict[str, list[Counts]] = {name: [] for name in names}
    images = Bar(truth.predictions(run), total=len(truth.records), desc="images", unit="image")
    for number, (record, predicted, label) in enumerate(images):
        plain = confusion(predicted, label, size, truth.ignore)
        total += plain
        for row, column in np.argwhere(plain * (1 - np.eye(size, dtype=np.int64))).tolist():
            most.setdefault((row, column), []).append((int(plain[row, column]), record["file_name"]))
        changed = {
            "as it is": predicted,
            "classes given": with_true_classes(predicted, label, truth.ignore),
            "masks right": with_true_masks(predicted, label, truth.ignore),
        }
        if given is not None:
            changed["candidates given"] = truth.read_given(given[number], label)
        if lists:
            changed["lists complete"] = with_whole_list(predicted, label, lists[number].listed, truth.ignore)
        for name, labels in changed.items():
            parts[name].append(count([confusion(labels, label, size, truth.ignore)]))
    joined = {name: _joined(each) for name, each in parts.items()}
    scores = {name: whole(each) for name, each in joined.items()}
    now = scores.pop("as it is")
    gains = {name: {key: each[key] - now[key] for key in DEFINITIONS} for name, each in scores.items()}
    confusions = [
        {
            **entry,
            "predicted": truth.classes[entry["predicted"]],
            "true": truth.classes[entry["true"]],
            "images": _largest(most[entry["predicted"], entry["true"]]),
        }
        for entry in costly_confusions(total, SHOWN)
    ]
    found: dict[str, Any] = {"run": str(run), "mIoU": now, "oracles_add": gains}
    found["not_saved"] = {} if given is not None else {"candidates given": HOW_TO_SAVE}
    found["confusions"] = confusions
    return Diagnosis(found, joined["as it is"])


def _largest(images: list[tuple[int, str]]) -> list[str]:
    """The files with most of a confusion's pixels."""
    return [file for _, file in sorted(images, key=lambda pair: (-pair[0], pair[1]))[:IMAGES_OF_A_CONFUSION]]


def _joined(parts: Sequence[Counts]) -> Counts:
    return Counts(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("hits", "true", "predicted")))


def compare(first: Counts, second: Counts, classes: Sequence[str]) -> dict[str, Any]:
    """The paired bootstrap as JSON-able values."""
    overall, rows = paired_bootstrap(first, second)
    named = [{**row, "class": classes[row["class"]]} for row in rows]
    return {"mIoU": {name: asdict(difference) for name, difference in overall.items()}, "classes": named}


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog=command("diagnose"), description=described(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=user_path, metavar="OUTPUT_DIR", help="one run, or two to compare")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="with label maps: its name, or a yaml file")
    parser.add_argument("--output", type=user_path, metavar="FILE", help="where the JSON goes; default: nowhere")
    parser.add_argument("--page", type=user_path, metavar="FILE", help="an HTML page of it, with images")
    parser.add_argument(
        "--image-reasons", type=user_path, metavar="FOLDER", help="reasons of the (last) run's images, <stem>.json each"
    )
    parser.add_argument(
        "--attributes",
        metavar="MODEL",
        help="base, large, panoptic, mini, ...: segment with each attribute of --image-reasons left out in turn",
    )
    parser.add_argument("--weights", type=user_path, metavar="FILE", help="of the model of --attributes")
    parser.add_argument(
        "--true-reasons",
        type=user_path,
        metavar="FOLDER",
        help="reasons that are right, for --attributes: what they would add to the same lists of classes",
    )
    parser.add_argument("--images", type=int, default=20, metavar="N", help="for --attributes (default: 20)")
    parser.add_argument("--register", nargs="*", default=[], metavar="MODULE", help="modules that register data sets")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(words)
    if len(options.runs) > 2:
        parser.error(f"{len(options.runs)} runs: name one, or two to compare")
    if options.attributes and not options.image_reasons:
        parser.error("--attributes: needs --image-reasons, the reasons whose attributes are left out")
    if options.true_reasons and not options.attributes:
        parser.error("--true-reasons: needs --attributes MODEL, which segments with them")
    if options.images < 1:
        parser.error(f"--images {options.images}: give a whole number, at least 1")
    return options


def body(options: argparse.Namespace) -> int:
    """Read, compute, report; returns the exit status."""
    register_all()
    register_modules(options.register)
    options.dataset = registered_name(options.dataset)
    if options.dataset not in DatasetCatalog.list():
        hint = did_you_mean(options.dataset, dataset_names())
        raise UserError(f"--dataset {options.dataset}: not registered{hint}; known are {', '.join(dataset_names())}")
    truth = Truth.of(options.dataset)
    lists = read_lists(options.image_reasons, truth) if options.image_reasons else None
    last = len(options.runs) - 1
    found = [diagnose(run, truth, lists if place == last else None) for place, run in enumerate(options.runs)]
    report: dict[str, Any] = {"dataset": truth.name, "runs": [each.figures for each in found]}
    if len(found) == 2:
        report["comparison"] = compare(found[0].counts, found[1].counts, truth.classes)
    if lists:
        report["lists"] = figures(lists)
        if len(found) == 2:
            report["lists"]["gain_by_recall"] = gain_by_recall(lists, image_gains(found[0].counts, found[1].counts))
    if lists and options.attributes:
        report |= attribute_figures(options, truth, lists)
    report = {"in_words": in_words(report), **report}
    if options.output:
        write_text(options.output, json.dumps(report, indent=1) + "\n")
    if options.page:
        write_page(report, truth, options.page, options.image_reasons)
    print(report["in_words"])
    return 0


def read_lists(folder: Path, truth: Truth, option: str = "--image-reasons") -> list[ImageList]:
    """The lists of classes of every image, beside what its ground truth shows.

    Raises:
        UserError, TripletError: see `read_list`; or the data set counts its background as one class.
    """
    if MetadataCatalog.get(truth.name).get("background") is not None:
        raise UserError(
            f"--image-reasons: the label maps of {truth.name} have one value for all classes of its background, which "
            "no list names; leave it out"
        )
    synonyms = registered_vocabulary(truth.name, "--dataset").synonyms
    found = []
    for record in truth.records:
        present = frozenset(np.unique(truth.labels(record)).tolist()) - {truth.ignore}
        found.append(read_list(folder, record["file_name"], synonyms, present))
    if all(one.listed is None for one in found):
        raise UserError(f"{option} {folder}: has no reasons for the images of {truth.name}")
    return found


def image_gains(first: Counts, second: Counts) -> list[float]:
    """Points of pixel accuracy by which each image is better in the second run."""
    pixels = np.maximum(first.true.sum(axis=1), 1)
    return (100 * (second.hits.sum(axis=1) - first.hits.sum(axis=1)) / pixels).tolist()


def attribute_figures(options: argparse.Namespace, truth: Truth, lists: Sequence[ImageList]) -> dict[str, Any]:
    """Over the first images: "attributes", the table of `ranked`; with --true-reasons "attributes given".

    Raises:
        UserError: see `maft.load_segmentor`.
    """
    segmentor = load_segmentor(options.attributes, options.weights, attributes=ATTRIBUTES)
    some = replace(truth, records=truth.records[: options.images])
    vocabulary = registered_vocabulary(truth.name, "--dataset")
    own = lists[: options.images]
    found: dict[str, Any] = {"attributes": ranked(list(effects(segmentor, some, vocabulary, own, ATTRIBUTES)))}
    if options.true_reasons:
        true = read_lists(options.true_reasons, some, "--true-reasons")
        found["attributes given"] = attributes_given(segmentor, some, vocabulary, own, true)
    return found


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = parse_arguments(words)
    return run_command(lambda: body(options), debug=options.debug)


if __name__ == "__main__":
    run_process(main)
