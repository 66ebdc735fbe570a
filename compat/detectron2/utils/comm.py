"""Ranks and collective calls; without a process group everything answers for a world of one."""

import functools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

_local_group: Any = None  # the processes of this machine, once create_local_process_group was called


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes on all machines."""
    return dist.get_world_size() if _running() else 1


def get_rank() -> int:
    """This process's number among all."""
    return dist.get_rank() if _running() else 0


def is_main_process() -> bool:
    """True in the process of rank 0."""
    return get_rank() == 0


@functools.lru_cache
def create_local_process_group(num_workers_per_machine: int) -> None:
    """Make the group of this machine's processes. Every process must call it, once (`launch` does).

    Raises AssertionError if the world size is not a multiple of the number, or another group was made before.
    """
    global _local_group
    world = get_world_size()
    assert _local_group is None, "the local process group exists already"
    assert world % num_workers_per_machine == 0, f"{world} processes are not a multiple of {num_workers_per_machine}"
    for first in range(0, world, num_workers_per_machine):
        members = list(range(first, first + num_workers_per_machine))
        group = dist.new_group(members)  # collective: every process takes part in making every group
        if get_rank() in members:
            _local_group = group


def _this_machine() -> Any:
    assert _local_group is not None, (
        "the local process group does not exist: start the processes with detectron2.engine.launch, or call "
        "comm.create_local_process_group(processes per machine) after torch.distributed.init_process_group"
    )
    return _local_group


def get_local_rank() -> int:
    """This process's number on its machine."""
    return dist.get_rank(group=_this_machine()) if _running() else 0


def get_local_size() -> int:
    """Number of processes on this machine."""
    return dist.get_world_size(group=_this_machine()) if _running() else 1


def synchronize() -> None:
    """Wait until every process has come here."""
    if get_world_size() > 1:
        on_gpu = dist.get_backend() == dist.Backend.NCCL
        dist.barrier(device_ids=[torch.cuda.current_device()] if on_gpu else None)


@functools.lru_cache
def _cpu_group() -> Any:
    """All processes over a CPU backend, so that objects are not sent through GPU memory."""
    return dist.new_group(backend="gloo") if dist.get_backend() == dist.Backend.NCCL else dist.group.WORLD


def all_gather(data: Any, group: Any = None) -> list[Any]:
    """Every process's `data` (any picklable object) in order of rank, in every process."""
    if get_world_size() == 1:
        return [data]
    group = group or _cpu_group()
    received: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(received, data, group=group)
    return received


def gather(data: Any, dst: int = 0, group: Any = None) -> list[Any]:
    """Every process's `data` (any picklable object) in order of rank, in process `dst`; an empty list elsewhere."""
    if get_world_size() == 1:
        return [data]
    group = group or _cpu_group()
    received: list[Any] | None = [None] * dist.get_world_size(group) if dist.get_rank(group) == dst else None
    dist.gather_object(data, received, dst=dst, group=group)
    return received or []


def shared_random_seed() -> int:
    """A random number below 2**31, drawn by rank 0 and equal everywhere. Every process must call it."""
    return all_gather(np.random.randint(2**31))[0]


def reduce_dict(input_dict: dict[str, torch.Tensor], average: bool = True) -> dict[str, torch.Tensor]:
    """Average (or sum) scalar tensors over the processes, which all have the same keys; right in rank 0 only."""
    if get_world_size() == 1:
        return input_dict
    names = sorted(input_dict)  # one order everywhere
    with torch.no_grad():
        stacked = torch.stack([input_dict[name] for name in names])
        dist.reduce(stacked, dst=0)
        if average and is_main_process():
            stacked /= get_world_size()
    return dict(zip(names, stacked, strict=True))
