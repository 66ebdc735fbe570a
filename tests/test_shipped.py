"""`reasons="generic"`: the shipped reasons for any list of classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from maft import load_segmentor
from maft.errors import UserError
from maft.inputs import read_classes, read_reasons
from maft.text.prompts import match_reasons
from reason.shipped import reasons_for, shipped_file
from reason.triplets import load_generic
from reason.vocabulary import known_vocabularies, load_vocabulary
from tools.mini.scenes import render_scene


def kind_of(*classes: str) -> list[str]:
    """What the first class is taken for."""
    vocabulary = read_classes(list(classes))
    given = read_reasons("generic", vocabulary, None)
    keys = match_reasons(vocabulary.synonyms, given.reasons)
    return ["" if key is None else given.reasons[key].sub_category for key in keys]


@pytest.mark.parametrize("name", known_vocabularies())
def test_a_benchmarks_vocabulary_has_its_own_file_and_its_names_are_in_the_table(name: str) -> None:
    vocabulary, file = load_vocabulary(name), shipped_file(name)
    assert file is not None
    own = load_generic(file)
    given = read_reasons("generic", vocabulary, None)
    assert (given.kind, given.note, given.reasons) == ("generic", "", own)
    found = reasons_for(replace(vocabulary, name="custom"))
    keys = match_reasons(vocabulary.synonyms, found.reasons)
    assert None not in keys, "every distinct name is in the table"
    right = [
        found.reasons[key].attributes == own[other].attributes
        for key, other in zip(keys, match_reasons(vocabulary.synonyms, own), strict=True)
        if key and other
    ]
    # Without its name, a class may be a namesake in a smaller vocabulary.
    assert len(right) == len(vocabulary) and sum(right) >= 0.9 * len(right)


def test_names_are_found_in_the_spellings_that_people_use() -> None:
    usual = kind_of("dog", "wine glass", "bench", "sky", "knife")
    assert all(usual) and kind_of("dogs", "wine-glass", "benches", "the Sky", "Knives") == usual


def test_of_several_senses_the_stated_one_is_taken_and_synonyms_choose() -> None:
    assert kind_of("pot") == ["round vessel"], "three entries are called so; pc459's is of the smallest vocabulary"
    assert kind_of("pot, flowerpot") == ["planter"] and kind_of("flowerpot") == ["planter"]
    assert kind_of("throne") == ["ceremonial seat"] != kind_of("toilet"), (
        "a further name of toilet, the name of its own"
    )
    note = read_reasons("generic", read_classes(["pot", "cat"]), None).note
    assert note == "'pot' is read as round vessel"


def test_what_the_table_does_not_know_is_named_and_asked_for_by_name() -> None:
    given = read_reasons("generic", read_classes(["cat", "zorgle", "blurb"]), None)
    assert (given.kind, given.note) == ("some", "without a reason, asked for by name: zorgle, blurb")
    none = read_reasons("generic", read_classes(["zorgle"]), None)
    assert none.kind == "names" and "the shipped generic reasons name no class of the vocabulary" in none.note


def test_a_file_called_generic_is_not_hidden_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("./generic", Path("generic")):
        with pytest.raises(UserError, match="no such file or folder"):
            read_reasons(path, read_classes(["cat"]), None)
    Path("generic").write_text('{"cat": {"class_des": ["seven tails"]}}', encoding="utf-8")
    given = read_reasons("generic", read_classes(["cat"]), None)
    assert "seven tails" not in given.reasons["cat"].attributes
    assert given.note.endswith("write './generic' for the file or folder of that name")
    assert read_reasons("./generic", read_classes(["cat"]), None).reasons["cat"].attributes == ("seven tails",)


def test_the_segmentor_takes_the_word() -> None:
    segmentor = load_segmentor("mini", device="cpu")
    image = render_scene(3, "val").image
    result = segmentor(image, ["bird", "tree", "zorgle"], reasons="generic")
    assert result.origin == "generic" and set(result.reasons) == {"bird", "tree"}
    assert result.note == "without a reason, asked for by name: zorgle"
    names = segmentor(image, ["bird", "tree", "zorgle"])
    assert (result.label_map != names.label_map).any() and names.note == ""
