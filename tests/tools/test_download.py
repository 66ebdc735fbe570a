"""Downloads from a server on loopback: resumed after a kill and broken connections, checked, never half in place."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maft.errors import UserError
from tools.download import DownloadError, fetch

ROOT = Path(__file__).resolve().parents[2]
CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = ("sha256", hashlib.sha256(CONTENT).hexdigest())


class Server(ThreadingHTTPServer):
    """Serves `content` at every path; what it does beside that is set by the test."""

    daemon_threads = True
    content = CONTENT
    etag = '"one"'
    ranges = True
    break_after: int | None = None
    seconds_per_chunk = 0.0
    status = 200
    failures = 0
    answers: int | None = None
    content_type = "application/octet-stream"
    lengths = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None]] = []

    def url(self, name: str = "file.bin") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are what is tested."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append((self.path, asked))
        if server.failures or server.answers == 0:
            server.failures = max(0, server.failures - 1)
            self.send_error(503)
            return
        if server.answers is not None:
            server.answers -= 1
        if server.status != 200:
            self.send_error(server.status)
            return
        start, body = 0, server.content
        match = re.fullmatch(r"bytes=(\d+)-", asked or "")
        same = self.headers.get("If-Range") in (None, server.etag)
        if match and server.ranges and same:
            start = int(match[1])
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if server.lengths:
            self.send_header("Content-Length", str(len(body) - start))
        self.send_header("Content-Type", server.content_type)
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        end = len(body) if server.break_after is None else min(len(body), start + server.break_after)
        for place in range(start, end, 50_000):
            self.wfile.write(body[place : min(end, place + 50_000)])
            time.sleep(server.seconds_per_chunk)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "file.bin"


def leftovers(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if path != target)


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("did not happen within ten seconds")


def test_a_file_arrives_whole_and_is_not_fetched_again(server: Server, target: Path) -> None:
    assert fetch(server.url(), target, size=len(CONTENT), digest=SHA256) == target
    assert target.read_bytes() == CONTENT and leftovers(target) == []
    fetch(server.url(), target, size=len(CONTENT), digest=SHA256)
    assert len(server.asked) == 1


def test_a_killed_download_is_resumed_where_it_stopped(server: Server, target: Path) -> None:
    server.seconds_per_chunk = 0.02
    code = "import sys, pathlib; from tools.download import fetch; fetch(sys.argv[1], pathlib.Path(sys.argv[2]))"
    process = subprocess.Popen([sys.executable, "-c", code, server.url(), str(target)], cwd=ROOT)
    part = target.with_name("file.bin.part")
    try:
        wait_for(lambda: part.exists() and part.stat().st_size > 100_000)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = part.stat().st_size
    assert not target.exists() and 0 < kept < len(CONTENT)
    server.seconds_per_chunk = 0.0
    fetch(server.url(), target, digest=SHA256)
    assert server.asked[-1] == ("/file.bin", f"bytes={kept}-")
    assert target.read_bytes() == CONTENT and leftovers(target) == []


def test_a_connection_that_breaks_again_and_again_is_gone_on_with(server: Server, target: Path) -> None:
    server.break_after = 700_000
    fetch(server.url(), target, digest=SHA256, attempts=2, pause=0.01)
    assert target.read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, *(f"bytes={n}-" for n in range(700_000, 2_900_000, 700_000))]


def test_it_gives_up_when_nothing_comes_any_more_and_keeps_what_came(server: Server, target: Path) -> None:
    server.break_after = 600_000
    server.answers = 2
    with pytest.raises(DownloadError, match="kept"):
        fetch(server.url(), target, attempts=3, pause=0.01)
    assert target.with_name("file.bin.part").stat().st_size == 1_200_000
    server.answers = server.break_after = None
    fetch(server.url(), target, digest=SHA256)
    assert server.asked[-1][1] == "bytes=1200000-"


def test_a_busy_server_is_asked_again(server: Server, target: Path) -> None:
    server.failures = 2
    fetch(server.url(), target, digest=SHA256, attempts=4, pause=0.01)
    assert len(server.asked) == 3 and target.read_bytes() == CONTENT


def begin(server: Server, target: Path) -> int:
    """Half a download, as a broken connection leaves it."""
    server.break_after, server.answers = 1_000_000, 1
    with pytest.raises(DownloadError):
        fetch(server.url(), target, attempts=1, pause=0.01)
    server.answers = server.break_after = None
    server.asked.clear()
    return target.with_name("file.bin.part").stat().st_size


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: Server, target: Path) -> None:
    assert begin(server, target) == 1_000_000
    server.content, server.etag = CONTENT[::-1], '"two"'
    fetch(server.url(), target)
    assert target.read_bytes() == CONTENT[::-1]
    assert len(server.asked) == 1


def test_a_shorter_file_than_what_is_there_starts_again(server: Server, target: Path) -> None:
    server.etag = ""
    begin(server, target)
    server.content = CONTENT[:500_000]
    fetch(server.url(), target, pause=0.01)
    assert target.read_bytes() == CONTENT[:500_000]


def test_a_server_without_ranges_starts_again(server: Server, target: Path) -> None:
    begin(server, target)
    server.ranges = False
    fetch(server.url(), target, digest=SHA256)
    assert target.read_bytes() == CONTENT


def test_a_partial_file_of_another_address_is_not_continued_unless_a_digest_guards_it(
    server: Server, target: Path
) -> None:
    begin(server, target)
    fetch(server.url("other"), target)
    assert server.asked == [("/other", None)] and target.read_bytes() == CONTENT
    target.unlink()
    begin(server, target)
    fetch(server.url("mirror"), target, digest=SHA256)
    assert server.asked == [("/mirror", "bytes=1000000-")] and target.read_bytes() == CONTENT


def test_a_server_that_states_no_length(server: Server, target: Path) -> None:
    server.lengths = False
    fetch(server.url(), target, digest=SHA256)
    assert target.read_bytes() == CONTENT


def test_the_next_address_is_tried(server: Server, target: Path) -> None:
    gone = Server()
    gone.server_close()
    fetch([gone.url(), "ftp://example.org/file.bin", server.url()], target, digest=SHA256, attempts=1, pause=0.01)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        ({"status": 404}, {}, "404"),
        ({"content_type": "text/html; charset=utf-8"}, {}, "web page"),
        ({}, {"size": 17}, "3,000,000 bytes, 17 are published"),
        ({}, {"digest": ("md5", "0" * 32)}, "not file.bin as published"),
    ],
)
def test_what_is_not_the_file_is_refused_in_one_line(
    server: Server, target: Path, change: dict[str, Any], options: dict[str, Any], says: str
) -> None:
    for name, value in change.items():
        setattr(server, name, value)
    with pytest.raises(DownloadError, match=re.escape(says)) as caught:
        fetch(server.url(), target, attempts=1, **options)
    assert server.url() in str(caught.value) and "\n" not in str(caught.value)
    assert not target.exists() and leftovers(target) == []


def test_a_server_that_hangs_counts_as_broken(server: Server, target: Path) -> None:
    server.seconds_per_chunk = 5.0
    with pytest.raises(DownloadError, match="times in a row"):
        fetch(server.url(), target, attempts=1, pause=0.01, timeout=0.2)


def test_another_file_in_its_place_is_named_and_left_alone(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"mine")
    with pytest.raises(UserError, match="has 4 bytes instead of"):
        fetch(server.url(), target, size=len(CONTENT))
    assert target.read_bytes() == b"mine" and server.asked == []


def test_no_space_is_said_before_anything_is_fetched(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(ROOT)._replace(free=1000)
    monkeypatch.setattr("tools.download.shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="make room"):
        fetch(server.url(), target)
    assert not target.exists() and leftovers(target) == []


def test_two_processes_do_not_write_into_one_file(server: Server, target: Path) -> None:
    target.parent.mkdir()
    with target.with_name("file.bin.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process"):
            fetch(server.url(), target)
    fetch(server.url(), target, digest=SHA256)
