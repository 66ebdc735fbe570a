"""From the official archives of a data set, or their unpacked folders, to the files that are evaluated.

    python -m tools.prepare_datasets --list                               what is needed, from where, under what terms
    python -m tools.prepare_datasets --download ade150                    fetch what may be fetched freely
    python -m tools.prepare_datasets ade150 ade847 --from ~/downloads     prepare
    python -m tools.prepare_datasets voc20 --from VOCtrainval_11-May-2012.tar --root /data/datasets

It can be interrupted at any time, in whatever way; the same command goes on where it stopped. Archives are read in
place, not unpacked. Exit status: 0; 2 if a data set could not be prepared; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from maft.data.locate import datasets_root
from maft.errors import USER_ERRORS, UserError, one_line, run_command, run_process
from maft.files import user_path

from ..commands import command, described
from .engine import execute, spool_folder
from .listing import run_download, run_list
from .pool import Pool
from .registry import NAMES, PlanFunction, plan_function

SPLITS = ("train", "val")
ARCHIVES = "archives"
"""Folder below the data-set root where downloads go, and where archives are looked for if none are given."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; its help is the module's docstring."""
    parser = argparse.ArgumentParser(
        prog=command("prepare_datasets"),
        description=described(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"data sets: {', '.join(NAMES)}")
    parser.add_argument(
        "--from",
        dest="sources",
        nargs="+",
        action="extend",
        type=user_path,
        metavar="PATH",
        help=f"archives, their unpacked folders, or a folder of archives (default: {ARCHIVES}/ below the root)",
    )
    parser.add_argument("--root", type=user_path, help="data-set root (default: DETECTRON2_DATASETS, or datasets)")
    parser.add_argument("--workers", type=int, help="processes (default: the number of cores)")
    parser.add_argument("--split", choices=SPLITS, help="only this split (default: both, as far as they are given)")
    parser.add_argument("--list", action="store_true", help="say what is needed for the data sets named, or for all")
    parser.add_argument("--json", action="store_true", help="with --list: for programs")
    parser.add_argument("--download", action="store_true", help="fetch the archives that need no registration")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser.parse_args(arguments)


def carry_out(arguments: argparse.Namespace) -> int:
    """Carry out the command line; see the module."""
    root = arguments.root if arguments.root is not None else datasets_root()
    if arguments.list:
        return run_list(arguments.names, as_json=arguments.json)
    if arguments.download:
        status = run_download(arguments.names, root / ARCHIVES)
        print(f"the archives are in {root / ARCHIVES}, which is looked into if no --from is given")
        return status
    if not arguments.names:
        raise UserError(f"name the data sets to prepare: {', '.join(NAMES)}; --list says what each needs")
    for name in arguments.names:
        plan_function(name)  # a name that is not known is what is wrong, whatever else is
    workers = arguments.workers if arguments.workers is not None else len(os.sched_getaffinity(0))
    if workers < 1:
        raise UserError(f"--workers {workers}: at least one is needed")
    splits = (arguments.split,) if arguments.split else SPLITS
    return prepare(arguments.names, _sources(arguments.sources, root), root, splits, workers, arguments.debug)


def _sources(given: Sequence[Path] | None, root: Path) -> list[Path]:
    if given:
        return list(given)
    if not (root / ARCHIVES).is_dir():
        raise UserError(f"give the archives or their unpacked folders with --from, or put them into {root / ARCHIVES}")
    return [root / ARCHIVES]


def prepare(
    names: Sequence[str], sources: Sequence[Path], root: Path, splits: Sequence[str], workers: int, debug: bool = False
) -> int:
    """Prepare data sets one after the other; one that cannot be does not keep the others from it.

    Raises:
        UserError: an unknown name (before anything is done), or what went wrong with each that could not be prepared.
    """
    functions = {name: plan_function(name) for name in names}
    with spool_folder(root) as spool:
        pool = Pool(sources, spool)
        pool.sources()  # what is hostile or cut off stops everything
        failed = _prepare_each(functions, pool, root, splits, workers, debug)
    if failed:
        raise UserError("; ".join(failed))
    return 0


def _prepare_each(
    functions: Mapping[str, PlanFunction], pool: Pool, root: Path, splits: Sequence[str], workers: int, debug: bool
) -> list[str]:
    """What went wrong, one line for each data set that could not be prepared."""
    failed = []
    for name, function in functions.items():
        try:
            plan = function(pool, root, splits)
            for note in plan.notes:
                print(f"{name}: {note}")
            summary = execute(plan, root, workers=workers, sources=pool.given, debug=debug)
        except USER_ERRORS as error:
            if debug:
                raise
            failed.append(f"{name}: {one_line(error)}")
        else:
            print(
                f"{name}: {root / plan.base}: {summary.made} files made ({summary.written / 1e6:.1f} MB), "
                f"{summary.found} were there"
            )
    return failed


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = parse_arguments(words)
    try:
        return run_command(lambda: carry_out(arguments), debug=arguments.debug)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    run_process(main)
