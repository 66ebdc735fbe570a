"""The training loop: forward, backward, step; checkpoints, evaluation and log in between.

A step is a function of the state that a checkpoint holds and of its number (see `maft.training.order`), so a run that
was killed ends like one that was not; on the CPU, bit for bit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from maft.errors import UserError
from maft.modeling.network import LearningNetwork
from maft.training.data import training_batches
from maft.training.events import Events
from maft.training.log import TrainingLog
from maft.training.optimizer import GradientClipper, build_optimizer, set_rate
from maft.training.order import torch_seed
from maft.training.schedule import Schedule
from maft.weights import saving as checkpoints
from maft.weights.loading import load_for_training

logger = logging.getLogger(__name__)

Batch = list[dict[str, Any]]
Evaluate = Callable[[int], Mapping[str, Any]]
"""From the number of finished steps to metrics by name; every process calls it, the main one gets the metrics."""


def train(
    cfg: CfgNode,
    model: LearningNetwork,
    *,
    resume: bool,
    evaluate: Evaluate | None = None,
    events: Events | None = None,
) -> None:
    """Train a model as SOLVER says; every process of a distributed run calls it.

    OUTPUT_DIR gets metrics.json, a checkpoint every SOLVER.CHECKPOINT_PERIOD steps, last_checkpoint, and
    model_final.pth in the end.

    Args:
        cfg: the whole configuration.
        model: what `build_network(cfg, training=True)` returns; it maps a list of inputs (see
            `maft.data.train_mapper.TrainingMapper`) to weighted losses by name.
        resume: continue from the last checkpoint in OUTPUT_DIR, if there is one.
        evaluate: what to do every TEST.EVAL_PERIOD steps, and in the end; None: nothing.
        events: where TensorBoard's events go; None: nowhere.

    Raises:
        UserError: weights or data are missing, the folder holds another training, or the loss diverges.
    """
    run = Run.start(cfg, model, resume=resume)
    log = TrainingLog(cfg.OUTPUT_DIR, cfg.SOLVER.MAX_ITER, run.iteration, events)
    evaluation = Evaluation(cfg, evaluate, log)
    if run.iteration and evaluation.due(run.iteration):
        # The run before was killed between its checkpoint and the end of the evaluation that belongs there.
        evaluation(run.iteration)
    data = _timed(training_batches(cfg, first=run.iteration))
    model.train()
    log.restart_clock()
    while run.iteration < cfg.SOLVER.MAX_ITER:
        log.add(*run.step(data))
        done = run.iteration
        final = done == cfg.SOLVER.MAX_ITER
        saving = final or done % cfg.SOLVER.CHECKPOINT_PERIOD == 0
        evaluating = evaluation.due(done)
        if saving or evaluating or done % cfg.SOLVER.LOG_PERIOD == 0:
            log.write(done, run.rate)
        if saving:
            run.save(final=final)
        if evaluating:
            evaluation(done)
        if saving or evaluating:
            log.restart_clock()


@dataclass
class Run:
    """Everything that changes while a model is trained."""

    cfg: CfgNode
    model: LearningNetwork
    network: LearningNetwork | DistributedDataParallel
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    clip: GradientClipper
    scaler: torch.amp.GradScaler
    precision: torch.dtype | None
    accumulate: int
    iteration: int = 0
    """Finished steps."""

    @classmethod
    def start(cls, cfg: CfgNode, model: LearningNetwork, *, resume: bool) -> Run:
        """A run at its first step, or where the last checkpoint of OUTPUT_DIR left it."""
        last = checkpoints.last(cfg.OUTPUT_DIR)
        if last and not resume:
            raise UserError(
                f"OUTPUT_DIR {cfg.OUTPUT_DIR}: holds a training already ({last.name}); add --resume to continue it, or "
                "choose another folder"
            )
        if resume and not last:
            logger.info("%s: no checkpoint to continue from, starting anew", cfg.OUTPUT_DIR)
        device = next(model.parameters()).device
        precision = _precision(cfg, device)
        run = cls(
            cfg,
            model,
            model,
            build_optimizer(cfg, model),
            Schedule.from_config(cfg),
            GradientClipper.from_config(cfg),
            torch.amp.GradScaler(device.type, enabled=precision == torch.float16),
            precision,
            cfg.SOLVER.ACCUMULATE,
        )
        if last:
            run.restore(checkpoints.load(last), str(last))
        else:
            load_for_training(model, cfg.MODEL.WEIGHTS)
        if comm.get_world_size() > 1:
            devices = [device] if device.type == "cuda" else None
            run.network = DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
        parts = ", ".join(f"{len(group['params'])} at {group['base_lr']:g}" for group in run.optimizer.param_groups)
        logger.info(
            "training %s: %d images a step; parameters: %s", type(model).__name__, cfg.SOLVER.IMS_PER_BATCH, parts
        )
        return run

    @property
    def rate(self) -> float:
        """The learning rate of the last step, outside the backbone."""
        return float(self.cfg.SOLVER.BASE_LR * self.schedule.factor(max(self.iteration - 1, 0)))

    def step(self, data: Iterator[tuple[Batch, float]]) -> tuple[dict[str, Tensor], float]:
        """One step of the optimiser, over `accumulate` micro-batches.

        Returns:
            The losses (means over the micro-batches), "total_loss" and "grad_norm", left on the device; seconds that
            the data took.
        """
        set_rate(self.optimizer, self.schedule.factor(self.iteration))
        self.optimizer.zero_grad(set_to_none=True)
        losses: dict[str, Tensor] = {}
        seconds = 0.0
        for part in range(self.accumulate):
            batch, waited = next(data)
            seconds += waited
            for name, value in self._backward(batch, part).items():
                losses[name] = losses[name] + value if name in losses else value
        self.scaler.unscale_(self.optimizer)
        norm = self.clip(parameter for group in self.optimizer.param_groups for parameter in group["params"])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.iteration += 1
        return {"total_loss": torch.stack(list(losses.values())).sum(), **losses, "grad_norm": norm}, seconds

    def _backward(self, batch: Batch, part: int) -> dict[str, Tensor]:
        """Add the gradients of one micro-batch; its losses, detached, as its share of the step."""
        number = (self.iteration * self.accumulate + part) * comm.get_world_size() + comm.get_rank()
        torch.manual_seed(torch_seed(self.cfg.SEED, number))
        device = next(self.model.parameters()).device
        last = part == self.accumulate - 1
        # Gradients are averaged over the processes once a step, with the last micro-batch.
        alone: AbstractContextManager[None] = nullcontext()
        if isinstance(self.network, DistributedDataParallel) and not last:
            alone = self.network.no_sync()
        with alone:
            with torch.autocast(device.type, dtype=self.precision, enabled=self.precision is not None):
                try:
                    losses = self.network(batch)
                except FloatingPointError as error:
                    raise UserError(
                        f"training: after {self.iteration} steps {error}; continue from the last checkpoint with "
                        "--resume and a lower SOLVER.BASE_LR, or SOLVER.AMP.ENABLED False"
                    ) from error
            shares = {name: value / self.accumulate for name, value in losses.items()}
            self.scaler.scale(torch.stack(list(shares.values())).sum()).backward()
        return {name: value.detach() for name, value in shares.items()}

    def save(self, *, final: bool) -> None:
        """Write a checkpoint, on the main process."""
        if comm.is_main_process():
            content = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "iteration": self.iteration,
                "processes": comm.get_world_size(),
                "config": self.cfg.dump(),
            }
            checkpoints.save(self.cfg.OUTPUT_DIR, content, final=final, keep=self.cfg.SOLVER.KEEP_CHECKPOINTS)
        comm.synchronize()

    def restore(self, content: Mapping[str, Any], where: str) -> None:
        """Continue from the content of a checkpoint.

        Raises:
            UserError: it is of another model.
        """
        state, groups = content["optimizer"], self.optimizer.state_dict()["param_groups"]
        names, saved = ([name for group in g for name in group["names"]] for g in (groups, state["param_groups"]))
        try:
            self.model.load_state_dict(content["model"])
        except RuntimeError as error:
            raise UserError(
                f"{where}: of another model ({str(error).splitlines()[-1].strip()}); see MODEL keys"
            ) from error
        if names != saved:
            raise UserError(f"{where}: trains other parameters, or in other groups; keep the MODEL and SOLVER keys")
        # Rates and decays are the configuration's; only the moments are the checkpoint's.
        self.optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
        if self.scaler.is_enabled() and content["scaler"]:
            self.scaler.load_state_dict(content["scaler"])
        self.iteration = int(content["iteration"])
        logger.info("continuing after step %d of %d from %s", self.iteration, self.cfg.SOLVER.MAX_ITER, where)
        changed = checkpoints.changed_keys(content["config"], self.cfg.dump())
        if content["processes"] != comm.get_world_size():
            changed.append(f"processes: {content['processes']} -> {comm.get_world_size()}")
        if changed:
            logger.warning("the run goes on otherwise than it began: %s", "; ".join(changed))


class Evaluation:
    """When to evaluate, and what becomes of the metrics."""

    def __init__(self, cfg: CfgNode, evaluate: Evaluate | None, log: TrainingLog) -> None:
        self.period, self.steps = cfg.TEST.EVAL_PERIOD, cfg.SOLVER.MAX_ITER
        self.evaluate, self.log = evaluate, log

    def due(self, iteration: int) -> bool:
        """Whether an evaluation belongs behind step `iteration` and is not done."""
        if self.evaluate is None or not (iteration == self.steps or (self.period > 0 and iteration % self.period == 0)):
            return False
        return not self.log.evaluated(iteration)

    def __call__(self, iteration: int) -> None:
        """Evaluate, and write the metrics into the log."""
        assert self.evaluate is not None
        logger.info("evaluation after %d steps", iteration)
        self.log.write_evaluation(iteration, self.evaluate(iteration))


def _precision(cfg: CfgNode, device: torch.device) -> torch.dtype | None:
    """What autocast computes in; None for float32 throughout."""
    amp = cfg.SOLVER.AMP
    if amp.DTYPE not in ("float16", "bfloat16"):
        raise UserError(f"SOLVER.AMP.DTYPE: '{amp.DTYPE}' is not one of float16, bfloat16")
    if not amp.ENABLED:
        return None
    if device.type == "cpu" and amp.DTYPE == "float16":
        logger.warning("SOLVER.AMP: without effect on the CPU, which has no fast float16: training in float32")
        return None
    return torch.float16 if amp.DTYPE == "float16" else torch.bfloat16


def _timed(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """Batches with the seconds that one waited for them."""
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - start
