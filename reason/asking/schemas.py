"""JSON schemas that an engine constrains the answers to.

Lengths are bounded by `pattern`, with explicit character classes: a schema's maxLength led to invalid JSON on one
grammar backend, and an unbounded string may run until the token limit. No bound is above 128, where xgrammar 0.2.8
(vLLM's default backend, and the one of `--engine transformers`) gives up: longer texts are runs of runs. A pattern's
character classes hold neither quote nor backslash nor control character, so that no escape is ever needed. Whatever a
schema admits, `reason.asking.parsing` can read, save that an attribute may stand in a list twice.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

MAX_CANDIDATES = 60
"""Class names in one answer at most."""

DESCRIPTION_CHARACTERS = 1200
NAME_CHARACTERS = 64
CATEGORY_CHARACTERS = 32
ATTRIBUTE_CHARACTERS = 56

_LARGEST_BOUND = 128
_BLOCK = 100

Schema = dict[str, Any]


def description_schema() -> Schema:
    """`{"description": text}`."""
    rest = _run("[A-Za-z0-9 ,.;:'()/%&-]", 15, DESCRIPTION_CHARACTERS - 1)
    return _object({"description": {"type": "string", "pattern": f"^[A-Z]{rest}$"}})


def candidates_schema(names: Sequence[str] | None, letters: Iterable[str] = ()) -> Schema:
    """`{"classes": [name, …]}`; the list may be empty.

    Args:
        names: the only names allowed; None: any.
        letters: characters beyond ASCII that a free name may hold, such as those of the vocabulary.
    """
    if names is not None:
        item: Schema = {"type": "string", "enum": list(names)}
    else:
        more = "".join(sorted({letter for letter in letters if ord(letter) > 127 and _is_letter(letter)}))
        first = f"A-Za-z{more}"
        item = {"type": "string", "pattern": f"^[{first}][{first}0-9 '().&/-]{{1,{NAME_CHARACTERS - 1}}}$"}
        if more:  # one sign is a whole name in some scripts
            item["pattern"] = item["pattern"].replace("{1,", "{0,")
    return _object({"classes": {"type": "array", "items": item, "minItems": 0, "maxItems": MAX_CANDIDATES}})


def reasons_schema(names: Sequence[str], attributes: tuple[int, int] = (5, 8)) -> Schema:
    """`{name: reason, …}`: exactly these names, in this order, each with an object as of `generic_schema`."""
    return _object(dict.fromkeys(names, generic_schema(attributes)))


def generic_schema(attributes: tuple[int, int] = (5, 8)) -> Schema:
    """`{"general_category": text, "sub_category": text, "attributes": [text, …]}`.

    Args:
        attributes: least and largest number of attributes.
    """
    category = {"type": "string", "pattern": f"^[A-Za-z][A-Za-z0-9 '/-]{{1,{CATEGORY_CHARACTERS - 1}}}$"}
    attribute = {"type": "string", "pattern": f"^[A-Za-z][A-Za-z0-9 '/()-]{{2,{ATTRIBUTE_CHARACTERS - 1}}}$"}
    least, most = attributes
    several = {"type": "array", "items": attribute, "minItems": least, "maxItems": most}
    return _object({"general_category": category, "sub_category": category, "attributes": several})


def _run(characters: str, least: int, most: int) -> str:
    """The pattern of `least` (at most 28) to `most` characters of a class, a few more where `most` is above 128.

    Blocks of equal length and a rest: `(x{99}){0,11}x{15,113}` is 15 to 1202, each number in one way only, so that no
    backend has to keep many in mind.
    """
    if most <= _LARGEST_BOUND:
        return f"{characters}{{{least},{most}}}"
    blocks = -(-(most - least + 1) // _BLOCK)
    size = -(-(most - least + 1) // blocks)
    return f"({characters}{{{size}}}){{0,{blocks - 1}}}{characters}{{{least},{least + size - 1}}}"


def _object(properties: dict[str, Schema]) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"
