"""Calls of an OpenAI-compatible server that end: each has a number of seconds in all, from connecting to its last byte.

The client's own timeouts are for a single read, so that a server that sends a byte a second would be read for ever.
Calls are made from any thread; they run on one event loop, where what is late is cancelled and its connection closed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

_T = TypeVar("_T")
_CLOSING = 5.0
"""Seconds that connections get to close."""


class Calls:
    """A client of the openai package whose calls have a deadline."""

    def __init__(self, url: str, key: str, connect: float) -> None:
        """Start the loop; nothing is sent.

        Args:
            url: of the API, as "http://host:8000/v1".
            key: what the server wants to see, or "none".
            connect: seconds until the server must have taken a connection.
        """
        import openai

        self._openai = openai
        timeout = openai.Timeout(None, connect=connect)
        self._client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=timeout)
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        threading.Thread(target=self._run, name="calls", daemon=True).start()

    def complete(self, seconds: float, **arguments: Any) -> Any:
        """A chat completion, as `client.chat.completions.create(**arguments)`.

        Raises:
            openai.APIConnectionError: it is not whole after `seconds`, or no connection, or a broken one.
            openai.APIError: what else the client raises; whatever an unforeseen answer makes it stumble over, too.
        """
        return self._within(seconds, lambda: self._client.chat.completions.create(**arguments))

    def models(self, seconds: float) -> list[Any]:
        """What the server lists as its models. Raises as `complete` does."""

        async def listed() -> list[Any]:
            return [entry async for entry in self._client.models.list()]

        return self._within(seconds, listed)

    def get(self, url: str, seconds: float) -> Any:
        """The JSON value (else the text) at an address beside the API. Raises as `complete` does."""
        return self._within(seconds, lambda: self._client.get(url, cast_to=object))

    def close(self) -> None:
        """Cancel what is under way and end the loop. May be called again."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            asyncio.run_coroutine_threadsafe(self._end(), self._loop)

    def _within(self, seconds: float, call: Callable[[], Awaitable[_T]]) -> _T:
        async def bounded() -> _T:
            try:
                return await asyncio.wait_for(call(), seconds)
            except asyncio.TimeoutError as error:
                told = f"no whole answer within {seconds:g} s"
                nothing: Any = None  # the request is within the client
                raise self._openai.APIConnectionError(message=told, request=nothing) from error

        with self._lock:  # so that no call comes after the last one
            if self._closed:
                raise RuntimeError("the connection to the server is closed")
            future = asyncio.run_coroutine_threadsafe(bounded(), self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C above all
            future.cancel()
            raise

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        try:
            await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), _CLOSING)
            await asyncio.wait_for(self._client.close(), _CLOSING)
        except Exception:  # the server's end of a connection may be in any state
            pass
        finally:
            self._loop.stop()
