"""Evaluating or training in as many processes as asked for: what train_net.py calls."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import distributed

from maft.config import build_config
from maft.errors import USER_ERROR_STATUS, run_command
from maft.files import check_folder, locked
from maft.meta_arch import MAFT_Plus, build_network, text_parts
from maft.meta_arch.vocabularies import registered_vocabulary
from maft.resources import config_file
from maft.run import (
    build_evaluator,
    check_datasets,
    check_inputs,
    check_weights,
    choose_device,
    evaluate_all,
    register_datasets,
    say_vocabularies,
    show,
)
from maft.training.checks import check_training
from maft.training.events import Events, Shown
from maft.training.log import flat_metrics
from maft.training.loop import train
from maft.weights.clip import check_file
from maft.weights.loading import build_for_evaluation
from maft.weights.saving import FINAL
from reason.interrupts import STATUS, deaf_children

LOCK = ".training.lock"
"""Held in OUTPUT_DIR by the first process of a training."""
_FILE_OF_CONFIG = ("Contents of args.config_file=",)
_WHOLE_CONFIG = "Running with full config:"
"""How detectron2's messages begin that repeat the config."""

INTERRUPTED = "interrupted; what was finished is on disk, and the same command with --resume continues"


def parse_arguments(words: Sequence[str] | None = None, description: str | None = None) -> argparse.Namespace:
    """The reference's flags, and `--debug`."""
    parser = default_argument_parser(description)
    parser.add_argument("--debug", action="store_true", help="show the traceback of a user error")
    return parser.parse_args(words)


def run(cfg: CfgNode, arguments: argparse.Namespace) -> None:
    """Everything that one process does."""
    # Once more: processes that detectron2's launch spawns start without the parent's registrations.
    register_datasets(cfg)
    _keep_config_off_the_screen(cfg)
    default_setup(cfg, arguments)
    setup_logger(output=cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="maft")
    setup_logger(output=cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="reason")
    say_vocabularies(cfg, *(("TEST",) if arguments.eval_only else ("TRAIN", "TEST")))
    if arguments.eval_only:
        model = build_for_evaluation(partial(build_network, cfg), cfg.MODEL.WEIGHTS)
        show(evaluate_all(cfg, model, arguments.config_file, resume=arguments.resume))
        return

    model = build_network(cfg, training=True)
    events = Events(cfg.OUTPUT_DIR, cfg.SOLVER.WANDB_PROJECT, cfg.dump())
    evaluate = partial(evaluate_now, cfg, arguments.config_file, model, events) if cfg.DATASETS.TEST else None
    try:
        train(cfg, model, resume=arguments.resume, evaluate=evaluate, events=events)
    finally:
        events.close()


def evaluate_now(cfg: CfgNode, config_file: str, model: MAFT_Plus, events: Events, iteration: int) -> dict[str, float]:
    """The metrics of a model in training, after `iteration` steps; the first images are shown among the events."""
    at, final = cfg.clone(), iteration == cfg.SOLVER.MAX_ITER
    at.defrost()
    if final:
        at.MODEL.WEIGHTS = str(Path(cfg.OUTPUT_DIR, FINAL))
    else:
        at.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR, "evaluations", f"{iteration:07d}"))
    shown = Shown(build_evaluator, lambda dataset: registered_vocabulary(dataset, "DATASETS.TEST").palette)
    number = None if final else iteration
    evaluations = evaluate_all(at, model, config_file, resume=final, iteration=number, evaluator=shown.evaluator)
    show(evaluations)
    shown.hand_to(events, iteration)
    return flat_metrics(evaluations)


def _keep_config_off_the_screen(cfg: CfgNode) -> None:
    """Let the log file alone have the configuration, once: five hundred lines, which are in config.yaml as well."""
    # The same call as in default_setup, which gets this logger then.
    detectron2 = setup_logger(cfg.OUTPUT_DIR or None, distributed_rank=comm.get_rank())
    for handler in detectron2.handlers:
        in_file = isinstance(handler, logging.FileHandler)
        handler.addFilter(_WithoutConfig(_FILE_OF_CONFIG if in_file else (*_FILE_OF_CONFIG, _WHOLE_CONFIG)))


class _WithoutConfig(logging.Filter):
    """Drops the records that begin in one of these ways."""

    def __init__(self, beginnings: tuple[str, ...]) -> None:
        super().__init__()
        self._beginnings = beginnings

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self._beginnings)


def run_spawned(cfg: CfgNode, arguments: argparse.Namespace) -> None:
    """`run`, in a process of detectron2's launch or torchrun: a user error ends it with one line and status 2."""
    try:
        status = run_command(lambda: run(cfg, arguments), debug=arguments.debug, interrupted="")
    except KeyboardInterrupt:  # --debug
        status = STATUS
    if status:
        # Not sys.exit: the clean-up of a process group waits for ranks that wait for this one.
        sys.stderr.flush()
        os._exit(status)


def run_under_torchrun(cfg: CfgNode, arguments: argparse.Namespace) -> None:
    """`run` as one of the processes that torchrun started."""
    local_rank = int(os.environ["LOCAL_RANK"])
    if cfg.MODEL.DEVICE != "cpu":
        torch.cuda.set_device(local_rank)
    distributed.init_process_group("gloo" if cfg.MODEL.DEVICE == "cpu" else "nccl")
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()
    run_spawned(cfg, arguments)
    distributed.destroy_process_group()


def check_training_inputs(cfg: CfgNode) -> None:
    """Find out what a training lacks before the network is built.

    Raises:
        UserError: a data set is not known or not there, MODEL.WEIGHTS names no file, or see `check_training`.
    """
    check_datasets(cfg, "TRAIN", "TEST")
    check_training(cfg)
    check_folder("OUTPUT_DIR", cfg.OUTPUT_DIR)
    if cfg.MODEL.WEIGHTS:
        check_weights(cfg)
    else:
        text = text_parts(cfg)
        check_file(text.clip_weights, text.clip_key)


def main(arguments: argparse.Namespace) -> int:
    """Check what the user gave, then run it in as many processes as asked for.

    Args:
        arguments: of `parse_arguments`.

    Returns:
        The exit status.

    Raises:
        UserError: see `maft.config.build_config`, `maft.run` and `maft.training`.
    """
    cfg = build_config(arguments.config_file, arguments.opts)
    arguments.config_file = str(config_file(arguments.config_file))
    register_datasets(cfg)
    under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    processes = choose_device(cfg, int(os.environ["LOCAL_WORLD_SIZE"]) if under_torchrun else arguments.num_gpus)
    if arguments.eval_only:
        check_inputs(cfg)
    else:
        check_training_inputs(cfg)
    cfg.freeze()
    with ExitStack() as held:
        if not arguments.eval_only and int(os.environ.get("RANK", arguments.machine_rank)) == 0:
            busy = "another training is writing here; wait for it, or choose another OUTPUT_DIR"
            held.enter_context(locked(Path(cfg.OUTPUT_DIR, LOCK), busy))
        return start(cfg, arguments, processes)


def start(cfg: CfgNode, arguments: argparse.Namespace, processes: int) -> int:
    """`run` in `processes` processes of this machine; the exit status."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        run_under_torchrun(cfg, arguments)
    elif processes * arguments.num_machines > 1:
        try:
            # The ranks would each speak of Ctrl-C, in tracebacks while they import; they are ended with this process.
            resource_tracker.ensure_running()  # started in between, it would open their ears again
            with deaf_children():
                launch(
                    run_spawned,
                    processes,
                    num_machines=arguments.num_machines,
                    machine_rank=arguments.machine_rank,
                    dist_url=arguments.dist_url,
                    args=(cfg, arguments),
                )
        except torch.multiprocessing.ProcessExitedException as error:
            if error.exit_code == STATUS:
                raise KeyboardInterrupt from error
            if error.exit_code != USER_ERROR_STATUS:
                raise
            return USER_ERROR_STATUS
    else:
        run(cfg, arguments)
    return 0
