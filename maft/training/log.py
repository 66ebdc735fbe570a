"""The log of a training: metrics.json, one JSON object a line, and lines for people with the time that is left."""

from __future__ import annotations

import json
import logging
import math
import resource
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor, distributed

from maft.errors import UserError
from maft.evaluation.metrics import main_figures
from maft.files import user_errors, write_text
from maft.training.events import Events

logger = logging.getLogger(__name__)

FILE = "metrics.json"
ESTIMATED_AFTER = 5
"""Steps after which the length of a training is estimated."""


class TrainingLog:
    """Collects losses where they were computed, and writes their means now and then.

    Lines have "iteration" (finished steps), "total_loss" and every loss as means since the line before, "grad_norm"
    (before clipping), "lr" (outside the backbone), "time" and "data_time" (seconds a step), "eta_seconds"; lines of
    evaluations "iteration" and the metrics. What is not finite reads null.

    Args:
        folder: OUTPUT_DIR.
        steps: length of the training.
        start: steps that are finished already; later lines of an interrupted run are removed.
        events: get the same lines, for TensorBoard; None: nobody does.

    Raises:
        UserError: the file cannot be written, or see `Events.begin`.
    """

    def __init__(self, folder: str | Path, steps: int, start: int, events: Events | None = None) -> None:
        self.path, self.steps, self.start = Path(folder) / FILE, steps, start
        self.main = comm.is_main_process()
        self.lines = _kept_lines(self.path, start) if self.main else []
        self.events = events if self.main else None
        if self.main:
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in self.lines))
        if self.events:
            self.events.begin(start)
        self._losses: list[dict[str, Tensor]] = []
        self._data_seconds = 0.0
        self._since, self._began = time.perf_counter(), 0.0
        self._added = 0
        self._estimated = False
        self._first_step_ended = 0.0

    def evaluated(self, iteration: int) -> bool:
        """Whether an evaluation after `iteration` steps is in the log."""
        here = any(line["iteration"] == iteration and "total_loss" not in line for line in self.lines)
        return bool(comm.all_gather(here)[0])

    def add(self, losses: Mapping[str, Tensor], data_seconds: float) -> None:
        """Remember the losses of one step: detached scalars, left where they are."""
        self._losses.append(dict(losses))
        self._data_seconds += data_seconds
        if not self._estimated:
            self._estimate()

    def _estimate(self) -> None:
        """Say once, after a few steps, how long the training takes and which memory; the first step is not typical."""
        self._added += 1
        if self._added == 1:
            self._first_step_ended = time.perf_counter()
        elif self._added == ESTIMATED_AFTER:
            self._estimated = True
            seconds = (time.perf_counter() - self._first_step_ended) / (ESTIMATED_AFTER - 1)
            left = self.steps - self.start - ESTIMATED_AFTER
            if left > 0:
                logger.info(
                    "%d steps are left: about %s at %.3g s each, evaluations and checkpoints not counted; memory: %s",
                    left,
                    timedelta(seconds=round(left * seconds)),
                    seconds,
                    _memory(),
                )

    def write(self, iteration: int, rate: float) -> None:
        """Write the means of what was added, over all processes. Nothing added: nothing written.

        Args:
            iteration: finished steps.
            rate: learning rate of the last one.

        Raises:
            UserError: a loss is not a number any more, or the file cannot be written.
        """
        if not self._losses:
            return
        means = _means(self._losses)
        seconds = time.perf_counter() - self._since
        count = len(self._losses)
        if not math.isfinite(means["total_loss"]):
            raise UserError(
                f"training: the loss became {means['total_loss']} in the {count} steps before {iteration + 1}; "
                "continue from the last checkpoint with --resume and a lower SOLVER.BASE_LR or SOLVER.AMP.ENABLED False"
            )
        # Evaluations and checkpoints in between count: they come again.
        left = (time.perf_counter() - self._began) / max(iteration - self.start, 1) * (self.steps - iteration)
        line = {
            "iteration": iteration,
            **means,
            "lr": rate,
            "time": round(seconds / count, 5),
            "data_time": round(self._data_seconds / count, 5),
            "eta_seconds": round(left, 1),
        }
        self._append(line)
        logger.info("%s", _for_people(line, self.steps))
        self.restart_clock()

    def restart_clock(self) -> None:
        """Begin a new line here; what else was done meanwhile does not count as time of steps."""
        self._losses.clear()
        self._data_seconds = 0.0
        self._since = time.perf_counter()
        # From the first step on: what was prepared before does not come again.
        self._began = self._began or self._since

    def write_evaluation(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Write the metrics of an evaluation after `iteration` steps."""
        self._append({"iteration": iteration, **metrics})

    def _append(self, line: dict[str, Any]) -> None:
        if not self.main:
            return
        line = {key: _number(value) for key, value in line.items()}
        self.lines.append(line)
        with user_errors(self.path), self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, allow_nan=False) + "\n")
        if self.events:
            self.events.add(line)


def _kept_lines(path: Path, start: int) -> list[dict[str, Any]]:
    """The lines of an earlier run up to its step `start`; a line that a kill cut off is none."""
    if not start or not path.is_file():
        return []
    kept = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if line["iteration"] <= start:
            kept.append(line)
    return kept


def _means(losses: list[dict[str, Tensor]]) -> dict[str, float]:
    names = list(losses[0])
    table = torch.stack([torch.stack([step[name].float() for name in names]) for step in losses]).mean(0)
    if comm.get_world_size() > 1:
        distributed.all_reduce(table)
        table /= comm.get_world_size()
    return dict(zip(names, table.tolist(), strict=True))


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _for_people(line: Mapping[str, Any], steps: int) -> str:
    """One line of text; the losses of the decoder's inner layers are in the total only."""
    eta = timedelta(seconds=round(line["eta_seconds"]))
    losses = [
        f"{name} {value:.4g}"
        for name, value in line.items()
        if (name.endswith("loss") or name.startswith("loss_")) and not name[-1].isdigit()
    ]
    memory = f"  memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if torch.cuda.is_available() else ""
    return (
        f"eta {eta}  iteration {line['iteration']}/{steps}  {'  '.join(losses)}  grad_norm {line['grad_norm']:.3g}  "
        f"time {line['time']:.3f} s  data_time {line['data_time']:.3f} s  lr {line['lr']:.3g}{memory}"
    )


def _memory() -> str:
    """The most memory that this process has held so far."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    on_gpu = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of the GPU's, " if torch.cuda.is_available() else ""
    return f"{on_gpu}{resident:.1f} GiB of the machine's, in this process"


def flat_metrics(evaluations: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The main metrics of several data sets, by "<data set>/<metric>".

    Args:
        evaluations: data set to what `maft.evaluation.loop.evaluate` returned.
    """
    flat: dict[str, float] = {}
    for dataset, evaluation in evaluations.items():
        for task, metrics in evaluation["metrics"].items():
            flat |= {f"{dataset}/{key}": value for key, value in main_figures(task, metrics).items()}
    return flat
