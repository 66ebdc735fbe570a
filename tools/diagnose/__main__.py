"""Say where mIoU is lost, and whether two runs differ, from saved label maps.

    python -m tools.diagnose out/A --dataset NAME
    python -m tools.diagnose out/A out/B --dataset NAME --output diagnosis.json

A and B are folders that train_net.py (with TEST.SAVE_PREDICTIONS True) or tools.evaluate has written to. A paragraph of
plain words goes to the terminal; the JSON file holds all figures, in both definitions of mIoU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from tqdm import tqdm

from maft.data import dataset_names, register_all, register_modules
from maft.errors import UserError, run_command
from maft.evaluation.evaluators import prediction_names
from maft.evaluation.metrics import unique_names
from maft.evaluation.results import results_folder
from maft.files import read_label_map, user_path, write_text

from ..commands import command, described
from .counts import Counts, confusion, count, with_true_classes, with_true_masks
from .scores import DEFINITIONS, costly_confusions, paired_bootstrap, whole

SHOWN = 20


def diagnose(run: Path, dataset: str) -> tuple[dict[str, Any], Counts]:
    """Figures of one run, and the per-image counts that a comparison needs.

    Raises:
        UserError: predictions or label maps are missing, or are of other classes or sizes.
    """
    metadata = MetadataCatalog.get(dataset)
    records: list[Mapping[str, Any]] = DatasetCatalog.get(dataset)
    if not all(record.get("sem_seg_file_name") for record in records):
        raise UserError(f"--dataset {dataset}: has no label maps; diagnose compares label maps")
    classes = unique_names(metadata.get("short_names", metadata.stuff_classes))
    folder = results_folder(run, dataset) / "sem_seg"
    if not folder.is_dir():
        raise UserError(f"{folder}: no saved predictions; evaluate with TEST.SAVE_PREDICTIONS True")
    names = prediction_names([record["file_name"] for record in records])
    size, ignore = len(classes), metadata.ignore_label
    total = np.zeros((size, size), dtype=np.int64)
    parts: dict[str, list[Counts]] = {"as it is": [], "classes given": [], "masks right": []}
    for record in tqdm(records, unit="image"):
        path = folder / f"{names[record['file_name']]}.png"
        predicted, label = read_label_map(path, size, -1), read_label_map(record["sem_seg_file_name"], size, ignore)
        if predicted.shape != label.shape:
            raise UserError(f"{path}: has another size than {record['sem_seg_file_name']}; predict at that size")
        plain = confusion(predicted, label, size, ignore)
        total += plain
        parts["as it is"].append(count([plain]))
        for name, oracle in (("classes given", with_true_classes), ("masks right", with_true_masks)):
            parts[name].append(count([confusion(oracle(predicted, label, ignore), label, size, ignore)]))
    joined = {name: _joined(each) for name, each in parts.items()}
    now = joined["as it is"]
    figures = {name: whole(each) for name, each in joined.items()}
    gains = {name: {key: figures[name][key] - figures["as it is"][key] for key in DEFINITIONS} for name in figures}
    confusions = [
        {**entry, "predicted": classes[entry["predicted"]], "true": classes[entry["true"]]}
        for entry in costly_confusions(total, SHOWN)
    ]
    del gains["as it is"]
    return {"run": str(run), "mIoU": figures["as it is"], "oracles_add": gains, "confusions": confusions}, now


def _joined(parts: Sequence[Counts]) -> Counts:
    return Counts(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("hits", "true", "predicted")))


def compare(first: Counts, second: Counts, classes: Sequence[str]) -> dict[str, Any]:
    """The paired bootstrap as JSON-able values."""
    overall, rows = paired_bootstrap(first, second)
    named = [{**row, "class": classes[row["class"]]} for row in rows]
    return {"mIoU": {name: asdict(difference) for name, difference in overall.items()}, "classes": named}


def in_words(report: Mapping[str, Any]) -> str:
    """The report as a paragraph."""
    sentences = []
    for run in report["runs"]:
        scores = " and ".join(f"{run['mIoU'][name]:.2f} ({name})" for name in DEFINITIONS)
        gains = {name: added["mIoU_present"] for name, added in run["oracles_add"].items()}
        sentences.append(
            f"{run['run']} has mIoU {scores}. With its own regions and the right classes it would have "
            f"{gains['classes given']:+.2f} points of mIoU_present, with the right regions and its own classes "
            f"{gains['masks right']:+.2f}."
        )
        if run["confusions"]:
            worst = run["confusions"][0]
            sentences.append(
                f"Its costliest confusion takes {worst['true']} for {worst['predicted']}: "
                f"{worst['mIoU_present']:.2f} points."
            )
    if "comparison" in report:
        found = report["comparison"]["mIoU"]["mIoU_present"]
        sure = "differ" if found["low"] > 0 or found["high"] < 0 else "cannot be told apart on these images"
        kept = [row["class"] for row in report["comparison"]["classes"] if row["holds_up"]]
        sentences.append(
            f"The second minus the first is {found['value']:+.2f} points of mIoU_present, 95% interval "
            f"{found['low']:+.2f} to {found['high']:+.2f}: the runs {sure}. "
            f"Classes whose difference holds up: {', '.join(kept) or 'none'}."
        )
    return " ".join(sentences)


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog=command("diagnose"), description=described(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=user_path, metavar="OUTPUT_DIR", help="one run, or two to compare")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a registered data set with label maps")
    parser.add_argument("--output", type=user_path, metavar="FILE", help="where the JSON goes; default: nowhere")
    parser.add_argument("--register", nargs="*", default=[], metavar="MODULE", help="modules that register data sets")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(words)


def body(options: argparse.Namespace) -> int:
    """Read, reckon, tell; returns the exit status."""
    if len(options.runs) > 2:
        raise UserError(f"{len(options.runs)} runs: name one, or two to compare")
    register_all()
    register_modules(options.register)
    if options.dataset not in DatasetCatalog.list():
        raise UserError(f"--dataset {options.dataset}: not registered; known are {', '.join(dataset_names())}")
    found = [diagnose(run, options.dataset) for run in options.runs]
    report: dict[str, Any] = {"dataset": options.dataset, "runs": [figures for figures, _ in found]}
    if len(found) == 2:
        metadata = MetadataCatalog.get(options.dataset)
        classes = unique_names(metadata.get("short_names", metadata.stuff_classes))
        report["comparison"] = compare(found[0][1], found[1][1], classes)
    report = {"in_words": in_words(report), **report}
    if options.output:
        write_text(options.output, json.dumps(report, indent=1) + "\n")
    print(report["in_words"])
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = parse_arguments(words)
    return run_command(lambda: body(options), debug=options.debug)


if __name__ == "__main__":
    sys.exit(main())
