"""Programs that a fork runs behave as those of a new interpreter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest

PROGRAM = """
import json, os, sys
files = sorted(os.listdir("/proc/self/fd"))
print(json.dumps([sys.argv, sys.path[:2], os.getcwd(), dict(os.environ), __name__, files]))
print("said", file=sys.stderr)
sys.exit(3)
"""

WAITING = """
import sys, time
print("waits", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("heard", file=sys.stderr)
    sys.exit(130)
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not list open files")
@pytest.mark.parametrize("way", ["file", "module", "code"])
def test_a_program_finds_what_it_would_find_in_a_new_interpreter(tmp_path: Path, way: str) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    words = {"file": ["program.py"], "module": ["-m", "program"], "code": ["-c", PROGRAM]}[way]
    words = [*words, "--flag", "a b"]
    variables = {"PYTHONPATH": str(tmp_path / "more"), "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1", "OWN": "x"}
    ours = forked.run(words, cwd=tmp_path, env=variables)
    command = [sys.executable, *words]
    theirs = subprocess.run(
        command, cwd=tmp_path, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert (ours.returncode, ours.stdout, ours.stderr) == (3, theirs.stdout, "said\n") and theirs.returncode == 3


def test_ends_are_told_apart() -> None:
    assert forked.run(["-c", "raise ValueError('a')"]).stderr.endswith("ValueError: a\n")
    assert forked.run(["-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]).returncode == -signal.SIGKILL
    waiting = forked.start(["-c", WAITING])
    while not waiting.said()[0]:
        assert waiting.poll() is None, waiting.said()
        time.sleep(0.01)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.1)
    waiting.send_signal(signal.SIGINT)
    assert waiting.communicate(30) == ("waits\n", "heard\n") and waiting.returncode == 130


def test_all_of_a_session_are_reached(tmp_path: Path) -> None:
    code = "import os, sys, time; os.fork(); print(os.getpid(), flush=True); time.sleep(60)"
    with (tmp_path / "out").open("w") as out:
        parent = forked.start(["-c", code], stdout=out, start_new_session=True)
    while len(pids := (tmp_path / "out").read_text().split()) < 2:
        assert parent.poll() is None, parent.said()
        time.sleep(0.01)
    assert str(parent.pid) in pids
    os.killpg(parent.pid, signal.SIGKILL)
    assert parent.wait(30) == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_nothing_of_ours_is_loaded_beforehand() -> None:
    code = "import sys; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = set(eval(forked.run(["-c", code]).stdout))
    assert {"torch", "open_clip", "timm"} <= loaded
    assert not loaded & {"maft", "reason", "tools", "detectron2", "forked", "pytest"}
