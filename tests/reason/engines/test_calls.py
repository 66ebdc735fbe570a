"""A server that never comes to an end, by real sockets: every request of the server engine has a deadline in all."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import reason.engines.server as server_module
from reason.asking.messages import Request, Sampling, Turn
from reason.engines.calls import Calls
from reason.engines.interface import EngineOptions
from reason.engines.server import ServerEngine
from reason.errors import ReasonError

PAUSE = 0.05
"""Seconds between two bytes: far below every deadline here, so that no wait for a single read is ever long."""
MODELS = {"object": "list", "data": [{"id": "tiny", "object": "model", "created": 0, "owned_by": "x"}]}
ANSWER = {"choices": [{"message": {"role": "assistant", "content": "at last"}, "finish_reason": "stop"}]}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


@contextmanager
def trickling(where: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """A server that answers, but sends a byte at a time for ever at some paths.

    Args:
        where: for the end of a path, "body" or "head" (what trickles), or "once" (the body of the first answer only).

    Yields:
        Its address, and the paths asked for.
    """
    asked: list[str] = []
    over = threading.Event()

    def drip(connection: socket.socket, byte: bytes) -> None:
        while not over.wait(PAUSE):
            connection.sendall(byte)

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                stream = connection.makefile("rb")
                path = stream.readline().split()[1].decode()
                length = 0
                while line := stream.readline().strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                stream.read(length)
                asked.append(path)
                what = next((what for end, what in where.items() if path.endswith(end)), "")
                if what == "once" and asked.count(path) > 1:
                    what = ""
                if what == "head":
                    connection.sendall(HEAD + b"x-late: ")
                    drip(connection, b"a")
                elif what:
                    connection.sendall(HEAD + b"content-length: 999999\r\n\r\n")
                    drip(connection, b" ")
                else:
                    body = json.dumps(MODELS if path.endswith("/models") else ANSWER).encode()
                    close = b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
                    connection.sendall(HEAD + close + body)
            except (OSError, IndexError):  # it hung up
                pass

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1", asked
        over.set()
        listening.shutdown(socket.SHUT_RDWR)


def opened(url: str) -> ServerEngine:
    return ServerEngine(EngineOptions(model="tiny", url=url, constraint="none", concurrency=2, patience=20.0))


def asked_for(engine: ServerEngine, *keys: str) -> dict[str, str]:
    """The text of each answer, or its error."""
    for key in keys:
        engine.submit(Request(key, (Turn("user", "Describe."),), None, Sampling(0.0, 1.0, 16, 0)))
    found: dict[str, str] = {}
    end = time.monotonic() + 60
    while len(found) < len(keys) and time.monotonic() < end:
        found.update((answer.key, answer.error or answer.text) for answer in engine.collect(1.0))
    return found


@pytest.mark.parametrize("what", ["body", "head"])
def test_an_answer_that_trickles_is_given_up(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "ANSWER_TIMEOUT", 0.5)
    monkeypatch.setattr(server_module, "FIRST_PAUSE", 0.01)
    with trickling({"/chat/completions": what}) as (url, asked):
        engine = opened(url)
        got = asked_for(engine, "one", "two")
        assert got == dict.fromkeys(("one", "two"), "no whole answer within 0.5 s")
        assert asked.count("/v1/chat/completions") == 2 * server_module.TRIES_AT_FAULTS
        engine.close()


def test_an_answer_that_trickled_once_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "ANSWER_TIMEOUT", 3.0)  # what answers soundly may be slow on a busy machine
    monkeypatch.setattr(server_module, "FIRST_PAUSE", 0.01)
    with trickling({"/chat/completions": "once"}) as (url, _):
        engine = opened(url)
        assert asked_for(engine, "one") == {"one": "at last"}
        engine.close()


@pytest.mark.parametrize("what", ["body", "head"])
def test_the_questions_at_the_start_have_a_deadline(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "SIGN_TIMEOUT", 3.0)
    with trickling({"/models": what}) as (url, _), pytest.raises(ReasonError, match=r"no whole answer within 3 s"):
        opened(url)
    with trickling({"/version": what}) as (url, _):
        engine = opened(url)
        assert engine.info.engine_version == "unknown"
        engine.close()


def test_closing_ends_what_is_under_way() -> None:
    with trickling({"/chat/completions": "body"}) as (url, asked):
        calls = Calls(url, "none", 5.0)
        raised: list[BaseException] = []

        def ask() -> None:
            try:
                calls.complete(600.0, model="tiny", messages=[])
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        end = time.monotonic() + 30
        while not asked and time.monotonic() < end:
            time.sleep(0.01)
        calls.close()
        calls.close()
        thread.join(30)
        assert len(raised) == 1 and not thread.is_alive()
        with pytest.raises(RuntimeError, match="closed"):
            calls.models(1.0)
