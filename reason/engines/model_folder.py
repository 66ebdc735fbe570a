"""A model's folder in Hugging Face's layout: whether it is whole, and what its small files say.

Only those and the headers of the weight files are read, so that 40 GB are judged in a moment.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reason.errors import ReasonError

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_TEMPLATES = ("chat_template.jinja", "chat_template.json")


@dataclass(frozen=True)
class ModelFolder:
    """A model in Hugging Face's layout, as far as it can be told without loading it.

    Attributes:
        path: the folder.
        config: config.json.
        weights: the weight files, sorted by name.
        weight_bytes: their sizes, summed.
    """

    path: Path
    config: Mapping[str, Any]
    weights: tuple[Path, ...]
    weight_bytes: int

    def text(self, key: str, default: Any = None) -> Any:
        """A setting of the language model, which older configs have at the top and newer ones under text_config."""
        return (self.config.get("text_config") or {}).get(key, self.config.get(key, default))

    @property
    def quantisation(self) -> Mapping[str, Any]:
        """quantization_config; empty where the weights are not quantised."""
        return self.config.get("quantization_config") or {}

    @property
    def head_size(self) -> int:
        """Channels of an attention head."""
        return int(self.text("head_dim") or self.text("hidden_size") // self.text("num_attention_heads"))


def read_model_folder(folder: str | Path) -> ModelFolder:
    """Check that everything an engine will look for is there, and whole.

    Raises:
        ReasonError: a file is missing, cut off, a git-lfs pointer, or not what its name says.
    """
    path = Path(folder)
    if not path.is_dir():
        what = "is a file, not a model's folder" if path.exists() else "no such folder"
        raise ReasonError(
            f"{folder}: {what}; 'bash tools/fetch_llm.sh {path.name or 'NAME'}' fetches a model into llm/"
        )
    config = _read_json(path / "config.json")
    if "vision_config" not in config:
        kind = config.get("model_type", "unknown")
        raise ReasonError(f"{path}: a model of type '{kind}' sees no images; a Qwen2.5-VL is meant")
    _check_small_files(path)
    weights = _weight_files(path)
    return ModelFolder(path, config, weights, sum(file.stat().st_size for file in weights))


def _check_small_files(path: Path) -> None:
    """Tokenizer, image processor, chat template."""
    settings = _read_json(path / "tokenizer_config.json")
    if not (path / "tokenizer.json").is_file() and not (
        (path / "vocab.json").is_file() and (path / "merges.txt").is_file()
    ):
        raise ReasonError(
            f"{path}: the tokenizer is missing (tokenizer.json, or vocab.json and merges.txt): fetch it again"
        )
    if not any((path / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise ReasonError(
            f"{path}: preprocessor_config.json is missing, which says how images are prepared: fetch it again"
        )
    if not settings.get("chat_template") and not any((path / name).is_file() for name in _TEMPLATES):
        raise ReasonError(f"{path}: there is no chat template, so it is no model to talk to; take the -Instruct form")
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "preprocessor_config.json", *_TEMPLATES):
        if (path / name).is_file():
            _refuse_pointer(path / name)


def _weight_files(path: Path) -> tuple[Path, ...]:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        placed: dict[str, set[str]] = {}
        for tensor, name in dict(_read_json(index).get("weight_map") or {}).items():
            placed.setdefault(name, set()).add(tensor)
        missing = sorted(name for name in placed if not (path / name).is_file())
        if missing or not placed:
            raise ReasonError(
                f"{path}: {len(missing)} of {len(placed)} weight files are missing ({', '.join(missing[:3])}"
                f"{', …' if len(missing) > 3 else ''}): 'bash tools/fetch_llm.sh {path.name}' fetches what is not there"
            )
        files = tuple(path / name for name in sorted(placed))
    else:
        placed = {}
        files = tuple(sorted(path.glob("*.safetensors")))
    if not files:
        raise ReasonError(
            f"{path}: no weights (*.safetensors) in it: 'bash tools/fetch_llm.sh {path.name}' fetches them"
        )
    for file in files:
        absent = placed.get(file.name, set()) - _tensor_names(file)
        if absent:
            raise ReasonError(
                f"{file}: has no tensor '{min(absent)}', which {index.name} places there: fetch both again"
            )
    return files


def _tensor_names(file: Path) -> set[str]:
    """Names in a safetensors file, after comparing its length with what its header promises."""
    _refuse_pointer(file)
    size = file.stat().st_size
    again = "it is cut off or damaged: fetch it again"
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= size - 8:
            raise ReasonError(f"{file}: no header of a safetensors file in its {size} bytes; {again}")
        try:
            header = json.loads(stream.read(length))
            entries = {name: entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ReasonError(f"{file}: the header of the safetensors file cannot be read; {again}") from error
    expected = 8 + length + max(entries.values(), default=0)
    if size != expected:
        raise ReasonError(f"{file}: {size} bytes, where its header promises {expected}; {again}")
    return set(entries)


def _refuse_pointer(file: Path) -> None:
    with file.open("rb") as stream:
        if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise ReasonError(
                f"{file}: a git-lfs pointer in place of the file itself: run 'git lfs pull' in {file.parent}"
            )


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ReasonError(f"{file}: missing, so this is not a whole model; 'bash tools/fetch_llm.sh' fetches one")
    _refuse_pointer(file)
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReasonError(f"{file}: not valid JSON ({error}): fetch it again") from error
    if not isinstance(document, dict):
        raise ReasonError(f"{file}: a JSON object is meant: fetch it again")
    return document


def model_hash(model: ModelFolder) -> str:
    """32 hexadecimal digits for config.json and the names and sizes of the weight files.

    Reading 40 GB of weights for a hash would take longer than loading them; another model has other sizes or another
    config, while weights that were trained further under the same name do not show.
    """
    digest = hashlib.sha256((model.path / "config.json").read_bytes())
    for file in model.weights:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
    return digest.hexdigest()[:32]
