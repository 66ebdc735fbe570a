"""`python -m tools.photos prepare` writes the photographs as a data set; `report` makes a page of evaluations."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from maft.errors import run_command
from tools.photos.prepare import ROOT_VARIABLE, default_root, prepare
from tools.photos.report import write_report


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = _parser().parse_args(arguments)
    root = options.root or default_root()

    def body() -> None:
        if options.command == "prepare":
            print(prepare(root).root)
        else:
            print(write_report(root, options.out_dirs, options.output or options.out_dirs[0] / "report.html"))

    return run_command(body, debug=options.debug)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--root", type=Path, help=f"folder of the prepared photographs; else ${ROOT_VARIABLE}, else {default_root()}"
    )
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser = argparse.ArgumentParser(prog="python -m tools.photos", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare", parents=[common], help="write photographs, labels and triplets")
    report = commands.add_parser("report", parents=[common], help="write one HTML page of evaluations")
    report.add_argument("out_dirs", nargs="+", type=Path, metavar="OUT_DIR", help="OUTPUT_DIR of an evaluation")
    report.add_argument("--output", type=Path, help="the page; default: report.html in the first OUT_DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())
