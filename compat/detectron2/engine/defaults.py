"""The command line that detectron2's users know, and what happens first in a run."""

from __future__ import annotations

import argparse
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from tabulate import tabulate

import detectron2
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger

__all__ = ["default_argument_parser", "default_setup"]

_EXAMPLES = """
one machine, 4 GPUs:   {program} --config-file FILE --num-gpus 4
change some keys:      {program} --config-file FILE MODEL.WEIGHTS FILE.pth DATALOADER.NUM_WORKERS 2
two machines:          {program} --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT ...
                       {program} --num-machines 2 --machine-rank 1 --dist-url tcp://HOST:PORT ...
"""


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """The parser of detectron2's flags; everything after them lands in `opts`, as KEY VALUE pairs.

    Args:
        epilog: shown at the end of --help; default: examples.
    """
    parser = argparse.ArgumentParser(
        epilog=epilog or _EXAMPLES.format(program=sys.argv[0]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="yaml file with the configuration")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR, if any")
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes (one a GPU) on this machine")
    parser.add_argument("--num-machines", type=int, default=1, help="machines in the run")
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    # One port a user, always the same: a run that was left behind shows by the port being taken.
    user = os.getuid() if hasattr(os, "getuid") else 1
    parser.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{49152 + hash(user) % 16384}",
        help="where the processes meet, as torch.distributed's init_method",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, default=None, help="KEY VALUE pairs that change keys")
    return parser


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _environment() -> str:
    """What this process runs on, as a table."""
    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    rows = [
        ("platform", sys.platform),
        ("Python", sys.version.replace("\n", "")),
        ("detectron2", f"{detectron2.__version__} @{os.path.dirname(detectron2.__file__)}"),
        ("torch", f"{torch.__version__} (CUDA {torch.version.cuda}, {torch.get_num_threads()} threads)"),
        ("GPUs", ", ".join(gpus) or "none"),
        *((package, _installed(package)) for package in ("torchvision", "numpy", "pillow", "fvcore", "iopath")),
    ]
    return tabulate(rows)


def _save_config(cfg: CfgNode, output_dir: str) -> str:
    """Write the whole configuration to config.yaml, aside and then into place."""
    path = Path(output_dir) / "config.yaml"
    aside = path.with_name(f".config.yaml.{os.getpid()}")
    aside.write_text(cfg.dump(), encoding="utf-8")
    aside.replace(path)
    return str(path)


def _set_float32_precision(precision: str) -> None:
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Start a run: logging to OUTPUT_DIR, environment, arguments and configuration in the log, config.yaml, seeds.

    Args:
        cfg: the whole configuration; read are OUTPUT_DIR, SEED (negative: random; each rank adds its number),
            CUDNN_BENCHMARK (not with `eval_only`) and FLOAT32_PRECISION ("": left alone).
        args: the command line; its `config_file` and `eval_only` are used if there.
    """
    rank, output_dir = comm.get_rank(), cfg.get("OUTPUT_DIR") or None
    writes = comm.is_main_process() and output_dir is not None
    if writes:
        PathManager.mkdirs(output_dir)
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir, distributed_rank=rank)

    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", _environment())
    logger.info("Command line arguments: %s", args)
    config_file = getattr(args, "config_file", "")
    if config_file:
        with PathManager.open(config_file, "r") as file:
            logger.info("Contents of args.config_file=%s:\n%s", config_file, file.read())
    if writes:
        logger.info("Running with full config:\n%s", cfg.dump())
        logger.info("Full config saved to %s", _save_config(cfg, output_dir))

    seed = cfg.get("SEED", -1)
    seed_all_rng(None if seed < 0 else seed + rank)
    if not getattr(args, "eval_only", False):  # it pays only where many inputs have one size
        torch.backends.cudnn.benchmark = cfg.get("CUDNN_BENCHMARK", False)
    if cfg.get("FLOAT32_PRECISION", ""):
        logger.info("Float32 precision: %s", cfg.FLOAT32_PRECISION)
        _set_float32_precision(cfg.FLOAT32_PRECISION)
