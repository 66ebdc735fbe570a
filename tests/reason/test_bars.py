"""Progress in a log file: whole lines, few of them."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from reason import bars
from reason.bars import Bar

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("seconds", "lines"), [(30.0, (2,)), (0.0, (6, 7))])
def test_without_a_terminal_lines_are_whole_and_few(
    seconds: float, lines: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bars, "SECONDS", seconds)
    with Bar(total=5, desc="pc59", unit="image", leave=False, disable=None) as bar:
        for _ in range(5):
            bar.update()
    text = capsys.readouterr().err
    assert "\r" not in text and text.endswith("\n") and text.count("\n") in lines
    first, *_, last = text.splitlines()
    assert first.startswith("pc59: 0/5 image, 0%") and last.startswith("pc59: 5/5 image, 100%, ")
    assert "\u2588" not in text


def test_bytes_have_their_prefix_and_an_unknown_total_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar(desc="w.pth", unit="B", unit_scale=True) as bar:
        bar.total = 2_000_000
        bar.update(2_000_000)
    assert "w.pth: 2.00M/2.00M, 100%" in capsys.readouterr().err


def test_nothing_is_said_where_a_bar_is_off_or_quick(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar(total=3, disable=True) as off, Bar(total=3, delay=20, leave=False) as quick:
        off.update(3)
        quick.update(3)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar() -> None:
    """A real pseudo-terminal."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    body = "from reason.bars import Bar\nfor _ in Bar(range(3), desc='x'): pass"
    subprocess.run([sys.executable, "-c", body], cwd=ROOT, stderr=theirs, check=True)
    os.close(theirs)
    written = os.read(ours, 4096).decode()
    os.close(ours)
    assert "\r" in written and "3/3" in written and "so far" not in written


def test_every_bar_is_this_one() -> None:
    """tqdm alone overwrites lines in a log file, or falls silent."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    allowed = {"reason/bars.py", "reason/runs/progress.py", "tools/segment/cli.py"}
    sources = [name for name in listed.stdout.split() if not name.startswith("tests/") and name not in allowed]
    assert not [name for name in sources if "import tqdm" in (ROOT / name).read_text()]
