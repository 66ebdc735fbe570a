"""Triplet files: published forms, lossless round trips, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reason.triplets import (
    ImageTriplet,
    Reason,
    TripletError,
    describe_image_reason_folders,
    dump_generic,
    dump_image,
    find_image_file,
    generic_document,
    image_document,
    image_reason_candidates,
    image_reason_folders,
    load_generic,
    load_image,
    parse_generic,
    parse_image,
)

GENERIC = {
    "kite": {
        "raw_response": "A1: This object belongs to [toy]. \nA2: This 'toy' is [flying toy].",
        "general_category": "toy",
        "sub_category": "flying toy",
        "class_des": ["long tail", "thin string", "bright cloth"],
        "model": "of ours",
    },
    "anvil, block": {"class_des": ["iron", "horn"]},
    "épée": {"general_category": "", "sub_category": None, "class_des": ["thin blade"]},
}
IMAGE = {
    "global": "a meadow",
    "reasoning": {
        "other": [1, 2.5, None],
        "map_class_reason": {
            "sky": {"reason1": "nature", "reason2": "air", "reason3": ["blue", "white clouds"], "similarity": 0.25},
            "grass": {"reason3": ["green blades"]},
        },
    },
    "sampling": {"temperature": 0.0},
}


def _write(folder: Path, document: object) -> Path:
    path = folder / "file.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def test_generic_fields_and_order(tmp_path: Path) -> None:
    reasons = load_generic(_write(tmp_path, GENERIC))
    assert list(reasons) == list(GENERIC)
    kite = reasons["kite"]
    assert (kite.general_category, kite.sub_category) == ("toy", "flying toy")
    assert kite.attributes == ("long tail", "thin string", "bright cloth")
    assert kite.raw_response is not None and kite.raw_response.startswith("A1:")
    minimal = reasons["anvil, block"]
    assert minimal == Reason("anvil, block", "", "", ("iron", "horn"), None)


def test_image_fields_and_order(tmp_path: Path) -> None:
    triplet = load_image(_write(tmp_path, IMAGE))
    assert list(triplet.reasons) == ["sky", "grass"]
    assert triplet.reasons["sky"] == Reason("sky", "nature", "air", ("blue", "white clouds"))
    assert triplet.extra == {
        "global": "a meadow",
        "reasoning": {"other": [1, 2.5, None]},
        "sampling": {"temperature": 0.0},
    }


def test_an_image_may_cover_no_class(tmp_path: Path) -> None:
    assert load_image(_write(tmp_path, {"reasoning": {"map_class_reason": {}}})).reasons == {}


def test_round_trip_keeps_value_and_order(tmp_path: Path) -> None:
    dump_generic(load_generic(_write(tmp_path, GENERIC)), tmp_path / "out.json")
    copy = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert copy == GENERIC and list(copy) == list(GENERIC) and list(copy["kite"]) == list(GENERIC["kite"])
    dump_image(load_image(_write(tmp_path, IMAGE)), tmp_path / "deep" / "out.json")
    assert json.loads((tmp_path / "deep" / "out.json").read_text(encoding="utf-8")) == IMAGE


def test_a_changed_reason_is_written_changed() -> None:
    reasons = parse_generic(GENERIC, where="memory")
    changed = replace(reasons["kite"], attributes=("wooden frame",), sub_category="")
    assert generic_document({"kite": changed})["kite"] == {
        **GENERIC["kite"],
        "class_des": ["wooden frame"],
        "sub_category": "",
    }


def test_reasons_made_in_memory() -> None:
    made = Reason("sky", "nature", "", ("blue",))
    assert generic_document({"sky": made}) == {"sky": {"general_category": "nature", "class_des": ["blue"]}}
    assert image_document(ImageTriplet({"sky": made})) == {
        "reasoning": {"map_class_reason": {"sky": {"reason1": "nature", "reason3": ["blue"]}}}
    }


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("", ["empty"]),
        ("{", ["cut off"]),
        (json.dumps(GENERIC)[:-40], ["cut off"]),
        ("[" * 100_000, ["JSON"]),
        ('{"sky": {"class_des": ["a"]}, "sky": {"class_des": ["b"]}}', ["'sky'", "twice"]),
        ('{"sky": {"class_des": ["a"], "class_des": ["b"]}}', ["'class_des'", "twice"]),
        ('{"sky": {"class_des": ["a"], "similarity": NaN}}', ["NaN"]),
        ('{"sky": {"class_des": ["a"], "similarity": 1e999}}', ["1e999"]),
        ([], ["object"]),
        ({}, ["at least one class"]),
        ({"sky": ["a"]}, ["'sky'", "object", "a list"]),
        ({"sky": {}}, ["'sky'", "'class_des'", "missing"]),
        ({"sky": {"reason3": ["a"]}}, ["'sky'", "'class_des'", "missing"]),
        ({"sky": {"class_des": "blue"}}, ["'sky'", "'class_des'", "list", "a text"]),
        ({"sky": {"class_des": []}}, ["'sky'", "'class_des'", "empty"]),
        ({"sky": {"class_des": ["blue", 3]}}, ["'sky'", "'class_des'", "attribute 2", "a number"]),
        ({"sky": {"class_des": ["blue", " "]}}, ["'sky'", "'class_des'", "attribute 2", "empty"]),
        ({"sky": {"class_des": ["\ud800"]}}, ["'sky'", "'class_des'", "surrogate"]),
        ({"sky": {"class_des": ["blue"], "general_category": 1}}, ["'sky'", "'general_category'", "a number"]),
        ({"sky": {"class_des": ["blue"], "raw_response": []}}, ["'sky'", "'raw_response'", "a list"]),
        ({" ": {"class_des": ["blue"]}}, ["' '", "empty class name"]),
    ],
)
def test_bad_generic_files(tmp_path: Path, document: object, words: list[str]) -> None:
    path = _write(tmp_path, document)
    with pytest.raises(TripletError) as caught:
        load_generic(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, ['"reasoning"', "missing"]),
        (GENERIC, ['"reasoning"']),
        ({"reasoning": []}, ['"reasoning"']),
        ({"reasoning": {}}, ["reasoning.map_class_reason"]),
        ({"reasoning": {"map_class_reason": []}}, ["reasoning.map_class_reason"]),
        ({"reasoning": {"map_class_reason": {"sky": {"class_des": ["a"]}}}}, ["'sky'", "'reason3'", "missing"]),
        ({"reasoning": {"map_class_reason": {"sky": {"reason3": [None]}}}}, ["'sky'", "'reason3'", "null"]),
        ({"reasoning": {"map_class_reason": {"sky": {"reason1": {}, "reason3": ["a"]}}}}, ["'sky'", "'reason1'"]),
    ],
)
def test_bad_image_files(tmp_path: Path, document: object, words: list[str]) -> None:
    path = _write(tmp_path, document)
    with pytest.raises(TripletError) as caught:
        load_image(path)
    assert all(word in str(caught.value) for word in [str(path), *words]), caught.value


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(TripletError, match=r"gone\.json: no such file"):
        load_generic(tmp_path / "gone.json")
    with pytest.raises(TripletError, match="cannot be read"):
        load_image(tmp_path)
    (tmp_path / "latin.json").write_bytes('{"épée": 1}'.encode("latin-1"))
    with pytest.raises(TripletError, match="UTF-8"):
        load_generic(tmp_path / "latin.json")


def test_what_cannot_be_read_back_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    dump_generic({"sky": Reason("sky", "", "", ("blue",))}, path)
    before = path.read_bytes()
    with pytest.raises(TripletError, match="'class_des'"):
        dump_generic({"sky": Reason("sky", "", "", ())}, path)
    with pytest.raises(TripletError, match="nothing was written"):
        dump_image(ImageTriplet({}, {"similarity": float("nan")}), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


_TEXT = st.text(st.characters(codec="utf-8"), max_size=10)
_FULL = _TEXT.filter(str.strip)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)


def _entries(fields: tuple[str, str, str]) -> st.SearchStrategy[dict[str, Any]]:
    general, sub, attributes = fields
    known = st.fixed_dictionaries(
        {attributes: st.lists(_FULL, min_size=1, max_size=4)},
        optional={general: _TEXT | st.none(), sub: _TEXT, "raw_response": _TEXT | st.none()},
    )
    taken = {*fields, "raw_response"}
    others = st.dictionaries(_TEXT.filter(lambda key: key not in taken), _JSON, max_size=2)
    return st.builds(lambda one, two: {**two, **one}, known, others)


@settings(deadline=None)
@given(st.dictionaries(_FULL, _entries(("general_category", "sub_category", "class_des")), min_size=1, max_size=4))
def test_generic_round_trip_property(tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("generic") / "out.json"
    reasons = parse_generic(document, where="memory")
    assert [reason.attributes for reason in reasons.values()] == [tuple(e["class_des"]) for e in document.values()]
    dump_generic(reasons, path)
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written == document and list(written) == list(document)
    assert load_generic(path) == reasons


@settings(deadline=None)
@given(
    st.dictionaries(_FULL, _entries(("reason1", "reason2", "reason3")), max_size=4),
    st.dictionaries(_TEXT.filter(lambda key: key != "map_class_reason"), _JSON, max_size=2),
    st.dictionaries(_TEXT.filter(lambda key: key != "reasoning"), _JSON, max_size=2),
)
def test_image_round_trip_property(entries: dict, beside: dict, outside: dict) -> None:
    document = {**outside, "reasoning": {**beside, "map_class_reason": entries}}
    assert image_document(parse_image(document, where="memory")) == document


def test_the_whole_stem_comes_first(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first / "a.json", second / "a.v2.json", second / "a.json"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    folders = [tmp_path / "missing", first, second]
    assert find_image_file(folders, "/images/a.v2.png") == second / "a.v2.json"
    assert find_image_file(folders, "a.v3.png") == first / "a.json"
    assert find_image_file(folders, "a.png") == first / "a.json"
    assert find_image_file(folders, "b.png") is None
    assert find_image_file([], "a.png") is None
    assert find_image_file(folders, ".png") is None


def test_where_image_files_are_looked_for(tmp_path: Path) -> None:
    candidates = image_reason_candidates("reason_data/image_reason/model", "pc59", "sets")
    assert candidates == [
        Path("reason_data/image_reason/model/pc59"),
        Path("reason_data/image_reason/pc59"),
        Path("sets/reason_data/image_reason/model/pc59"),
        Path("sets/reason_data/image_reason/pc59"),
    ]
    # An absolute folder is the same below any root.
    given = tmp_path / "image_reason" / "model"
    assert image_reason_candidates(given, "pc59", "sets") == [given / "pc59", tmp_path / "image_reason" / "pc59"]
    assert image_reason_candidates("", "pc59", "sets") == [], "an empty MODEL.REASON_DIR is no folder, not this one"
    assert image_reason_candidates("folder", "", "sets") == [Path("folder"), Path("sets/folder")]
    assert image_reason_folders(given, "pc59", "sets") == []
    (tmp_path / "image_reason" / "pc59").mkdir(parents=True)
    (tmp_path / "image_reason" / "pc59" / "a.json").write_text("{}")
    assert image_reason_folders(given, "pc59", "sets") == [tmp_path / "image_reason" / "pc59"]
    described = describe_image_reason_folders(given, "pc59", "sets")
    assert described == f"{given / 'pc59'} (missing), {tmp_path / 'image_reason' / 'pc59'} (1 files)"
