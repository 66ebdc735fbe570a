"""The command line that detectron2's users know, and what happens first in a run."""

import argparse
import os
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from tabulate import tabulate

import detectron2
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger

_EXAMPLE = "example: {} --config-file FILE --num-gpus 4 MODEL.WEIGHTS FILE.pth DATALOADER.NUM_WORKERS 2"


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """The parser of detectron2's flags; the rest lands in `opts`, KEY VALUE pairs. `epilog` replaces the example."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(epilog=epilog or _EXAMPLE.format(sys.argv[0]), formatter_class=style)
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="yaml file with the configuration")
    add("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR, if there is one")
    add("--eval-only", action="store_true", help="evaluate, do not train")
    add("--num-gpus", type=int, default=1, help="processes (one a GPU) on this machine")
    add("--num-machines", type=int, default=1, help="machines in the run")
    add("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    # One port a user, always the same: a run that was left behind shows by the port being taken.
    port = 49152 + os.getuid() % 16384
    add("--dist-url", default=f"tcp://127.0.0.1:{port}", help="where the processes meet (torch.distributed)")
    add("opts", nargs=argparse.REMAINDER, default=None, help="KEY VALUE pairs that change the configuration")
    return parser


def _environment() -> str:
    """What this process runs on, as a table."""
    rows = [
        ("Python", sys.version),
        ("detectron2", f"{detectron2.__version__} @{os.path.dirname(detectron2.__file__)}"),
    ]
    rows += [(package, version(package)) for package in ("torch", "numpy", "pillow", "fvcore", "iopath")]
    rows += [("GPU", torch.cuda.get_device_name(k)) for k in range(torch.cuda.device_count())] or [("GPU", "none")]
    return tabulate(rows)


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Start a run: logging to OUTPUT_DIR, environment, arguments and configuration in the log, config.yaml, seeds.

    Read are OUTPUT_DIR, SEED (negative: random; each rank adds its number), CUDNN_BENCHMARK (not with `eval_only`) and
    FLOAT32_PRECISION ("": left alone) of the configuration, `config_file` and `eval_only` of the command line.
    """
    rank, output_dir = comm.get_rank(), cfg.OUTPUT_DIR or None
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir, distributed_rank=rank)
    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", _environment())
    logger.info("Command line arguments: %s", args)
    if getattr(args, "config_file", ""):
        with PathManager.open(args.config_file, "r") as file:
            logger.info("Contents of args.config_file=%s:\n%s", args.config_file, file.read())
    if output_dir and comm.is_main_process():
        logger.info("Running with full config:\n%s", cfg.dump())
        PathManager.mkdirs(output_dir)
        aside = Path(output_dir, f".config.yaml.{os.getpid()}")
        aside.write_text(cfg.dump(), encoding="utf-8")
        logger.info("Full config saved to %s", aside.replace(Path(output_dir, "config.yaml")))

    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not getattr(args, "eval_only", False):  # it pays only where many inputs have one size
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if cfg.FLOAT32_PRECISION and torch.cuda.is_available():
        logger.info("Float32 precision: %s", cfg.FLOAT32_PRECISION)
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)
        torch.backends.cudnn.allow_tf32 = cfg.FLOAT32_PRECISION != "highest"
