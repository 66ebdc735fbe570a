"""What every engine is and tells: its options, its identity, and the small interface behind which it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from reason.asking.messages import Answer, Request

EngineKind = Literal["vllm", "server", "transformers"]
ENGINES: tuple[EngineKind, ...] = ("vllm", "server", "transformers")
PIXELS_A_TOKEN = 28 * 28
"""Qwen2.5-VL: patches of 14 pixels, merged two by two."""


@dataclass(frozen=True)
class EngineInfo:
    """What answered, for the provenance of the results.

    Attributes:
        engine: its kind.
        engine_version: the version of the package, or what the server says of itself.
        model: name of the model: the folder's, or the one it is served by.
        model_hash: of config.json and of the names and sizes of the weight files; for a server that of what it tells.
    """

    engine: str
    engine_version: str
    model: str
    model_hash: str


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is opened.

    Attributes:
        model: the model's folder; for a server the name it serves the model by ("": the only one it serves).
        url: of the server, such as "http://host:8000/v1".
        api_key_env: environment variable that holds the server's key; not set: no key.
        tensor_parallel: GPUs that share one copy of the model.
        data_parallel: copies of the model, each in its own process on its own GPUs.
        max_model_len: longest conversation in tokens, answer included; None: 16,384 or what the model allows.
        gpu_memory: share of each GPU that vLLM may fill, in (0, 1].
        min_pixels, max_pixels: bounds on the size of an image as it is sent.
        concurrency: requests answered at a time (by each copy of the model).
        dtype: "auto", "bfloat16", "float16", "float32".
        seed: of the engine; requests bring their own.
        eager: without CUDA graphs; None: only where there is no GPU.
        constraint: how a server is asked for an answer form. "auto" finds out which of the two ways it obeys; "none"
            goes without.
        patience: seconds without any sign of the server until it counts as gone.
    """

    model: str
    url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    tensor_parallel: int = 1
    data_parallel: int = 1
    max_model_len: int | None = None
    gpu_memory: float = 0.9
    min_pixels: int = 4 * PIXELS_A_TOKEN
    max_pixels: int = 1280 * PIXELS_A_TOKEN
    concurrency: int = 32
    dtype: str = "auto"
    seed: int = 0
    eager: bool | None = None
    constraint: Literal["auto", "response_format", "structured_outputs", "none"] = "auto"
    patience: float = 40.0


@runtime_checkable
class Engine(Protocol):
    """Answers requests, many at a time and in any order.

    Attributes:
        info: for the provenance.
        capacity: requests in flight that keep it busy; more wait in line.
    """

    info: EngineInfo
    capacity: int

    def submit(self, request: Request) -> None:
        """Take a request on; its key must differ from those in flight.

        Raises:
            EngineGone: it can answer no more.
        """

    def collect(self, timeout: float | None = None) -> list[Answer]:
        """Wait for answers.

        Args:
            timeout: seconds to wait at most; None: until there is one.

        Returns:
            At least one answer; [] when the time is over or nothing is in flight.

        Raises:
            EngineGone: it can answer no more; what is in flight has no answer.
        """

    def close(self) -> None:
        """Let go of memory, processes and connections. May be called again."""
