"""Collect finished evaluations into one table beside the published figures.

    python -m tools.results_table out/                            Markdown on the terminal
    python -m tools.results_table out/ --output results.html      md, tex, csv or html, told by the ending
    python -m tools.results_table out/ other/ --format csv        several folders; the format named

Every results.json below the folders is taken. Missing cells are marked, unfinished evaluations are mentioned, figures
of random stand-in weights are marked as meaningless, and every figure says what it was made with. Exit status: 0; 2 for
a folder that is not there or a file that cannot be written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence

from maft.errors import UserError, run_command, run_process
from maft.files import user_path, write_text

from ..commands import described
from .collect import collect
from .html_page import html
from .latex import latex
from .plain import comma_separated, markdown
from .table import Report, build

FORMATS: Mapping[str, Callable[[Report], str]] = {"md": markdown, "tex": latex, "csv": comma_separated, "html": html}


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="results_table", description=described(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=user_path, metavar="FOLDER", help="where evaluations lie")
    parser.add_argument("--format", choices=tuple(FORMATS), help="default: the ending of --output, else md")
    parser.add_argument("--output", type=user_path, metavar="FILE", help="default: the terminal")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(words)


def chosen_format(options: argparse.Namespace) -> str:
    """The format that is asked for.

    Raises:
        UserError: the output's ending names none.
    """
    if options.format or options.output is None:
        return options.format or "md"
    ending = options.output.suffix.removeprefix(".")
    if ending not in FORMATS:
        raise UserError(f"--output {options.output}: end it in .{', .'.join(FORMATS)}, or name the --format")
    return ending


def body(options: argparse.Namespace) -> int:
    """Collect, lay out, write; returns the exit status."""
    render = FORMATS[chosen_format(options)]
    collection = collect(options.folders)
    text = render(build(collection))
    if options.output is None:
        sys.stdout.write(text)
        return 0
    write_text(options.output, text)
    print(
        f"{options.output}: {len(collection.results)} results, {len(collection.unfinished)} unfinished evaluations, "
        f"{len(collection.problems)} files left out"
    )
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    options = parse_arguments(words)
    return run_command(lambda: body(options), debug=options.debug)


if __name__ == "__main__":
    run_process(main)
