"""Answers of the model: both forms, and why an answer is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from reason.asking.parsing import (
    AnswerError,
    ParsedReason,
    parse_candidates,
    parse_description,
    parse_generic,
    parse_reasons,
)

KITE = """A1: This object belongs to [toy].
A2: This 'toy' is [flying toy].
A3: This 'flying toy' 'toy' can be recognized as kite because it contains visual attributes: [diamond-shaped sail, \
long tail of ribbons, thin line to the ground, crossed spars (wood, bamboo), bright panels]."""
KITE_ATTRIBUTES = (
    "diamond-shaped sail",
    "long tail of ribbons",
    "thin line to the ground",
    "crossed spars (wood, bamboo)",
    "bright panels",
)
POND = """A1: This object belongs to [natural surface].
A2: This 'natural surface' is [standing water].
A3: This 'standing water' 'natural surface' can be recognised as "pond" because it contains visual attributes:
[mirror-like surface, reeds along the rim, floating leaves, muddy edge, and dark still patches]."""


def entry(**changes: Any) -> dict[str, Any]:
    attributes = ["diamond-shaped sail", "long tail", "thin line", "crossed spars", "bright panels"]
    return {"general_category": "toy", "sub_category": "flying toy", "attributes": attributes, **changes}


def test_description() -> None:
    wanted = "A kite over a pond; the sky is grey."
    assert parse_description(json.dumps({"description": wanted})) == wanted
    assert parse_description(f"```json\n{json.dumps({'description': wanted})}\n```") == wanted
    assert parse_description("A kite over a pond;\n  the sky is grey.\n", "text") == wanted


def test_candidates() -> None:
    wanted = ["kite", "garden pond", "sky (grey, low)"]
    assert parse_candidates(json.dumps({"classes": [*wanted, "kite"]})) == wanted
    assert parse_candidates("Classes: [kite, garden  pond, sky (grey, low), kite]", "text") == wanted
    assert parse_candidates("['kite', \"garden pond\",\n sky (grey, low)].", "text") == wanted
    assert parse_candidates('{"classes":[]}') == []
    assert parse_candidates("classes: []", "text") == []


def test_published_form() -> None:
    reason = parse_generic(KITE, ["kite"], "text")
    assert reason == ParsedReason("toy", "flying toy", KITE_ATTRIBUTES)
    pond = parse_generic(POND.replace("\n", "  \n\n"), ["water", "pond"], "text")
    assert pond.attributes[-1] == "dark still patches"
    # Text around it does no harm.
    assert parse_generic(f"Certainly. {KITE}\nShall I go on?", ["kite"], "text") == reason


def test_reasons_come_in_the_order_asked() -> None:
    both = parse_reasons(f"{POND}\n\n{KITE}", ["kite", "Pond"], "text")
    assert list(both) == ["kite", "Pond"]
    assert both["kite"] == ParsedReason("toy", "flying toy", KITE_ATTRIBUTES)
    text = json.dumps({"pond (water)": entry(), "kite": entry(sub_category="kite toy")})
    assert [reason.sub_category for reason in parse_reasons(text, ["kite", "pond"]).values()] == [
        "kite toy",
        "flying toy",
    ]


def test_generic_json() -> None:
    reason = parse_generic(json.dumps(entry()), ["kite"])
    assert reason.attributes == ("diamond-shaped sail", "long tail", "thin line", "crossed spars", "bright panels")


def test_attributes_that_repeat_or_name_the_class_count_once_or_not() -> None:
    attributes = ["Long tail.", "long  tail", "kites", "'thin line'", "a sail"]
    assert parse_generic(json.dumps(entry(attributes=attributes)), ["kite"], attributes=(3, 8)).attributes == (
        "Long tail",
        "thin line",
        "a sail",
    )
    with pytest.raises(AnswerError, match=r"'kite': 3 different attributes, at least 4 are needed"):
        parse_generic(json.dumps(entry(attributes=attributes)), ["kite"], attributes=(4, 8))


def test_more_attributes_than_asked_for_are_kept() -> None:
    attributes = [f"mark {letter}" for letter in "abcdefghijkl"]
    assert len(parse_generic(json.dumps(entry(attributes=attributes)), ["kite"]).attributes) == 12


def reasons_json(text: str) -> object:
    return parse_reasons(text, ["kite", "pond"])


def reasons_text(text: str) -> object:
    return parse_reasons(text, ["kite", "pond"], "text")


def generic_text(text: str) -> object:
    return parse_generic(text, ["kite"], "text")


REFUSED: list[tuple[Callable[[str], object], str, str]] = [
    (parse_description, "", "empty"),
    (parse_description, "A kite.", "no JSON object"),
    (parse_description, '{"description": "A kite', "no JSON object"),
    (parse_description, '["A kite."]', "no JSON object"),
    (parse_description, '{"description": 5}', "no text"),
    (parse_description, '{"description": "  "}', "no letter"),
    (parse_description, '{"description": "A kite.", "more": 1}', "just 'description'"),
    (parse_description, '{"description": "A", "description": "B"}', "twice"),
    (parse_description, json.dumps({"description": "A kite. " * 1000}), "far too long"),
    (parse_description, '{"description": "A \\ud800 kite"}', "no character"),
    (parse_description, '{"description": "A \\u0000 kite"}', "no character"),
    (parse_description, '{"description": "A \\ufffd kite"}', "no character"),
    (parse_description, "[" * 60_000, "no JSON object"),
    (parse_description, "x" * 100_001, "far too long"),
    (lambda text: parse_description(text, "text"), " \n", "no letter"),
    (parse_candidates, '{"classes": "kite"}', "no list"),
    (parse_candidates, '{"classes": [1]}', "name 1 is no text"),
    (parse_candidates, '{"classes": ["kite", ""]}', "name 2 holds no letter"),
    (parse_candidates, '{"classes": [NaN]}', "NaN"),
    (parse_candidates, json.dumps({"classes": ["kite"] * 61}), "61 names"),
    (lambda text: parse_candidates(text, "text"), "kite, pond", "square brackets"),
    (lambda text: parse_candidates(text, "text"), "Classes: [kite, pond", "square brackets"),
    (reasons_json, json.dumps({"kite": entry()}), "no reason for 'pond'"),
    (reasons_json, json.dumps({"kite": entry(), "pond": entry(), "sky": entry()}), "'sky', which was not asked"),
    (reasons_json, json.dumps({"kite": entry(), "Kite": entry()}), "two reasons for 'kite'"),
    (reasons_json, json.dumps({"kite": ["toy"], "pond": entry()}), "'kite': no 'general_category'"),
    (reasons_json, json.dumps({"kite": entry(attributes="long tail"), "pond": entry()}), "no list"),
    (reasons_json, json.dumps({"kite": entry(attributes=[["long tail"]]), "pond": entry()}), "attribute 1 is no text"),
    (reasons_json, json.dumps({"kite": entry(attributes=["x"] * 41), "pond": entry()}), "far too many"),
    (reasons_json, json.dumps({"kite": entry(colour="red"), "pond": entry()}), "more fields"),
    (reasons_json, json.dumps({"kite": entry(sub_category="123"), "pond": entry()}), "sub-category holds no letter"),
    (reasons_text, KITE, "no reason for 'pond'"),
    (reasons_text, KITE + POND + KITE, "two reasons"),
    (generic_text, POND, "'pond', which was not asked"),
    (generic_text, KITE + KITE, "2 reasons"),
    (generic_text, "", "not the lines A1, A2, A3"),
    (generic_text, KITE.replace("A2:", "A3:"), "not the lines A1, A2, A3"),
    (generic_text, KITE[: KITE.index("A3")], "not the lines A1, A2, A3"),
    (generic_text, KITE.replace("[toy]", "toy"), "A1: no answer in square brackets"),
    (generic_text, KITE[:-30], "A3: no answer in square brackets"),
    (generic_text, KITE.replace("recognized as kite", "seen"), "does not say which class"),
    (generic_text, KITE.replace("[toy]", "[]"), "general category holds no letter"),
]


@pytest.mark.parametrize(("parse", "text", "words"), REFUSED)
def test_refused_with_a_reason(parse: Callable[[str], object], text: str, words: str) -> None:
    with pytest.raises(AnswerError) as caught:
        parse(text)
    message = str(caught.value)
    assert words in message
    assert len(message) < 300
    assert message.isprintable()
