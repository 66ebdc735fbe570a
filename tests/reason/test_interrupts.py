"""Ctrl-C: one line, status 130 and nobody left, wherever the main thread happens to stand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from reason.interrupts import LINE, descendants, prompt_interrupts

COMMAND = """
import os, subprocess, sys, time
from reason.errors import run_command
from reason.interrupts import deaf_children
CHILD = "import time\\ntry:\\n    time.sleep(60)\\nexcept KeyboardInterrupt:\\n    raise RuntimeError('a traceback')"
def main():
    with deaf_children():
        child = subprocess.Popen([sys.executable, "-c", CHILD])
    time.sleep(0.5)
    print(child.pid, flush=True)
    {body}
status = run_command(main, debug=False)
sys.exit(status)
"""

BODIES = {
    "waits": ("time.sleep(60)", True),
    "hears nothing": ("while True:\n        try: time.sleep(60)\n        except KeyboardInterrupt: pass", False),
    # A C function that goes on after a signal, as a library that loads a model.
    "stands in C": (
        "import ctypes; lock = ctypes.create_string_buffer(64)\n"
        "    for _ in 'xx': ctypes.CDLL(None).pthread_mutex_lock(lock)",
        False,
    ),
}


@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize("name", BODIES)
def test_one_line_and_nobody_left(name: str, tmp_path: Path) -> None:
    body, by_itself = BODIES[name]
    code = COMMAND.format(body=body)
    with (tmp_path / "err").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    time.sleep(0.5)  # until it stands where it is meant to
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    assert process.wait(timeout=30) == 130
    time.sleep(0.2)
    assert (tmp_path / "err").read_text() == f"{LINE}\n", "one line, no traceback of anybody"
    assert is_alive(child) == by_itself, "who ends by itself sees to its own children"
    if by_itself:
        os.kill(child, signal.SIGKILL)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.usefixtures("in_repository")
def test_the_command_line_leaves_no_traceback(photos: Path, tmp_path: Path) -> None:
    """Interrupted at its very beginning, and while it imports and reads."""
    words = [sys.executable, "-m", "reason", "score", "--results", str(tmp_path), "--labels", str(photos)]
    for seconds in (0.0, 0.05, 0.15):
        process = subprocess.Popen(
            [*words, "--vocabulary", "pc59"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
        assert f'File "{Path.cwd()}/reason/' not in error, error
        still_starting = "Fatal Python error: init" in error or "runpy" in error  # Python's own, before any of our code
        assert still_starting or len(error.splitlines()) <= 1, error


def test_all_that_live_below_are_found() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline()
        found = descendants(os.getpid())
        assert child.pid in found and len(descendants(child.pid)) == 1
        child.communicate(b"\n")


def test_other_threads_and_blocks_within_blocks_change_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    with prompt_interrupts(), prompt_interrupts():
        thread = threading.Thread(target=lambda: prompt_interrupts().__enter__())
        thread.start()
        thread.join()
    assert signal.set_wakeup_fd(-1) == -1 and signal.getsignal(signal.SIGINT) is before
