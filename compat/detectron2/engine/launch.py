"""One process a GPU."""

import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

from detectron2.utils import comm

DEFAULT_TIMEOUT = timedelta(minutes=30)


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

    One process in all (0 or 1 GPUs on one machine) is this one. Otherwise `num_gpus_per_machine` are spawned on every
    machine that calls this, over NCCL, or Gloo where there is no GPU; an AssertionError if there are GPUs, but fewer.
    They meet at `dist_url`, as torch.distributed takes it, or at a free port of one machine ("auto").
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url == "auto":
        assert num_machines == 1, "dist_url 'auto' is for one machine: name an address for several"
        with socket.socket() as probe:
            probe.bind(("", 0))
            dist_url = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    group = {"init_method": dist_url, "world_size": world_size, "timeout": timeout}
    worker_args = (main_func, args, machine_rank * num_gpus_per_machine, num_gpus_per_machine, group)
    multiprocessing.start_processes(_worker, nprocs=num_gpus_per_machine, args=worker_args, daemon=False)


def _worker(
    local_rank: int,
    main_func: Callable[..., Any],
    args: tuple[Any, ...],
    first_rank: int,
    per_machine: int,
    group: dict[str, Any],
) -> None:
    """Join the process group as process `local_rank` of this machine, then do the work."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    assert gpus == 0 or per_machine <= gpus, f"{per_machine} GPUs asked for, but this machine has {gpus}"
    dist.init_process_group(backend="nccl" if gpus else "gloo", rank=first_rank + local_rank, **group)
    comm.create_local_process_group(per_machine)
    if gpus:
        torch.cuda.set_device(local_rank)
    comm.synchronize()  # no process starts the clock of a collective call before all are here
    main_func(*args)
    if dist.is_initialized():  # torch asks for this: the group's threads outlive it otherwise
        dist.destroy_process_group()
