"""Command lines: what a user runs, one module each."""

import sys

if sys.argv[:1] == ["-m"]:  # `python -m tools.X`, whose imports take seconds; as a library, nothing happens here
    from reason.interrupts import leave_at_once

    leave_at_once()
