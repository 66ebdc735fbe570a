"""Work that keeps an engine busy: read ahead, ask, write each result at once, stop without losing any.

One loop serves images and generic reasons. Reader threads prepare tasks ahead of their turn, so that the engine never
waits for a disk; a task has one request with the engine at a time; as many tasks are under way as the engine can use.
What is held in memory is bounded by that number, not by the number of images.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any, Protocol

from reason.asking.messages import Answer, Failure, Outcome, Request
from reason.engines.interface import Engine
from reason.errors import EngineGone, ReasonError
from reason.imagefile import ImageFileError
from reason.runs.progress import Progress, several
from reason.runs.store import ResultStore
from reason.triplets import TripletError

_MAX_AHEAD = 64
_GLANCE_SECONDS = 0.02
"""How long to wait for answers while images are being read, too."""

_REFUSALS = 4
"""Requests of one step that an engine may refuse in a row: what is wrong with an image is not wrong with each."""

_WAIT_SECONDS = 0.5
"""How long to wait before looking whether the user wants to stop, or other processes are ready."""


class Task(Protocol):
    """What `reason.asking.conversation` offers for one image or class."""

    @property
    def outcome(self) -> Outcome:
        """Whether there is more to ask."""
        ...

    @property
    def failures(self) -> Sequence[Failure]:
        """Answers that could not be used."""
        ...

    def next_request(self) -> Request | None:
        """What to ask next; None once the outcome is known."""
        ...

    def receive(self, answer: Answer) -> None:
        """Take the answer to what was asked."""
        ...


@dataclass(frozen=True)
class Work:
    """What is to be done, name by name.

    Attributes:
        names: of the results, in order; all of them, whatever is done already.
        prepare: makes the task of a name; runs in reader threads. An ImageFileError fails that name only.
        document: of a task that is done, the result (a JSON object) and fields for its provenance.
        unit: what one name stands for, in messages.
    """

    names: Sequence[str]
    prepare: Callable[[str], Task]
    document: Callable[[Task], tuple[Mapping[str, Any], Mapping[str, Any]]]
    unit: str = "image"


@dataclass
class Summary:
    """What a run came to.

    Attributes:
        done: names finished by this run.
        elsewhere: names finished by other processes meanwhile.
        failed: name -> why, of this run.
        signal: number of the signal that ended it early, or 0.
        report: one line of counts and rates.
    """

    done: int = 0
    elsewhere: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    signal: int = 0
    report: str = ""


def run_work(
    work: Work,
    names: Sequence[str],
    engine: Engine,
    store: ResultStore,
    *,
    readers: int | None = None,
    quiet: bool = False,
) -> Summary:
    """Do `names`, and return when each is finished by this or another process, or a signal asks to stop.

    Args:
        work: how.
        names: what is to be done, of `work.names`.
        engine: open, with nothing in flight; stays open. After a run that ended early it still answers what that run
            asked: collect until there is nothing more, or close it.
        store: begun; stays so.
        readers: threads that prepare tasks; default: one a core, 2 to 16.
        quiet: no progress bar.

    Raises:
        EngineGone: nothing of what was finished is lost.
        ReasonError: results cannot be written any more, or the engine refuses whatever it is asked; likewise.
    """
    threads = readers or min(max(len(os.sched_getaffinity(0)), 2), 16)
    progress = Progress(len(names), work.unit, quiet)
    with ThreadPoolExecutor(threads, thread_name_prefix="reason-reader") as pool, _stop_signals() as stop:
        loop = _Loop(work, engine, store, pool, progress, stop)
        try:
            return loop.run(deque(names))
        except EngineGone as error:
            left = len(names) - progress.done - progress.failed
            kept = f"{several(progress.done, work.unit)} of this run on disk, {left} left; the same command continues"
            raise EngineGone(f"{error} ({kept})") from error
        finally:
            loop.abandon()
            progress.close()


class _Loop:
    def __init__(
        self,
        work: Work,
        engine: Engine,
        store: ResultStore,
        pool: ThreadPoolExecutor,
        progress: Progress,
        stop: Callable[[], int],
    ) -> None:
        self._work, self._engine, self._store = work, engine, store
        self._pool, self._progress, self._stop = pool, progress, stop
        self._ahead = min(max(engine.capacity, 4), _MAX_AHEAD)
        self._reading: dict[Future[Task], str] = {}
        self._asked: dict[str, tuple[str, Task, str]] = {}
        self._refusals: Counter[str] = Counter()
        self._taken: deque[str] = deque()
        self._summary = Summary()

    def run(self, names: deque[str]) -> Summary:
        while not self._stop():
            self._read_ahead(names)
            self._start_ready()
            if self._asked:
                self._collect()
            elif self._reading:
                wait(self._reading, timeout=_WAIT_SECONDS, return_when=FIRST_COMPLETED)
            elif self._taken:
                # Nothing is left but what other processes have: they finish it, or leave it to us.
                self._progress.waiting(len(self._taken))
                time.sleep(_WAIT_SECONDS)
                names, self._taken = self._taken, deque()
            elif not names:
                break
        self._summary.signal = self._stop()
        self._summary.report = self._progress.report()
        return self._summary

    def abandon(self) -> None:
        """Let go of what is under way, so that the threads can end; claims are dropped when the store closes."""
        for future in self._reading:
            future.cancel()
        self._reading.clear()
        self._asked.clear()

    def _read_ahead(self, names: deque[str]) -> None:
        while names and len(self._reading) < self._ahead and not self._stop():
            name = names.popleft()
            state = self._store.claim(name)
            if state == "mine":
                self._reading[self._pool.submit(self._work.prepare, name)] = name
            elif state == "taken":
                self._taken.append(name)
            else:
                self._summary.elsewhere += 1
                self._progress.elsewhere()

    def _start_ready(self) -> None:
        """Begin as many prepared tasks as the engine has use for, in the order they were read."""
        for future in [future for future in self._reading if future.done()]:
            if len(self._asked) >= self._engine.capacity:
                break
            name = self._reading.pop(future)
            try:
                task = future.result()
            except ImageFileError as error:
                self._fail(name, [{"step": "image", "attempt": 1, "problem": str(error), "answer_text": ""}])
            else:
                self._ask(name, task)

    def _collect(self) -> None:
        room = len(self._asked) < self._engine.capacity
        for answer in self._engine.collect(_GLANCE_SECONDS if room and self._reading else _WAIT_SECONDS):
            self._progress.answered(answer)
            name, task, step = self._asked.pop(answer.key)
            self._refusals[step] = self._refusals[step] + 1 if answer.error is not None else 0
            if self._refusals[step] > _REFUSALS:
                raise ReasonError(
                    f"the engine refuses every request of the step '{step}': {answer.error}; "
                    f"stopped after {self._refusals[step]} in a row, which --retry-failed tries again"
                )
            task.receive(answer)
            self._ask(name, task)

    def _ask(self, name: str, task: Task) -> None:
        request = task.next_request()
        if request is not None:
            self._asked[request.key] = (name, task, request.step)
            self._engine.submit(request)
        elif task.outcome == "done":
            try:
                document, more = self._work.document(task)
            except TripletError as error:
                self._fail(name, [{"step": "result", "attempt": 1, "problem": str(error), "answer_text": ""}])
                return
            self._store.write(name, document, more=more)
            self._summary.done += 1
            self._progress.finished()
        else:
            self._fail(name, [asdict(failure) for failure in task.failures])

    def _fail(self, name: str, failures: Sequence[Mapping[str, Any]]) -> None:
        self._store.fail(name, failures)
        self._summary.failed[name] = (
            f"{failures[-1]['step']}: {failures[-1]['problem']}" if failures else "no reason given"
        )
        self._progress.finished(failed=True)


@contextmanager
def _stop_signals() -> Iterator[Callable[[], int]]:
    """A function that gives the number of the signal (interrupt or termination) that came, or 0.

    A second one interrupts at once. Outside the main thread signals are left alone.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: came[0] if came else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def failure_lines(failed: Mapping[str, str], *, shown: int = 20) -> Iterator[str]:
    """One line a failure, for the end of a run."""
    for name, reason in list(failed.items())[:shown]:
        yield f"  {name}: {' '.join(reason.split())}"
    if len(failed) > shown:
        yield f"  and {len(failed) - shown} more"
