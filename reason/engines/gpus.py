"""The GPUs of this machine, asked of the driver's own tool: no torch, which would take seconds and hold memory."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

_MIB = 2**20
_QUERY = ("nvidia-smi", "--query-gpu=index,uuid,name,memory.total,memory.free", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        device: what names it in CUDA_VISIBLE_DEVICES.
        name: for people.
        total, free: bytes of its memory.
    """

    device: str
    name: str
    total: int
    free: int


def visible_gpus(environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order; none where there is no driver, or no count of memory.

    Args:
        environment: the variables to go by, such as os.environ.
    """
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return select_gpus(done.stdout, environment.get("CUDA_VISIBLE_DEVICES"))


def select_gpus(listing: str, visible: str | None) -> tuple[Gpu, ...]:
    """Read the listing of `nvidia-smi`.

    Args:
        listing: one line a GPU: index, uuid, name, total and free MiB. A GPU that shares the machine's memory has no
            such counts ("[N/A]") and is left out, because nothing can be checked against them.
        visible: the value of CUDA_VISIBLE_DEVICES, indices or the beginnings of uuids; None: all.
    """
    gpus: list[tuple[str, str, Gpu]] = []
    for line in listing.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 5 and cells[3].isdigit() and cells[4].isdigit():
            index, uuid, name, total, free = cells
            gpus.append((index, uuid, Gpu(index, f"GPU {index} ({name})", int(total) * _MIB, int(free) * _MIB)))
    if visible is None:
        return tuple(gpu for _, _, gpu in gpus)
    chosen: list[Gpu] = []
    for word in (part.strip() for part in visible.split(",")):
        found = [gpu for index, uuid, gpu in gpus if word and (word == index or uuid.startswith(word))]
        if not found:
            break  # CUDA, too, stops at the first name that it does not know
        chosen.append(found[0])
    return tuple(chosen)
