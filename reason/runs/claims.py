"""Which process does which image, on one machine or on several that share a folder.

A process that works on a folder is a worker: it has a file in `workers/`, which it holds locked (flock) and touches
every few seconds. A claim is a symbolic link in `claims/`, named after the image, that points to its worker; making a
link either succeeds or finds another one there, on network file systems too. So nobody waits for a lock, and one image
never has two owners.

A killed process leaves its claims behind. Whether their worker is alive is seen
- on the same machine (the same boot) by its lock, which the kernel lets go of at the moment the process ends;
- from another machine, where process ids mean nothing and locks may not reach (and on file systems without locks), by
  the time of its last touch, compared with a touch of one's own, so that the clock of the file server counts for both.
The claim of a dead worker is not removed, since two processes could remove and replace it in turn; it is succeeded: the
first link `takeovers/<dead worker>/<image>` has it. Whoever owns a claim looks first whether the image is finished.

A process that stands still for longer than the lapse (a suspended laptop) may lose its claims to another machine; then
an image may be done twice, and the second result replaces the first whole.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
"""Between two touches of the worker's file."""

LAPSE_SECONDS = 120.0
"""A worker on another machine that has not touched its file for so long is dead."""

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True)
class Worker:
    """A process at work on a folder.

    Attributes:
        name: of its file.
        host, pid: where it runs.
        started: seconds since the epoch.
        note: what it told about its work.
    """

    name: str
    host: str
    pid: int
    started: float
    note: Mapping[str, Any]


def node_identity() -> str:
    """One value for all processes of this machine since it booted, containers included; another on every other."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


class Claims:
    """The claims of this process on the names of a folder; a context manager that leaves none behind.

    Args:
        folder: where `workers/`, `claims/` and `takeovers/` are; made if missing.
        note: what other processes and `status` may know about this one.
        beat, lapse: seconds.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(
        self, folder: Path, note: Mapping[str, Any], *, beat: float = BEAT_SECONDS, lapse: float = LAPSE_SECONDS
    ) -> None:
        self._folder = folder
        self._lapse = lapse
        self._node = node_identity()
        self._mine: dict[str, Path] = {}
        self._judged: dict[str, bool] = {}
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        for part in ("workers", "claims", "takeovers"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        self._file = folder / "workers" / self.worker
        self._descriptor = self._register(note)
        _OPEN.add(self)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._touch_on, args=(beat,), name="reason-heartbeat", daemon=True)
        self._thread.start()

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def aside(self) -> Path:
        """A file name that is this process's own, for what is written aside and renamed into place."""
        return self._file.with_name(f"{self.worker}.tmp")

    def take(self, name: str) -> bool:
        """Claim `name`; False if a living process has it.

        The caller must then look whether the name is finished: its last owner may have done so a moment ago.
        """
        link = self._folder / "claims" / name
        while not self._link(link):
            owner = self._owner(link)
            if owner is None:  # dropped a moment ago
                continue
            if self.is_alive(owner):
                return False
            link = self._folder / "takeovers" / owner / name
            link.parent.mkdir(exist_ok=True)
        if link.parent.name != "claims" and self._tip(name) != self.worker:
            # The chain of dead owners that led here was cleared away meanwhile: start again.
            link.unlink(missing_ok=True)
            return self.take(name)
        self._mine[name] = link
        return True

    def drop(self, name: str, *, finished: bool) -> None:
        """Give up a claim of one's own.

        Args:
            name: what was claimed.
            finished: its result or failure is on disk, so claims of earlier, dead owners may go, too.
        """
        link = self._mine.pop(name, None)
        if link is None:
            return
        if finished:
            for older in self._chain(name):
                older.unlink(missing_ok=True)
        link.unlink(missing_ok=True)

    def clear(self, names: frozenset[str] | set[str]) -> None:
        """Remove what dead workers left: their files, and their claims on `names`, which must be finished."""
        takeovers = [self._folder / "takeovers" / worker for worker in _names(self._folder / "takeovers")]
        for folder in (self._folder / "claims", *takeovers):
            for name in names.intersection(_names(folder)):
                owner = self._owner(folder / name)
                if owner is not None and not self.is_alive(owner):
                    (folder / name).unlink(missing_ok=True)
        for name in _names(self._folder / "workers"):
            worker = name.removesuffix(".tmp")
            if not name.startswith(".") and not self.is_alive(worker):
                (self._folder / "workers" / name).unlink(missing_ok=True)
        for folder in takeovers:
            with contextlib.suppress(OSError):  # not empty: still of use
                folder.rmdir()

    def others(self) -> list[Worker]:
        """The living workers of the folder beside this one."""
        return [worker for worker in living_workers(self._folder, lapse=self._lapse) if worker.name != self.worker]

    def is_alive(self, worker: str) -> bool:
        """Whether a process that claims names is at work still; once dead, always dead."""
        if worker == self.worker:
            return True
        if not self._judged.get(worker, True):
            return False
        self._judged[worker] = alive = _is_alive(self._folder / "workers" / worker, self._node, self._now, self._lapse)
        return alive

    def close(self) -> None:
        """Drop every claim and sign off; what cannot be removed is left to be taken over."""
        self._stopped.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            for name in list(self._mine):
                self.drop(name, finished=False)
            self.aside.unlink(missing_ok=True)
            self._file.unlink(missing_ok=True)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _register(self, note: Mapping[str, Any]) -> int:
        """Write and lock the worker's file; it gets its name last, so that nobody sees it without its lock."""
        unnamed = self._file.with_name(f".{self.worker}")
        descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            node = self._node if _lock(descriptor, fcntl.LOCK_EX) else "no locks here"
            about = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}
            os.write(descriptor, json.dumps({**about, "node": node, "note": note}).encode())
            unnamed.rename(self._file)
        except BaseException:
            os.close(descriptor)
            unnamed.unlink(missing_ok=True)
            raise
        return descriptor

    def release_lock_in_child(self) -> None:
        """After a fork: the child must not keep the lock beyond the life of this process."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _touch_on(self, beat: float) -> None:
        while not self._stopped.wait(beat):
            try:
                os.utime(self._file)
            except OSError as error:
                logger.warning("%s: cannot be touched (%s); other machines may take over this work", self._file, error)

    def _now(self) -> float:
        os.utime(self._file)
        return self._file.stat().st_mtime

    def _link(self, link: Path) -> bool:
        try:
            link.symlink_to(self.worker)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in _NO_LINKS:
                problem = "its file system has no symbolic links, by which processes tell who does what"
                raise OSError(error.errno, problem) from error
            raise
        return True

    def _owner(self, link: Path) -> str | None:
        try:
            return os.readlink(link)
        except FileNotFoundError:
            return None

    def _chain(self, name: str) -> Iterator[Path]:
        """The links of `name` from the first owner to the present one."""
        link = self._folder / "claims" / name
        while (owner := self._owner(link)) is not None:
            yield link
            link = self._folder / "takeovers" / owner / name

    def _tip(self, name: str) -> str | None:
        owner = None
        for link in self._chain(name):
            owner = self._owner(link)
        return owner


def living_workers(folder: Path, *, lapse: float = LAPSE_SECONDS) -> list[Worker]:
    """The processes at work on a folder; reads only."""
    node = node_identity()
    found = []
    for name in sorted(_names(folder / "workers")):
        path = folder / "workers" / name
        if name.startswith(".") or name.endswith(".tmp") or not _is_alive(path, node, time.time, lapse):
            continue
        with contextlib.suppress(OSError, ValueError, KeyError):
            about = json.loads(path.read_text())
            found.append(Worker(name, about["host"], about["pid"], about["started"], about["note"]))
    return found


def claimed_names(folder: Path) -> list[str]:
    """The names that have a claim, of living and dead workers."""
    return sorted(_names(folder / "claims"))


def _is_alive(path: Path, node: str, now: Callable[[], float], lapse: float) -> bool:
    try:
        # Opening makes a network file system ask its server anew.
        with path.open("rb") as stream:
            touched = os.fstat(stream.fileno()).st_mtime
            here = json.loads(stream.read()).get("node") == node
            if here and _lock(stream.fileno(), fcntl.LOCK_SH):
                return False
    except FileNotFoundError:
        return False
    except ValueError:  # not ours, or damaged: only its age says something
        here = False
    return here or now() - touched < lapse


def _lock(descriptor: int, kind: int) -> bool:
    """Lock a file without waiting; False if another process has it, or if the file system has no locks."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except FileNotFoundError:
        return []


_OPEN: weakref.WeakSet[Claims] = weakref.WeakSet()


def _release_locks_in_child() -> None:
    for claims in list(_OPEN):
        claims.release_lock_in_child()


os.register_at_fork(after_in_child=_release_locks_in_child)
