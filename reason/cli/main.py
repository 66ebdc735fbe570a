"""The entry of the command line; a command's module is imported only when it is the one."""

from __future__ import annotations

import argparse
import importlib
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from reason.cli.manual import MANUAL
from reason.errors import run_command
from reason.suggest import did_you_mean

COMMANDS = {
    "image": "reason.cli.image",
    "generic": "reason.cli.generic",
    "check": "reason.cli.check",
    "status": "reason.cli.status",
    "score": "reason.score",
    "show": "reason.show",
}
"""Command -> module with `add_arguments(parser)` and `run(arguments) -> int`."""


class _Parser(argparse.ArgumentParser):
    """Errors of the command line are one line, like all others."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"error: {message}; {self.prog} --help says more\n")


class _Help(argparse.HelpFormatter):
    """Room for the names of long options, and defaults where they are said."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m reason` and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        (sys.stdout if words else sys.stderr).write(MANUAL)
        return 0 if words else 2
    if words[0] not in COMMANDS:
        hint = did_you_mean(words[0], COMMANDS)
        sys.stderr.write(f"error: {words[0]}: no such command{hint}; there are {', '.join(COMMANDS)}\n")
        return 2
    module = importlib.import_module(COMMANDS[words[0]])
    parser = _Parser(prog=f"{_typed()} {words[0]}", formatter_class=_Help, allow_abbrev=False)
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show tracebacks and what the libraries log")
    parsed = parser.parse_args(words[1:])
    _set_up_logging(parsed.debug)
    return run_command(lambda: module.run(parsed), debug=parsed.debug)


def _typed() -> str:
    """What stands before the command's name in what the user typed, for the usage line to say the same."""
    called = Path(sys.argv[0])
    if called.name in ("__main__.py", "-m", "-c", ""):
        return f"{_short(Path(sys.executable))} -m reason"
    return called.name


def _short(path: Path) -> str:
    """The interpreter as it is called from here: ".venv-reason/bin/python", or its name if it is the usual one."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return "python" if shutil.which("python") == str(path) else str(path)


def _set_up_logging(debug: bool) -> None:
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("reason").setLevel(logging.DEBUG if debug else logging.INFO)
