""" "~" in every path that a user writes: shells leave it in --option=~/folder, between quotes and in scripts."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from reason import score, show
from reason.cli import check, generic, image, status
from reason.vocabulary import load_vocabulary, read_vocabulary

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def parse(module: object, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)  # type: ignore[attr-defined]
    return parser.parse_args(words)


def values(arguments: argparse.Namespace) -> Iterator[str]:
    for value in vars(arguments).values():
        yield from map(str, value if isinstance(value, list) else [value])


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (image, "--images=~/a --output=~/b --labels=~/c --model=~/d --aligner=~/e --vocabulary=pc59"),
        (generic, "--output=~/a --model=~/b --vocabulary=pc59"),
        (check, "~/a"),
        (status, "~/a ~/b"),
        (score, "--results=~/a --labels=~/b --json=~/c --vocabulary=pc59"),
        (show, "~/a ~/b --results=~/c --output=~/d"),
    ],
)
def test_paths_of_the_command_line(home: Path, module: object, words: str) -> None:
    found = list(values(parse(module, *words.split())))
    assert not [value for value in found if "~" in value]
    assert sum(value.startswith(f"{home}/") for value in found) == words.count("~")


def test_a_vocabulary_file_below_home(home: Path) -> None:
    (home / "two.txt").write_text("cat\ndog\n")
    (home / "two.json").write_text(
        json.dumps(
            {"vocabulary": "two", "title": "Two", "classes": [{"name": n, "synonyms": [n]} for n in ("cat", "dog")]}
        )
    )
    for name in ("~/two.txt", "~/two.json"):
        assert load_vocabulary(name).class_names == read_vocabulary(name).class_names == ("cat", "dog")
    assert load_vocabulary(Path("~/two.txt")).class_names == ("cat", "dog")


def test_the_model_of_fetch_llm_goes_below_home(home: Path) -> None:
    from tools.fetch_llm import parse_arguments

    assert parse_arguments(["--folder=~/models"]).folder == home / "models"


def test_no_option_takes_a_path_as_it_is() -> None:
    """argparse's type=Path keeps the "~", and a folder of that name is made."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    sources = [name for name in listed.stdout.split() if not name.startswith("tests/")]
    assert len(sources) > 100
    found = [name for name in sources if re.search(r"type=(pathlib\.)?Path\b", (ROOT / name).read_text())]
    assert not found
