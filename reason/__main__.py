"""`python -m reason`: see `python -m reason --help`."""

from __future__ import annotations

import sys

from reason.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
