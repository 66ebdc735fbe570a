"""The model in this process (or in a process that vLLM starts for it), answered by continuous batching.

Requests join the running batch as they come. The prefix cache keeps what conversations have in common: the vocabulary
for all images, an image for the later questions about it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from typing import Any

from reason.asking.messages import Answer, Request
from reason.engines.chat import decode, images_of, template_messages
from reason.engines.checks import context_length
from reason.engines.interface import EngineInfo, EngineOptions
from reason.engines.model_folder import ModelFolder, model_hash, read_model_folder
from reason.errors import EngineGone, ReasonError

_log = logging.getLogger(__name__)

_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",  # the model is a folder: nothing about it needs to be asked of a hub
    # The engine's process is started afresh: a fork would inherit locks of threads that the class aligner may have run.
    "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",
    "VLLM_LOGGING_LEVEL": "ERROR",  # its remarks on every kernel that could be faster would bury our own
}
_CPU_BLOCK = 32
"""Tokens of a block of the cache on a CPU, where vLLM allows multiples of 32 only; fewer tokens share more."""


class VllmEngine:
    """One copy of a model under vLLM, on one GPU, on `tensor_parallel` of them, or on the CPU."""

    def __init__(self, options: EngineOptions) -> None:
        """Load the model.

        Raises:
            ReasonError: vLLM is not installed or cannot load the model; its own last words say why.
        """
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        model = read_model_folder(options.model)
        _log.info("loading %s under vLLM", model.path.name)
        start = time.monotonic()
        try:
            import vllm
            from vllm.engine.llm_engine import LLMEngine
        except ImportError as error:
            raise ReasonError(f"vLLM is not installed here ({error}): run 'bash install.sh reason'") from error
        try:
            self._engine: Any = LLMEngine.from_engine_args(_arguments(model, options))
        except Exception as error:
            raise ReasonError(f"{model.path}: vLLM cannot load it: {_first_line(error)}") from error
        self._tokenizer = self._engine.get_tokenizer()
        self._ready: deque[Answer] = deque()
        self._in_flight: set[str] = set()
        self._problem = ""
        self._closed = threading.Event()
        wake_when_dead(self._engine.engine_core, self._closed)
        self.capacity = options.concurrency + max(2, options.concurrency // 4)
        self.info = EngineInfo("vllm", vllm.__version__, model.path.name, model_hash(model))
        _log.info("%s is loaded (%.0f s)", model.path.name, time.monotonic() - start)

    def submit(self, request: Request) -> None:
        """Prepare a request and let it join the batch; one that vLLM refuses is answered by its error."""
        if self._problem:
            raise EngineGone(self._problem)
        from vllm.exceptions import VLLMClientError

        try:
            (prompt,) = self._engine.renderer.render_cmpl([self._prompt(request)])
            self._engine.add_request(request.key, prompt, _sampling(request))
        except (VLLMClientError, ValueError, OSError) as error:
            # Too long, a grammar that cannot be compiled, an image that cannot be decoded: the batch is untouched.
            self._ready.append(Answer(request.key, "", "error", 0, None, 0, error=_first_line(error)))
            return
        except Exception as error:
            raise self._gone(error) from error
        self._in_flight.add(request.key)

    def collect(self, timeout: float | None = None) -> list[Answer]:
        """Let the batch go on until at least one request is finished."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ready and self._in_flight:
            if self._problem:
                raise EngineGone(self._problem)
            try:
                outputs = self._engine.step()
            except Exception as error:
                raise self._gone(error) from error
            self._ready.extend(self._answer(output) for output in outputs if output.finished)
            if deadline is not None and time.monotonic() >= deadline:
                break
        answers = list(self._ready)
        self._ready.clear()
        return answers

    def close(self) -> None:
        """End vLLM's processes and free its memory."""
        self._closed.set()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.engine_core.shutdown()
        self._problem = self._problem or "the engine is closed"

    def _prompt(self, request: Request) -> Any:
        text = self._tokenizer.apply_chat_template(
            template_messages(request.turns), tokenize=False, add_generation_prompt=True
        )
        images = images_of(request.turns)
        prompt: dict[str, Any] = {"prompt": text}
        if images:
            prompt["multi_modal_data"] = {"image": [decode(image) for image in images]}
            prompt["multi_modal_uuids"] = {"image": [image.uuid for image in images]}
        return prompt

    def _answer(self, output: Any) -> Answer:
        self._in_flight.discard(output.request_id)
        completion = output.outputs[0]
        return Answer(
            key=output.request_id,
            text=completion.text,
            finish_reason=completion.finish_reason or "unknown",
            prompt_tokens=len(output.prompt_token_ids),
            cached_tokens=output.num_cached_tokens,
            completion_tokens=len(completion.token_ids),
        )

    def _gone(self, error: Exception) -> EngineGone:
        from vllm.v1.engine.exceptions import EngineDeadError

        what = _first_line(error)
        if isinstance(error, EngineDeadError):
            what = "its process has ended; the lines above say why, or the system's log if it was killed for its memory"
        self._problem = f"vLLM stopped: {what}; start again, what was finished is kept"
        return EngineGone(self._problem)


def wake_when_dead(core: Any, closed: threading.Event, interval: float = 1.0) -> None:
    """Let a killed engine process be noticed.

    vLLM 0.29's client notes the death of its process, but whoever waits for that process's output waits for ever.

    Args:
        core: the client of vLLM's engine; one that runs the engine in this very process has nothing to watch.
        closed: set when there is nothing to watch any more.
        interval: seconds between two looks.
    """
    if not hasattr(core, "outputs_queue"):
        return
    resources, outputs = core.resources, core.outputs_queue

    def watch() -> None:
        while not closed.wait(interval):
            if resources.engine_dead:
                outputs.put_nowait(RuntimeError("the engine's process has ended"))
                return

    threading.Thread(target=watch, name="vllm-watch", daemon=True).start()


def _arguments(model: ModelFolder, options: EngineOptions) -> Any:
    from vllm import EngineArgs
    from vllm.platforms import current_platform

    on_cpu = current_platform.is_cpu()
    arguments: dict[str, Any] = {
        "model": str(model.path),
        "dtype": options.dtype,
        "seed": options.seed,
        "max_model_len": context_length(model, options),
        "max_num_seqs": options.concurrency,
        "tensor_parallel_size": options.tensor_parallel,
        "enforce_eager": on_cpu if options.eager is None else options.eager,
        "enable_prefix_caching": True,
        # One image, no video: vLLM keeps memory for as much as could come (docs/findings.md 13).
        "limit_mm_per_prompt": {"image": 1, "video": 0},
        "mm_processor_kwargs": {"size": {"shortest_edge": options.min_pixels, "longest_edge": options.max_pixels}},
        # Free white space lets an answer go on for ever (docs/findings.md 16); guidance is a backend that can forbid
        # it.
        "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
    }
    if on_cpu:
        arguments["block_size"] = _CPU_BLOCK
        # On a CPU, vLLM 0.29 dies of a request with a seed whose prompt it computes in several steps.
        arguments["enable_chunked_prefill"] = False
        arguments["max_num_batched_tokens"] = arguments["max_model_len"]
    else:
        arguments["gpu_memory_utilization"] = options.gpu_memory
    if options.tensor_parallel > 1 and not _tower_can_be_cut(model, options.tensor_parallel):
        arguments["mm_encoder_tp_mode"] = "data"
    return EngineArgs(**arguments)


def _tower_can_be_cut(model: ModelFolder, parts: int) -> bool:
    """Whether the vision tower's widths can be shared; else every GPU has all of it, for its part of the images."""
    tower = model.config["vision_config"]
    return not any(int(tower.get(key, parts)) % parts for key in ("num_heads", "intermediate_size", "hidden_size"))


def _sampling(request: Request) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    how = request.sampling
    return SamplingParams(
        temperature=how.temperature,
        top_p=how.top_p,
        max_tokens=how.max_tokens,
        seed=how.seed,
        output_kind=RequestOutputKind.FINAL_ONLY,
        structured_outputs=StructuredOutputsParams(json=dict(request.schema)) if request.schema is not None else None,
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{lines[0] if lines else type(error).__name__}"
