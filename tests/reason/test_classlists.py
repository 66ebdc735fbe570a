"""Class lists as other projects write them, and single words that were meant otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason.suggest import closest, did_you_mean
from reason.vocabulary import (
    Vocabulary,
    VocabularyError,
    known_vocabularies,
    load_vocabulary,
    parse_vocabulary,
    read_vocabulary,
)

FILLED = ", ".join(f'"{index}": "invalid_class_id"' for index in range(9))
"""Of a list whose first class has the index 9."""
TWO = (("wall", "walls"), ("building", "edifice"))


def saved(folder: Path, name: str, content: str) -> Vocabulary:
    (folder / name).write_text(content, encoding="utf-8")
    return read_vocabulary(str(folder / name))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "0:invalid_class_id\n1:wall,walls\n2:building,edifice\n"),
        ("a.txt", "1: wall, walls\n\n2: building, edifice\n"),
        ("a.txt", "2:building,edifice\n1:wall,walls\n0:invalid_class_id\n"),
        ("a.txt", "wall, walls\n# a remark\nbuilding,edifice\n"),
        ("a.txt", '["wall, walls", "building, edifice"]'),
        ("a.json", '["wall, walls", "building, edifice"]'),
        ("a.json", '["1:wall,walls", "2:building,edifice"]'),
        ("a.json", '{"0": "wall, walls", "1": "building,edifice"}'),
        ("a.json", f'{{"10": "building,edifice", "9": "wall, walls", {FILLED}}}'),
        ("a.txt", "0:invalid_class_id\n1:wall,walls\n2:invalid_class_id\n3:building,edifice\n"),
        ("a.json", '{"invalid_class_id": 0, "wall, walls": 1, "building, edifice": 2}'),
        ("a.json", '{"wall": ["wall", "walls"], "building": ["building", "edifice"]}'),
        ("a.json", '[{"id": 7, "name": "wall", "synonyms": ["wall", "walls"]}, {"id": 9, "name": "building,edifice"}]'),
        ("a.json", '{"images": [], "categories": [{"name": "wall,walls"}, {"name": "building,edifice"}]}'),
        ("classes", "1:wall,walls\n2:building,edifice"),
        ("a.txt", "\ufeff1\twall, walls\r\n2\tbuilding, edifice\r\n"),
        ("a.txt", "0 wall, walls\n1 building, edifice\n"),
        ("a.txt", "1. wall, walls\n2. building, edifice\n"),
        ("a.txt", "1) wall, walls\n2) building, edifice\n"),
        ("a.txt", "1 - wall, walls\n2 - building, edifice\n"),
        ("a.txt", "0=wall, walls\n1=building, edifice\n"),
        ("a.csv", 'id,name\n2,"building, edifice"\n1,"wall, walls"\n'),
        ("a.tsv", "Idx\tName\n2\tbuilding, edifice\n1\twall, walls\n"),
        ("a.txt", "- wall, walls\n- building, edifice\n"),
        ("a.txt", "wall, walls,\nbuilding, edifice,\n"),
        ("a.txt", '"wall", "walls",\n"building", "edifice",\n'),
        ("a.txt", "wall, walls; building, edifice\n"),
        ("a.py", "CLASSES = (\n    'wall, walls',  # 0\n    'building, edifice',\n)\n"),
        ("a.txt", "{'wall, walls', 'building, edifice'}"),
        ("a.yaml", "- wall, walls\n- building, edifice\n"),
        ("a.yml", "path: x\nnc: 2\nnames:\n  0: wall, walls\n  1: building, edifice\n"),
        ("a.json", '{"names": ["wall, walls", "building, edifice"]}'),
        ("a.json", '{"id2label": {"1": "building, edifice", "0": "wall, walls"}, "label2id": {}}'),
        ("a.json", '{"building, edifice": 1, "wall, walls": 0}'),
        ("a.json", '{"1": ["building", "edifice"], "0": ["wall", "walls"]}'),
        ("a.json", '[["wall", "walls"], ["building", "edifice"]]'),
        ("a.jsonl", '{"id": 1, "name": "wall, walls"}\n{"id": 2, "name": "building, edifice"}\n'),
    ],
)
def test_class_lists_in_circulation_are_two_classes(tmp_path: Path, name: str, content: str) -> None:
    vocabulary = saved(tmp_path, name, content)
    assert vocabulary.synonyms == TWO and vocabulary.name == Path(name).stem
    assert vocabulary.class_names[0] in ("wall", "wall,walls", "wall, walls")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.txt", "1:wall\n1:floor\n", "index 1 stands before 'wall' and 'floor'"),
        ("a.txt", "1:cat\n5:dog\n", "index 1 ('cat') is followed by 5 ('dog'), and a class is known by its place"),
        ("a.txt", "0:invalid_class_id\n1:cat\n3:dog\n", "index 1 ('cat') is followed by 3 ('dog')"),
        ("a.txt", "0:invalid_class_id\n2:cat\n3:dog\n", "index 0 ('invalid_class_id') is followed by 2 ('cat')"),
        ("a.txt", "1. cat\n3. dog\n", "leave all indices out if the order alone counts"),
        ("a.txt", "5:cat\n6:dog\n", "its indices begin with 5 ('cat'), not with 0 or 1; number them 0, 1, 2"),
        ("a.csv", "id,name\n7,cat\n9,dog\n", "begin with 7 ('cat')"),
        ("a.json", '{"1": "cat", "5": "dog"}', "index 1 ('cat') is followed by 5 ('dog')"),
        ("a.json", '{"id2label": {"0": "cat", "2": "dog"}}', "index 0 ('cat') is followed by 2 ('dog')"),
        ("a.json", '{"1": "cat", "01": "dog"}', "an index stands before two names"),
        ("a.json", '{"cat": 0, "dog": 4}', "index 0 ('cat') is followed by 4 ('dog')"),
        ("a.txt", "wall\twalls\nfloor\tfloors\n", "a tab in"),
        ("a.tsv", "Idx\tRatio\tName\n1\t0.15\twall\n2\t0.1\tfloor\n", "a tab in"),
        ("a.csv", "Idx,Ratio,Name\n1,0.15,wall\n2,0.1,floor\n", "columns, as 'Idx,Ratio,Name' names them"),
        ("a.txt", "wall;walls\nfloor;floors\n", "semicolons in several lines"),
        ("a.txt", '["wall" "floor"]', "lacks a comma"),
        ("a.txt", "['wall', 'floor'\n", "a list that is not whole"),
        ("a.yaml", "names: [wall\n", "not valid yaml"),
        ("a.json", '[{"id": 1, "name": "wall"}, {"id": 1, "name": "floor"}]', "'wall' and 'floor' have 1"),
    ],
)
def test_what_is_no_list_of_classes_is_refused(tmp_path: Path, name: str, content: str, problem: str) -> None:
    with pytest.raises(VocabularyError) as error:
        saved(tmp_path, name, content)
    assert problem in str(error.value) and str(error.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize("text", ["{0}", "{0}/absent", ".", "..", "absent.yaml", "absent.csv", "./absent"])
def test_a_path_without_a_file_is_no_class(tmp_path: Path, text: str) -> None:
    word = text.format(tmp_path)
    with pytest.raises(VocabularyError, match="no such file|No such file"):
        read_vocabulary(word)
    assert read_vocabulary(f"{word},").class_names == (word,)


def test_numbers_that_are_part_of_names_stay() -> None:
    assert parse_vocabulary("2 cents\n5 cents\n10 cents").class_names == ("2 cents", "5 cents", "10 cents")
    assert parse_vocabulary("3.5 inch disk; 1,000 things").synonyms == (("3.5 inch disk",), ("1", "000 things"))
    assert parse_vocabulary("7\n8\n9").class_names == ("7", "8", "9")
    assert parse_vocabulary("tv/monitor, cat").class_names == ("tv/monitor", "cat")


@pytest.mark.parametrize(
    "text",
    [
        '["cat", "dog"]',
        "['cat', 'dog']",
        "('cat', 'dog')",
        "[cat, dog]",
        '"cat", "dog"',
        "'cat','dog'",
        "1 cat, 2 dog",
        '{"0": "cat", "1": "dog"}',
        "cat, dog",
        "cat;dog",
        "0:cat, 1:dog",
        "0:invalid_class_id;1:cat;2:dog",
    ],
)
def test_lists_on_the_command_line(text: str) -> None:
    vocabulary = read_vocabulary(text)
    assert vocabulary.synonyms == (("cat",), ("dog",)) and vocabulary.name == "cat-dog"
    assert vocabulary.summary == "vocabulary: cat-dog, 2 classes"


def test_categories_of_coco_keep_what_they_say() -> None:
    document = [{"id": 3, "name": "person", "isthing": 1, "color": [1, 2, 3]}, {"id": 5, "name": "sky", "isthing": 0}]
    person, sky = parse_vocabulary(json.dumps(document)).classes
    assert (person.thing, person.color, person.dataset_id) == (True, (1, 2, 3), 3)
    assert (sky.thing, sky.color, sky.dataset_id) == (False, None, 5)


def test_classes_of_one_first_name_are_called_by_all_their_names() -> None:
    """As in SED's and CAT-Seg's list of A-847."""
    vocabulary = parse_vocabulary('["bed", "case", "case, display case", "case, casing"]')
    assert vocabulary.class_names == ("bed", "case", "case, display case", "case, casing")


@pytest.mark.parametrize("name", known_vocabularies())
def test_a_benchmark_in_either_form_is_the_same_classes(name: str) -> None:
    synonyms = load_vocabulary(name).synonyms
    lines = ["0:invalid_class_id", *(f"{number}:{','.join(names)}" for number, names in enumerate(synonyms, 1))]
    assert parse_vocabulary("\n".join(lines)).synonyms == synonyms
    assert parse_vocabulary(json.dumps([", ".join(names) for names in synonyms])).synonyms == synonyms


def test_a_colon_alone_makes_no_index() -> None:
    assert parse_vocabulary("a:b\nc").class_names == ("a:b", "c")
    assert parse_vocabulary("1:b\nc").class_names == ("1:b", "c")


@given(st.text(max_size=40))
def test_any_text_is_a_vocabulary_or_an_error_of_one_line(text: str) -> None:
    try:
        assert len(parse_vocabulary(text)) >= 1
    except VocabularyError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("word", "meant"),
    [("pc95", "pc59"), ("PC-59", "pc59"), ("ade-847", "ade847"), ("coco", "coco_stuff171"), ("voc", "voc20")],
)
def test_a_word_close_to_a_known_name_is_refused_with_the_way_to_insist(word: str, meant: str) -> None:
    with pytest.raises(VocabularyError, match=rf"{word}: no such vocabulary; did you mean .*{meant}.*write '{word},'"):
        read_vocabulary(word)
    assert read_vocabulary(f"{word},").class_names == (word,)
    assert read_vocabulary(f"{word}, cat").class_names == (word, "cat")


@pytest.mark.parametrize("word", ["cat", "sofa", "person", "car", "aeroplane", "sky", "traffic light", "dog"])
def test_ordinary_words_are_classes(word: str) -> None:
    assert read_vocabulary(word).class_names == (word,)


def test_suggestions() -> None:
    assert closest("imgae", ["image", "generic", "status"]) == ["image"]
    assert did_you_mean("stat", ["image", "status"]) == "; did you mean status?"
    assert did_you_mean("xyz", ["image", "status"]) == ""
    with pytest.raises(VocabularyError, match=r"did you mean pc59 or pc459\?; known are"):
        load_vocabulary("pc95")
