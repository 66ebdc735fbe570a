"""The slow way: transformers' own `generate`, one request at a time, without a prefix cache.

It runs small models where vLLM does not; xgrammar keeps the answer to its form.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Mapping
from typing import Any

from reason.asking.messages import Answer, Request
from reason.engines.chat import decode, images_of, template_messages
from reason.engines.checks import context_length
from reason.engines.interface import EngineInfo, EngineOptions
from reason.engines.model_folder import model_hash, read_model_folder
from reason.errors import EngineGone, ReasonError

_log = logging.getLogger(__name__)


class TransformersEngine:
    """One copy of a model, on the first GPU or the CPU."""

    capacity = 1

    def __init__(self, options: EngineOptions) -> None:
        """Load the model.

        Raises:
            ReasonError: transformers or xgrammar is not installed, or the model cannot be loaded.
        """
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        model = read_model_folder(options.model)
        try:
            import transformers
            import xgrammar
            from transformers.utils import is_torch_cuda_available  # type: ignore[attr-defined,unused-ignore]
        except ImportError as error:
            raise ReasonError(f"transformers is not installed here ({error}): run 'bash install.sh reason'") from error
        if not sys.stderr.isatty():
            transformers.utils.logging.disable_progress_bar()
        _log.warning("--engine transformers answers one request at a time: right for trying out, slow for a data set")
        self._length = context_length(model, options)
        size = {"shortest_edge": options.min_pixels, "longest_edge": options.max_pixels}
        try:
            self._processor: Any = transformers.AutoProcessor.from_pretrained(model.path)
            self._processor.image_processor.size = size
            network: Any = transformers.AutoModelForImageTextToText.from_pretrained(model.path, dtype=options.dtype)
        except Exception as error:
            raise ReasonError(f"{model.path}: transformers cannot load it: {' '.join(str(error).split())}") from error
        self._model = network.to("cuda" if is_torch_cuda_available() else "cpu").eval()
        words = network.config.get_text_config().vocab_size
        self._grammars = xgrammar.GrammarCompiler(
            xgrammar.TokenizerInfo.from_huggingface(self._processor.tokenizer, vocab_size=words)
        )
        self._waiting: deque[Request] = deque()
        self._problem = ""
        self.info = EngineInfo("transformers", transformers.__version__, model.path.name, model_hash(model))

    def submit(self, request: Request) -> None:
        """Put a request in line."""
        if self._problem:
            raise EngineGone(self._problem)
        self._waiting.append(request)

    def collect(self, timeout: float | None = None) -> list[Answer]:
        """Answer the request that has waited longest; `timeout` is not looked at, since nothing runs beside."""
        if not self._waiting:
            return []
        request = self._waiting.popleft()
        try:
            return [self._generate(request)]
        except RuntimeError as error:  # out of memory, a device that fell out
            self._problem = f"transformers stopped: {' '.join(str(error).split())}"
            raise EngineGone(self._problem) from error
        except Exception as error:
            said = " ".join(str(error).split()) or type(error).__name__
            return [Answer(request.key, "", "error", 0, None, 0, error=said)]

    def close(self) -> None:
        """Free the model."""
        self._model = None
        self._problem = self._problem or "the engine is closed"

    def _generate(self, request: Request) -> Answer:
        import transformers

        how = request.sampling
        text = self._processor.apply_chat_template(
            template_messages(request.turns), tokenize=False, add_generation_prompt=True
        )
        images = [decode(image) for image in images_of(request.turns)]
        inputs = self._processor(text=[text], images=images or None, return_tensors="pt")
        asked = int(inputs["input_ids"].shape[1])
        if asked + how.max_tokens > self._length:
            raise ValueError(f"{asked} tokens and {how.max_tokens} for the answer; a conversation has {self._length}")
        if how.seed is not None:
            transformers.set_seed(how.seed)
        sampling = {"temperature": how.temperature, "top_p": how.top_p, "top_k": 0} if how.temperature > 0 else {}
        output = self._model.generate(
            **inputs.to(self._model.device),
            do_sample=how.temperature > 0,
            max_new_tokens=how.max_tokens,
            repetition_penalty=1.0,
            logits_processor=self._form(request.schema),
            **sampling,
        )
        tokens = output[0, asked:].tolist()
        ends = self._model.generation_config.eos_token_id
        stopped = bool(tokens) and tokens[-1] in (ends if isinstance(ends, list) else [ends])
        answer = self._processor.tokenizer.decode(tokens, skip_special_tokens=True)
        return Answer(request.key, answer, "stop" if stopped else "length", asked, None, len(tokens))

    def _form(self, schema: Mapping[str, Any] | None) -> list[Any]:
        """What keeps `generate` to a schema, without free white space; it serves one call."""
        if schema is None:
            return []
        from xgrammar.contrib.hf import LogitsProcessor

        grammar = self._grammars.compile_json_schema(dict(schema), any_whitespace=False, separators=(",", ":"))
        return [LogitsProcessor(grammar)]
