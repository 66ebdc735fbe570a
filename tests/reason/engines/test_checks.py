"""What is checked before a model is loaded: every way a folder is incomplete, and what does not fit."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reason.engines import checks
from reason.engines.checks import check_engine, check_memory, check_tensor_parallel, context_length
from reason.engines.gpus import Gpu, select_gpus
from reason.engines.interface import EngineOptions
from reason.engines.model_folder import ModelFolder, model_hash, read_model_folder
from reason.errors import ReasonError

GIB = 2**30
# Qwen2.5-VL-72B-Instruct-AWQ's published config.json, as far as it is looked at; older ones have no text_config.
LARGE: dict[str, Any] = {
    "model_type": "qwen2_5_vl",
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "num_hidden_layers": 80,
    "max_position_embeddings": 128000,
    "vision_config": {"num_heads": 16, "hidden_size": 1280, "intermediate_size": 3456},
    "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128},
}


def large(weight_bytes: float = 41.5 * GIB, **changes: Any) -> ModelFolder:
    return ModelFolder(Path("llm/Qwen2.5-VL-72B-Instruct-AWQ"), {**LARGE, **changes}, (), int(weight_bytes))


def gpu(total: float, free: float | None = None, device: str = "0") -> Gpu:
    return Gpu(device, f"GPU {device}", int(total * GIB), int((total if free is None else free) * GIB))


def write_safetensors(path: Path, *names: str, size: int = 16) -> None:
    entries = {
        name: {"dtype": "U8", "shape": [size], "data_offsets": [i * size, (i + 1) * size]}
        for i, name in enumerate(names)
    }
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size * len(names)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete folder with two shards of weights."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({**LARGE, "quantization_config": None}))
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (path / "tokenizer.json").write_text("{}")
    (path / "preprocessor_config.json").write_text("{}")
    write_safetensors(path / "model-1-of-2.safetensors", "a", "b")
    write_safetensors(path / "model-2-of-2.safetensors", "c")
    placed = {"a": "model-1-of-2.safetensors", "b": "model-1-of-2.safetensors", "c": "model-2-of-2.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    return path


def pointer(name: str) -> Callable[[Path], object]:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3900000000\n"
    return lambda path: (path / name).write_text(text)


def without(*names: str) -> Callable[[Path], object]:
    return lambda path: [(path / name).unlink() for name in names]


def cut(path: Path) -> None:
    file = path / "model-2-of-2.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights are a pointer": (pointer("model-1-of-2.safetensors"), r"model-1-of-2\.safetensors: a git-lfs pointer"),
    "config is a pointer": (pointer("config.json"), r"config\.json: a git-lfs pointer .*git lfs pull"),
    "tokenizer is a pointer": (pointer("tokenizer.json"), r"tokenizer\.json: a git-lfs pointer"),
    "a shard is missing": (without("model-2-of-2.safetensors"), r"1 of 2 weight files are missing \(model-2-of-2"),
    "weights are cut off": (cut, r"model-2-of-2\.safetensors: \d+ bytes, where its header promises \d+"),
    "a tensor is missing": (
        lambda path: write_safetensors(path / "model-1-of-2.safetensors", "a"),
        r"has no tensor 'b', which model\.safetensors\.index\.json places there",
    ),
    "weights are empty": (
        lambda path: (path / "model-2-of-2.safetensors").write_bytes(b""),
        "no header of a safetensors file in its 0 bytes",
    ),
    "weights are something else": (
        lambda path: (path / "model-2-of-2.safetensors").write_bytes(struct.pack("<Q", 8) + b"no json!"),
        "header of the safetensors file cannot be read",
    ),
    "no weights": (
        without("model.safetensors.index.json", "model-1-of-2.safetensors", "model-2-of-2.safetensors"),
        "no weights",
    ),
    "no config": (without("config.json"), r"config\.json: missing"),
    "config is cut off": (
        lambda path: (path / "config.json").write_text('{"model_type": '),
        r"config\.json: not valid JSON",
    ),
    "no tokenizer": (without("tokenizer.json"), "tokenizer is missing"),
    "no image processor": (without("preprocessor_config.json"), "preprocessor_config.json is missing"),
    "no chat template": (
        lambda path: (path / "tokenizer_config.json").write_text("{}"),
        "no chat template",
    ),
    "it sees nothing": (
        lambda path: (path / "config.json").write_text('{"model_type": "qwen2"}'),
        "a model of type 'qwen2' sees no images",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_folder_that_is_not_whole_is_named_with_what_it_lacks(folder: Path, case: str) -> None:
    damage, message = BROKEN[case]
    read_model_folder(folder)
    damage(folder)
    with pytest.raises(ReasonError, match=message) as error:
        read_model_folder(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_a_folder_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ReasonError, match=r"no such folder; 'bash tools/fetch_llm\.sh Qwen2\.5-VL-7B-Instruct'"):
        read_model_folder(tmp_path / "Qwen2.5-VL-7B-Instruct")
    (tmp_path / "file").touch()
    with pytest.raises(ReasonError, match="is a file"):
        read_model_folder(tmp_path / "file")


def test_the_tiny_model_is_whole(tiny_model: Path, tiny_awq: tuple[Path, Path]) -> None:
    for path in (tiny_model, *tiny_awq):
        check_engine("vllm", EngineOptions(model=str(path), max_pixels=64 * 784))
    assert read_model_folder(tiny_awq[0]).quantisation["group_size"] == 32
    assert read_model_folder(tiny_model).head_size == 64


def test_the_hash_follows_config_and_weights(folder: Path) -> None:
    first = model_hash(read_model_folder(folder))
    assert first == model_hash(read_model_folder(folder)) and len(first) == 32
    write_safetensors(folder / "model-2-of-2.safetensors", "c", size=24)
    second = model_hash(read_model_folder(folder))
    (folder / "config.json").write_text(json.dumps(LARGE))
    assert len({first, second, model_hash(read_model_folder(folder))}) == 3


def test_quantisation_groups_that_cannot_be_shared() -> None:
    """docs/findings.md 12: the published 72B-AWQ has 231 groups."""
    with pytest.raises(ReasonError) as error:
        check_tensor_parallel(large(), 2)
    message = str(error.value)
    assert "231 quantisation groups of 128" in message and "29568" in message
    assert "--tensor-parallel 1 --data-parallel 2" in message and "padded to 29696" in message
    check_tensor_parallel(large(), 1)
    check_tensor_parallel(large(intermediate_size=29696), 2)
    check_tensor_parallel(large(quantization_config=None), 4)


def test_heads_that_cannot_be_shared() -> None:
    with pytest.raises(ReasonError, match=r"the 64 attention heads .* by 3 GPUs"):
        check_tensor_parallel(large(quantization_config=None), 3)
    seven = large(quantization_config=None, num_attention_heads=28, num_key_value_heads=4, hidden_size=3584)
    check_tensor_parallel(seven, 4)
    with pytest.raises(ReasonError, match="28 attention heads"):
        check_tensor_parallel(seven, 8)


def test_memory_of_the_gpus() -> None:
    options = EngineOptions(model="", max_model_len=16384)
    model = large()
    # 2 tensors x 2 bytes x 80 layers x 8 heads x 128 channels x 16384 tokens = 5 GiB beside the weights.
    check_memory(model, options, [gpu(80)])
    check_memory(model, replace(options, gpu_memory=0.99), [gpu(47.1)])
    with pytest.raises(
        ReasonError, match=r"more than 46\.5 GiB of a GPU \(weights 41\.5, cache of one conversation 5\.0\)"
    ):
        check_memory(model, options, [gpu(47.1)])
    check_memory(model, replace(options, tensor_parallel=2), [gpu(32), gpu(32, device="1")])
    with pytest.raises(ReasonError, match="GPU 1: 10.0 of 80.0 GiB are free"):
        check_memory(model, replace(options, data_parallel=2), [gpu(80), gpu(80, 10, device="1")])
    with pytest.raises(ReasonError, match="are 4 GPUs; there are 1"):
        check_memory(model, replace(options, data_parallel=4), [gpu(80)])


def test_memory_of_a_machine_without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_free_memory", lambda: 16.0)
    with pytest.raises(ReasonError, match=r"41\.5 GiB of weights, 16\.0 GiB of memory free and no GPU"):
        check_memory(large(), EngineOptions(model=""), ())
    check_memory(large(7 * GIB), EngineOptions(model=""), ())
    monkeypatch.undo()
    free, pages = checks._free_memory(), os.sysconf("SC_PHYS_PAGES")
    assert free is not None and 0 < free < pages * os.sysconf("SC_PAGE_SIZE") / GIB
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "MemTotal: 9 kB\nMemAvailable:   25165824 kB\n")
    assert checks._free_memory() == 24.0


def test_length_of_a_conversation() -> None:
    model, options = large(), EngineOptions(model="")
    assert context_length(model, options) == 16384
    assert context_length(large(max_position_embeddings=8192), options) == 8192
    assert context_length(large(text_config={"max_position_embeddings": 4096}), options) == 4096
    with pytest.raises(ReasonError, match="conversations of 128000 tokens at most"):
        context_length(model, replace(options, max_model_len=200_000))
    with pytest.raises(ReasonError, match="12845056 pixels take 16384 tokens"):
        context_length(model, replace(options, max_pixels=16384 * 784))


def test_a_vocabulary_that_does_not_fit_is_counted(tiny_model: Path) -> None:
    options = EngineOptions(model=str(tiny_model), max_model_len=2048, max_pixels=64 * 784)
    text = "cat, dog, sofa; " * 40
    constant = checks.check_fits(options, text, answer_tokens=500)
    assert len(text) / 8 < constant < len(text)
    with pytest.raises(ReasonError, match=r"instructions and vocabulary \d+, image 64, questions and answers 1900"):
        checks.check_fits(options, text, answer_tokens=1900)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("vllm", {"concurrency": 0}, "at least 1"),
        ("vllm", {"gpu_memory": 1.5}, "--gpu-memory 1.5"),
        ("vllm", {"max_pixels": 100}, "--max-pixels 100"),
        ("vllm", {"url": "http://localhost:8000/v1"}, "belongs to --engine server"),
        ("transformers", {"tensor_parallel": 2}, "has no --tensor-parallel"),
        ("llama", {}, "no such engine; choose from vllm, server, transformers"),
    ],
)
def test_options_that_contradict(folder: Path, kind: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ReasonError, match=message):
        check_engine(kind, replace(EngineOptions(model=str(folder)), **changes))


def test_the_listing_of_gpus_is_read() -> None:
    listing = (
        "0, GPU-aaaa, NVIDIA H200, 143771, 143000\n1, GPU-bbbb, NVIDIA H200, 143771, 20\n"
        "2, GPU-cccc, NVIDIA GB10, [N/A], [N/A]\n"
    )
    first, second = select_gpus(listing, None)
    assert (first.device, first.total, second.free) == ("0", 143771 * 2**20, 20 * 2**20)
    assert select_gpus(listing, "1,0") == (second, first)
    assert select_gpus(listing, "GPU-b") == (second,)
    assert select_gpus(listing, "") == select_gpus(listing, "7,0") == select_gpus("", None) == ()
