"""Which images each step sees, and the seeds of everything random in it, as functions of the seed and the step."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Sampler

logger = logging.getLogger(__name__)

_READERS = 16


class Stream(IntEnum):
    """What is drawn; each has random numbers of its own."""

    ORDER = 0
    IMAGE = 1
    NETWORK = 2


def generator(seed: int, stream: Stream, number: int) -> np.random.Generator:
    """The random numbers of the epoch, image or micro-batch `number`."""
    return np.random.default_rng([seed, int(stream), number])


def torch_seed(seed: int, number: int) -> int:
    """The seed of torch's random numbers for the micro-batch `number`: 63 bits."""
    return int(generator(seed, Stream.NETWORK, number).integers(2**63))


class BatchOrder:
    """The images of every micro-batch: epoch after epoch, each in an order of its own.

    A micro-batch is what one process sends through the network at once. Where images differ in size, portraits and
    landscapes go into different micro-batches, since a batch is padded to its largest height and width; then the few
    images that fill no batch are left out of an epoch, other ones every time.

    Args:
        size: number of images.
        batch: images a micro-batch.
        seed: the run's.
        portrait: whether each image is higher than wide; None if that makes no difference.

    Raises:
        ValueError: nothing to choose from.
    """

    def __init__(self, size: int, batch: int, seed: int, portrait: Sequence[bool] | None = None) -> None:
        if size < 1 or batch < 1:
            raise ValueError(f"{size} images in batches of {batch}")
        self.size, self.batch, self.seed = size, batch, seed
        self._portrait = None if portrait is None or size < batch else np.asarray(portrait, dtype=bool)
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def __call__(self, number: int) -> list[int]:
        """The images of the micro-batch `number`, as indices."""
        if self._portrait is not None:
            epoch, place = divmod(number, self.size // self.batch)
            return self._epoch(epoch)[place * self.batch : (place + 1) * self.batch].tolist()
        positions = range(number * self.batch, (number + 1) * self.batch)
        return [int(self._epoch(position // self.size)[position % self.size]) for position in positions]

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        random = generator(self.seed, Stream.ORDER, epoch)
        order = random.permutation(self.size)
        if self._portrait is None:
            return order
        whole = self.size // self.batch
        order = order[: whole * self.batch]
        upright = self._portrait[order]
        batches = np.concatenate([order[~upright], order[upright]]).reshape(whole, self.batch)
        return random.permutation(batches, axis=0).ravel()


class RankBatches(Sampler[list[tuple[int, int]]]):
    """The micro-batches of one process from a step on: lists of (number of the image in the run, its index).

    Args:
        order: of all micro-batches.
        first, last: the steps, `last` excluded.
        accumulate: micro-batches a step and process.
        rank, world: this process, and how many there are.
    """

    def __init__(
        self, order: BatchOrder, *, first: int, last: int, accumulate: int = 1, rank: int = 0, world: int = 1
    ) -> None:
        self.order, self.first, self.last = order, first, last
        self.accumulate, self.rank, self.world = accumulate, rank, world

    def __len__(self) -> int:
        return max(self.last - self.first, 0) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for local in range(self.first * self.accumulate, self.last * self.accumulate):
            number = local * self.world + self.rank
            yield list(enumerate(self.order(number), start=number * self.order.batch))


def portraits(records: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Whether each image is higher than wide: from its record, else from the head of its file.

    A file that cannot be read counts as landscape here; who loads it says what is wrong.
    """
    logger.info("looking which of %d images are upright", len(records))
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(_is_portrait, records))


def _is_portrait(record: Mapping[str, Any]) -> bool:
    if "height" in record and "width" in record:
        return bool(record["height"] > record["width"])
    try:
        with Image.open(record["file_name"]) as image:
            return image.height > image.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False
