"""Write the example photographs into a folder, and say how to segment them.

python -m tools.examples [FOLDER]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from maft.errors import run_command, run_process
from reason.files import user_path

from ..commands import command, described
from .photographs import GENERIC_REASONS, IMAGE_REASONS, VOCABULARY, write_photographs


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        prog=command("examples"), description=described(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=user_path, default=Path("out/examples"), help="default: out/examples")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(words)

    def body() -> None:
        files = write_photographs(options.folder)
        vocabulary, generic, reasons = (os.path.relpath(path) for path in (VOCABULARY, GENERIC_REASONS, IMAGE_REASONS))
        print(f"{len(files)} photographs: {options.folder}\nTo segment them, with reasons written by hand:\n")
        print(f"    {command('segment')} {options.folder} --vocabulary {vocabulary} \\")
        print(f"        --generic {generic} --image-reasons {reasons}")

    return run_command(body, debug=options.debug)


if __name__ == "__main__":
    run_process(main)
