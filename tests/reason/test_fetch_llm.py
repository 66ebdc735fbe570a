"""tools/fetch_llm.sh's program against a hub on this machine, by the hub's own client."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from reason.errors import ReasonError
from tools.fetch_llm import check_space, missing_bytes

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Serves one folder as the repository Qwen/tiny; counts the bytes of each file that were sent."""

    def __init__(self, folder: Path) -> None:
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.sent: dict[str, int] = {}
        super().__init__(("127.0.0.1", 0), HubHandler)


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.reply(with_body=False)

    def do_GET(self) -> None:
        self.reply(with_body=True)

    def reply(self, *, with_body: bool) -> None:
        path = self.path.split("?")[0]
        name = path.rpartition("/")[2]
        if path.startswith("/api/models/Qwen/tiny"):
            entries = [{"rfilename": name, "size": len(data)} for name, data in self.server.files.items()]
            document: dict[str, Any] = {"id": "Qwen/tiny", "sha": COMMIT, "siblings": entries, "tags": []}
            tree = [{"type": "file", "path": e["rfilename"], "size": e["size"], "oid": "0"} for e in entries]
            body = json.dumps(tree if "/tree/" in path else document).encode()
            self.answer(200, body, {"content-type": "application/json"}, with_body)
        elif path.startswith("/Qwen/tiny/resolve/") and name in self.server.files:
            data = self.server.files[name]
            headers = {"etag": f'"{hashlib.sha256(data).hexdigest()}"', "x-repo-commit": COMMIT}
            if with_body:
                self.server.sent[name] = self.server.sent.get(name, 0) + len(data)
            self.answer(200, data, headers, with_body)
        else:
            self.answer(404, b"{}", {"x-error-code": "RepoNotFound"}, with_body)

    def answer(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def hub(tiny_model: Path) -> Iterator[Hub]:
    server = Hub(tiny_model)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(hub: Hub, *words: str) -> subprocess.CompletedProcess[str]:
    here = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "tools.fetch_llm", *words]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **here}, capture_output=True, text=True, check=False, timeout=120
    )


def test_a_model_is_fetched_checked_and_not_fetched_again(hub: Hub, tiny_model: Path, tmp_path: Path) -> None:
    done = fetch(hub, "tiny", "--folder", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"ok: {tmp_path / 'tiny'} is whole: 1 weight files" in done.stdout
    for path in tiny_model.iterdir():
        assert (tmp_path / "tiny" / path.name).read_bytes() == path.read_bytes()
    hub.sent.clear()
    again = fetch(hub, "tiny", "--folder", str(tmp_path))
    assert again.returncode == 0 and "of which 0.0 GB are to come" in again.stdout
    assert hub.sent == {}
    (tmp_path / "tiny" / "model.safetensors").write_bytes(b"cut off")
    checked = fetch(hub, "tiny", "--folder", str(tmp_path), "--check")
    assert checked.returncode == 2 and checked.stderr.startswith("error: ") and checked.stderr.count("\n") == 1


def test_what_is_not_there_is_one_line(hub: Hub, tmp_path: Path) -> None:
    done = fetch(hub, "Nobody/Nothing", "--folder", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: Nobody/Nothing: cannot be fetched") and done.stderr.count("\n") == 1
    assert not (tmp_path / "Nothing").exists()


def test_room_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(10))
    (tmp_path / "b").write_bytes(bytes(5))
    assert missing_bytes({"a": 10, "b": 7, "c": 20}, tmp_path) == 27
    check_space(1000, tmp_path / "not" / "yet")
    with pytest.raises(ReasonError, match=r"1000000\.0 GB are to come"):
        check_space(10**15, tmp_path)
