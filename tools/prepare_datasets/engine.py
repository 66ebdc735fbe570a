"""Makes the files of a data set on all cores; what was finished before is not made again, whatever ended the run.

A file is made aside and renamed into place, so one that is there is whole. A file's bytes depend on its sources alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from maft.errors import UserError, one_line
from maft.files import locked
from reason.bars import Bar
from reason.files import ASIDE_SUFFIX, write_bytes

from .archives import Member

WORK_FOLDER = ".prepare"
"""Below the data-set root and below a data set's folder: what is needed while preparing, removed at the end."""

_CHUNK = 8
_AHEAD = 4
_LOCK_WAIT_S = 20.0
_SPARE = 64 << 20


@dataclass(frozen=True)
class Item:
    """A file to make.

    Attributes:
        target: path relative to the data set's folder, forward slashes.
        make: a function of a module (it is called in another process); returns the bytes of `target`, or of `target`
            and of each of `also`, in this order.
        args: its arguments, small and picklable (`Member`, numbers, text).
        also: further files that the same call gives.
        space: bytes that it will take on disk, roughly.
    """

    target: str
    make: Callable[..., bytes | tuple[bytes, ...]]
    args: tuple[Any, ...] = ()
    also: tuple[str, ...] = ()
    space: int = 0


@dataclass(frozen=True)
class Plan:
    """What is to be done for one data set.

    Attributes:
        name: of the data set, as on the command line.
        base: its folder, relative to the data-set root.
        items: the files to make.
        choices: decisions that the result depends on, such as which of two sources was used. They stand in the
            provenance file, and a folder prepared under other choices is not mixed with.
        notes: what the user should know, a sentence each.
        version: of the prepared files; it goes up when the same sources give other files.
        finish: called with the folder after every item is there, such as to join what the items left in `WORK_FOLDER`.
    """

    name: str
    base: str
    items: Sequence[Item]
    choices: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    finish: Callable[[Path], None] | None = None
    version: int = 1


@dataclass(frozen=True)
class Summary:
    """What was done: numbers of items made now and found finished, and bytes written now."""

    made: int
    found: int
    written: int


def copy_member(member: Member) -> bytes:
    """`make` of an item that is a member as it is."""
    return member.read()


def copies(targets: Mapping[str, Member]) -> list[Item]:
    """Items that copy members byte for byte, by target."""
    return [Item(target, copy_member, (member,), space=member.size) for target, member in targets.items()]


def execute(plan: Plan, root: Path, *, workers: int, sources: Sequence[Path], debug: bool = False) -> Summary:
    """Carry out a plan; what it was made from goes into `<base>/<name>.provenance.json`.

    Args:
        plan: what to do.
        root: data-set root; made if it is missing.
        workers: processes.
        sources: what the user gave, for the provenance.
        debug: show tracebacks of failures.

    Raises:
        UserError: no room, other choices before, another run at work, or items that failed (the rest is then done).
    """
    folder = root / plan.base
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / f"{plan.name}.provenance.json"
    with _only_run(folder):
        choices = _joined_choices(record, plan)
        write_bytes(record, _provenance(plan, choices, sources, complete=False))
        summary = run_items(folder, plan.items, workers=workers, description=plan.name, debug=debug)
        if plan.finish is not None:
            plan.finish(folder)
        work = folder / WORK_FOLDER
        if work.is_dir():
            shutil.rmtree(work)
        write_bytes(record, _provenance(plan, choices, sources, complete=True))
    return summary


def run_items(folder: Path, items: Sequence[Item], *, workers: int, description: str, debug: bool = False) -> Summary:
    """Make what is not there yet.

    Args:
        folder: that targets are relative to.
        items: no two with one target.
        workers: processes; at least 1.
        description: on the progress bar.
        debug: show tracebacks of failures.

    Raises:
        UserError: no room on the disk; or items that failed, after all the others were made: names the first.
    """
    _prepare_folders(folder, items)
    todo = [item for item in items if not _finished(folder, item)]
    needed, free = sum(item.space for item in todo), shutil.disk_usage(folder).free
    if todo and needed + _SPARE > free:
        raise UserError(
            f"{folder}: needs about {_gigabytes(needed)} more for {description}, but only {_gigabytes(free)} are free; "
            "make room, or choose another folder with --root"
        )
    written, failures = 0, []
    there = len(items) - len(todo)
    with Bar(total=len(items), initial=there, desc=description, unit="file") as bar:
        for done, size, failed in _results(folder, todo, workers, debug):
            written += size
            failures += failed
            bar.update(done)
    if failures:
        raise UserError(f"{len(failures)} of {len(items)} files could not be made: {'; '.join(failures[:3])}")
    return Summary(len(todo), len(items) - len(todo), written)


_Result = tuple[int, int, list[str]]


def _results(folder: Path, todo: Sequence[Item], workers: int, debug: bool) -> Iterator[_Result]:
    """Number of items, bytes and failures, chunk by chunk. Few chunks are under way at a time: memory stays flat."""
    if not todo:
        return
    chunks = (todo[start : start + _CHUNK] for start in range(0, len(todo), _CHUNK))
    # Forked: nothing is imported again, and the lock on the folder lasts until the last worker is gone.
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(max(1, workers), mp_context=context, initializer=_start_worker, initargs=(os.getpid(),))
    try:
        pending: set[Future[_Result]] = set()
        for chunk in islice(chunks, _AHEAD * max(1, workers)):
            pending.add(pool.submit(_make_chunk, folder, chunk, debug))
        while pending:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for chunk in islice(chunks, len(finished)):
                pending.add(pool.submit(_make_chunk, folder, chunk, debug))
            for future in finished:
                yield future.result()
    except BrokenProcessPool as error:
        raise UserError(
            f"{folder}: a worker process was killed, most likely for want of memory; run the same command again with "
            "fewer --workers, it goes on where it stopped"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers in an orderly way

    def follow() -> None:
        # A killed parent cannot tell its workers; without this they would wait for work for ever, holding the lock.
        while os.getppid() == parent:
            time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _make_chunk(folder: Path, items: Sequence[Item], debug: bool) -> _Result:
    written, failures = 0, []
    for item in items:
        try:
            made = item.make(*item.args)
            parts = made if isinstance(made, tuple) else (made,)
            # The target last: where it is, the others are.
            for target, data in reversed(list(zip((item.target, *item.also), parts, strict=True))):
                write_bytes(folder / target, data)
                written += len(data)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                message = f"{folder / item.target}: no room left on the disk; make room and run the same command again"
                raise UserError(message) from error
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            failures.append(f"{item.target}: {kind}{one_line(error)}")
            if debug:
                traceback.print_exc()
    return len(items), written, failures


def _finished(folder: Path, item: Item) -> bool:
    return all(_is_whole(folder / target) for target in (item.target, *item.also))


def _is_whole(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _prepare_folders(folder: Path, items: Sequence[Item]) -> None:
    """Check the targets, make their folders, and clear away what an earlier run left half made."""
    targets = [target for item in items for target in (item.target, *item.also)]
    if len(set(targets)) != len(targets):
        raise ValueError("two items with one target")
    for target in targets:
        if PurePosixPath(target).is_absolute() or ".." in PurePosixPath(target).parts:
            raise UserError(f"{target}: would be written outside of {folder}; refused")
    for parent in {(folder / target).parent for target in targets}:
        parent.mkdir(parents=True, exist_ok=True)
        for half_made in parent.glob(f".*{ASIDE_SUFFIX}"):
            half_made.unlink(missing_ok=True)


@contextlib.contextmanager
def _only_run(folder: Path) -> Iterator[None]:
    """Hold `folder` against other runs; one that was just killed gets a moment for its workers to end."""
    lock = folder / ".prepare.lock"
    with locked(lock, "another run is preparing it; wait for it to end", wait=_LOCK_WAIT_S):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # who waits for it notices, and locks a new one


@contextlib.contextmanager
def spool_folder(root: Path) -> Iterator[Path]:
    """The folder for decompressed archives below `root`, removed afterwards by the last run that uses it.

    Runs share the lock, which `reason.files.locked` cannot.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = root / WORK_FOLDER
    folder.mkdir(exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield folder
    finally:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _provenance(plan: Plan, choices: Mapping[str, str], sources: Sequence[Path], *, complete: bool) -> bytes:
    """What the files were made from. No dates and no places: the same sources give the same bytes."""
    document = {
        "dataset": plan.name,
        "made_by": f"tools.prepare_datasets, version {plan.version}",
        "sources": [
            {"name": path.name, **({"bytes": path.stat().st_size} if path.is_file() else {})} for path in sources
        ],
        "choices": dict(choices),
        "notes": list(plan.notes),
        "files": len(plan.items),
        "complete": complete,
    }
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def _joined_choices(record: Path, plan: Plan) -> dict[str, str]:
    """The choices of this run and those of earlier ones, which may have been about other splits."""
    try:
        document = json.loads(record.read_bytes())
        before, version = dict(document["choices"]), int(str(document["made_by"]).rpartition(" ")[2])
    except FileNotFoundError:
        before, version = {}, plan.version
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{record}: not readable ({one_line(error)}); delete it and run again") from error
    if version != plan.version:
        raise UserError(
            f"{record}: prepared by version {version} of this command, which made other files than this one, version "
            f"{plan.version}; the two are not mixed: delete what was prepared of this data set, this file too"
        )
    for name, choice in plan.choices.items():
        if before.get(name, choice) != choice:
            raise UserError(
                f"{record}: prepared before with {name} = {before[name]!r}, now it is {choice!r}; the two are not "
                "mixed: delete what was prepared of this data set, this file too, or choose another --root"
            )
    return before | dict(plan.choices)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
