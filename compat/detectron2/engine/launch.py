"""One process a GPU."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

from detectron2.utils import comm

__all__ = ["DEFAULT_TIMEOUT", "launch"]

DEFAULT_TIMEOUT = timedelta(minutes=30)

_logger = logging.getLogger(__name__)


def _free_port() -> int:
    """A TCP port that is free now (another process may take it before it is used)."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple[Any, ...] = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Run `main_func(*args)` in every process of the run, and return when all have ended.

    One process in all (0 or 1 GPUs on one machine) is this one. Otherwise processes are spawned: NCCL with GPUs, Gloo
    without; to be called on every machine.

    Args:
        main_func: a function of a module (spawned processes import it).
        num_gpus_per_machine: processes a machine; with GPUs, not more than there are.
        num_machines: machines in the run.
        machine_rank: number of this machine, from 0.
        dist_url: where the processes meet, as torch.distributed takes it; "auto" finds a port (one machine only).
        args: arguments of `main_func`.
        timeout: of the collective calls.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url == "auto":
        assert num_machines == 1, "dist_url 'auto' is for one machine: name an address for several"
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    if num_machines > 1 and dist_url is not None and dist_url.startswith("file://"):
        _logger.warning("file:// is unreliable with several machines: prefer tcp://")
    worker_args = (main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args, timeout)
    multiprocessing.start_processes(_worker, nprocs=num_gpus_per_machine, args=worker_args, daemon=False)


def _worker(
    local_rank: int,
    main_func: Callable[..., Any],
    world_size: int,
    per_machine: int,
    machine_rank: int,
    dist_url: str | None,
    args: tuple[Any, ...],
    timeout: timedelta,
) -> None:
    """Join the run as process `local_rank` of this machine, then do the work."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    assert gpus == 0 or per_machine <= gpus, f"{per_machine} GPUs asked for, but this machine has {gpus}"
    try:
        dist.init_process_group(
            backend="nccl" if gpus else "gloo",
            init_method=dist_url,
            world_size=world_size,
            rank=machine_rank * per_machine + local_rank,
            timeout=timeout,
        )
    except Exception:
        _logger.error("The processes could not meet at %s", dist_url)
        raise
    comm.create_local_process_group(per_machine)
    if gpus:
        torch.cuda.set_device(local_rank)
    comm.synchronize()  # the first collective call must not be the one whose time counts
    main_func(*args)
