"""The whole of `reason image --engine server` against a server that answers each image in its own odd way."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import reason.engines.server as server_module
from reason.cli.main import main
from reason.triplets import load_image

ENDS = {
    "fine": "",
    "no_content": "holds no choice",
    "truncated": "Unterminated string",
    "broken_off": "peer closed connection",
    "fault_then_fine": "",
    "fault": "out of memory",
    "busy_late": "",
    "trickle": "no whole answer within 3 s",
    "trickle_then_fine": "",
    "refused": "too many pixels",
}
"""Image -> what is said of it when it failed; "" where it must be done."""
LATE = ("fault", "refused", "trickle")
"""Images whose first question is answered well."""
COLORS = {(20 * number, 250 - 20 * number, 60): name for number, name in enumerate(ENDS)}
REASON = {
    "general_category": "animal",
    "sub_category": "pet",
    "attributes": ["soft fur", "long tail", "whiskers", "paws", "pointed ears"],
}
ANSWERS: dict[str, Any] = {
    "form": "kept",
    "description": "A cat lies on the floor of a room and looks at the camera.",
    "classes": ["cat"],
}
PAUSE = 0.05
"""Seconds between two bytes of an answer that trickles."""


def shown(body: dict[str, Any]) -> str:
    """The image that is asked about, by its colour; "" for the question at the start."""
    parts = next(turn["content"] for turn in body["messages"] if isinstance(turn["content"], list))
    data = base64.b64decode(parts[0]["image_url"]["url"].partition(",")[2])
    with Image.open(io.BytesIO(data)) as image:
        red, green, blue = image.convert("RGB").getpixel((5, 5))
    near = {sum(map(abs, (red - r, green - g, blue - b))): name for (r, g, b), name in COLORS.items()}
    return near[min(near)] if min(near) < 12 else ""


def answer(body: dict[str, Any]) -> bytes:
    """What a model would say, in the form that is asked for."""
    names = body["response_format"]["json_schema"]["schema"]["properties"]
    text = json.dumps({name: ANSWERS.get(name, REASON) for name in names}, separators=(",", ":"))
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    ).encode()


class Odd(BaseHTTPRequestHandler):
    """Answers each image in its own way."""

    over: threading.Event
    asked: Counter[str]

    def do_GET(self) -> None:
        """The list of models."""
        if not self.path.endswith("/models"):
            return self.send(404, b"{}")
        entry = {"id": "m", "object": "model", "created": 0, "owned_by": "x"}
        return self.send(200, json.dumps({"object": "list", "data": [entry]}).encode())

    def do_POST(self) -> None:
        """An answer."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        name = shown(body)
        self.asked[name] += 1
        first, good = self.asked[name] == 1, answer(body)
        if name in LATE and first:  # a run stops where the first question fails five times in a row
            name = "fine"
        if name == "no_content":
            self.send_response(204)
            self.end_headers()
        elif name == "truncated":
            self.send(200, good[:60])
        elif name == "broken_off":
            self.send(200, good[:60], length=len(good))
        elif name == "fault" or (name == "fault_then_fine" and first):
            self.send(500, b'{"error": {"message": "out of memory"}}')
        elif name == "busy_late" and self.asked[name] == 2:
            self.send(429, b'{"error": {"message": "slow down"}}', ("retry-after", "1"))
        elif name == "refused":
            self.send(400, b'{"error": {"message": "too many pixels"}}')
        elif name == "trickle" or (name == "trickle_then_fine" and first):
            self.send(200, b"", length=9999)
            try:
                while not self.over.wait(PAUSE):
                    self.wfile.write(b" ")
            except OSError:  # given up
                pass
        else:
            self.send(200, good)

    def send(self, status: int, body: bytes, *headers: tuple[str, str], length: int | None = None) -> None:
        """An answer that says `length`, and then the connection's end."""
        self.send_response(status)
        self.send_header("content-type", "application/json")
        for header in (*headers, ("content-length", str(len(body) if length is None else length))):
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def odd_server() -> Iterator[tuple[str, Counter[str]]]:
    """Its address and how often each image was asked about."""
    over, asked = threading.Event(), Counter[str]()
    handler = type("Handler", (Odd,), {"over": over, "asked": asked})
    web = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{web.server_port}/v1", asked
    over.set()
    web.shutdown()
    web.server_close()


def test_each_image_is_done_or_failed_with_words_and_the_command_ends(
    odd_server: tuple[str, Counter[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(server_module, "ANSWER_TIMEOUT", 3.0)
    monkeypatch.setattr(server_module, "FIRST_PAUSE", 0.05)
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for color, name in COLORS.items():
        Image.new("RGB", (112, 112), color).save(images / f"{name}.png")
    url, asked = odd_server
    words = ["image", "--vocabulary", "cat, dog", "--images", str(images), "--output", str(out), "--engine", "server"]
    words += ["--url", url, "--aligner", "none", "--candidates", "closed", "--quiet", "--concurrency", "4"]
    assert main(words) == 1
    error = capsys.readouterr().err
    failed = {name: words for name, words in ENDS.items() if words}
    assert f"failed: {len(failed)} images" in error
    lines = {line.split(":")[0].strip(): line for line in error.splitlines() if line.startswith("  ")}
    for name, told in ENDS.items():
        if told:
            assert told in lines[name], (name, error)
            assert not (out / f"{name}.json").exists()
        else:
            assert list(load_image(out / f"{name}.json").reasons) == ["cat"]
    assert asked["fault_then_fine"] == asked["busy_late"] == asked["trickle_then_fine"] == asked["fine"] + 1
    assert asked["trickle"] - 1 == asked["no_content"] == asked["broken_off"] == server_module.TRIES_AT_FAULTS
    assert asked["refused"] == 2
    assert main(["status", "--json", str(out)]) == 0
    (status,) = json.loads(capsys.readouterr().out)
    assert (status["done"], status["failed"], status["workers"]) == (len(ENDS) - len(failed), len(failed), [])
