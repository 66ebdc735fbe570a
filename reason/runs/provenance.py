"""What a result depends on, as one hash: results of different prompts, models or vocabularies must not mix unnoticed.

The parts of the hash decide what the model is asked and how it answers. What changes neither (the kind of engine and
its version, how many attempts a step is allowed) is recorded beside them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from reason.asking.messages import TaskOptions
from reason.vocabulary import Vocabulary

_WITHOUT_EFFECT = ("attempts",)
"""Options that decide how long to go on, not what comes out."""


@dataclass(frozen=True)
class Provenance:
    """Where results come from.

    Attributes:
        parts: name -> value of everything that a result depends on, in words that a message can show.
        record: what else is worth writing beside a result (engine, version, …); no part of the hash.
    """

    parts: Mapping[str, str]
    record: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def hash(self) -> str:
        """32 hexadecimal digits; equal for equal parts in any order."""
        return digest(dict(sorted(self.parts.items())))

    def document(self) -> dict[str, Any]:
        """What is written into every result and beside them."""
        return {"hash": self.hash, "parts": dict(self.parts), **self.record}


def digest(value: Any) -> str:
    """32 hexadecimal digits over the JSON form of `value`."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def model_name(model: str) -> str:
    """The last part of a model's folder or repository name: the name of its folder of results."""
    return PurePosixPath(model.replace("\\", "/").rstrip("/")).name or "model"


def vocabulary_part(vocabulary: Vocabulary) -> str:
    """Name, size and content of a vocabulary; colours and identifiers have no effect on reasons."""
    content = [[entry.name, list(entry.synonyms)] for entry in vocabulary.classes]
    return f"{vocabulary.name}, {len(vocabulary)} classes ({digest(content)[:12]})"


def task_parts(options: TaskOptions, *, images: bool) -> dict[str, str]:
    """The options of the tasks that have an effect, one part each.

    Args:
        options: how tasks ask.
        images: False for generic reasons, which have no candidates.
    """
    values = {key: value for key, value in asdict(options).items() if key not in _WITHOUT_EFFECT}
    foreign = ("generic_",) if images else ("description_", "candidates", "reason_", "classes_per_")
    return {
        key.replace("_", " "): ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
        for key, value in values.items()
        if not key.startswith(foreign)
    }


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What differs between the parts of two provenances: "prompts: v1 (3f…) -> v2 (9a…); seed: 0 -> 1"."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return "; ".join(f"{name}: {before.get(name, 'none')} -> {after.get(name, 'none')}" for name in names)
