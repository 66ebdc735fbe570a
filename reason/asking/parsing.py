"""What the model wrote, read: the constrained JSON form, and the A1/A2/A3 form of the published files.

A reader gives back what stands in the answer or raises `AnswerError`; it never completes an answer. Names in an answer
are compared with those asked about, and an answer about any other class is refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reason.asking.prompts import AnswerForm
from reason.asking.schemas import MAX_CANDIDATES
from reason.jsonfile import JsonError, parse_json
from reason.names import bare, fold, singulars

_LONGEST_ANSWER = 100_000
_LONGEST_DESCRIPTION = 6_000
_LONGEST_PHRASE = 200
_MOST_ATTRIBUTES = 40

_OPENING, _CLOSING = "([{", ")]}"
_NO_SIGN = ("Cc", "Cn", "Co", "Cs")  # control, unassigned, private use, half of a surrogate pair


class AnswerError(ValueError):
    """An answer that cannot be used; the message says why, for the record of the attempt."""


@dataclass(frozen=True)
class ParsedReason:
    """A coarse-to-fine reason as the model gave it.

    Attributes:
        general_category: such as "vehicle".
        sub_category: such as "aircraft".
        attributes: visual attributes in the order given, all different.
    """

    general_category: str
    sub_category: str
    attributes: tuple[str, ...]


def parse_description(text: str, form: AnswerForm = "json") -> str:
    """The description of an image, in one paragraph.

    Raises:
        AnswerError: malformed, empty or far too long.
    """
    if form == "json":
        value = _field(_json_object(text, ("description",)), "description", "the answer")
    else:
        value = _bounded(text)
    return _clean(value, "the description", _LONGEST_DESCRIPTION)


def parse_candidates(text: str, form: AnswerForm = "json") -> list[str]:
    """The class names of an answer as they are written there, each once; may be empty.

    Raises:
        AnswerError: malformed, or more names than `MAX_CANDIDATES`.
    """
    if form == "json":
        names = _field(_json_object(text, ("classes",)), "classes", "the answer")
        if not isinstance(names, list):
            raise AnswerError("'classes' is no list")
    else:
        match = re.fullmatch(r"(?:classes\s*:)?\s*\[([^\[\]]*)\]\s*\.?", _bounded(text), re.IGNORECASE)
        if match is None:
            raise AnswerError("no list of names in square brackets")
        names = [part for part in _split(match[1]) if part.strip()]
    cleaned = [_phrase(name, f"name {number}") for number, name in enumerate(names, 1)]
    if len(cleaned) > MAX_CANDIDATES:
        raise AnswerError(f"{len(cleaned)} names, which is more than {MAX_CANDIDATES}")
    return list(dict.fromkeys(cleaned))


def parse_reasons(
    text: str, names: Sequence[str], form: AnswerForm = "json", *, attributes: tuple[int, int] = (5, 8)
) -> dict[str, ParsedReason]:
    """The reasons of exactly the classes asked about, in the order asked.

    Args:
        text: the answer.
        names: the classes asked about; no two of them may fold to the same.
        form: of the answer.
        attributes: least number of attributes a class needs, and the number asked for at most (more are kept).

    Raises:
        AnswerError: malformed, a class missing, or one that was not asked about.
    """
    if form == "json":
        given = [(name, _reason_of(entry, name)) for name, entry in _json_object(text).items()]
    else:
        given = _blocks(_bounded(text))
    asked = {fold(name): name for name in names}
    found: dict[str, ParsedReason] = {}
    for written, raw in given:
        name = asked.get(fold(written)) or asked.get(fold(bare(written)))
        if name is None:
            raise AnswerError(f"a reason for {_short(written)}, which was not asked about")
        if name in found:
            raise AnswerError(f"two reasons for {_short(name)}")
        found[name] = _checked(raw, name, attributes[0])
    missing = [name for name in names if name not in found]
    if missing:
        raise AnswerError(f"no reason for {', '.join(map(_short, missing[:5]))}")
    return {name: found[name] for name in names}


def parse_generic(
    text: str, names: Sequence[str], form: AnswerForm = "json", *, attributes: tuple[int, int] = (5, 8)
) -> ParsedReason:
    """The generic reason of one class.

    Args:
        text: the answer.
        names: all names of the class; the first one is the one asked about.
        form: of the answer; the text form names the class, which must be one of `names`.
        attributes: as `parse_reasons`.

    Raises:
        AnswerError: malformed, or about another class.
    """
    if form == "json":
        raw = _reason_of(_json_object(text), names[0])
    else:
        given = _blocks(_bounded(text))
        if len(given) != 1:
            raise AnswerError(f"{len(given)} reasons in place of one")
        written, raw = given[0]
        known = {fold(name) for name in names}
        if known.isdisjoint((fold(written), fold(bare(written)))):
            raise AnswerError(f"a reason for {_short(written)}, which was not asked about")
    return _checked(raw, names[0], attributes[0])


def _bounded(text: str) -> str:
    if len(text) > _LONGEST_ANSWER:
        raise AnswerError(f"{len(text)} characters, which is far too long")
    return text.strip()


def _json_object(text: str, fields: tuple[str, ...] | None = None) -> dict[str, Any]:
    """The object of an answer, which may stand in a fenced block, as models without constraint like to write."""
    body = _bounded(text)
    fenced = re.fullmatch(r"```(?:json)?\s*(\{.*\})\s*```", body, re.DOTALL | re.IGNORECASE)
    try:
        value = parse_json(fenced[1] if fenced else body)
    except JsonError as error:
        problem = "empty" if not body else str(error).split(";")[0]
        raise AnswerError(f"no JSON object: {problem}") from error
    if not isinstance(value, dict):
        raise AnswerError("no JSON object")
    if fields is not None and value.keys() != set(fields):
        raise AnswerError(f"the object must have just {', '.join(map(repr, fields))}")
    return value


def _field(entry: Any, key: str, where: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise AnswerError(f"{where}: no {key!r}")
    return entry[key]


def _reason_of(entry: Any, name: str) -> tuple[Any, Any, Any]:
    where = _short(name)
    values = tuple(_field(entry, key, where) for key in ("general_category", "sub_category", "attributes"))
    if len(entry) != len(values):
        raise AnswerError(f"{where}: more fields than asked for")
    return values[0], values[1], values[2]


def _blocks(text: str) -> list[tuple[str, tuple[Any, Any, Any]]]:
    """The (class as written, raw reason) of every A1, A2, A3 in a row."""
    parts = re.split(r"\bA([1-9])\s*:", text)
    numbers, bodies = parts[1::2], parts[2::2]
    if not numbers or len(numbers) % 3 or numbers != ["1", "2", "3"] * (len(numbers) // 3):
        raise AnswerError("not the lines A1, A2, A3")
    blocks = []
    for start in range(0, len(bodies), 3):
        general, sub, last = bodies[start : start + 3]
        head, attributes = _bracket(last, "A3")
        match = re.search(r"\brecogni[sz]ed as\s+(.*?)\s+because\b", " ".join(head.split()), re.IGNORECASE)
        if match is None:
            raise AnswerError("A3 does not say which class it is about")
        raw = (_bracket(general, "A1")[1], _bracket(sub, "A2")[1], [_without_and(part) for part in _split(attributes)])
        blocks.append((match[1].strip(" '\"`[]"), raw))
    return blocks


def _bracket(body: str, where: str) -> tuple[str, str]:
    """What stands before the first square bracket, and what stands within it."""
    head, opening, rest = body.partition("[")
    inner, closing, _ = rest.partition("]")
    if not opening or not closing:
        raise AnswerError(f"{where}: no answer in square brackets")
    return head, inner


def _split(text: str) -> list[str]:
    """The parts between commas, line breaks and semicolons that do not stand in brackets; blank ones are left out."""
    parts, depth = [""], 0
    for character in text:
        if character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth = max(depth - 1, 0)
        if character in ",;\n" and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part.strip()]


def _without_and(part: str) -> str:
    return re.sub(r"^\s*and\s+", "", part)


def _checked(raw: tuple[Any, Any, Any], name: str, least: int) -> ParsedReason:
    where = _short(name)
    general = _phrase(raw[0], f"{where}: the general category")
    sub = _phrase(raw[1], f"{where}: the sub-category")
    if not isinstance(raw[2], list):
        raise AnswerError(f"{where}: the attributes are no list")
    if len(raw[2]) > _MOST_ATTRIBUTES:
        raise AnswerError(f"{where}: {len(raw[2])} attributes, which is far too many")
    own = set(singulars(fold(name)))
    kept: dict[str, str] = {}
    for number, item in enumerate(raw[2], 1):
        attribute = _phrase(item, f"{where}: attribute {number}")
        if own.isdisjoint(singulars(fold(attribute))):  # the bare name of the class tells nothing about it
            kept.setdefault(fold(attribute), attribute)
    if len(kept) < least:
        raise AnswerError(f"{where}: {len(kept)} different attributes, at least {least} are needed")
    return ParsedReason(general, sub, tuple(kept.values()))


def _phrase(value: Any, where: str) -> str:
    return _clean(value, where, _LONGEST_PHRASE).strip(" '\"`").rstrip(" .")


def _clean(value: Any, where: str, longest: int) -> str:
    """`value` on one line, if it is a text of letters that can be printed."""
    if not isinstance(value, str):
        raise AnswerError(f"{where} is no text")
    text = " ".join(value.split())
    if len(text) > longest:
        raise AnswerError(f"{where} has {len(text)} characters, which is far too long")
    if any(sign == "\N{REPLACEMENT CHARACTER}" or unicodedata.category(sign) in _NO_SIGN for sign in text):
        raise AnswerError(f"{where} holds what is no character")
    if not any(sign.isalpha() for sign in text):
        raise AnswerError(f"{where} holds no letter")
    return text


def _short(name: str) -> str:
    return ascii(name if len(name) <= 60 else name[:60] + "…")
