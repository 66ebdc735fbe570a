"""Reading a golden folder: the inputs, and the recorded entries of its cases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maft.errors import UserError
from reason.vocabulary import Vocabulary, VocabularyClass, split_synonyms


@dataclass(frozen=True)
class Inputs:
    """`inputs.json`: what all cases of a folder were recorded with.

    classes: a string of comma-separated synonyms a class.
    things: indices of the countable classes.
    generic_reason, image_reason: the contents of the triplet files.
    result_sizes: (height, width) of the result, by mode.
    """

    classes: tuple[str, ...]
    things: dict[int, int]
    num_des: int
    generic_reason: dict[str, Any]
    image_reason: dict[str, Any]
    result_sizes: dict[str, tuple[int, int]]

    @property
    def synonyms(self) -> list[tuple[str, ...]]:
        """The synonyms of every class."""
        return [split_synonyms(text) for text in self.classes]

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes as a vocabulary."""
        things = set(self.things.values())
        classes = tuple(
            VocabularyClass(index, text, split_synonyms(text), thing=index in things)
            for index, text in enumerate(self.classes)
        )
        return Vocabulary("parity", "parity", classes)


@dataclass(frozen=True)
class Case:
    """One case: arrays of the npz and facts of the JSON file, both by entry name."""

    name: str
    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: the file is missing or malformed.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; a golden folder is described in tests/golden/README.md") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error})") from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def read_inputs(folder: Path) -> Inputs:
    """`inputs.json` of a golden folder."""
    path = folder / "inputs.json"
    content = read_json(path)
    try:
        return Inputs(
            classes=tuple(content["classes"]),
            things={int(key): value for key, value in content["thing_dataset_id_to_contiguous_id"].items()},
            num_des=content["num_des"],
            generic_reason=content["generic_reason"],
            image_reason=content["image_reason"],
            result_sizes={mode: (size[0], size[1]) for mode, size in content["result_size"].items()},
        )
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]} is missing") from error


def read_cases(folder: Path) -> list[Case]:
    """Every `<case>.npz` of a folder that has a `<case>.json` beside it naming a config."""
    cases = []
    for path in sorted(folder.glob("*.npz")):
        facts_file = path.with_suffix(".json")
        if facts_file.is_file() and "config" in (facts := read_json(facts_file)):
            cases.append(Case(path.stem, read_arrays(path), facts))
    return cases
