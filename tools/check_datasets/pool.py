"""Batches of work over all cores, a bounded number under way, results added up: memory does not grow with the work."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from maft.errors import UserError
from reason.bars import Bar

from .files import Tally

Task = TypeVar("Task")
_BATCH = 16
_SMALL = 64
"""Below this many tasks, starting processes costs more than it brings."""


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tally_all(
    tasks: Sequence[Task], check: Callable[[Sequence[Task]], Tally], *, workers: int | None, description: str
) -> Tally:
    """Run `check` over batches of `tasks` and add the results up.

    Args:
        tasks: one entry a file or pair, picklable.
        check: picklable; gets a batch.
        workers: processes; None: one a core, or none at all for little work.
        description: stands before the progress bar.

    Raises:
        UserError: a worker was killed from outside.
    """
    if workers is None:
        workers = cores() if len(tasks) >= _SMALL else 1
    total = Tally()
    with Bar(total=len(tasks), desc=description, unit="file") as bar:
        if workers <= 1:
            for batch in _batches(tasks):
                total.add(check(batch))
                bar.update(len(batch))
            return total
        # Fresh processes, not forks: this one has threads and a deep-learning library in it.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            try:
                for tally in _windowed(pool, check, _batches(tasks), window=3 * workers):
                    total.add(tally)
                    bar.update(tally.checked)
            except BrokenProcessPool as error:
                raise UserError(
                    f"{description}: a worker process was killed, most likely for want of memory; use fewer --workers"
                ) from error
    return total


def _batches(tasks: Sequence[Task]) -> Iterator[Sequence[Task]]:
    for start in range(0, len(tasks), _BATCH):
        yield tasks[start : start + _BATCH]


def _windowed(
    pool: ProcessPoolExecutor, check: Callable[[Sequence[Task]], Tally], batches: Iterator[Sequence[Task]], window: int
) -> Iterator[Tally]:
    under_way: set[Future[Tally]] = set()
    for batch in batches:
        under_way.add(pool.submit(check, batch))
        if len(under_way) >= window:
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    for future in under_way:
        yield future.result()
