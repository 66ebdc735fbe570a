"""Check this project against a golden folder: `python -m tools.parity FOLDER`.

Every entry of every case is compared: up to the logits within 1e-4 (norm of the difference over norm), results within
5e-4, arg-max and segment maps in at least 99.9% of the pixels, sentences, class indices and segments exactly. Exit
status 0 if all hold, 1 if one does not, 2 if the folder cannot be read. tests/golden/README.md describes the format.

With `--precision bfloat16` the networks run as under MODEL.PRECISION bfloat16. Nothing is held to a bound then: it
prints the largest relative error of each stage, and the part of the pixels whose class is the recorded one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from maft.data import register_all
from maft.errors import UserError, run_command

from .compare import Report, rounding
from .golden import read_cases, read_inputs
from .network import check_case
from .parts import part_checks
from .sed.parts import checks as sed_checks

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: argparse.Namespace) -> int:
    """Check every case and every part of the folder; print what was compared."""
    folder = Path(arguments.folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    register_all()
    if arguments.precision != "float32":
        return _show_rounding(folder, getattr(torch, arguments.precision))
    parts = part_checks(folder) + sed_checks(folder)
    of_parts = {name for name, _ in parts}
    cases = [case for case in read_cases(folder) if case.name not in of_parts]
    if not cases and not parts:
        raise UserError(f"{folder}: holds no case (<case>.npz beside <case>.json) and no part that this tool knows")
    reports: dict[str, Report] = {}
    for name, check in parts:
        reports[name] = _show(name, check(), arguments.quiet)
    for case in cases:
        reports[case.name] = _show(case.name, check_case(case, read_inputs(folder), ROOT), arguments.quiet)
    compared = sum(len(report.checks) for report in reports.values())
    failed = [name for name, report in reports.items() if report.failures]
    verdict = f"FAILED in {', '.join(failed)}" if failed else "all hold"
    print(f"{compared} comparisons in {len(reports)} cases and parts: {verdict}")
    return 1 if failed else 0


def _show_rounding(folder: Path, dtype: torch.dtype) -> int:
    cases = [case for case in read_cases(folder) if isinstance(case.facts.get("config"), str)]
    if not cases:
        raise UserError(f"{folder}: holds no case of a whole network; leave --precision out")
    for case in cases:
        report = check_case(case, read_inputs(folder), ROOT, dtype)
        print(f"== {case.name}, {str(dtype).removeprefix('torch.')}")
        for line in rounding(report):
            print(line, flush=True)
    return 0


def _show(name: str, report: Report, quiet: bool) -> Report:
    print(f"== {name}")
    for check in report.checks:
        if not quiet or not check.holds:
            print(check.line())
    print(f"{name}: {len(report.checks) - len(report.failures)} of {len(report.checks)} hold", flush=True)
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="golden folder")
    parser.add_argument("--quiet", action="store_true", help="print failing comparisons only")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the networks; bfloat16: say how far it is from the recorded float32",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of a user error")
    parsed = parser.parse_args()
    sys.exit(run_command(lambda: main(parsed), debug=parsed.debug))
