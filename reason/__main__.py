"""`python -m reason`: see `python -m reason --help`."""

from __future__ import annotations

import os
import sys


def run() -> None:
    """Run the command line and end the process with its exit status."""
    try:
        from reason.cli.main import main

        status = main()
    except KeyboardInterrupt:  # before the command had begun
        sys.stderr.write("interrupted\n")
        status = 130
    if status == 130:  # no waiting for the threads of libraries
        from reason.interrupts import end_children

        end_children()
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
