"""Data sets made from lists and functions."""

from __future__ import annotations

import copy
import itertools
import logging
import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

__all__ = ["DatasetFromList", "MapDataset"]

_logger = logging.getLogger(__name__)

_QUIET_RETRIES = 2


class _PackedList:
    """A list pickled into one byte tensor, which loader processes share instead of copying object by object."""

    def __init__(self, items: Sequence[Any]) -> None:
        packed = [pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL) for item in items]
        self._ends = torch.tensor(list(itertools.accumulate(map(len, packed))), dtype=torch.int64)
        self._bytes = torch.from_numpy(np.frombuffer(bytearray().join(packed), dtype=np.uint8))
        _logger.info("Packed %d items into %.2f MiB", len(packed), len(self._bytes) / 2**20)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Any:
        stop = int(self._ends[index])
        start = 0 if index == 0 else int(self._ends[index - 1])
        return pickle.loads(memoryview(self._bytes[start:stop].numpy()))  # our own bytes, made above


class DatasetFromList(Dataset):
    """The elements of a list as a data set.

    Args:
        lst: the elements.
        copy: give out deep copies, so that a caller may change what it gets (packed lists give new objects anyway).
        serialize: keep the list packed (True), as it is (False), or as what this function makes of it.
    """

    def __init__(self, lst: list[Any], copy: bool = True, serialize: bool | Callable[[list[Any]], Any] = True) -> None:
        if not (isinstance(serialize, bool) or callable(serialize)):
            raise TypeError(f"serialize must be a bool or a function, not {serialize!r}")
        self._copy = copy and serialize is False
        if serialize is False:
            self._items: Any = lst
        else:
            self._items = serialize(lst) if callable(serialize) else _PackedList(lst)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, idx: int) -> Any:
        item = self._items[idx]
        return copy.deepcopy(item) if self._copy else item


class _MapIterable(IterableDataset):
    """A function over a stream; elements that become None are left out."""

    def __init__(self, dataset: IterableDataset, map_func: Callable[[Any], Any]) -> None:
        self._dataset = dataset
        self._map_func = map_func

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return (mapped for mapped in map(self._map_func, self._dataset) if mapped is not None)


class MapDataset(Dataset):
    """A function over the elements of a data set.

    An element that becomes None is replaced by another, drawn from those that are not known to fail, with a warning
    from the third attempt on. Over an iterable data set the result is iterable too, and such elements are skipped.

    Args:
        dataset: with indices, or iterable.
        map_func: element -> mapped element, or None.
    """

    def __new__(cls, dataset: Any, map_func: Callable[[Any], Any]) -> Any:
        if isinstance(dataset, IterableDataset):
            return _MapIterable(dataset, map_func)
        return super().__new__(cls)

    def __init__(self, dataset: Any, map_func: Callable[[Any], Any]) -> None:
        self._dataset = dataset
        self._map_func = map_func
        self._rng = random.Random(42)
        self._usable = set(range(len(dataset)))

    def __getnewargs__(self) -> tuple[Any, Callable[[Any], Any]]:
        return self._dataset, self._map_func

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> Any:
        current = int(idx)
        for failures in itertools.count():
            mapped = self._map_func(self._dataset[current])
            if mapped is not None:
                self._usable.add(current)
                return mapped
            if failures >= _QUIET_RETRIES:
                _logger.warning("Item %d: the mapper returned None for %d elements in a row", idx, failures + 1)
            self._usable.discard(current)
            current = self._rng.sample(list(self._usable), k=1)[0]
