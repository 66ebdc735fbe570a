"""`python -m tools.segment`: see `tools.segment.cli`."""

from __future__ import annotations

from maft.errors import run_process


def command() -> int:
    """The command line, with the imports that take seconds."""
    from .cli import main

    return main()


if __name__ == "__main__":
    run_process(command)
