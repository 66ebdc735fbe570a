"""The server engine against vLLM's own server, really started, frozen and killed, and against what is none."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import reason.engines.server as server_module
from reason.asking.messages import Answer, EncodedImage, Request, Sampling, Turn
from reason.engines.calls import Calls
from reason.engines.interface import EngineOptions
from reason.engines.opening import open_engine
from reason.engines.server import ServerEngine
from reason.errors import EngineGone, ReasonError
from reason.vocabulary import load_vocabulary
from tools.demo.asking import Model
from tools.mini.lmm.grading import present
from tools.mini.scenes import dev_scene

GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=64, seed=0)
SCHEMA = {
    "type": "object",
    "properties": {"description": {"type": "string", "pattern": "^[A-Za-z ]{3,40}$"}},
    "required": ["description"],
    "additionalProperties": False,
}
SYSTEM = Turn("system", "Look at the image, and describe what it shows in a few words. " * 12)


def encoded(photos: Path, name: str) -> EncodedImage:
    from PIL import Image

    stream = io.BytesIO()
    with Image.open(photos / f"{name}.jpg") as image:
        image.resize((168, 168)).save(stream, "JPEG")
    data = stream.getvalue()
    return EncodedImage(data, "image/jpeg", 168, 168, hashlib.sha256(data).hexdigest(), 36)


def ask(key: str, shown: EncodedImage | None, *more: Turn) -> Request:
    return Request(key, (SYSTEM, Turn("user", "Describe.", shown), *more), SCHEMA, GREEDY)


def answers(engine: ServerEngine, requests: list[Request]) -> dict[str, Answer]:
    for request in requests:
        engine.submit(request)
    found: dict[str, Answer] = {}
    while len(found) < len(requests):
        found.update((answer.key, answer) for answer in engine.collect(60))
    return found


def open_server(url: str, **changes: Any) -> ServerEngine:
    engine = open_engine("server", EngineOptions(**{"model": "mini", "url": url, "concurrency": 3, **changes}))
    assert isinstance(engine, ServerEngine)
    return engine


def test_answers_have_the_form_and_the_counts(vllm_server: str, photos: Path) -> None:
    engine = open_server(vllm_server)
    assert (engine.info.engine, engine.info.model, engine.capacity) == ("server", "mini", 3)
    assert engine.info.engine_version.startswith("vllm 0.")
    names = ["astronaut", "chelsea", "coffee", "rocket", "coins"]
    got = answers(engine, [ask(name, encoded(photos, name)) for name in names])
    for answer in got.values():
        assert answer.error is None and answer.finish_reason == "stop"
        assert set(json.loads(answer.text)) == {"description"} and ": " not in answer.text
    assert len({answer.text for answer in got.values()}) > 1, "the image plays no part"
    first = got["coffee"]
    turns = Turn("assistant", first.text), Turn("user", "And now?")
    again = answers(engine, [ask("again", encoded(photos, "coffee"), *turns)])["again"]
    assert again.cached_tokens is not None and again.cached_tokens > first.prompt_tokens - 32
    assert engine.collect() == []
    engine.close()
    with pytest.raises(EngineGone):
        engine.submit(ask("late", None))


def test_a_refused_request_costs_itself_only(vllm_server: str, photos: Path) -> None:
    engine = open_server(vllm_server, constraint="structured_outputs")
    too_long = Request("long", (Turn("user", "Describe it. " * 4000),), None, GREEDY)
    no_image = ask("broken", replace(encoded(photos, "coffee"), data=b"no image", uuid="broken"))
    got = answers(engine, [too_long, no_image, ask("fine", encoded(photos, "camera"))])
    assert "4096" in str(got["long"].error) and got["broken"].error and got["fine"].error is None
    assert set(json.loads(got["fine"].text)) == {"description"}
    engine.close()


def test_the_model_is_found_or_the_served_ones_are_named(vllm_server: str) -> None:
    for name in ("", "llm/mini"):
        engine = open_server(vllm_server, model=name, constraint="response_format")
        assert engine.info.model == "mini"
        engine.close()
    with pytest.raises(ReasonError, match=r"serves mini: name one of these"):
        open_server(vllm_server, model="llm/Qwen2.5-VL-72B-Instruct-AWQ")


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ReasonError, match="no OpenAI-compatible server answers there"):
        open_server("http://127.0.0.1:9/v1")


@pytest.mark.kills_server
def test_a_frozen_server_is_gone(server: Any, vllm_server: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes connections and says nothing: only asking for a sign of life tells."""
    monkeypatch.setattr(server_module, "QUIET", 1.0)
    monkeypatch.setattr(server_module, "SIGN_TIMEOUT", 1.0)
    engine = open_server(vllm_server, patience=2.0)
    server.process.send_signal(signal.SIGSTOP)
    try:
        engine.submit(ask("one", encoded(photos, "coffee")))
        with pytest.raises(EngineGone, match="no answer for"):
            engine.collect()
    finally:
        server.process.send_signal(signal.SIGCONT)
    with pytest.raises(EngineGone):
        engine.submit(ask("two", None))
    engine.close()


@pytest.mark.kills_server
def test_a_killed_server_is_gone_within_a_minute(server: Any, vllm_server: str, photos: Path) -> None:
    engine = open_server(vllm_server, patience=6.0)
    assert EngineOptions(model="").patience + 2 * server_module.LONGEST_PAUSE < 60
    shown = encoded(photos, "coffee")
    long = {"type": "array", "items": {"type": "string", "enum": ["one more"]}, "minItems": 300}
    for key in ("one", "two", "three", "four"):
        engine.submit(Request(key, (SYSTEM, Turn("user", "Tell.", shown)), long, replace(GREEDY, max_tokens=3000)))
    time.sleep(0.3)
    server.kill()
    with pytest.raises(EngineGone, match="start again when it is back"):
        while True:
            assert not engine.collect()
    engine.close()


@contextmanager
def web_server(replies: dict[str, list[tuple[int, Any]]]) -> Iterator[tuple[str, list[str]]]:
    """An HTTP server for what vLLM's cannot be made to say: each path's replies in turn, the last one for ever.

    Yields its address and the list of what was asked, with the key that came with it.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            asked.append(f"{self.path} {self.headers.get('authorization')}")
            left = replies.get(self.path) or [(404, {})]
            status, document = left.pop(0) if len(left) > 1 else left[0]
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            kind = "text/html" if body.startswith(b"<") else "application/json"
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = reply

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{web.server_port}/v1", asked
    web.shutdown()
    web.server_close()


MODELS = (200, {"object": "list", "data": [{"id": "mini", "object": "model", "created": 0, "owned_by": "x"}]})
CHAT = "/v1/chat/completions"


def said(text: str, reason: str = "stop") -> tuple[int, dict[str, Any]]:
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text}}
    return 200, {"id": "1", "object": "chat.completion", "created": 0, "model": "mini", "choices": [choice]}


def fault(status: int) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": f"trouble {status}"}}


def test_what_passes_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "FIRST_PAUSE", 0.1)
    monkeypatch.setenv("SECRET_OF_THE_TEST", "s3cret")
    chat = [fault(429), fault(503), fault(500), said("at last")]
    with web_server({"/v1/models": [MODELS], CHAT: chat}) as (url, asked):
        engine = open_server(url, constraint="none", concurrency=1, api_key_env="SECRET_OF_THE_TEST")
        answer = answers(engine, [ask("one", None)])["one"]
        assert (answer.text, answer.finish_reason, answer.cached_tokens) == ("at last", "stop", None)
        assert asked.count(f"{CHAT} Bearer s3cret") == 4
        assert engine.info.engine_version == "unknown"
        engine.close()


def choice(message: Any, **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": "stop", **more}]}


UNFORESEEN = {
    "choices null": {"choices": None},
    "no choice": {"choices": []},
    "a choice null": {"choices": [None]},
    "choices a text": {"choices": "none"},
    "nothing": {},
    "message null": choice(None),
    "content null": choice({"content": None}),
    "content a number": choice({"content": 7}),
    "content an empty list": choice({"content": []}),
    "content parts without text": choice({"content": [{"type": "image"}, None]}),
    "a list": [1, 2],
    "a number": 3,
    "null": None,
    "a page": b"<html><body>Welcome to nginx!</body></html>",
    "an empty body": b"",
    "half a JSON": b'{"choices": [',
    "not UTF-8": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("reply", UNFORESEEN.values(), ids=list(UNFORESEEN))
def test_an_answer_that_nobody_foresaw_is_asked_again_and_then_given_up(
    reply: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "FIRST_PAUSE", 0.01)
    with web_server({"/v1/models": [MODELS], CHAT: [(200, reply), said("at last")]}) as (url, _):
        engine = open_server(url, constraint="none", concurrency=1)
        assert answers(engine, [ask("one", None)])["one"].text == "at last"
        engine.close()
    with web_server({"/v1/models": [MODELS], CHAT: [(200, reply)]}) as (url, asked):
        engine = open_server(url, constraint="none", concurrency=2)
        got = answers(engine, [ask(key, None) for key in ("one", "two", "three")])
        assert all(answer.error and "\n" not in answer.error for answer in got.values())
        assert len([line for line in asked if line.startswith(CHAT)]) == 3 * server_module.TRIES_AT_FAULTS
        engine.close()
    with (
        web_server({"/v1/models": [MODELS], CHAT: [(200, reply)]}) as (url, _),
        pytest.raises(ReasonError, match="no answer form"),
    ):
        open_server(url)
    with web_server({"/v1/models": [(200, reply)]}) as (url, _), pytest.raises(ReasonError, match=r"/v1"):
        open_server(url)


def test_content_in_parts_and_strange_counts_are_read() -> None:
    parts = [{"type": "text", "text": "at "}, {"type": "image"}, {"type": "text", "text": "last"}]
    usage = {"prompt_tokens": "7", "completion_tokens": None, "prompt_tokens_details": {"cached_tokens": 3}}
    reply = {**choice({"content": parts}, finish_reason=None), "usage": usage}
    with web_server({"/v1/models": [MODELS], CHAT: [(200, reply)]}) as (url, _):
        engine = open_server(url, constraint="none", concurrency=1)
        answer = answers(engine, [ask("one", None)])["one"]
        assert (answer.text, answer.finish_reason) == ("at last", "unknown")
        assert (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens) == (0, 0, 3)
        engine.close()


@pytest.mark.parametrize("invented", [RuntimeError("invented"), KeyError("x"), SystemExit(1)])
def test_no_exception_of_a_thread_leaves_anybody_waiting(
    invented: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web_server({"/v1/models": [MODELS]}) as (url, _):
        engine = open_server(url, constraint="none", concurrency=1)

        def fail(request: Request) -> Answer:
            raise invented

        monkeypatch.setattr(engine, "_ask", fail)
        engine.submit(ask("one", None))
        if isinstance(invented, Exception):
            assert engine.collect(30)[0].error
        else:
            with pytest.raises(EngineGone, match="a thread ended"):
                engine.collect(30)
        engine.close()


def test_a_forgotten_v1_is_noticed() -> None:
    with web_server({"/v1/models": [MODELS]}) as (url, _), pytest.raises(ReasonError, match=f"--url {url} does"):
        open_server(url.removesuffix("/v1"))
    with pytest.raises(ReasonError, match=r"such addresses end in /v1"):
        open_server("http://127.0.0.1:9")


def test_a_request_that_always_fails_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "FIRST_PAUSE", 0.1)
    with web_server({"/v1/models": [MODELS], CHAT: [fault(500)]}) as (url, asked):
        engine = open_server(url, constraint="none", concurrency=1)
        assert answers(engine, [ask("one", None)])["one"].error == "trouble 500"
        assert len([line for line in asked if line.startswith(CHAT)]) == server_module.TRIES_AT_FAULTS
        engine.close()


def test_a_proxy_without_its_server_and_a_refused_key_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "FIRST_PAUSE", 0.1)
    for status, what in ((502, "trouble 502"), (401, "the key in OPENAI_API_KEY is refused")):
        with web_server({"/v1/models": [MODELS], CHAT: [fault(status)]}) as (url, _):
            engine = open_server(url, constraint="none", concurrency=2, patience=1.0)
            engine.submit(ask("one", None))
            engine.submit(ask("two", None))
            with pytest.raises(EngineGone, match=what):
                engine.collect()
            engine.close()


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ([fault(400), said('{"form":"kept"}')], "structured_outputs"),
        ([said('{"form": "kept"}')], "response_format"),
        ([said("{\n   \n", "length")], "response_format"),
    ],
)
def test_the_way_to_ask_for_a_form_is_found_out(
    replies: list[tuple[int, dict[str, Any]]], expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    with web_server({"/v1/models": [MODELS], CHAT: replies}) as (url, _):
        engine = open_server(url)
        assert engine._constraint == expected
        assert ("free white space" in caplog.text) == (expected == "response_format")
        engine.close()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_at_the_start_is_asked_again(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """Such an answer says nothing about the forms it knows."""
    monkeypatch.setattr(server_module, "FIRST_PAUSE", 0.1)
    chat = [fault(status), fault(status), said('{"form":"kept"}')]
    with web_server({"/v1/models": [MODELS], CHAT: chat}) as (url, _):
        engine = open_server(url)
        assert engine._constraint == "response_format"
        engine.close()
    if status != 500:
        with (
            web_server({"/v1/models": [MODELS], CHAT: [fault(status)]}) as (url, _),
            pytest.raises(ReasonError, match=f"takes no request now .trouble {status}.; start again"),
        ):
            open_server(url, patience=0.5)


@pytest.mark.parametrize("reply", [b"<html>log in</html>", b"[]", b'"hello"', b'{"data": [', b""])
def test_another_server_is_told_by_its_list_of_models(reply: bytes) -> None:
    with (
        web_server({"/v1/models": [(200, reply)]}) as (url, _),
        pytest.raises(ReasonError, match="what it says is no list of models"),
    ):
        open_server(url)


@pytest.mark.parametrize(
    ("reply", "hint"),
    [
        (b"garbage\r\n\r\n", "such addresses end in /v1"),
        (b'HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"ver', "such addresses end in /v1"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "/v1 does"),
    ],
)
def test_a_reply_that_is_no_http_is_no_version(reply: bytes, hint: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            for _ in range(2):
                connection, _address = listening.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(reply)

        threading.Thread(target=answer, daemon=True).start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        calls = Calls(f"{address}/v1", "none", 5.0)
        assert server_module._vllm_version(calls, f"{address}/v1") is None
        assert hint in server_module._hint(calls, address)
        calls.close()


def test_a_server_that_answers_as_it_likes_is_no_engine() -> None:
    with (
        web_server({"/v1/models": [MODELS], CHAT: [said("Good morning!")]}) as (url, _),
        pytest.raises(ReasonError, match="keeps to no answer form"),
    ):
        open_server(url)


def test_the_url_is_looked_at_first() -> None:
    for url in ("", "localhost:8000"):
        with pytest.raises(ReasonError, match="--url"):
            open_server(url)
    with pytest.raises(ReasonError, match="up to the server"):
        open_server("http://localhost:8000/v1", tensor_parallel=2)


def test_threads_are_let_go(vllm_server: str) -> None:
    before = threading.active_count()
    open_server(vllm_server, constraint="none", concurrency=8).close()
    deadline = time.monotonic() + 60
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before, f"threads of process {os.getpid()} stay"


def test_the_demo_asks_step_by_step(vllm_server: str, drawn: Path, mini_classes: Path) -> None:
    """tools.demo's "ask a model", through the real server: every step is told when it is there, and in the end what is
    in the image."""
    told = list(Model(vllm_server).ask(drawn / "scene_1000.png", load_vocabulary(mini_classes)))
    assert told[0].text.endswith("…") and told[0].reasons is None
    assert "**1. What is in the image**" in told[1].text and "**2. Which classes** …" in told[1].text
    assert "What became of the names" in told[-1].text and told[-1].reasons is not None
    there = present(dev_scene(1000))
    assert len(set(told[-1].reasons) ^ set(there)) <= 1
    assert all(f'"{name}"' in told[-1].text for name in told[-1].reasons)
