"""Prompt templates, the names that classes are asked about by, and the schemas of the answers."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

import reason.asking.prompts
from reason.asking.prompts import TEMPLATES, load_prompts
from reason.asking.schemas import candidates_schema, description_schema, generic_schema, reasons_schema
from reason.errors import ReasonError
from reason.names import VocabularyNames, bare, fold, singulars
from reason.vocabulary import Vocabulary, known_vocabularies, load_vocabulary, parse_vocabulary

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


def test_fold_and_singulars() -> None:
    assert fold("  The Traffic_Light ") == "traffic light"
    assert fold("a") == "a"
    assert fold("T-shirt") == fold("t shirt")
    assert "bench" in singulars("benches")
    assert "shelf" in singulars("shelves")
    assert "berry" in singulars("berries")
    assert singulars("glass") == ("glass",)
    assert bare("crane (machine)") == "crane"
    assert bare("(odd)") == "(odd)"


def served_classes(vocabulary: Vocabulary, key: str) -> list[int]:
    """The classes that the segmentor gives a key's reasons to, by the rule of docs/numerics.md."""
    parts = {part.strip() for part in key.split(",")}
    return [entry.index for entry in vocabulary.classes if parts & set(entry.synonyms)]


@pytest.mark.parametrize("name", known_vocabularies())
def test_names_of_the_benchmarks(name: str) -> None:
    vocabulary = load_vocabulary(name)
    names = VocabularyNames.of(vocabulary)
    assert len({fold(label) for label in names.labels}) == len(vocabulary)
    assert not any("," in label or label != label.strip() for label in names.labels)
    assert len(set(names.keys)) == len(vocabulary)
    assert sorted(names.file_order) == list(range(len(vocabulary)))
    # Alone in a file, a key reaches its class, and no other one where a class has a name of its own.
    for entry, key in zip(vocabulary.classes, names.keys, strict=True):
        served = served_classes(vocabulary, key)
        assert entry.index in served
        others = {other for row in vocabulary.classes if row is not entry for other in row.synonyms}
        if set(entry.synonyms) - others:
            assert served == [entry.index]


def test_keys_are_class_names_where_those_will_do() -> None:
    for name in ("pc59", "pc459", "voc20"):
        vocabulary = load_vocabulary(name)
        assert VocabularyNames.of(vocabulary).keys == vocabulary.class_names
    panoptic = load_vocabulary("coco_panoptic133")
    keys = dict(zip(panoptic.class_names, VocabularyNames.of(panoptic).keys, strict=True))
    assert keys["person"] == "person"
    assert keys["door-stuff"] == "door, doors"


def test_names_of_vocabularies_that_repeat_themselves() -> None:
    vocabulary = parse_vocabulary("y, z\nx, y\nw, y\nY")
    names = VocabularyNames.of(vocabulary)
    assert len({fold(label) for label in names.labels}) == 4
    assert len(set(names.keys)) == 4
    assert names.lines[0].startswith(names.labels[0])


# The grammar backend of the engine is what decides whether a schema works.


def accepts(schema: dict[str, object], text: str) -> bool:
    llguidance = pytest.importorskip("llguidance", reason="part of the reasoning environment")
    tokenizer = llguidance.LLTokenizer("byte")
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults={"whitespace_flexible": False})
    assert not llguidance.LLMatcher.validate_grammar(grammar, tokenizer)
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
    for token in text.encode():
        if not matcher.consume_token(token):
            return False
    return bool(matcher.is_accepting())


def compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


REASON = {
    "general_category": "vehicle",
    "sub_category": "aircraft",
    "attributes": ["two swept wings", "tall tail fin", "row of oval windows", "engine pods", "long tube-like body"],
}


def test_schemas_admit_good_answers() -> None:
    assert accepts(description_schema(), compact({"description": "A red bus stands at a kerb; behind it, two trees."}))
    assert accepts(candidates_schema(["cat", "dog"]), compact({"classes": ["dog", "cat"]}))
    assert accepts(candidates_schema(["cat", "dog"]), compact({"classes": []}))
    assert accepts(candidates_schema(None), compact({"classes": ["fire hydrant", "T-shirt"]}))
    assert accepts(candidates_schema(None, "Kühlschrank猫"), compact({"classes": ["Kühlschrank", "猫"]}))
    assert accepts(generic_schema(), compact(REASON))
    assert accepts(reasons_schema(["car", 'a "b" \\ c']), compact({"car": REASON, 'a "b" \\ c': REASON}))


def test_schemas_turn_down_what_cannot_be_used() -> None:
    assert not accepts(description_schema(), compact({"description": "A" * 5000}))
    assert not accepts(description_schema(), compact({"description": ""}))
    assert not accepts(description_schema(), '{ "description": "A red bus stands at a kerb."}')
    assert not accepts(candidates_schema(["cat", "dog"]), compact({"classes": ["cow"]}))
    assert not accepts(candidates_schema(None), compact({"classes": ["x" * 65]}))
    assert not accepts(candidates_schema(None), compact({"classes": ["cat"] * 61}))
    assert not accepts(generic_schema(), compact({**REASON, "attributes": REASON["attributes"][:4]}))
    assert not accepts(generic_schema((5, 5)), compact({**REASON, "attributes": [*REASON["attributes"], "more"]}))
    assert not accepts(reasons_schema(["car", "cat"]), compact({"car": REASON}))
    assert not accepts(reasons_schema(["car"]), compact({"bus": REASON}))


def test_847_names_compile_at_once() -> None:
    schema = candidates_schema(VocabularyNames.of(load_vocabulary("ade847")).labels)
    started = time.perf_counter()
    assert accepts(schema, compact({"classes": ["wall", "sky", "box office"]}))
    assert time.perf_counter() - started < 5
