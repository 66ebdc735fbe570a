"""Draw the curves of trainings: losses, metrics and learning rate, as an image.

    python -m tools.plot out/train                          out/train/curves.png
    python -m tools.plot out/a out/b --output both.pdf      two runs in one figure; the suffix says the format

They are read from metrics.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maft.errors import UserError, run_command, run_process
from maft.files import replacing, user_errors, user_path

from .commands import command, described

METRICS = "metrics.json"
FORMATS = (".png", ".pdf", ".svg")
_NOT_LOSSES = frozenset(("iteration", "lr", "time", "data_time", "eta_seconds", "grad_norm"))
_SHOWN_LOSSES = 8
_SIZE = (11.0, 7.5)


@dataclass(frozen=True)
class Curves:
    """What one training logged.

    name: of its folder.
    lines: of metrics.json, in order.
    """

    name: str
    lines: tuple[Mapping[str, Any], ...]

    def points(self, key: str) -> tuple[list[int], list[float]]:
        """Iterations and values of a figure; what was not finite is left out."""
        found = [(line["iteration"], line[key]) for line in self.lines if isinstance(line.get(key), int | float)]
        return [iteration for iteration, _ in found], [float(value) for _, value in found]

    @property
    def losses(self) -> list[str]:
        """The losses of the last layer; those of inner layers end in a digit, and their sum is in the total."""
        keys = {key: None for line in self.lines if "total_loss" in line for key in line}
        return [key for key in keys if key not in _NOT_LOSSES | {"total_loss"} and not key[-1].isdigit()]

    @property
    def metrics(self) -> list[str]:
        """The metrics of evaluations, as "DATASET/METRIC"."""
        return list({key: None for line in self.lines for key in line if "/" in key})


def read_curves(folder: Path) -> Curves:
    """The log of a training.

    Args:
        folder: its OUTPUT_DIR.

    Raises:
        UserError: there is no log, or it has no line yet.
    """
    path = folder / METRICS
    if not path.is_file():
        raise UserError(f"{folder}: no {METRICS}; name the OUTPUT_DIR of a training")
    lines = []
    with user_errors(path):
        texts = path.read_text(encoding="utf-8").splitlines()
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except ValueError as error:
            if number == len(texts):  # a training is writing it
                continue
            raise UserError(f"{path}: line {number}: not JSON ({error})") from error
        if not isinstance(line, dict) or not isinstance(line.get("iteration"), int):
            raise UserError(f"{path}: line {number}: no 'iteration'; this is no log of a training")
        lines.append(line)
    if not lines:
        raise UserError(f"{path}: no line yet; the first comes after SOLVER.LOG_PERIOD steps")
    return Curves(folder.resolve().name, tuple(lines))


def draw(runs: Sequence[Curves], path: Path) -> Path:
    """Draw total loss, its parts, metrics and learning rate over the iterations.

    Args:
        runs: in the order of the legend.
        path: PNG, PDF or SVG, told by its suffix.

    Raises:
        UserError: another suffix, or the file cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--output {path}: end it in {', '.join(FORMATS)}")
    # Not pyplot, which chooses a window system and keeps figures alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    (total, parts), (metrics, rate) = figure.subplots(2, 2, sharex=True)
    for run in runs:
        total.plot(*run.points("total_loss"), label=run.name)
        rate.plot(*run.points("lr"), label=run.name)
        for key in run.losses[:_SHOWN_LOSSES]:
            parts.plot(*run.points(key), label=_label(key, run, runs))
        for key in run.metrics:
            metrics.plot(*run.points(key), marker="o", label=_label(key, run, runs))
    for axes, title in ((total, "total loss"), (parts, "losses"), (metrics, "evaluations"), (rate, "learning rate")):
        axes.set_title(title, loc="left")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines and (len(axes.lines) > 1 or axes is metrics):
            axes.legend(fontsize="small", frameon=False)
    if not metrics.lines:
        metrics.text(0.5, 0.5, "no evaluation yet", ha="center", transform=metrics.transAxes, color="grey")
    for axes in (metrics, rate):
        axes.set_xlabel("iteration")
    with replacing(path) as stream:
        figure.savefig(stream, format=path.suffix.lower()[1:], dpi=150)
    return path


def _label(key: str, run: Curves, runs: Sequence[Curves]) -> str:
    return key if len(runs) == 1 else f"{run.name}: {key}"


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        prog=command("plot"), description=described(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=user_path, metavar="OUTPUT_DIR", help="of a training")
    parser.add_argument("--output", type=user_path, help="default: curves.png in the first OUTPUT_DIR")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args(words)

    def body() -> None:
        runs = [read_curves(folder) for folder in arguments.folders]
        print(draw(runs, arguments.output or arguments.folders[0] / "curves.png"))

    return run_command(body, debug=arguments.debug)


if __name__ == "__main__":
    run_process(main)
