"""The commands of the segmentor: `python -m tools COMMAND` in a checkout, `openseg-r COMMAND` from a wheel."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from reason.interrupts import leave_at_once
from reason.suggest import did_you_mean

from .commands import INSTALLED

COMMANDS = {
    "segment": ("segment.cli", "segment your own images by your own classes"),
    "demo": ("demo.__main__", "a web page to try images, classes and reasons of your own"),
    "examples": ("examples.__main__", "write photographs to try it on, with reasons written by hand"),
    "doctor": ("doctor", "what is active here, what is missing, and how to get it"),
    "fetch-weights": ("fetch_weights.__main__", "download the published checkpoints, or check files"),
    "prepare-datasets": ("prepare_datasets.__main__", "from official archives to what is evaluated"),
    "check-datasets": ("check_datasets.__main__", "are the data sets complete and their labels right"),
    "extract-text-features": ("extract_text_features", "encode the sentences of reasons ahead of time"),
    "results-table": ("results_table.__main__", "results beside the published ones: Markdown, LaTeX, CSV, HTML"),
    "evaluate": ("evaluate.__main__", "score predictions of any origin against a data set"),
    "diagnose": ("diagnose.__main__", "where mIoU is lost, and whether two runs differ"),
    "plot": ("plot", "the curves of trainings as an image"),
    "figure": ("figure", "image, ground truth and results of runs side by side, for a paper"),
    "mini": ("mini.__main__", "measure names against reasons in a small drawn world"),
}
"""Command -> module in this folder with `main(words) -> status`, and what it does. Imported when it is called."""

PROGRAM = "openseg-r" if INSTALLED else "python -m tools"


def manual() -> str:
    """The list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items()]
    return f"usage: {PROGRAM} COMMAND ...\n\n" + "\n".join(lines) + f"\n\n{PROGRAM} COMMAND --help says more.\n"


def main(words: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    if words is None:  # a process of its own, also as a wheel's script: what a command imports takes seconds
        leave_at_once()
    words = list(sys.argv[1:] if words is None else words)
    if not words or words[0] in ("-h", "--help", "help"):
        (sys.stdout if words else sys.stderr).write(manual())
        return 0 if words else 2
    name = words[0].replace("_", "-")
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        sys.stderr.write(f"error: {words[0]}: no such command{hint}; {PROGRAM} --help lists them\n")
        return 2
    try:
        return int(importlib.import_module(f".{COMMANDS[name][0]}", __package__).main(words[1:]))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "maft", "reason", "tools", "openseg_r"):  # a fault of ours, not something to install
            raise
        sys.stderr.write(f"error: {PROGRAM} {name} needs {package}, {_way_out(package)}\n")
        return 2


def _way_out(package: str) -> str:
    if package == "detectron2":
        return "which is on no package index: use a checkout and its install.sh, or install it from its source"
    return "which is not installed: pip install 'openseg-r[eval]'" if INSTALLED else "which is missing: bash install.sh"


if __name__ == "__main__":
    sys.exit(main())
