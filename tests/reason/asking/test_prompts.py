"""Prompt templates, the names that classes are asked about by, and the schemas of the answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import reason.asking.prompts
from reason.asking.prompts import TEMPLATES, load_prompts
from reason.errors import ReasonError
from reason.names import VocabularyNames
from reason.vocabulary import load_vocabulary

PACKAGE = Path(reason.asking.prompts.__file__).parent


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    shutil.copytree(PACKAGE / "v1", tmp_path / "v1")
    return tmp_path


def test_every_template_is_a_file_of_its_own() -> None:
    assert {path.stem for path in (PACKAGE / "v1").glob("*.txt")} == set(TEMPLATES)
    assert load_prompts() == load_prompts("v1", PACKAGE)


def test_hash_follows_every_template(own_folder: Path) -> None:
    before = load_prompts("v1", own_folder)
    assert before.hash == load_prompts().hash
    seen = {before.hash}
    for name in TEMPLATES:
        path = own_folder / "v1" / f"{name}.txt"
        path.write_text(path.read_text(encoding="utf-8") + "\nMore.", encoding="utf-8")
        seen.add(load_prompts("v1", own_folder).hash)
    assert len(seen) == len(TEMPLATES) + 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("image_name", None, "image_name.txt: this template cannot be read"),
        ("image_name", " \n", "empty"),
        ("image_reason", "Tell the reasons.", "$names is missing"),
        ("image_look", "Describe $image.", "$image is no placeholder"),
        ("generic_reason", "first\n$name costs 5 $", "line 2: a lone $"),
    ],
)
def test_broken_template_is_named(own_folder: Path, name: str, content: str | None, words: str) -> None:
    path = own_folder / "v1" / f"{name}.txt"
    if content is None:
        path.unlink()
    else:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ReasonError) as caught:
        load_prompts("v1", own_folder)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("version", ["v999", "", "v1/image_look.txt"])
def test_unknown_version_names_the_known_ones(version: str) -> None:
    with pytest.raises(ReasonError, match=r"known are v1"):
        load_prompts(version)


@pytest.mark.parametrize("form", ["json", "text"])
def test_constant_part_holds_everything_but_the_question(form: str) -> None:
    vocabulary = load_vocabulary("ade847")
    lines = VocabularyNames.of(vocabulary).lines
    prompts = load_prompts()
    for text in (prompts.image_system(lines, form, (5, 8)), prompts.generic_system(lines, form, (5, 8))):  # type: ignore[arg-type]
        listed = text.split("\n")
        assert all(line in listed for line in lines)
        assert "There are 847 classes" in text
        assert "5 to 8" in text
        assert "$" not in text
        # About 4,000 tokens: a quarter of the 16,384 of a small context, the largest vocabulary included.
        assert len(text) < 17_000
    # What a turn adds is short.
    assert max(map(len, (prompts.image_look(), prompts.image_name(), prompts.image_reason(["wall"])))) < 80
    assert "wall, sky" in prompts.image_reason(["wall", "sky"])
    assert "building (edifice)" in prompts.generic_reason("building (edifice)")


def test_class_names_with_dollar_signs_stay() -> None:
    text = load_prompts().image_system(["$100 note", "${form}"], "json", (2, 3))
    assert "$100 note\n${form}\n" in text
