"""Seconds, memory, and what the machine could do at best."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

T = TypeVar("T")
_SIDE = 1024
_COPIED = 2**27


@dataclass
class Clock:
    """Seconds by the names of stages, a list of rounds each; on a GPU, of finished work.

    Attributes:
        device: that the stages run on.
        seconds: stage -> one value a round.
    """

    device: torch.device
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def time(self, stage: str, function: Callable[[], T]) -> T:
        """Call the function and note how long it took."""
        start = now(self.device)
        value = function()
        self.note(stage, now(self.device) - start)
        return value

    def note(self, stage: str, seconds: float) -> None:
        """Add one round of a stage."""
        self.seconds.setdefault(stage, []).append(seconds)

    def summary(self, warm_up: int) -> dict[str, dict[str, float]]:
        """Stage -> median, lowest and highest of its rounds after the first `warm_up`."""
        return {stage: spread(values[warm_up:]) for stage, values in self.seconds.items() if values[warm_up:]}


def now(device: torch.device) -> float:
    """Seconds, after a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest, rounded to a tenth of a millisecond."""
    parts = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {name: round(value, 4) for name, value in parts.items()}


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, float]]:
    """Gives a dictionary that has, afterwards, the largest MiB in use: of the process, or of the GPU's allocator.

    Where the system does not tell the peak of a stretch of time (Linux does), the dictionary stays empty.
    """
    peak: dict[str, float] = {}
    reset = Path("/proc/self/clear_refs")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif reset.exists():
        reset.write_text("5")  # the high-water mark begins again at what is resident now
    yield peak
    if device.type == "cuda":
        peak["mib"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    elif reset.exists():
        lines = Path("/proc/self/status").read_text().splitlines()
        peak["mib"] = round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024)


def machine_peaks(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """What the machine reaches: GFLOP/s of a matrix product, GB/s of a copy (reading and writing); best of three."""
    left, right = (torch.ones(_SIDE, _SIDE, device=device, dtype=dtype) for _ in range(2))
    source = torch.ones(_COPIED // 4, device=device)
    target = torch.empty_like(source)
    product = min(_once(device, lambda: left @ right) for _ in range(3))
    copy = min(_once(device, lambda: target.copy_(source)) for _ in range(3))
    return {"gflops": round(2 * _SIDE**3 / product / 1e9, 1), "gbytes": round(2 * _COPIED / copy / 1e9, 1)}


def _once(device: torch.device, function: Callable[[], object]) -> float:
    start = now(device)
    function()
    return now(device) - start


def costs(function: Callable[[], Any], modules: Mapping[str, nn.Module]) -> dict[str, dict[str, int]]:
    """What the modules must do at least while `function` calls each of them once.

    Returns:
        Module -> FLOPs of its products and convolutions, and bytes of parameters, inputs and outputs, each once. What
        lies between its layers is not counted, nor is the deformable attention's sampling.
    """
    found: dict[str, dict[str, int]] = {}
    before: dict[str, int] = {}
    with FlopCounterMode(display=False) as counter:

        def begin(name: str) -> Callable[..., None]:
            return lambda *call: before.__setitem__(name, counter.get_total_flops())

        def end(name: str) -> Callable[..., None]:
            def note(called: nn.Module, inputs: Any, output: Any) -> None:
                parameters = sum(_bytes(parameter) for parameter in called.parameters())
                moved = parameters + _bytes(inputs) + _bytes(output)
                found[name] = {"flops": counter.get_total_flops() - before[name], "bytes": moved}

            return note

        hooks = [one.register_forward_pre_hook(begin(name)) for name, one in modules.items()]
        hooks += [one.register_forward_hook(end(name)) for name, one in modules.items()]
        try:
            function()
        finally:
            for hook in hooks:
                hook.remove()
    return found


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_bytes, value))
    return sum(map(_bytes, vars(value).values())) if hasattr(value, "__dataclass_fields__") else 0
