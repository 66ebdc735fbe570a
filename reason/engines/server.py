"""Any OpenAI-compatible endpoint, such as vLLM's own server on another machine.

A bounded number of threads asks; what fails for the moment (a refused connection, 429, 5xx) is asked again with growing
pauses; a server that shows no sign of life for `EngineOptions.patience` seconds is gone (docs/findings.md 19). Start
vLLM's server so that it forbids free white space and tells of cached tokens:

    python -m vllm.entrypoints.openai.api_server --model llm/NAME --enable-prompt-tokens-details \\
        --structured-outputs-config '{"backend": "guidance", "disable_any_whitespace": true}' \\
        --limit-mm-per-prompt '{"image": 1, "video": 0}'
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from reason.asking.messages import Answer, Request, Sampling, Turn
from reason.engines.calls import Calls
from reason.engines.interface import EngineInfo, EngineOptions
from reason.engines.probe import probe_form
from reason.engines.replies import read_answer
from reason.errors import EngineGone, ReasonError

_log = logging.getLogger(__name__)

ANSWER_TIMEOUT = 900.0
"""Seconds for one answer in all, to its last byte: a long one on a busy server. After them it counts as failed, however
much of it has come, and is asked for again. Whether the server is still there is asked apart."""
QUIET = 8.0
"""Seconds without an answer after which the server is asked for a sign of life."""
SIGN_TIMEOUT = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
BUSY_LIMIT = 600.0
"""Seconds of nothing but "too many requests" that one request puts up with."""
TRIES_AT_FAULTS = 4
"""How often a request is sent that the server fails on (500) while it does answer others."""
_GATEWAY = (502, 503, 504)
"""What a proxy says when the server behind it is not there."""


class ServerEngine:
    """Answers of a server."""

    def __init__(self, options: EngineOptions) -> None:
        """Reach the server, find the model and how it takes answer forms.

        Raises:
            ReasonError: no server there, a refused key, another model, no images, or no answer forms.
        """
        try:
            import openai
        except ImportError as error:
            raise ReasonError(
                f"the openai package is not installed here ({error}): 'bash install.sh reason'"
            ) from error
        self._openai = openai
        for name in ("httpx", "httpx2"):  # a line a request otherwise
            logging.getLogger(name).setLevel(logging.WARNING)
        self._url = (options.url or "").rstrip("/")
        self._key_name = options.api_key_env
        self._patience = options.patience
        key = os.environ.get(options.api_key_env, "")
        self._calls = Calls(self._url, key or "none", SIGN_TIMEOUT)
        try:
            self._reach(options)
        except BaseException:
            self._calls.close()
            raise
        self.capacity = options.concurrency
        self._questions: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._in_flight = 0
        self._failing_since: float | None = None
        self._problem = ""
        for number in range(options.concurrency):
            threading.Thread(target=self._work, name=f"server-{number}", daemon=True).start()

    def _reach(self, options: EngineOptions) -> None:
        """Find the model and how the server takes answer forms."""
        openai = self._openai
        self._model, root = self._find_model(options.model)
        version = _vllm_version(self._calls, self._url)
        self._on_vllm = version is not None
        self._constraint = options.constraint
        if options.constraint == "auto":
            self._constraint = probe_form(self._complete_text, openai.APIStatusError, openai.APIError)
        digest = hashlib.sha256(f"{self._model} {root}".encode()).hexdigest()[:32]
        said = f"vllm {version}" if version else "unknown"
        self.info = EngineInfo("server", said, PurePosixPath(self._model).name, digest)

    def submit(self, request: Request) -> None:
        """Put a request in line for the next thread that is free."""
        if self._problem:
            raise EngineGone(self._problem)
        self._in_flight += 1
        self._questions.put(request)

    def collect(self, timeout: float | None = None) -> list[Answer]:
        """Wait for answers; while none comes, look whether the server is still there."""
        deadline = None if timeout is None else time.monotonic() + timeout
        quiet_since = time.monotonic()
        answers: list[Answer] = []
        while self._in_flight and not answers:
            left = 0.5 if deadline is None else min(0.5, deadline - time.monotonic())
            try:
                answers.append(self._answers.get(timeout=max(left, 0.001)))
            except queue.Empty:
                if self._problem:
                    raise EngineGone(self._problem) from None
                if deadline is not None and time.monotonic() >= deadline:
                    break
                if time.monotonic() - quiet_since > QUIET:
                    self._look()
                    quiet_since = time.monotonic()
        while not self._answers.empty():
            answers.append(self._answers.get())
        self._in_flight -= len(answers)
        return answers

    def close(self) -> None:
        """End the threads; requests under way are left to the server."""
        self._problem = self._problem or "the connection to the server is closed"
        self._stop.set()
        for _ in range(self.capacity):
            self._questions.put(None)
        self._calls.close()

    def _work(self) -> None:
        """The life of a thread: whatever happens to a request, it is answered, or the engine is gone."""
        while not self._stop.is_set() and (request := self._questions.get()) is not None:
            try:
                self._answers.put(self._ask(request))
            except EngineGone as error:
                self._give_up(str(error))
            except Exception as error:  # of no kind that was foreseen: it costs this request
                _log.debug("%s", request.key, exc_info=True)
                self._answers.put(_refused(request, error))
            except BaseException as error:
                self._give_up(f"{self._url}: a thread ended ({type(error).__name__}); start again")

    def _give_up(self, problem: str) -> None:
        with self._lock:
            self._problem = self._problem or problem
        self._stop.set()

    def _ask(self, request: Request) -> Answer:
        """One request, as often as it takes.

        Raises:
            EngineGone: no sign of the server, or it turns everything away.
        """
        openai = self._openai
        start, faults, pause = time.monotonic(), 0, FIRST_PAUSE
        while not self._stop.is_set():
            try:
                response = self._complete(request.turns, request.schema, request.sampling, self._constraint)
                answer = read_answer(request.key, response)
            except openai.RateLimitError as error:
                self._sign_of_life()
                if time.monotonic() - start > BUSY_LIMIT:
                    raise EngineGone(f"{self._url}: too many requests, for ten minutes: {_message(error)}") from error
                pause = max(pause, _retry_after(error))
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise EngineGone(f"{self._url}: the key in {self._key_name} is refused: {_message(error)}") from error
            except openai.InternalServerError as error:
                self._no_sign_of_life(f"{error.status_code}: {_message(error)}")
                faults += error.status_code not in _GATEWAY
                if faults >= TRIES_AT_FAULTS:
                    return _refused(request, error)
            except openai.APIStatusError as error:
                self._sign_of_life()
                return _refused(request, error)
            except openai.APIError as error:  # no connection, a broken one, no answer in time
                silent = self._silence()
                if silent:
                    self._no_sign_of_life(_message(error))
                faults += not silent  # it is there, and never answers this one
                if faults >= TRIES_AT_FAULTS:
                    return _refused(request, error)
            except Exception as error:  # status 200, and no answer in it: a proxy's page, or another API
                self._sign_of_life()
                faults += 1
                if faults >= TRIES_AT_FAULTS:
                    return _refused(request, error)
            else:
                self._sign_of_life()
                return answer
            self._stop.wait(pause * random.uniform(0.8, 1.2))
            pause = min(2 * pause, LONGEST_PAUSE)
        raise EngineGone(self._problem or "the connection to the server is closed")

    def _complete(
        self, turns: tuple[Turn, ...], schema: Mapping[str, Any] | None, sampling: Sampling, constraint: str
    ) -> Any:
        """Send one request, once; `constraint` says in which words the answer form is asked for."""
        arguments: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        if self._on_vllm:
            # Left alone, its server takes these from the model's generation_config.json; the other engines do not.
            extra.update(top_k=0, min_p=0.0, repetition_penalty=1.0)
        if schema is not None and constraint == "structured_outputs":
            extra["structured_outputs"] = {"json": dict(schema)}
        elif schema is not None and constraint == "response_format":
            form = {"name": "answer", "schema": dict(schema), "strict": True}
            arguments["response_format"] = {"type": "json_schema", "json_schema": form}
        if sampling.seed is not None:
            arguments["seed"] = sampling.seed
        return self._calls.complete(
            ANSWER_TIMEOUT,
            model=self._model,
            messages=[self._message_of(turn) for turn in turns],
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            extra_body=extra,
            **arguments,
        )

    def _complete_text(self, turns: tuple[Turn, ...], schema: Mapping[str, Any], sampling: Sampling, way: str) -> str:
        """One answer at the start, asked for again while the server is busy, starting, or fails."""
        openai = self._openai
        start, faults, pause = time.monotonic(), 0, FIRST_PAUSE
        while True:
            try:
                return read_answer("", self._complete(turns, schema, sampling, way)).text
            except (openai.RateLimitError, openai.InternalServerError, openai.APIConnectionError) as error:
                status = getattr(error, "status_code", None)
                faults += status not in (429, *_GATEWAY)
                if time.monotonic() - start >= self._patience or faults >= TRIES_AT_FAULTS:
                    if status in (429, *_GATEWAY):  # says nothing about answer forms
                        told = f"the server takes no request now ({_message(error)})"
                        raise ReasonError(f"{self._url}: {told}; start again when it does") from error
                    raise
            except (ValueError, openai.APIError):
                raise
            except Exception as error:
                raise ValueError(f"the server's answer cannot be read ({_message(error)})") from error
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _message_of(self, turn: Turn) -> Any:
        if turn.image is None:
            return {"role": turn.role, "content": turn.text}
        data = base64.b64encode(turn.image.data).decode("ascii")
        image: dict[str, Any] = {"type": "image_url", "image_url": {"url": f"data:{turn.image.mime};base64,{data}"}}
        if self._on_vllm:  # others may refuse a field that they do not know
            image["uuid"] = turn.image.uuid
        return {"role": turn.role, "content": [image, {"type": "text", "text": turn.text}]}

    def _find_model(self, wanted: str) -> tuple[str, str]:
        """The name that the server knows the model by, and where it says that it has it from."""
        try:
            listed = self._calls.models(SIGN_TIMEOUT)
            served = [entry for entry in listed if isinstance(getattr(entry, "id", None), str)]
        except self._openai.AuthenticationError as error:
            raise ReasonError(f"{self._url}: the server wants a key; put it into {self._key_name}") from error
        except Exception as error:  # an answer that is no list of models raises whatever the client stumbles over
            foreign = not isinstance(error, self._openai.APIError)
            what = "what it says is no list of models" if foreign else _message(error)
            raise ReasonError(
                f"{self._url}: no OpenAI-compatible server answers there: {what}{_hint(self._calls, self._url)}"
            ) from error
        last = PurePosixPath(wanted).name
        found = [entry for entry in served if wanted in ("", entry.id)] or [
            entry for entry in served if PurePosixPath(entry.id).name == last
        ]
        if len(found) != 1:
            names = ", ".join(entry.id for entry in served) or "none"
            raise ReasonError(f"--model {wanted}: {self._url} serves {names}: name one of these")
        return found[0].id, str(getattr(found[0], "root", None) or "")

    def _look(self) -> None:
        """Ask for a sign of life, and end the engine where there has been none for too long."""
        try:
            if problem := self._silence():
                self._no_sign_of_life(problem)
        except EngineGone as gone:
            self._give_up(str(gone))

    def _silence(self) -> str:
        """What is wrong with the server as a whole; "" where it answers, whatever it says."""
        try:
            self._calls.models(SIGN_TIMEOUT)
        except self._openai.APIStatusError as error:
            if error.status_code in _GATEWAY:
                return _message(error)
        except self._openai.APIError as error:
            return _message(error)
        except Exception:
            pass
        self._sign_of_life()
        return ""

    def _sign_of_life(self) -> None:
        with self._lock:
            self._failing_since = None

    def _no_sign_of_life(self, what: str) -> None:
        """Note a failure that may be the server's end.

        Raises:
            EngineGone: there has been nothing else for `patience` seconds.
        """
        now = time.monotonic()
        with self._lock:
            if self._failing_since is None:
                self._failing_since = now
                _log.warning("%s: %s; trying again for %.0f s", self._url, what, self._patience)
            silent = now - self._failing_since
        if silent >= self._patience:
            raise EngineGone(f"{self._url}: no answer for {silent:.0f} s ({what}); start again when it is back")


def _refused(request: Request, error: Exception) -> Answer:
    return Answer(request.key, "", "error", 0, None, 0, error=_message(error))


def _message(error: Exception) -> str:
    """What the server said, without the client's wrapping, on one line."""
    body = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, dict) else body
    said = inner.get("message") if isinstance(inner, dict) else None
    text = " ".join(str(said or error).split()) or type(error).__name__
    cause = " ".join(str(error.__cause__ or "").split()) if body is None else ""  # "Connection error." says little
    return f"{text.rstrip('.')} ({cause})" if cause and cause not in text else text


def _hint(calls: Calls, url: str) -> str:
    """Where the API seems to be, if not at `url`: forgetting "/v1" is common."""
    if urlsplit(url).path.strip("/"):
        return ""
    try:
        calls.get(f"{url}/v1/models", SIGN_TIMEOUT)
        found = True
    except Exception as error:
        found = getattr(error, "status_code", None) in (401, 403)
    return f"; --url {url}/v1 does" if found else f"; such addresses end in /v1: --url {url}/v1"


def _retry_after(error: Any) -> float:
    """Seconds that the server asks to be left alone."""
    try:
        return min(float(error.response.headers.get("retry-after", 0)), 60.0)
    except (ValueError, TypeError, AttributeError):
        return 0.0


def _vllm_version(calls: Calls, url: str) -> str | None:
    """The version that vLLM's server tells beside its API; None for other servers."""
    try:
        return str(calls.get(f"{url.removesuffix('/v1')}/version", SIGN_TIMEOUT)["version"])
    except Exception:  # no such page, or whatever another server has there
        return None
