"""Ctrl-C: one line, exit status 130, and no process left behind, within two seconds and at any moment.

Python runs a signal's handler only between two steps of its own in the main thread, which may stand in a library for a
minute while a model loads. So a thread of its own learns of the signal from the interpreter's wakeup pipe. The command
gets its KeyboardInterrupt as ever; if it has not ended by itself a moment later, the thread says the line, ends the
children, and the process. Nothing is lost by that: results are whole files, and claims of dead processes pass on.

Children that a library starts get the terminal's signal as well, and answer it with tracebacks; `deaf_children` starts
them so that they do not hear it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

STATUS = 130
GRACE_SECONDS = 1.2
"""What a command has to end by itself before it is ended."""

LINE = "interrupted; what was finished is on disk, and the same command continues"

_lock = threading.Lock()
_said = False


def say(line: str = LINE) -> None:
    """Write the one line about an interrupt to stderr, once however many ask for it."""
    global _said
    with _lock:
        if line and not _said:
            _said = True
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(f"{line}\n")
                sys.stderr.flush()


@contextlib.contextmanager
def prompt_interrupts(grace: float = GRACE_SECONDS, *, line: str = LINE) -> Iterator[None]:
    """Within the block, Ctrl-C ends this process and its children within `grace` seconds and a little.

    `line` is what is said then; "" says nothing. Does nothing outside the main thread, or where a block of this kind is
    open already.
    """
    global _said
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    if before != -1:  # somebody else watches
        signal.set_wakeup_fd(before)
        ours.close()
        theirs.close()
        yield
        return
    _said = False
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(ours, over, grace, line), name="interrupts", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(-1)
        theirs.close()
        watcher.join()
        ours.close()


def _watch(pipe: socket.socket, over: threading.Event, grace: float, line: str) -> None:
    while came := pipe.recv(64):
        if signal.SIGINT in came and not over.wait(grace):
            say(line)
            end_children()
            os._exit(STATUS)


def leave_at_once() -> None:
    """Let Ctrl-C end the process with one line until a command has begun: there is nothing to lose before.

    Libraries turn a KeyboardInterrupt of their import into errors of their own.
    """
    signal.signal(signal.SIGINT, leave)


def leave(number: int, frame: object) -> None:
    """The handler of `leave_at_once`."""
    say("interrupted")
    os._exit(STATUS)


def end_children() -> None:
    """Kill every process below this one, children's children first found too; works where /proc is, as on Linux."""
    deadline = time.monotonic() + 0.5
    while (found := descendants(os.getpid())) and time.monotonic() < deadline:
        for process in found:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.02)


def descendants(process: int) -> list[int]:
    """The living processes below `process`; empty where the system does not tell."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = path.read_text(errors="replace").rpartition(")")[2].split()  # a name may hold anything
            if fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found: list[int] = []
    waiting = [process]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Processes and threads that are started within the block do not get the terminal's Ctrl-C."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
