"""Put the published weights into pretrained/, checked by their content.

    python -m tools.fetch_weights                       the three checkpoints, from Google Drive
    python -m tools.fetch_weights base pano             these two
    python -m tools.fetch_weights clip-base             CLIP, for training only: each checkpoint holds it already
    python -m tools.fetch_weights --from a.pth b.pth    from files: which is which is told by what they hold
    python -m tools.fetch_weights --check a.pth         only say what a file holds; without FILE, those in pretrained/
    python -m tools.fetch_weights --list                what there is, what is in place, where it comes from

A download that broke off goes on where it stopped. What is in place already is checked, not fetched again. A file gets
its place only after its entries were found to have the names and shapes of the model that its config builds. Exit
status: 0, or 2 if anything asked for is missing or not what it should be.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from maft.errors import USER_ERROR_STATUS, UserError, one_line, run_command, run_process
from maft.files import user_path

from ..assets import checkpoint_problem
from ..commands import described
from . import transfer
from .catalogue import CATALOGUE, DEFAULT, Checkpoint, Weights, by_hand, default_folder, in_place
from .check import Identified, identify

INTERRUPTED = 130


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="fetch_weights", description=described(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(CATALOGUE)}; default: {' '.join(DEFAULT)}"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--from", dest="sources", nargs="+", type=user_path, metavar="FILE", help="take these files")
    what.add_argument(
        "--check", dest="checked", nargs="*", type=user_path, metavar="FILE", help="only check these files"
    )
    what.add_argument("--list", action="store_true", help="list what there is and what is in place")
    parser.add_argument("--folder", type=user_path, default=default_folder(), help="default: pretrained/")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(words)


def chosen(names: Sequence[str], default: Iterable[str]) -> list[Weights]:
    """The entries that were named, or the default ones.

    Raises:
        UserError: a name is unknown.
    """
    for name in names:
        if name not in CATALOGUE:
            raise UserError(f"'{name}': no such weights; choose from {', '.join(CATALOGUE)}")
    return [CATALOGUE[name] for name in dict.fromkeys(names or default)]


def fetch(entry: Weights, folder: Path) -> Identified:
    """Make sure that an entry is in place, downloading it where it is not.

    Raises:
        UserError: it could not be fetched, or what arrived is something else (which is kept beside the downloads).
    """
    earlier = in_place(entry, folder)
    if earlier is not None:
        try:
            return identify(earlier, [entry])
        except UserError as error:
            print(
                f"{one_line(error)}\n  another one is fetched; this file is kept aside once that has arrived",
                flush=True,
            )
    if not isinstance(entry, Checkpoint):
        return identify(transfer.from_hub(entry), [entry])
    with transfer.incoming_folder(folder) as incoming:
        arrived = transfer.download(entry, incoming)
        try:
            found = identify(arrived, [entry])
        except UserError as error:
            kept = transfer.set_aside(arrived, ".rejected")
            raise UserError(f"{error}; what arrived is kept as {kept}; {by_hand(entry)}") from error
        if earlier is not None:
            print(f"{earlier} is now {transfer.set_aside(earlier, '.set-aside')}")
        target = folder / entry.file
        os.replace(arrived, target)
    return Identified(target, found.weights, found.entries, found.teacher, found.size, found.checksums)


def take(source: Path, candidates: Sequence[Weights], folder: Path) -> Identified:
    """Copy a file into its place, after finding out what it holds.

    Raises:
        UserError: it is none of the candidates, or cannot be copied.
    """
    found = identify(source, candidates)
    target = folder / found.weights.file
    if source.suffix == ".safetensors" or not isinstance(found.weights, Checkpoint):
        target = target.with_suffix(source.suffix)
    if not (target.exists() and target.samefile(source)):
        if target.exists():
            print(f"{target} is now {transfer.set_aside(target, '.set-aside')}")
        transfer.copy_into_place(source, target)
    return Identified(target, found.weights, found.entries, found.teacher, found.size, found.checksums)


def how_to_use(found: Identified) -> str:
    """What to do with a file that is not where the configs look; "" where nothing is to be done."""
    if not isinstance(found.weights, Checkpoint):
        key = "MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS"
        local = found.path.stem == Path(found.weights.file).stem
        return f"  for {found.weights.use}: {key} {found.path if local else found.weights.tag}"
    if found.path.name != found.weights.file:
        return f"  to evaluate with it: MODEL.WEIGHTS {found.path}"
    return ""


def each(tasks: Iterable[Callable[[], Identified]], *, debug: bool) -> int:
    """Do one after the other, print what became of each, and go on after an error; returns the exit status."""
    status = 0
    for task in tasks:
        try:
            found = task()
            print("\n".join(line for line in (f"ok: {found}", how_to_use(found)) if line), flush=True)
        except UserError as error:
            if debug:
                raise
            sys.stderr.write(f"error: {one_line(error)}\n")
            status = USER_ERROR_STATUS
    return status


def list_all(folder: Path) -> None:
    """Print what there is, what is in place, and where it comes from."""
    for entry in CATALOGUE.values():
        place = in_place(entry, folder)
        state = "not in place" if place is None else checkpoint_problem(place) or "in place (--check looks inside)"
        print(f"{entry.name}: {place or folder / entry.file}: {state}\n  for {entry.use}\n  {entry.url}")


def body(options: argparse.Namespace) -> int:
    """Do what the options say; returns the exit status."""
    folder: Path = options.folder
    if options.list:
        list_all(folder)
        return 0
    if options.sources:
        candidates = chosen(options.names, CATALOGUE)
        sources = [source.absolute() for source in options.sources]
        return each((partial(take, source, candidates, folder) for source in sources), debug=options.debug)
    if options.checked is not None:
        candidates = chosen(options.names, CATALOGUE)
        paths = options.checked or [place for entry in candidates if (place := in_place(entry, folder))]
        if not paths:
            raise UserError(f"{folder}: none of {', '.join(entry.file for entry in candidates)} is there to check")
        return each((partial(identify, path, candidates) for path in paths), debug=options.debug)
    return each((partial(fetch, entry, folder) for entry in chosen(options.names, DEFAULT)), debug=options.debug)


def main(words: Sequence[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    options = parse_arguments(words)
    try:
        return run_command(lambda: body(options), debug=options.debug)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on where it stopped\n")
        return INTERRUPTED


if __name__ == "__main__":
    run_process(main)
