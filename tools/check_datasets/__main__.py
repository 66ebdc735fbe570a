"""Check prepared data sets: are all files there, do they belong together, and are their labels what they have to be.

    python -m tools.check_datasets                    every data set that is found
    python -m tools.check_datasets pc459 voc20        these, as prepare_datasets calls them
    python -m tools.check_datasets openvocab_ade20k_sem_seg_val
    python -m tools.check_datasets ade847 --sample 200 --json

Looked at are: labels without image and images without label, unreadable and cut-off files, sizes of image and label,
pixel type and value range, ids outside the vocabulary, 16-bit labels that were clipped to 8 bits, segment ids and areas
of panoptic data, boxes and masks of instances, and how many images and classes there are against the published numbers.
A published number that could not be verified only gives a note. For a miniature or a part of a data set leave the
comparison with published numbers out: --no-counts.

Of a name of prepare_datasets at least one split has to be there; of a registered name, that one. Exit status: 0 all is
well; 1 something is wrong or a data set that was named is not there; 2 wrong use, or no data set at all; 130
interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from maft.data import dataset_spec, datasets_root, register_file
from maft.data.locate import status_of
from maft.data.specs import BUILTIN, DatasetSpec, counted_classes
from maft.errors import UserError, run_command, run_process
from maft.files import user_path
from reason.datasetfile import is_dataset_file
from reason.vocabulary import Vocabulary, load_vocabulary

from ..commands import described
from ..dataset_facts import DATASETS
from .annotated import check_instance_set, check_panoptic_set
from .findings import Findings, table
from .semantic import Options, check_label_maps

_SPECS = {spec.name: spec for spec in BUILTIN}


def check_dataset(name: str, spec: DatasetSpec, options: Options, vocabulary: Vocabulary | None = None) -> Findings:
    """Check one registered data set.

    Args:
        name: of `prepare_datasets`, for the report.
        spec: what to check.
        options: how.
        vocabulary: the classes; by default those that `spec` names.

    Returns:
        the report; one that is not there says where it was looked for.
    """
    vocabulary = counted_classes(vocabulary or load_vocabulary(spec.vocabulary), spec.background)
    classes = len(vocabulary.thing_indices) if spec.kind == "instances" else len(vocabulary)
    report = Findings(name, spec.name, classes)
    status = status_of(spec, options.root)
    if status.paths is None:
        report.there, report.looked_at = False, list(status.looked_at)
    elif spec.kind == "semantic":
        check_label_maps(report, spec, status.paths, vocabulary, options)
    elif spec.kind == "panoptic":
        check_panoptic_set(report, spec, status.paths, vocabulary, options)
    else:
        check_instance_set(report, spec, status.paths, vocabulary, options)
    return report


def check(names: Sequence[str], options: Options) -> list[Findings]:
    """Check the data sets named; all if none is.

    Returns:
        a report for every split; of data sets that were named by their short name only the splits that are there,
        unless none is.

    Raises:
        UserError: an unknown name, or no name was given and no data set is there.
    """
    reports: list[Findings] = []
    for name in names or DATASETS:
        if is_dataset_file(name):
            own = register_file(name)
            reports.append(_required(check_dataset(own.name, dataset_spec(own.name), options, own.vocabulary)))
            continue
        if name in _SPECS:
            reports.append(_required(check_dataset(_short(name), _SPECS[name], options)))
            continue
        if name not in DATASETS:
            known = ", ".join(DATASETS)
            raise UserError(f"data set {name!r}: unknown; choose from {known}, or give a name as in DATASETS.TEST")
        splits = [check_dataset(name, _SPECS[split.dataset], options) for split in DATASETS[name].splits]
        if names and not any(report.there for report in splits):
            _required(splits[0])
            reports.append(splits[0])
        else:
            reports += [report for report in splits if report.there or not names]
    if not any(report.there for report in reports) and not names:
        raise UserError(
            f"{options.root}: no data set in it; name the folder by --root or DETECTRON2_DATASETS, and see "
            "python -m tools.prepare_datasets --list for what to bring"
        )
    return reports


def _required(report: Findings) -> Findings:
    """A report in which absence is a fault."""
    if not report.there:
        report.problem("not there", *report.looked_at, count=1)
        report.looked_at = []
    return report


def _short(dataset: str) -> str:
    """The name in prepare_datasets of what a registered data set is made by; its own where there is none."""
    for facts in DATASETS.values():
        if any(split.dataset == dataset for split in facts.splits):
            return facts.name
    return dataset


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="check_datasets", description=described(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(DATASETS)}, a registered name, or a yaml file"
    )
    parser.add_argument("--root", type=user_path, help="of the data sets (default: DETECTRON2_DATASETS, or datasets)")
    parser.add_argument("--sample", type=int, metavar="N", help="look into N files of each data set, evenly spread")
    parser.add_argument("--no-counts", action="store_true", help="do not compare with published numbers")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")
    parser.add_argument("--json", action="store_true", help="reports for programs, on standard output")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    arguments = parse_arguments(words)

    def body() -> int:
        for option in ("sample", "workers"):
            value = getattr(arguments, option)
            if value is not None and value < 1:
                raise UserError(f"--{option} {value}: give a number of at least 1")
        root = arguments.root or datasets_root()
        if not root.is_dir() and not (arguments.names and all(map(is_dataset_file, arguments.names))):
            raise UserError(f"{root}: no such folder; name it by --root or DETECTRON2_DATASETS")
        options = Options(root, arguments.sample, not arguments.no_counts, arguments.workers)
        reports = check(arguments.names, options)
        wrong = any(report.problems for report in reports)
        if arguments.json:
            print(json.dumps({"ok": not wrong, "reports": [report.as_json() for report in reports]}, indent=1))
        else:
            print(table(reports))
        return int(wrong)

    try:
        return run_command(body, debug=arguments.debug)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    run_process(main)
