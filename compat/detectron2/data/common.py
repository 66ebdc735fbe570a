"""Data sets made from lists and functions."""

import copy as copying
import itertools
import logging
import pickle
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

_logger = logging.getLogger(__name__)


class _PackedList:
    """A list pickled into one byte tensor, which loader processes share instead of copying object by object."""

    def __init__(self, items: Sequence[Any]) -> None:
        packed = [pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL) for item in items]
        self._bounds = [0, *itertools.accumulate(map(len, packed))]
        self._bytes = torch.from_numpy(np.frombuffer(bytearray().join(packed), dtype=np.uint8))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> Any:
        own = self._bytes[self._bounds[index] : self._bounds[index + 1]]
        return pickle.loads(own.numpy().data)  # bytes that were made above


class DatasetFromList(Dataset):
    """The elements of a list as a data set.

    With `serialize` the list is kept packed, and every access makes a new object; without, `copy` gives out deep
    copies, so that a caller may change what it gets.
    """

    def __init__(self, lst: list[Any], copy: bool = True, serialize: bool = True) -> None:
        self._items: Sequence[Any] | _PackedList = _PackedList(lst) if serialize else lst
        self._copy = copy and not serialize

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, idx: int) -> Any:
        item = self._items[idx]
        return copying.deepcopy(item) if self._copy else item


class MapDataset(Dataset):
    """A function over the elements of a data set with indices.

    An element that becomes None is replaced by another, drawn from those that are not known to fail, with a warning
    from the third failure in a row on.
    """

    def __init__(self, dataset: Any, map_func: Callable[[Any], Any]) -> None:
        self._dataset = dataset
        self._map_func = map_func
        self._rng = random.Random(42)
        self._usable = set(range(len(dataset)))

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> Any:
        current = int(idx)
        for failures in itertools.count(1):
            mapped = self._map_func(self._dataset[current])
            if mapped is not None:
                self._usable.add(current)
                return mapped
            if failures >= 3:
                _logger.warning("Item %d: the mapper returned None for %d elements in a row", idx, failures)
            self._usable.discard(current)
            current = self._rng.sample(list(self._usable), k=1)[0]
