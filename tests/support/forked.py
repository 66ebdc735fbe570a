"""Python programs of a test, run by a fork of a process that has already imported torch and what else takes seconds.

`run(["train_net.py", ...])` and `run(["-m", "tools.segment", ...])` do what `subprocess.run` does with a new
interpreter, five seconds of a core sooner: a process of its own, with its own folder, environment variables, standard
output, exit status and way to end. Imported beforehand are packages of others only, which read none of our settings as
they are imported; maft, reason, tools and detectron2 are imported by the program itself. What differs from a new
interpreter: OMP_NUM_THREADS is 1, PYTHONHASHSEED is one for all programs of a session, PYTHON... variables other than
PYTHONPATH have no effect, and a package that a program forgot to import may be there. Hence a new interpreter for what
happens while a program starts, and for one whole run of each program.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

REPOSITORY = Path(__file__).resolve().parents[2]
PRELOADED = "numpy scipy.optimize PIL.Image cv2 yaml torch torchvision timm open_clip"
"""Imported once; those that an environment lacks are left out."""

_SERVE = """
import contextlib, importlib, os, signal, socket, sys
sys.path.insert(0, {support!r})
for name in {modules!r}.split():
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module(name)
import forked
words = forked.serve(socket.socket(fileno={channel}))
sys.path.remove({support!r})
if words:
    execute = forked.execute
    del sys.modules["forked"], forked
    execute(words)
"""

_server: tuple[subprocess.Popen[bytes], socket.socket] | None = None


class Forked:
    """A program under way, with what tests use of `subprocess.Popen`."""

    def __init__(self, words: Sequence[str], report: int, output: IO[str] | None, errors: IO[str] | None) -> None:
        self.args, self.returncode = list(words), None
        self._report, self._files = report, (output, errors)
        self.pid = int(self._line())

    returncode: int | None

    def _line(self) -> str:
        text = b""
        while not text.endswith(b"\n"):
            got = os.read(self._report, 1)
            assert got, f"{self.args}: the process that starts others has ended"
            text += got
        return text.decode()

    def poll(self) -> int | None:
        """Its exit status, or the negative number of the signal that ended it; None while it runs."""
        if self.returncode is None and select.select([self._report], [], [], 0)[0]:
            self._ended()
        return self.returncode

    def _ended(self) -> None:
        self.returncode = os.waitstatus_to_exitcode(int(self._line()))
        os.close(self._report)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status. Raises `subprocess.TimeoutExpired` after `timeout` seconds; it then goes on."""
        if self.returncode is None:
            if not select.select([self._report], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self._ended()
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote to standard output and standard error, where `start` was not told another place for that."""
        self.wait(timeout)
        return self.said()

    def said(self) -> tuple[str, str]:
        """What it has written by now."""
        return self._text(0), self._text(1)

    def _text(self, place: int) -> str:
        file = self._files[place]
        if file is None:
            return ""
        file.seek(0)
        return file.read()

    def send_signal(self, number: int) -> None:
        """Send a signal to it alone."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def start(
    words: Sequence[object],
    *,
    cwd: Path = REPOSITORY,
    env: Mapping[str, str] | None = None,
    stdout: IO[Any] | None = None,
    stderr: IO[Any] | None = None,
    start_new_session: bool = False,
) -> Forked:
    """Begin a program.

    Args: what would follow `python` on the command line (a file, `-m` and a module, or `-c` and code; then its
    arguments); its folder; its environment variables, those of this process by default; files for its standard output
    and standard error, in place of those that `communicate` reads; whether it leads a session, so that `os.killpg`
    reaches all that it starts.
    """
    channel = _running()
    command = [str(word) for word in words]
    output, errors = (None if given else _file() for given in (stdout, stderr))
    report, told = os.pipe()
    request = {"words": command, "cwd": str(cwd), "env": dict(os.environ if env is None else env)}
    handles = [(stdout or output).fileno(), (stderr or errors).fileno(), told]  # type: ignore[union-attr]
    text = json.dumps(request | {"session": start_new_session}).encode()
    channel.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", handles))])
    os.close(told)
    return Forked(command, report, output, errors)


def _file() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")


def run(
    words: Sequence[object], *, cwd: Path = REPOSITORY, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A program from start to end, at most until pytest's limit for the test; the arguments of `start`."""
    process = start(words, cwd=cwd, env=env)
    try:
        output, errors = process.communicate()
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.wait(), output, errors)


def _running() -> socket.socket:
    """The way to the process that forks; it begins with the first program and ends with this process."""
    global _server
    if _server is None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        support = str(Path(__file__).resolve().parent)
        code = _SERVE.format(support=support, modules=PRELOADED, channel=theirs.fileno())
        variables = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=variables | {"OMP_NUM_THREADS": "1"},
            cwd="/",
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        _server = process, ours
        atexit.register(_end)
    return _server[1]


def _end() -> None:
    assert _server is not None
    _server[1].close()
    _server[0].wait(30)


# From here on: in the process that forks, and in its forks.


def serve(channel: socket.socket) -> list[str] | None:
    """Fork a program for every request; returns in the forks, with their words, and, with None, at the end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    gc.collect()
    gc.freeze()  # or each program, as it ends, visits all objects of those packages: two seconds
    while True:
        text, handles, _, _ = socket.recv_fds(channel, 1 << 20, 3)
        if not text:
            return None
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            channel.close()
            return _keep(json.loads(text), handles)
        for handle in handles:
            os.close(handle)


def _keep(request: dict[str, Any], handles: list[int]) -> list[str]:
    """Fork the program and report its number and how it ended; returns in the program."""
    output, errors, report = handles
    program = os.fork()
    if program:
        os.write(report, f"{program}\n".encode())
        status = os.waitpid(program, 0)[1]
        with contextlib.suppress(BrokenPipeError):
            os.write(report, f"{status}\n".encode())
        os._exit(0)
    if request["session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    null = os.open(os.devnull, os.O_RDONLY)
    for handle, place in ((null, 0), (output, 1), (errors, 2)):
        os.dup2(handle, place)
    for handle in (null, *handles):
        os.close(handle)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # by itself it would draw the same numbers in every fork
    words: list[str] = request["words"]
    return words


def execute(words: list[str]) -> None:
    """What Python does with these words; its end is that of the interpreter."""
    import runpy

    places = os.environ.get("PYTHONPATH", "")
    sys.path[:0] = [place for place in places.split(os.pathsep) if place]
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        sys.path.insert(0, "")
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")
