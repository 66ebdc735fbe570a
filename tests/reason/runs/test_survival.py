"""What is killed at any moment, filled up, or left alone by its server continues, and does nothing twice."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reason.cli.status import folder_status, format_status
from reason.triplets import load_image

REPOSITORY = Path(__file__).resolve().parents[3]
KILLS = 20
IMAGES = 64

Stamps = dict[str, tuple[int, int]]
Words = Callable[..., list[str]]
Check = Callable[[Path], None]


@pytest.fixture
def words(many: Path, mini_classes: Path) -> Words:
    """The arguments of a run over the 64 drawn images: of a server's address, the output folder, and more words."""

    def asked(url: str, output: Path, *more: str) -> list[str]:
        listed = ["image", "--vocabulary", str(mini_classes), "--images", str(many), "--output", str(output), "--quiet"]
        listed += ["--engine", "server", "--url", url, "--aligner", "none", "--attributes", "3", "3"]
        return [*listed, "--concurrency", "4", *more]

    return asked


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "reason", *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stamps(folder: Path) -> Stamps:
    """Inode and time of change of every result."""
    found = {}
    for path in folder.glob("*.json"):
        status = path.stat()
        found[path.name] = (status.st_ino, status.st_mtime_ns)
    return found


@pytest.fixture
def check_all_whole(many: Path, judged: Callable[[Iterable[Path]], dict[str, float]]) -> Check:
    """Every image has its result, which says what is in this very image, and nothing else lies about."""

    def check(folder: Path) -> None:
        names = sorted(f"{image.stem}.json" for image in many.iterdir())
        assert sorted(path.name for path in folder.iterdir()) == [".reason", *names]
        found = judged(folder / name for name in names)
        assert min(found[figure] for figure in ("recall", "precision", "attributes")) >= 0.85, found
        left = [path for path in (folder / ".reason").rglob("*") if path.is_symlink() or path.is_file()]
        assert sorted(path.name for path in left) == ["provenance.json", "vocabulary.json"]

    return check


def finished_here(report: str) -> int:
    """How many images a run says that it has done itself."""
    found = re.search(r"^(\d+) images? in ", report, re.MULTILINE)
    return int(found[1]) if found else 0


def wait_for_results(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*.json"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Zygote:
    """A process that has imported everything and forks a run on demand: kills need no start of Python each."""

    _CODE = """
import os, sys
import openai, cv2, PIL.Image
import reason.cli.image, reason.engines.server
from reason.cli.main import main
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(main(eval(line)))
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", self._CODE]
        self._process = subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, text=True)

    def _line(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def fork(self, arguments: list[str]) -> int:
        """Begin a run; its process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{arguments!r}\n")
        self._process.stdin.flush()
        return self._line()

    def wait(self) -> int:
        """The run's exit status, or the negative number of the signal that ended it."""
        return os.waitstatus_to_exitcode(self._line())

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    one = Zygote()
    yield one
    one.close()


def test_killed_at_twenty_moments_nothing_is_lost_or_done_twice(
    vllm_server: str, words: Words, check_all_whole: Check, tmp_path: Path, zygote: Zygote
) -> None:
    chance = random.Random(20)
    out = tmp_path / "out"
    known: Stamps = {}
    killed_at = []
    for number in range(KILLS):
        process = zygote.fork(words(vllm_server, out))
        if number % 4 and len(known) < IMAGES - 8:  # in the midst of work
            wait_for_results(out, len(known) + chance.randint(1, 2))
            time.sleep(chance.uniform(0, 0.3))
        else:  # at the start
            time.sleep(chance.uniform(0.02, 0.8))
        os.kill(process, signal.SIGKILL)
        assert zygote.wait() == -signal.SIGKILL
        after = stamps(out)
        assert known.items() <= after.items(), "a finished image was written again"
        for name in after.keys() - known.keys():
            load_image(out / name)
        killed_at.append(len(after))
        known = after
    assert len(set(killed_at)) > 3, f"the kills hit no work: {killed_at}"
    zygote.fork(words(vllm_server, out))
    assert zygote.wait() == 0
    assert known.items() <= stamps(out).items()
    check_all_whole(out)


def test_two_processes_share_a_folder(vllm_server: str, words: Words, check_all_whole: Check, tmp_path: Path) -> None:
    out = tmp_path / "out"
    processes = [start(words(vllm_server, out)) for _ in range(2)]
    ended = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    done = [finished_here(report) for report, _ in ended]
    assert sum(done) == IMAGES
    assert all(f"{IMAGES} of {IMAGES} images" in report for report, _ in ended)
    check_all_whole(out)


def test_status_while_it_works_and_an_interrupt_that_says_how_to_continue(
    vllm_server: str, words: Words, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(words(vllm_server, out))
    wait_for_results(out, 2)
    status = folder_status(out, out / ".reason")
    process.send_signal(signal.SIGINT)
    assert status.total == IMAGES and status.done >= 2 and status.claimed > 0
    assert len(status.workers) == 1 and str(process.pid) in status.workers[0]
    assert status.rate and status.remaining and f"{process.pid}" in format_status(status)
    _, error = process.communicate()
    assert process.returncode == 130
    assert re.search(rf"stopped by SIGINT: \d+ of {IMAGES} images are on disk; the same command continues", error)
    assert not list((out / ".reason" / "claims").iterdir()), "what was under way is free again"


def test_a_full_disk_is_a_clear_stop(vllm_server: str, words: Words, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", small], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here ({made.stderr.strip()})")
    try:
        process = start(words(vllm_server, small / "out"))
        _, error = process.communicate()
        assert process.returncode == 2
        # A busy server may refuse a connection first, which is a warning; the stop is one line.
        *warnings, stop = error.splitlines()
        assert stop.startswith("error: ") and "no space left" in stop
        assert all(line.startswith("WARNING: ") for line in warnings)
        before = stamps(small / "out")
        assert 0 < len(before) < IMAGES
        for name in before:
            load_image(small / "out" / name)
        assert not list(small.rglob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=4m", small], check=True)
        process = start(words(vllm_server, small / "out", "--limit", "32"))
        _, error = process.communicate()
        assert process.returncode == 0, error
        assert before.items() <= stamps(small / "out").items()
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.kills_server(starts_it_again=True)
def test_a_server_that_dies_stops_the_work_which_then_continues(
    server: Any, vllm_server: str, words: Words, check_all_whole: Check, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(words(vllm_server, out))
    wait_for_results(out, 2)
    server.kill()
    _, error = process.communicate(timeout=120)
    assert process.returncode == 3, error
    assert error.splitlines()[-1].startswith("error: ") and "the same command continues" in error
    before = stamps(out)
    assert 2 <= len(before) < IMAGES
    process = start(words(server.ensure(), out))
    report, error = process.communicate()
    assert process.returncode == 0, error
    assert finished_here(report) == IMAGES - len(before)
    assert before.items() <= stamps(out).items()
    assert json.loads((out / ".reason" / "provenance.json").read_text())["engine"] == "server"
    check_all_whole(out)
