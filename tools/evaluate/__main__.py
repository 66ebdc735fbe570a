"""Score predictions of any origin with the evaluators that score this project's own.

    python -m tools.evaluate --predictions FOLDER --dataset openvocab_ade20k_sem_seg_val
    python -m tools.evaluate --predictions panoptic.json --dataset openvocab_ade20k_panoptic_val
    python -m tools.evaluate --predictions results.json --dataset openvocab_ade20k_instance_val

FOLDER holds a label map (PNG or TIFF, one channel, the class index of each pixel) per image, called like the image. A
panoptic JSON is COCO's, its PNG files in a folder beside it that is called like it, or in --folder. Instance results
are COCO's list of detections. Results go to OUTPUT/inference/DATASET, where `results_table` finds them.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog

from maft.data import dataset_names, register_all, register_modules, registered_name
from maft.errors import UserError, run_command, run_process
from maft.evaluation.journal import FOLDER as JOURNAL
from maft.evaluation.journal import exclusive
from maft.evaluation.provenance import hash_file, hash_folder
from maft.evaluation.results import results_folder, write_results
from maft.files import check_folder, user_path

from ..commands import command, described
from .kinds import LabelMaps, find_predictions
from .score import LABEL_SUFFIXES, score


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog=command("evaluate"), description=described(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--predictions", required=True, type=user_path, metavar="PATH", help="a folder or a JSON file")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a registered name, or a yaml file")
    parser.add_argument("--folder", type=user_path, help="where the PNG files of a panoptic JSON are")
    parser.add_argument("--output", type=user_path, help="default: out/evaluate/<name of the predictions>")
    parser.add_argument(
        "--first-class", type=int, default=0, metavar="N", help="value of the first class in label maps; default: 0"
    )
    parser.add_argument(
        "--register", nargs="*", default=[], metavar="MODULE", help="modules that register data sets of your own"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(words)


def body(options: argparse.Namespace) -> int:
    """Read, score, write; returns the exit status."""
    register_all()
    register_modules(options.register)
    dataset = registered_name(options.dataset)
    if dataset not in dataset_names():
        raise UserError(f"--dataset {dataset}: not registered; known are {', '.join(dataset_names())}")
    path: Path = options.predictions
    predictions = find_predictions(path, options.folder)
    output: Path = options.output or Path("out/evaluate") / (path.resolve().stem)
    check_folder("--output", output)
    folder = results_folder(output, dataset)
    if (folder / JOURNAL).is_dir():
        raise UserError(f"--output {output}: {folder} holds an evaluation of a model; choose another folder")
    records = DatasetCatalog.get(dataset)
    start = time.monotonic()
    with exclusive(folder):
        metrics = score(predictions, dataset, records, folder, first_class=options.first_class)
        if isinstance(predictions, LabelMaps):
            hashes = [hash_folder(path, f"**/*{suffix}") for suffix in LABEL_SUFFIXES]
        else:
            hashes = [hash_file(path)]
        evaluation = {
            "metrics": metrics,
            "images": {"total": len(records), "earlier_run": 0, "this_run": len(records)},
            "usage": {},
            "seconds": round(time.monotonic() - start, 3),
        }
        provenance = {"predictions": str(path), "fingerprint": {"predictions": " ".join(hashes)}}
        write_results(output, dataset, evaluation, provenance)
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = parse_arguments(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    return run_command(lambda: body(options), debug=options.debug)


if __name__ == "__main__":
    run_process(main)
