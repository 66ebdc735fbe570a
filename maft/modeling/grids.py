"""Positions and reference points of a grid: they depend on its size alone, and are computed once a size.

Read-only: everybody who asks for a size gets the same tensor.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from threading import Lock

import torch
from torch import Tensor

_TEMPERATURE = 10000.0
_EPSILON = 1e-6

KEPT_BYTES = 128 * 2**20
"""Five or six sizes of images of 800 x 1333 pixels."""


class Kept:
    """Tensors by key, those asked for last, up to a number of bytes.

    Args:
        most: bytes that all tensors together may take; a larger one is made anew each time.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._lock = Lock()

    @property
    def bytes(self) -> int:
        """What the tensors take now."""
        return sum(map(_bytes, self._kept.values()))

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._kept.clear()

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of this key, made now if it is not there.

        It is made outside inference mode and autograd, whatever the caller is in: the next one may be a training.
        """
        if torch.compiler.is_compiling():  # what is traced stands in the graph
            return make()
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        with torch.inference_mode(False), torch.no_grad():
            made = make()
        with self._lock:
            self._kept[key] = made
            while self._kept and self.bytes > self.most:
                self._kept.popitem(last=False)
        return made


def _bytes(value: Tensor) -> int:
    return value.untyped_storage().nbytes()


KEPT = Kept(KEPT_BYTES)
"""Of this process."""


def sine_positions(height: int, width: int, features: int, device: torch.device | str = "cpu") -> Tensor:
    """Sine position encoding of a grid, as in DETR ("Attention is all you need", carried over to two axes).

    A cell's row and column, counted from 1 and scaled so that the last is 2 pi, are each turned into `features`
    numbers: sine and cosine in turn, at wavelengths that rise geometrically.

    Args:
        height, width: size of the grid in cells.
        features: numbers an axis, even.
        device: where the result lies.

    Returns:
        (2 * features, height, width) float32: the row's numbers, then the column's; not to be written to.
    """
    place = torch.device(device)
    key = ("sine", height, width, features, place)
    return KEPT.get(key, lambda: _sine_positions(height, width, features, place))


def cell_centres(shapes: Sequence[tuple[int, int]], device: torch.device | str = "cpu") -> Tensor:
    """The centres of the cells of several grids in a row, as (x, y) in [0, 1] of the image that the grids cover.

    Args:
        shapes: (height, width) of each grid in cells.
        device: where the result lies.

    Returns:
        (S, 2) float32; not to be written to.
    """
    sizes, place = tuple((int(height), int(width)) for height, width in shapes), torch.device(device)
    return KEPT.get(("centres", sizes, place), lambda: _cell_centres(sizes, place))


def _sine_positions(height: int, width: int, features: int, device: torch.device) -> Tensor:
    exponent = torch.arange(0, features, 2, dtype=torch.float32, device=device) / features
    wavelengths = _TEMPERATURE**exponent

    def encode(cells: int) -> Tensor:
        steps = torch.arange(1, cells + 1, dtype=torch.float32, device=device)
        angles = (steps / (cells + _EPSILON) * (2 * math.pi))[:, None] / wavelengths
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)

    rows = encode(height).T[:, :, None].expand(-1, -1, width)
    columns = encode(width).T[:, None, :].expand(-1, height, -1)
    return torch.cat((rows, columns))


def _cell_centres(shapes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    centres = []
    for height, width in shapes:
        y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
        x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
        centres.append(torch.cartesian_prod(y, x).flip(-1))
    return torch.cat(centres)
