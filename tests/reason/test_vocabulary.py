"""Vocabularies: the benchmarks' files, users' own, and what is refused."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reason.vocabulary import (
    Vocabulary,
    VocabularyClass,
    VocabularyError,
    dump_vocabulary,
    known_vocabularies,
    load_vocabulary,
    parse_vocabulary,
    split_synonyms,
    spread_color,
    vocabulary_folder,
)

SIZES = {
    "ade150": (150, 100),
    "ade847": (847, 0),
    "coco_panoptic133": (133, 80),
    "coco_stuff171": (171, 80),
    "pc459": (459, 0),
    "pc59": (59, 0),
    "voc20": (20, 20),
    "voc20b": (59, 20),
}


def test_every_benchmark_has_its_vocabulary() -> None:
    assert known_vocabularies() == tuple(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_benchmark_vocabulary(name: str, tmp_path: Path) -> None:
    vocabulary = load_vocabulary(name)
    assert (len(vocabulary), len(vocabulary.thing_indices)) == SIZES[name]
    assert vocabulary.name == name
    assert [entry.index for entry in vocabulary.classes] == list(range(len(vocabulary)))
    assert all(entry.dataset_id is not None for entry in vocabulary.classes)
    # A class is handed to detectron2 as one comma list; splitting that must give the synonyms back.
    for synonyms in vocabulary.synonyms:
        assert split_synonyms(",".join(synonyms)) == synonyms
    dump_vocabulary(vocabulary, tmp_path / "copy.json")
    assert (tmp_path / "copy.json").read_bytes() == (vocabulary_folder() / f"{name}.json").read_bytes()


def test_known_classes() -> None:
    pc59 = load_vocabulary("pc59")
    assert pc59.synonyms[0] == ("aeroplane", "aeroplanes", "airplanes", "airplane")
    assert pc59.class_names[58] == "wood" and pc59.synonyms[58] == ("wood piece", "wood")
    voc = load_vocabulary("voc20")
    assert voc.classes[0].dataset_id == 1 and voc.palette[0] == (128, 0, 0) and voc.palette[19] == (0, 64, 128)
    # The list of A-150's "stove" names one synonym twice, and keeps it.
    repeated = [entry for entry in load_vocabulary("ade150").synonyms if len(set(entry)) != len(entry)]
    assert len(repeated) == 1 and repeated[0].count("kitchen range") == 2


def test_split_synonyms_strips_nothing() -> None:
    assert split_synonyms("sky, clouds") == ("sky", "clouds")
    assert split_synonyms("a ,b,  c,") == ("a ", "b", " c", "")


def test_spread_colors_are_bright_first_and_never_the_same() -> None:
    colors = [spread_color(index) for index in range(847)]
    assert len(set(colors)) == 847
    assert all(0 <= channel <= 255 for color in colors for channel in color)
    for first, second in itertools.pairwise(colors[:24]):
        assert sum(abs(a - b) for a, b in zip(first, second, strict=True)) > 100
    assert all(max(color) > 200 for color in colors[:12])


def test_lists_of_ones_own() -> None:
    assert parse_vocabulary("cat, dog, sofa").synonyms == (("cat",), ("dog",), ("sofa",))
    assert parse_vocabulary("cat,").class_names == ("cat",)
    assert parse_vocabulary("cat, kitten; dog;").synonyms == (("cat", "kitten"), ("dog",))
    assert parse_vocabulary("# pets\ncat, kitten\n\n dog \n").synonyms == (("cat", "kitten"), ("dog",))


def test_text_file(tmp_path: Path) -> None:
    path = tmp_path / "pets.txt"
    path.write_text("\ufeffcat, kitten\n# more\ndog\n", encoding="utf-8")
    vocabulary = load_vocabulary(path)
    assert vocabulary.name == "pets" and vocabulary.synonyms == (("cat", "kitten"), ("dog",))


@pytest.mark.parametrize("text", ["", " ", ";", "cat,,dog", "cat, cat", "cat, ; dog", "# only a remark\n"])
def test_bad_lists(text: str) -> None:
    with pytest.raises(VocabularyError, match="the list of classes"):
        parse_vocabulary(text)


def _file(tmp_path: Path, document: object) -> Path:
    path = tmp_path / "mine.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def _one(**fields: object) -> dict[str, object]:
    return {"classes": [{"name": "cat", "synonyms": ["cat"]}, {"name": "dog", "synonyms": ["dog"], **fields}]}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("", ["empty"]),
        ('{"classes": [', ["line 1", "cut off"]),
        ('{"classes": [], "classes": []}', ["'classes'", "twice"]),
        ([], ["classes"]),
        ({"classes": []}, ["no class"]),
        ({"classes": ["cat"]}, ["class 0", "object"]),
        ({"classes": [{"synonyms": ["cat"]}]}, ["class 0", "'name'"]),
        ({"classes": [{"name": "cat"}]}, ["class 0", "'cat'", "'synonyms'"]),
        (_one(synonyms=[]), ["class 1", "'dog'", "'synonyms'"]),
        (_one(synonyms=["dog, hound"]), ["class 1", "'synonyms'", "comma"]),
        (_one(synonyms=["\ud800"]), ["class 1", "'synonyms'"]),
        (_one(name="cat"), ["class 1", "'name'", "class 0"]),
        (_one(index=0), ["class 1", "'index'"]),
        (_one(thing=1), ["class 1", "'thing'"]),
        (_one(color=[1, 2, 256]), ["class 1", "'color'"]),
        (_one(color=[1, 2]), ["class 1", "'color'"]),
        (_one(dataset_id="7"), ["class 1", "'dataset_id'"]),
        ('{"classes": [{"name": "cat", "synonyms": ["cat"], "index": NaN}]}', ["NaN"]),
    ],
)
def test_bad_files_name_file_class_and_field(tmp_path: Path, document: object, words: list[str]) -> None:
    path = _file(tmp_path, document)
    with pytest.raises(VocabularyError) as caught:
        load_vocabulary(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert all(word in message for word in words), message


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"pc60: no such vocabulary; known are ade150, .*pc59"):
        load_vocabulary("pc60")
    for name in ("none.json", "none.txt"):
        with pytest.raises(VocabularyError, match="none"):
            load_vocabulary(tmp_path / name)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(VocabularyError, match="UTF-8"):
        load_vocabulary(tmp_path / "binary.txt")


def test_a_failed_dump_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    dump_vocabulary(parse_vocabulary("cat", name="v"), path)
    before = path.read_bytes()
    broken = Vocabulary("v", "v", (VocabularyClass(0, "\ud800", ("x",)),))
    with pytest.raises(UnicodeEncodeError):
        dump_vocabulary(broken, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


_NAME = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(str.strip)
_SYNONYM = _NAME.filter(lambda text: "," not in text)
_COLOR = st.none() | st.tuples(*[st.integers(0, 255)] * 3)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(_NAME, st.lists(_SYNONYM, min_size=1, max_size=4), st.booleans(), _COLOR, st.none() | st.integers()),
        min_size=1,
        max_size=6,
        unique_by=lambda row: row[0],
    ),
    _NAME,
)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list, title: str) -> None:
    classes = tuple(
        VocabularyClass(index, name, tuple(synonyms), thing, color, number)
        for index, (name, synonyms, thing, color, number) in enumerate(rows)
    )
    vocabulary = Vocabulary("mine", title, classes)
    path = tmp_path_factory.mktemp("vocabulary") / "mine.json"
    dump_vocabulary(vocabulary, path)
    assert load_vocabulary(path) == vocabulary


def test_light_import() -> None:
    code = "import sys, reason.vocabulary, reason.triplets; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    root = Path(__file__).resolve().parents[2]
    answer = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
