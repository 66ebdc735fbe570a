"""Probes of runs: flags, set-up, processes, logging, seeds, evaluators."""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.data.samplers import InferenceSampler
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, inference_context, print_csv_format
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from detectron2.utils.memory import retry_if_cuda_oom
from probe import outcome
from torch import nn


def probe_flags(folder: Path) -> Any:
    lines = (
        [],
        ["--config-file", "a.yaml", "--eval-only", "--num-gpus", "4", "MODEL.WEIGHTS", "w.pth", "SEED", "-1"],
        ["--resume", "--num-machines", "2", "--machine-rank", "1", "--dist-url", "tcp://host:1", "A.B", "--c"],
    )
    return [dict(sorted(vars(default_argument_parser().parse_args(line)).items())) for line in lines]


def _drawn() -> list[Any]:
    return [random.random(), float(np.random.rand()), torch.rand(2)]


def probe_seeds(folder: Path) -> Any:
    seed_all_rng(11)
    return _drawn()


def probe_setup(folder: Path) -> Any:
    torch.backends.cudnn.benchmark = False
    results = []
    for name, eval_only in (("train", False), ("eval", True)):
        cfg = get_cfg()
        cfg.OUTPUT_DIR = str(folder / name / "deep")
        cfg.SEED, cfg.CUDNN_BENCHMARK = 5, True
        cfg.DATASETS.TEST = ("a", "b")
        (folder / "in.yaml").write_text("VERSION: 2\nSEED: 5\n", encoding="utf-8")
        cfg.freeze()
        default_setup(cfg, argparse.Namespace(config_file=str(folder / "in.yaml"), eval_only=eval_only))
        saved = get_cfg()
        saved.merge_from_file(f"{cfg.OUTPUT_DIR}/config.yaml")
        log = Path(cfg.OUTPUT_DIR, "log.txt").read_text(encoding="utf-8")
        results.append(
            [
                _drawn(),
                torch.backends.cudnn.benchmark,
                str(saved) == str(cfg),
                sorted(file.name for file in Path(cfg.OUTPUT_DIR).iterdir()),
                [word in log for word in ("Rank of current process: 0", "Environment info", "a.yaml", "in.yaml")],
            ]
        )
        torch.backends.cudnn.benchmark = False
    for name in ("detectron2", "fvcore"):
        logging.getLogger(name).handlers.clear()
    return results


def _without_time(text: str) -> list[str]:
    return re.sub(r"\d\d/\d\d \d\d:\d\d:\d\d", "TIME", text).splitlines()


def probe_loggers(folder: Path) -> Any:
    logger = setup_logger(str(folder), name="probed")
    same = setup_logger(str(folder), name="probed") is logger
    logging.getLogger("probed.part").warning("a warning")
    logger.debug("a word")
    setup_logger(str(folder / "named.log"), distributed_rank=2, name="ranked").error("an error")
    setup_logger(None, name="silent", abbrev_name="s")
    return (
        same,
        [len(logging.getLogger(name).handlers) for name in ("probed", "ranked", "silent")],
        [logging.getLogger(name).propagate for name in ("probed", "ranked")],
        {file.name: _without_time(file.read_text(encoding="utf-8")) for file in sorted(folder.iterdir())},
    )


def probe_screen_lines(folder: Path) -> Any:
    """What standard output gets, with and without colour, root name shortened."""
    lines = []
    for color in (True, False):
        for abbreviation in (None, "p", ""):
            name = f"screen{color}{abbreviation}"
            logger = setup_logger(None, name=name, color=color, abbrev_name=abbreviation)
            formatter = logger.handlers[0].formatter
            for level in (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
                record = logging.LogRecord(f"{name}.part", level, "f", 1, "said %d", (3,), None)
                lines += _without_time(formatter.format(record))
    return lines


def probe_paths(folder: Path) -> Any:
    PathManager.mkdirs(str(folder / "a" / "b"))
    with PathManager.open(str(folder / "a" / "file.txt"), "w") as file:
        file.write("text")
    return (
        PathManager.isfile(str(folder / "a" / "file.txt")),
        PathManager.isdir(str(folder / "a")),
        PathManager.exists(str(folder / "nothing")),
        sorted(PathManager.ls(str(folder / "a"))),
        Path(PathManager.get_local_path(str(folder / "a"))).name,
    )


def probe_csv_lines(folder: Path) -> Any:
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("detectron2")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    results: Any = OrderedDict(sem_seg={"mIoU": 12.345678, "IoU-cat": 1.0, "fwIoU": 3}, other=0.5)
    results["panoptic_seg"] = OrderedDict(PQ=float("nan"), SQ=100.0)
    print_csv_format(results)
    print_csv_format({})
    logger.removeHandler(handler)
    return messages, outcome(lambda: print_csv_format([1]))


class _Counting(DatasetEvaluator):
    def __init__(self, task: str | None) -> None:
        self.task, self.seen = task, 0

    def reset(self) -> None:
        self.seen = 0

    def process(self, inputs: Any, outputs: Any) -> None:
        self.seen += len(inputs)

    def evaluate(self) -> Any:
        return None if self.task is None else {self.task: {"seen": self.seen}}


def probe_evaluators(folder: Path) -> Any:
    both = DatasetEvaluators([_Counting("b"), _Counting(None), _Counting("a")])
    both.process([1], [1])
    both.reset()
    both.process([1, 2], [1, 2])
    nothing = DatasetEvaluator()
    model = nn.Sequential(nn.Dropout())
    modes = []
    for training in (True, False):
        model.train(training)
        with inference_context(model):
            modes.append([model.training, model[0].training])
        modes.append([model.training, model[0].training])
    return (
        dict(both.evaluate()),
        [nothing.reset(), nothing.process([], []), nothing.evaluate()],
        outcome(lambda: DatasetEvaluators([_Counting("a"), _Counting("a")]).evaluate()),
        modes,
    )


def probe_out_of_memory(folder: Path) -> Any:
    results = []
    for failures, message in (
        (0, ""),
        (1, "CUDA out of memory. Tried"),
        (2, "CUDA out of memory. "),
        (3, "CUDA out of memory. "),
        (1, "other"),
    ):
        calls: list[Any] = []

        def compute(value: Any, *, calls: list[Any] = calls, failures: int = failures, message: str = message) -> Any:
            calls.append(value)
            if len(calls) <= failures:
                raise RuntimeError(message)
            return value * 2

        results.append([outcome(lambda compute=compute: retry_if_cuda_oom(compute)(4)), len(calls)])
    return results


def probe_world_of_one(folder: Path) -> Any:
    comm.synchronize()
    scalar = {"loss": torch.tensor(2.0)}
    np.random.seed(4)
    return (
        [comm.get_rank(), comm.get_world_size(), comm.get_local_rank(), comm.get_local_size(), comm.is_main_process()],
        [comm.all_gather("x"), comm.gather("x"), comm.reduce_dict(scalar) is scalar, int(comm.shared_random_seed())],
    )


def _worker(folder: str, names: str) -> None:
    rank = comm.get_rank()
    np.random.seed(rank)
    comm.synchronize()
    losses = {"b": torch.tensor(float(rank)), "a": torch.tensor(10.0 * rank)}
    mean, total = comm.reduce_dict(losses), comm.reduce_dict(losses, average=False)
    found = {
        "place": [rank, comm.get_world_size(), comm.get_local_rank(), comm.get_local_size(), comm.is_main_process()],
        "all": comm.all_gather({"rank": rank, "name": names}),
        "first": comm.gather(rank),
        "second": comm.gather(rank, dst=1),
        "seed": int(comm.shared_random_seed()),
        "mean": {key: float(value) for key, value in mean.items()} if rank == 0 else None,
        "total": {key: float(value) for key, value in total.items()} if rank == 0 else None,
        "share": list(InferenceSampler(5)),
        "again": outcome(lambda: comm.create_local_process_group(1)),
    }
    Path(folder, f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    comm.synchronize()
    # Not the ordinary end: on a busy machine Gloo's threads now and then abort a Python process that finalises.
    os._exit(0)


def probe_two_processes(folder: Path) -> Any:
    launch(_worker, 2, dist_url="auto", args=(str(folder), "n"))
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


def _note(folder: str, word: str) -> None:
    Path(folder, word).write_text(str(comm.get_world_size()), encoding="utf-8")


def _fail() -> None:
    raise ValueError("a worker fails")


def probe_one_process(folder: Path) -> Any:
    launch(_note, 1, args=(str(folder), "one"))
    launch(_note, 0, args=(str(folder), "none"))
    failing = outcome(lambda: launch(_fail, 1)), outcome(lambda: launch(_fail, 2, 2, dist_url="auto"))
    return failing, {file.name: file.read_text(encoding="utf-8") for file in sorted(folder.iterdir())}
