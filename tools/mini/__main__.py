"""The mini world: `prepare` draws it, `evaluate` runs every method on it, `report` writes the page again,
`ship-reasons` keeps the model's reasons in the repository, `figure` draws one image's comparison.

python -m tools.mini evaluate                       what bash eval_reason_base.sh mini calls
python -m tools.mini evaluate --model sed           SED alone
python -m tools.mini evaluate --reason              reasons made anew by the model, under vLLM
python -m tools.mini evaluate --observer-sweep      what if the reasons were better or worse
python -m tools.mini evaluate -- MODEL.WEIGHTS mine.pth
python -m tools.mini reasoning                       how well its model reasons, and what its errors cost
python -m tools.mini sed-designs                    SED's ways to use several attributes, compared
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from maft.errors import UserError, run_command, run_process
from maft.files import user_path

from ..commands import command, described


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    words = list(sys.argv[1:] if words is None else words)
    cut = words.index("--") if "--" in words else len(words)
    options = _parser().parse_args(words[:cut])

    def body() -> None:
        from .dataset import Layout, default_root, prepare

        if options.command == "prepare":
            for layout in prepare().values():
                print(layout.folder)
        elif options.command == "evaluate":
            from ..benchmarks import parse_overrides
            from .run import run

            try:
                overrides = parse_overrides(words[cut + 1 :])
            except ValueError as error:
                raise UserError(f"after --: {error}") from error
            run(
                options.output,
                overrides,
                resume=options.resume,
                sweep=options.observer_sweep,
                segmentor=options.model,
                reason=options.reason,
            )
        elif options.command == "reasoning":
            from .reasoning import reasoning

            layout = Layout(prepare(splits=("val",))["val"].root, "val", options.reasons)
            reasoning(layout, options.output, segment=not options.no_segmentor, resume=options.resume)
        elif options.command == "ship-reasons":
            from .shipped_reasons import pack

            print(pack(options.folder / "image" / "mini", options.folder / "generic.json"))
        elif options.command == "sed-designs":
            from .sed_designs import compare_designs

            compare_designs(options.weights, options.output, images=options.images, resume=options.resume)
        elif options.command == "figure":
            from .figure import draw_figure

            print(draw_figure(prepare(splits=("val",))["val"], options.image, options.file))
        else:
            from .report import write_report

            print(write_report(Layout(default_root(), "val"), options.output, options.output / "report.html"))

    return run_command(body, debug=options.debug)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    placed = argparse.ArgumentParser(add_help=False)
    placed.add_argument("--output", type=user_path, default=Path("out/mini"), help="default: out/mini")
    parser = argparse.ArgumentParser(
        prog=command("mini"), description=described(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare", parents=[common], help="draw training and validation images")
    evaluate = commands.add_parser(
        "evaluate", parents=[common, placed], help="evaluate, print the table, write the report"
    )
    evaluate.add_argument("--resume", action="store_true", help="reuse finished evaluations, too")
    evaluate.add_argument(
        "--model", choices=("maft", "sed"), help="MAFT+ or SED alone (default: both; MAFT+ if MODEL.WEIGHTS is given)"
    )
    evaluate.add_argument(
        "--reason", action="store_true", help="let the model write the reasons anew, under vLLM, in .venv-reason"
    )
    evaluate.add_argument(
        "--observer-sweep", action="store_true", help="also evaluate with simulated reasons of stated error rates"
    )
    judged = commands.add_parser(
        "reasoning", parents=[common], help="how well the model reasons, where it errs, what that costs the segmentor"
    )
    judged.add_argument("--reasons", type=user_path, help="a folder that --reason made (default: the shipped ones)")
    judged.add_argument("--no-segmentor", action="store_true", help="judge the reasons alone")
    judged.add_argument("--output", type=user_path, default=Path("out/mini_reasoning"), help="default: %(default)s")
    judged.add_argument("--resume", action="store_true", help="reuse finished evaluations")
    ship = commands.add_parser(
        "ship-reasons", parents=[common], help="keep reasons that --reason made in the repository"
    )
    ship.add_argument(
        "folder", nargs="?", type=user_path, default=Path("out/mini/reasons"), help="default: out/mini/reasons"
    )
    designs = commands.add_parser("sed-designs", parents=[common], help="evaluate SED's designs of reasons")
    designs.add_argument("weights", nargs="*", type=user_path, help="of several trainings (default: the shipped ones)")
    designs.add_argument("--images", type=int, default=120, help="evaluate on the first ones (default: all 120)")
    designs.add_argument("--output", type=user_path, default=Path("out/mini_designs"), help="default: out/mini_designs")
    designs.add_argument("--resume", action="store_true", help="reuse finished evaluations")
    figure = commands.add_parser("figure", parents=[common], help="draw an image, names only and with reasons, as PNG")
    figure.add_argument("--image", type=int, default=12, help="number of the validation image (default: 12)")
    figure.add_argument("--file", type=user_path, default=Path("docs/mini.png"), help="default: docs/mini.png")
    commands.add_parser("report", parents=[common, placed], help="write the page of what was evaluated")
    return parser


if __name__ == "__main__":
    run_process(main)
