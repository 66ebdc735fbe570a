"""`python -m tools.run_benchmarks`: see `tools.benchmarks_run`."""

from __future__ import annotations

from maft.errors import run_process


def command() -> int:
    """The command line, with the imports that take seconds."""
    from .benchmarks_run import main

    return main()


if __name__ == "__main__":
    run_process(command)
