"""Several copies of a model, each in a process of its own, on GPUs of its own.

The copies share nothing, so nothing has to be kept in step, and one whose quantised weights cannot be cut for tensor
parallelism still uses all GPUs of a machine. What asks about an image goes to the copy that has seen it, whose prefix
cache holds it; new images go where the least is in flight.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from typing import Any

from reason.asking.messages import Answer, Request
from reason.engines.chat import images_of
from reason.engines.gpus import visible_gpus
from reason.engines.interface import Engine, EngineInfo, EngineKind, EngineOptions
from reason.errors import EngineGone, ReasonError

_log = logging.getLogger(__name__)

Opener = Callable[[EngineKind, EngineOptions], Engine]

_POLL = 0.05
"""Seconds that a copy goes on with its batch until it looks for new requests."""
_REMEMBERED = 4096
"""Images whose copy is known."""
_LEAVE = 20.0
"""Seconds that a copy has to end by itself."""


class ReplicatedEngine:
    """`data_parallel` copies behind one interface."""

    def __init__(self, open_one: Opener, kind: EngineKind, options: EngineOptions) -> None:
        """Start the copies, all at once, and wait until each has loaded the model.

        Args:
            open_one: opens a single copy, in its process.
            kind, options: of the engine; `options.data_parallel` copies are started.

        Raises:
            ReasonError: one of them could not; the others are ended.
        """
        context = multiprocessing.get_context("spawn")
        devices = [gpu.device for gpu in visible_gpus(os.environ)]
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []
        for number in range(options.data_parallel):
            here, there = context.Pipe()
            share = devices[number * options.tensor_parallel : (number + 1) * options.tensor_parallel]
            one = replace(options, data_parallel=1)
            # Not a daemon: vLLM starts processes of its own, which daemons may not.
            process = context.Process(target=serve, args=(there, open_one, kind, one, share), name=f"copy {number}")
            process.start()
            there.close()
            self._processes.append(process)
            self._pipes.append(here)
        # An exit without close() must not wait for copies that wait for requests.
        self._end = Finalize(self, _end_all, args=(self._pipes, self._processes), exitpriority=100)
        self._owner: dict[str, int] = {}
        self._load = [0] * options.data_parallel
        self._seen: OrderedDict[str, int] = OrderedDict()
        self._problem = ""
        opened = [self._opened(number) for number in range(options.data_parallel)]
        self.info: EngineInfo = opened[0][0]
        self.capacity = sum(capacity for _, capacity in opened)

    def submit(self, request: Request) -> None:
        """Hand a request to the copy that knows its image, or to the one with the least to do."""
        if self._problem:
            raise EngineGone(self._problem)
        number = self._choose(request)
        self._owner[request.key] = number
        self._load[number] += 1
        try:
            self._pipes[number].send(request)
        except OSError as error:
            raise self._gone(number, "it has ended") from error

    def collect(self, timeout: float | None = None) -> list[Answer]:
        """Wait for answers of any copy."""
        if self._problem:
            raise EngineGone(self._problem)
        answers: list[Answer] = []
        for pipe in wait(self._pipes, timeout) if self._owner else ():
            number = self._pipes.index(pipe)  # type: ignore[arg-type]
            try:
                message = self._pipes[number].recv()
            except (EOFError, OSError) as error:
                raise self._gone(number, "it has ended") from error
            if isinstance(message, str):
                raise self._gone(number, message)
            answers.extend(message)
        for answer in answers:
            self._load[self._owner.pop(answer.key)] -= 1
        return answers

    def close(self) -> None:
        """End the copies."""
        self._problem = self._problem or "the engine is closed"
        self._end()

    def _choose(self, request: Request) -> int:
        images = images_of(request.turns)
        least = min(range(len(self._load)), key=self._load.__getitem__)
        if not images:
            return least
        number = self._seen.setdefault(images[0].uuid, least)
        self._seen.move_to_end(images[0].uuid)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return number

    def _opened(self, number: int) -> tuple[EngineInfo, int]:
        """What a copy says once it has loaded the model."""
        try:
            message = self._pipes[number].recv()
        except (EOFError, OSError):
            message = "it ended while loading the model"
        if isinstance(message, str):
            self.close()
            raise ReasonError(f"copy {number} of {len(self._pipes)}: {message}")
        return message

    def _gone(self, number: int, why: str) -> EngineGone:
        self._problem = f"copy {number} of {len(self._pipes)} is gone: {why}; start again, what was finished is kept"
        return EngineGone(self._problem)


def serve(pipe: Connection, open_one: Opener, kind: EngineKind, options: EngineOptions, devices: list[str]) -> None:
    """The life of one copy: open the engine, then answer until the pipe is closed.

    It sends (EngineInfo, capacity) first, then lists of answers; a text instead says why there will be no more.
    """
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    try:
        engine = open_one(kind, options)
    except ReasonError as error:
        pipe.send(str(error))
        return
    in_flight = 0
    try:
        pipe.send((engine.info, engine.capacity))
        while True:
            while pipe.poll(0 if in_flight else None):
                engine.submit(pipe.recv())
                in_flight += 1
            answers = engine.collect(_POLL)
            in_flight -= len(answers)
            if answers:
                pipe.send(answers)
    except (EOFError, OSError):
        _log.info("nobody asks any more")
    except EngineGone as error:
        pipe.send(str(error))
    except KeyboardInterrupt:
        _log.info("interrupted")
    finally:
        engine.close()


def _end_all(pipes: list[Connection], processes: list[Any]) -> None:
    for pipe in pipes:
        pipe.close()
    deadline = time.monotonic() + _LEAVE
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0.1))
        if process.is_alive():
            process.kill()
            process.join()
