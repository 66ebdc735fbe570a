"""The schemas of the answers, as both grammar backends of vLLM take them: guidance, and xgrammar, which is its default.

The grammar backend of an engine is what decides whether a schema works.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason.asking.schemas import (
    ATTRIBUTE_CHARACTERS,
    CATEGORY_CHARACTERS,
    DESCRIPTION_CHARACTERS,
    MAX_CANDIDATES,
    NAME_CHARACTERS,
    candidates_schema,
    description_schema,
    generic_schema,
    reasons_schema,
)
from reason.names import VocabularyNames
from reason.vocabulary import load_vocabulary

Schema = dict[str, Any]
LONGEST_NAMES = tuple(sorted(VocabularyNames.of(load_vocabulary("ade847")).labels, key=len)[-8:])
LETTERS = "éüñßøŁж猫ü"
ATTRIBUTES = (5, 20)
LARGEST: dict[str, Schema] = {
    "description": description_schema(),
    "free candidates": candidates_schema(None),
    "free candidates of many alphabets": candidates_schema(None, LETTERS),
    "closed candidates of A-847": candidates_schema(VocabularyNames.of(load_vocabulary("ade847")).labels),
    "reasons of eight classes": reasons_schema(LONGEST_NAMES, ATTRIBUTES),
    "generic": generic_schema(ATTRIBUTES),
}
"""Every schema that is sent, with everything in it as large as it can be."""


def guidance_accepts(schema: Schema, text: str) -> bool:
    llguidance = pytest.importorskip("llguidance", reason="part of the reasoning environment")
    tokenizer = llguidance.LLTokenizer("byte")
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults={"whitespace_flexible": False})
    assert not llguidance.LLMatcher.validate_grammar(grammar, tokenizer)
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
    return all(matcher.consume_token(token) for token in text.encode()) and bool(matcher.is_accepting())


def xgrammar_accepts(schema: Schema, text: str) -> bool:
    xgrammar = pytest.importorskip("xgrammar", reason="part of the reasoning environment")
    info = xgrammar.TokenizerInfo([bytes([value]) for value in range(256)] + [b"</s>"], stop_token_ids=[256])
    compiler = xgrammar.GrammarCompiler(info, max_threads=1)
    grammar = compiler.compile_json_schema(schema, any_whitespace=False, separators=(",", ":"))
    matcher = xgrammar.GrammarMatcher(grammar)
    return bool(matcher.accept_string(text) and matcher.is_completed())


BACKENDS: tuple[Callable[[Schema, str], bool], ...] = (guidance_accepts, xgrammar_accepts)


def accepts(schema: Schema, text: str) -> bool:
    """What both backends say, which must be the same."""
    answers = {backend(schema, text) for backend in BACKENDS}
    assert len(answers) == 1, f"the backends differ on {text[:80]}"
    return answers.pop()


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


def patterns(value: Any) -> Iterator[str]:
    for key, inner in value.items() if isinstance(value, dict) else ():
        if key == "pattern":
            yield inner
        yield from patterns(inner)


@pytest.mark.parametrize("name", LARGEST)
def test_no_bound_is_larger_than_xgrammar_takes(name: str) -> None:
    text = json.dumps(LARGEST[name])
    assert "maxLength" not in text
    bounds = [int(most) for pattern in patterns(LARGEST[name]) for most in re.findall(r",(\d+)\}", pattern)]
    items = [int(most) for most in re.findall(r'"maxItems": (\d+)', text)]
    assert max(bounds + items, default=0) <= 128


def largest_answer(name: str) -> Any:
    reason = {
        "general_category": "g" * CATEGORY_CHARACTERS,
        "sub_category": "s" * CATEGORY_CHARACTERS,
        "attributes": ["a" * ATTRIBUTE_CHARACTERS] * ATTRIBUTES[1],
    }
    return {
        "description": {"description": "D" + "d" * (DESCRIPTION_CHARACTERS - 1)},
        "free candidates": {"classes": ["n" * NAME_CHARACTERS] * MAX_CANDIDATES},
        "free candidates of many alphabets": {"classes": ["猫" * NAME_CHARACTERS] * MAX_CANDIDATES},
        "closed candidates of A-847": {"classes": list(LONGEST_NAMES)},
        "reasons of eight classes": dict.fromkeys(LONGEST_NAMES, reason),
        "generic": reason,
    }[name]


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_answers_are_taken_by_both_backends(name: str) -> None:
    assert accepts(LARGEST[name], compact(largest_answer(name)))


@given(st.integers(0, 1400))
def test_a_description_may_have_any_length_between_its_bounds(length: int) -> None:
    (pattern,) = patterns(description_schema())
    found = re.match(pattern, "D" + "d" * length) is not None
    assert found == (15 <= length <= 1202)
    assert found or not 15 <= length < DESCRIPTION_CHARACTERS


@pytest.mark.parametrize("length", [14, 15, 113, 114, 128, 129, 700, 1202, 1203])
def test_the_backends_see_the_same_bounds(length: int) -> None:
    assert accepts(description_schema(), compact({"description": "D" + "d" * length})) == (15 <= length <= 1202)
