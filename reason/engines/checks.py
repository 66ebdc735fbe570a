"""What can be known before a model is loaded: whether it is whole, can be cut as asked, and fits.

Loading 40 GB takes minutes, and the engines' own errors come after that, as a traceback of a worker process. Here every
finding is one line (`ReasonError`), within a second.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from reason.engines.gpus import Gpu, visible_gpus
from reason.engines.interface import ENGINES, PIXELS_A_TOKEN, EngineKind, EngineOptions
from reason.engines.model_folder import ModelFolder, read_model_folder
from reason.errors import ReasonError

GIB = 2**30
DEFAULT_CONTEXT = 16384
"""Tokens of a conversation, where the user names none: A-847's vocabulary, an image and all answers fit."""
ANSWER_ROOM = 1024
"""Tokens that a conversation must hold beside its image, at the very least."""


def context_length(model: ModelFolder, options: EngineOptions) -> int:
    """Tokens of the longest conversation, answer included.

    Raises:
        ReasonError: longer than the model was made for, or too short for one image and an answer.
    """
    limit = int(model.text("max_position_embeddings", DEFAULT_CONTEXT))
    length = options.max_model_len or min(limit, DEFAULT_CONTEXT)
    if length > limit:
        raise ReasonError(
            f"--max-model-len {length}: {model.path.name} was made for conversations of {limit} tokens at most"
        )
    image = image_tokens(options)
    if image + ANSWER_ROOM > length:
        raise ReasonError(
            f"images of up to {options.max_pixels} pixels take {image} tokens, which leaves too little of a "
            f"conversation's {length}: lower --max-pixels, or raise --max-model-len"
        )
    return length


def image_tokens(options: EngineOptions) -> int:
    """Tokens of the largest image that these options allow.

    Raises:
        ReasonError: the bounds allow none.
    """
    if not PIXELS_A_TOKEN <= options.min_pixels <= options.max_pixels:
        raise ReasonError(
            f"--max-pixels {options.max_pixels}: images have at least "
            f"{max(options.min_pixels, PIXELS_A_TOKEN)} pixels, and one token is {PIXELS_A_TOKEN} of them"
        )
    return options.max_pixels // PIXELS_A_TOKEN


def check_fits(options: EngineOptions, constant_text: str, answer_tokens: int) -> int:
    """Check that a whole conversation fits: its constant text (instructions and vocabulary), an image, the answers.

    Args:
        options: of the engine; its model must be a folder, since the count is the model's own tokenizer's.
        constant_text: what every conversation begins with.
        answer_tokens: the longest answers of all steps, and the questions between them.

    Returns:
        Tokens of the constant text.

    Raises:
        ReasonError: it does not fit, so that every image would fail with the same error.
    """
    from tokenizers import Tokenizer

    model = read_model_folder(options.model)
    length = context_length(model, options)
    file = model.path / "tokenizer.json"
    if not file.is_file():
        return 0
    constant = len(Tokenizer.from_file(str(file)).encode(constant_text, add_special_tokens=False).ids)
    needed = constant + image_tokens(options) + answer_tokens
    if needed > length:
        raise ReasonError(
            f"a conversation may need {needed} tokens (instructions and vocabulary {constant}, image "
            f"{image_tokens(options)}, questions and answers {answer_tokens}) and has {length}: "
            f"raise --max-model-len, or lower --max-pixels"
        )
    return constant


def check_tensor_parallel(model: ModelFolder, parts: int) -> None:
    """Check that a model can be cut into so many parts.

    Row-parallel layers are cut along their inputs, where quantised weights have one scale a group; a part must hold
    whole groups (docs/findings.md 12: 29568 / 128 = 231 groups do not even halve).

    Raises:
        ReasonError: it cannot.
    """
    if parts == 1:
        return
    heads, pairs = int(model.text("num_attention_heads")), int(model.text("num_key_value_heads"))
    if heads % parts or (pairs % parts and parts % pairs):
        raise ReasonError(
            f"--tensor-parallel {parts}: the {heads} attention heads ({pairs} for keys and values) of "
            f"{model.path.name} cannot be shared by {parts} GPUs; {_way_out(model, parts, 1)}"
        )
    group = int(model.quantisation.get("group_size") or 0)
    inputs = {"intermediate_size": int(model.text("intermediate_size")), "attention output": heads * model.head_size}
    for what, size in inputs.items():
        groups = size // group if group > 0 else size
        if groups % parts:
            unit = f"quantisation groups of {group}" if group > 0 else "channels"
            raise ReasonError(
                f"--tensor-parallel {parts}: the {groups} {unit} ({what} {size}) of {model.path.name} cannot be "
                f"shared by {parts} GPUs; {_way_out(model, parts, group)}"
            )


def _way_out(model: ModelFolder, parts: int, group: int) -> str:
    padded = ""
    if group > 1:
        unit = group * parts
        size = math.ceil(int(model.text("intermediate_size")) / unit) * unit
        padded = f", or take weights that are padded to {size}"
    return f"use one GPU a copy (--tensor-parallel 1 --data-parallel {parts}){padded}"


def check_memory(model: ModelFolder, options: EngineOptions, gpus: Sequence[Gpu]) -> None:
    """Check the least that a GPU must hold: its part of the weights, and the cache of one conversation.

    Args:
        model: what is to be loaded.
        options: how.
        gpus: those that may be used; with none, the machine's memory is looked at.

    Raises:
        ReasonError: there are too few GPUs, too little of their memory is free, or it is too small.
    """
    weights = model.weight_bytes / GIB
    if not gpus:
        free = _free_memory()
        copies = weights * options.data_parallel
        if free is not None and copies > free:
            raise ReasonError(
                f"{model.path.name}: {copies:.1f} GiB of weights, {free:.1f} GiB of memory free and no GPU found; "
                f"take a smaller model, or ask a server (--engine server --url URL)"
            )
        return
    needed_gpus = options.tensor_parallel * options.data_parallel
    if needed_gpus > len(gpus):
        raise ReasonError(
            f"--tensor-parallel {options.tensor_parallel} times --data-parallel {options.data_parallel} are "
            f"{needed_gpus} GPUs; there are {len(gpus)} (CUDA_VISIBLE_DEVICES counts)"
        )
    cache = _cache_bytes(model, options) / GIB
    needed = weights / options.tensor_parallel + cache
    for gpu in gpus[:needed_gpus]:
        offered = gpu.total * options.gpu_memory / GIB
        if needed > offered:
            raise ReasonError(
                f"{model.path.name}: needs more than {needed:.1f} GiB of a GPU (weights "
                f"{weights / options.tensor_parallel:.1f}, cache of one conversation {cache:.1f}), and {gpu.name} may "
                f"give {offered:.1f} (--gpu-memory {options.gpu_memory}): take a smaller model, a lower "
                f"--max-model-len, or a higher --tensor-parallel (now {options.tensor_parallel})"
            )
        if gpu.free < gpu.total * options.gpu_memory:
            raise ReasonError(
                f"{gpu.name}: {gpu.free / GIB:.1f} of {gpu.total / GIB:.1f} GiB are free, and --gpu-memory "
                f"{options.gpu_memory} asks for {offered:.1f}: end what else runs there, lower it, or choose other "
                f"GPUs with CUDA_VISIBLE_DEVICES"
            )


def _cache_bytes(model: ModelFolder, options: EngineOptions) -> float:
    """Keys and values of the longest conversation on one GPU, at two bytes a number."""
    heads = max(int(model.text("num_key_value_heads")) / options.tensor_parallel, 1)
    return 2.0 * 2 * int(model.text("num_hidden_layers")) * heads * model.head_size * context_length(model, options)


def _free_memory() -> float | None:
    """GiB of memory that programs may still take; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 / GIB if found else None


def check_engine(kind: EngineKind, options: EngineOptions) -> None:
    """Everything that can be checked before an engine is opened.

    Raises:
        ReasonError: the first thing that is wrong.
    """
    if kind not in ENGINES:
        raise ReasonError(f"--engine {kind}: no such engine; choose from {', '.join(ENGINES)}")
    if min(options.tensor_parallel, options.data_parallel, options.concurrency) < 1:
        raise ReasonError("--tensor-parallel, --data-parallel and --concurrency are at least 1")
    if not 0 < options.gpu_memory <= 1:
        raise ReasonError(f"--gpu-memory {options.gpu_memory}: a share of each GPU, above 0 and at most 1")
    image_tokens(options)
    if kind == "server":
        _check_server(options)
        return
    if options.url:
        raise ReasonError(f"--url belongs to --engine server, and --engine {kind} was asked for")
    model = read_model_folder(options.model)
    context_length(model, options)
    if kind == "transformers":
        if options.tensor_parallel > 1:
            raise ReasonError("--engine transformers has no --tensor-parallel; --engine vllm does")
        if model.quantisation:
            method = model.quantisation.get("quant_method", "quantised")
            raise ReasonError(
                f"{model.path.name}: --engine transformers does not read {method} weights; take --engine vllm"
            )
    check_tensor_parallel(model, options.tensor_parallel)
    check_memory(model, options, visible_gpus(os.environ))


def _check_server(options: EngineOptions) -> None:
    if not (options.url or "").startswith(("http://", "https://")):
        raise ReasonError(
            f"--url {options.url or ''}: the server's address is needed, such as http://localhost:8000/v1"
        )
    if options.tensor_parallel > 1 or options.data_parallel > 1:
        raise ReasonError("--tensor-parallel and --data-parallel are up to the server: start it with them")
