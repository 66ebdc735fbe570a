"""Building a network whose weights are about to be loaded, without drawing random ones first.

Random initial values are seconds of work (base 2.5, large 6 of one core), and a checkpoint overwrites all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

N = TypeVar("N")

_DRAWING = frozenset(("normal_", "uniform_", "kaiming_uniform_", "kaiming_normal_", "erfinv_"))
"""Where initialisation spends its time: the two methods that draw, functions of `torch.nn.init` that do not ask for
anything once they have begun, and the slow step of a truncated normal."""
_NAMED = 4


class Undrawn(TorchFunctionMode):
    """While it is entered, tensors that were to be filled with random numbers keep what their memory holds.

    Constants (zeros, ones, tables) are set as ever.
    """

    def __init__(self) -> None:
        super().__init__()
        self._skipped: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Do what is asked, unless it is drawing."""
        if getattr(func, "__name__", "") not in _DRAWING:
            return func(*args, **(kwargs or {}))
        target: Tensor = args[0] if args else kwargs["tensor"]
        self._skipped.append(target)  # kept: its address stays its own
        return target

    @property
    def places(self) -> set[int]:
        """Addresses of what was not drawn."""
        return {tensor.untyped_storage().data_ptr() for tensor in self._skipped}


def build_and_fill(build: Callable[[], N], fill: Callable[[N], object]) -> N:
    """A network built without random values, then filled.

    Args:
        build: makes the network, an nn.Module.
        fill: writes every entry that `build` would have drawn, as a strict loading does.

    Raises:
        RuntimeError: it did not: there are entries that nobody gave a value.
    """
    if torch.is_inference_mode_enabled():  # tensors made in it do not tell whether they were written to
        network = build()
        fill(network)
        return network
    with Undrawn() as undrawn:
        network = build()
    module, places = cast(nn.Module, network), undrawn.places
    before = {name: (place, tensor._version) for name, place, tensor in _tensors(module) if place in places}
    fill(network)
    left = [name for name, place, tensor in _tensors(module) if before.get(name) == (place, tensor._version)]
    if left:
        listed = f"{', '.join(left[:_NAMED])}{', …' if len(left) > _NAMED else ''}"
        raise RuntimeError(f"{len(left)} entries were built without values, and nothing was loaded for them: {listed}")
    return network


def _tensors(module: nn.Module) -> Iterable[tuple[str, int, Tensor]]:
    """Name, address and tensor of every parameter and buffer, those outside the state dict as well."""
    for name, tensor in chain(module.named_parameters(), module.named_buffers()):
        yield name, tensor.untyped_storage().data_ptr(), tensor
