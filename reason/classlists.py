"""Class lists in circulation, read as the entries of a vocabulary file.

- One class a line, the synonyms after commas; or all in one text, parted by semicolons: "cat, kitten; dog". Lines may
  be quoted, all end in a comma, or begin with "- " or "* ".
- The same with indices before colons (FC-CLIP, MAFT+ and the reference): "0:invalid_class_id", "1:wall,walls". The
  lines are put in the order of their indices, and the entry for invalid pixels is left out. Indices may also stand
  before a tab, "=", ".", ")", " - " or a comma ("1,wall"), under a heading such as "id,name" too; before a space alone
  they count where they are 0, 1, 2, … or 1, 2, 3, … Elsewhere, and in JSON, a gap between them is refused.
- A JSON list of names, with synonyms after commas (SED, CAT-Seg), also on the command line and as Python or yaml write
  it; of lists of synonyms; of objects with "name" (COCO's categories, with "id", "isthing", "color"), also one a line.
- A JSON or yaml object from indices to names ({"0": "wall"}), from names to indices, from names to synonyms
  ({"cat": ["cat", "kitten"]}), or that holds one of these lists under a known key ("categories", "names", "id2label").

What looks like one of these and is none, as a table of several columns, is refused.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reason.jsonfile import JsonError, parse_json

Entry = dict[str, Any]
"""Fields of a class as `reason.vocabulary` reads them."""

_INVALID = ("invalid_class_id", "invalid class id")
_INDEXED = re.compile(r"\s*(\d+)\s*:\s*(.*)", re.DOTALL)
_NUMBERED = re.compile(r"(\d+)\s*(?:[=.)\t,]|\s-\s)\s*(?!\d)(.*)")
_COUNTED = re.compile(r"(\d+)\s+(.*)")
_HEADING = re.compile(
    r"(?:class|label|category|train)?[_ ]?(?:id|idx|index|no|nr|number|label)\.?\s*[\t,;: ]", re.IGNORECASE
)
_WRITE = "write one class a line, its synonyms after commas"
_BULLETS = ("- ", "* ", "• ")
_HOLDERS = ("categories", "names", "class_names", "classes", "labels", "id2label", "label2id")
"""Keys under which annotation files and configs keep their classes."""


class ClassListError(ValueError):
    """A list that is not understood: what is wrong and the way out, without the file's name."""


def entries_of_lines(lines: Iterable[str]) -> list[Entry]:
    """The classes of lines of names; blank ones and those that begin with `#` are passed over.

    Raises:
        ClassListError: an index twice, or columns.
    """
    kept = [line.strip() for line in lines]
    kept = [line for line in kept if line and not line.startswith("#")]
    if kept and _is_object_a_line(kept):
        entries = entries_of_document([parse_document(line) for line in kept])
        if entries is None:
            raise ClassListError('its lines are no objects with "name"; write one class a line')
        return entries
    if any(";" in line for line in kept):
        if len(kept) > 1:
            raise ClassListError(f"semicolons in several lines: {_WRITE}")
        kept = [text for part in kept[0].split(";") if (text := part.strip())]
    if kept and all(line.startswith(_BULLETS) for line in kept):
        kept = [line[1:].strip() for line in kept]
    if all(line.endswith(",") for line in kept) or all(line.startswith(("'", '"')) for line in kept):
        kept = [line.rstrip(", ") or line for line in kept]
    kept = _in_order([unquoted(line) for line in kept])
    tabbed = next((line for line in kept if "\t" in line), None)
    if tabbed is not None:
        raise ClassListError(f"a tab in {tabbed!r}: {_WRITE}")
    return _of_texts(kept)


def _is_object_a_line(lines: Sequence[str]) -> bool:
    return all(line.startswith("{") and line.endswith("}") for line in lines)


def _in_order(lines: list[str]) -> list[str]:
    """The lines without their indices and in the order of these; as they are where they have none.

    Raises:
        ClassListError: an index twice, or columns after it.
    """
    body = lines[1:] if len(lines) > 1 and _HEADING.match(lines[0]) else lines
    pairs = _numbered(body, _INDEXED) or (_numbered(body, _NUMBERED) if len(body) > 1 else [])
    if not pairs and len(body) > 1:
        pairs = _numbered(body, _COUNTED)
        first = pairs[0][0] if pairs else 0
        if first > 1 or [index for index, _ in pairs] != list(range(first, first + len(pairs))):
            pairs = []
    if not pairs:
        if body is not lines and "\t" not in lines[0] and all(re.match(r"\d", line) for line in body):
            raise ClassListError(
                f"columns, as {lines[0]!r} names them: write one class a line, its synonyms after commas"
            )
        return lines
    named: dict[int, str] = {}
    for index, text in pairs:
        if index in named:
            raise ClassListError(f"index {index} stands before {named[index]!r} and {text!r}; number them anew")
        named[index] = text
        if any(re.fullmatch(r"[\d.]+", part.strip()) for part in text.split(",")[:-1]):
            raise ClassListError(f"columns of numbers in {text!r}: {_WRITE}")
    _check_gaps(named)
    return [unquoted(text) for _, text in sorted(named.items()) if text.lower() not in _INVALID]


def _check_gaps(named: Mapping[int, str]) -> None:
    """A class is known by its place, so that closing up a gap would give the label values other classes.

    Lists in circulation (COCO's of FC-CLIP) fill theirs with "invalid_class_id", and begin with 0 or 1.

    Raises:
        ClassListError: indices that begin later or leave one out; names both classes.
    """
    way = "number them 0, 1, 2, … as the label maps do, or leave all indices out if the order alone counts"
    indices = sorted(named)
    if indices and indices[0] > 1:
        raise ClassListError(f"its indices begin with {indices[0]} ({named[indices[0]]!r}), not with 0 or 1; {way}")
    for before, after in itertools.pairwise(indices):
        if after > before + 1:
            told = f"index {before} ({named[before]!r}) is followed by {after} ({named[after]!r})"
            raise ClassListError(f"{told}, and a class is known by its place in the list; {way}")


def _numbered(lines: Sequence[str], form: re.Pattern[str]) -> list[tuple[int, str]]:
    """Index and rest of every line; empty where one has no index."""
    found = [form.fullmatch(line) for line in lines]
    return [(int(match[1]), match[2].strip()) for match in found if match] if all(found) else []


def unquoted(text: str) -> str:
    """`text` without a pair of quotes around it."""
    text = text.strip()
    quoted = len(text) > 2 and text[0] == text[-1] and text[0] in "\"'" and text[0] not in text[1:-1]
    return text[1:-1].strip() if quoted else text


def entries_of_document(document: Any) -> list[Entry] | None:
    """The classes of a JSON value that is no vocabulary file; None where it is of no known form.

    Raises:
        ClassListError: an index twice, or columns.
    """
    if isinstance(document, Mapping):
        lists = len(document) > 1 and all(map(_are_texts, document.values()))
        held = [] if lists else [document[key] for key in _HOLDERS if isinstance(document.get(key), list | dict)]
        return entries_of_document(held[0]) if held else _of_mapping({str(key): document[key] for key in document})
    if not isinstance(document, list) or not document:
        return None
    if all(isinstance(item, str) for item in document):
        return entries_of_lines(document) if all(map(_INDEXED.fullmatch, document)) else _of_texts(document)
    if all(map(_are_texts, document)):
        return [{"name": names[0], "synonyms": list(names)} for names in document]
    if all(isinstance(item, Mapping) and isinstance(item.get("name"), str) for item in document):
        return [_of_category(item) for item in document]
    return None


def parse_document(text: str) -> Any:
    """The value of a class list written as JSON, or as Python writes a list; None where `text` is neither.

    Raises:
        ClassListError: a list whose brackets or commas are not all there.
    """
    text = re.sub(r"^\s*\w+\s*=\s*(?=[\[({])", "", text).strip()  # CLASSES = […]
    lines = text.split("\n")
    if len(lines) > 1 and _is_object_a_line(lines):
        return None
    if not text.startswith(("[", "{", "(")):
        quoted = "\n" not in text and re.fullmatch(r"""(["']).*\1\s*,\s*(["']).*\2\s*,?""", text)
        return _literal(f"[{text}]") if quoted else None
    try:
        return parse_json(text)
    except JsonError:
        pass
    inner = text[1:-1]
    closed = text[-1:] == {"[": "]", "{": "}", "(": ")"}[text[0]]
    value = _literal(text)
    if isinstance(value, str | set):  # one name in parentheses, or a set, whose order is that of the text
        value = _literal(f"[{inner}]")
    if value is None and closed and text[0] == "[" and not re.search("[\"'\\[\\]\n]", inner):
        value = [part.strip() for part in inner.split(",") if part.strip()]  # [cat, dog]
    if value is None and re.match(r"""[\[{(]\s*["']""", text):
        raise ClassListError('a list that is not whole, or lacks a comma; write ["cat", "dog"]')
    return list(value) if isinstance(value, tuple) else value


def _literal(text: str) -> Any:
    """A list, tuple, set, dict or text as Python writes it; None where it is none, or a comma is missing."""
    if re.search(r"""["']\s+["']""", text):  # Python would make one text of both
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, list | tuple | set | dict | str) else None


def _of_mapping(document: Mapping[str, Any]) -> list[Entry] | None:
    if not document:
        return None
    values = list(document.values())
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values) and len({*values}) == len(
        values
    ):
        named = {index: name for name, index in document.items()}
        _check_gaps(named)
        return _of_texts([named[index] for index in sorted(named) if named[index].lower() not in _INVALID])
    if all(key.isdecimal() and (isinstance(value, str) or _are_texts(value)) for key, value in document.items()):
        named = {int(key): text if isinstance(text, str) else ", ".join(text) for key, text in document.items()}
        if len(named) < len(document):  # "1" and "01"
            raise ClassListError("an index stands before two names; number them anew")
        _check_gaps(named)
        return _of_texts([named[index] for index in sorted(named) if named[index].strip().lower() not in _INVALID])
    if all(map(_are_texts, values)):
        return [{"name": name, "synonyms": list(synonyms)} for name, synonyms in document.items()]
    return None


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _of_texts(texts: Sequence[str]) -> list[Entry]:
    """A class is called by its first name, or, where another has the same, by all of them."""
    split = [[unquoted(part) for part in text.split(",")] for text in texts]
    firsts = Counter(names[0] for names in split)
    return [{"name": names[0] if firsts[names[0]] == 1 else ", ".join(names), "synonyms": names} for names in split]


def _of_category(item: Mapping[str, Any]) -> Entry:
    names = [part.strip() for part in item["name"].split(",")]
    given = item.get("synonyms")
    entry: Entry = {"name": item["name"], "synonyms": given if _are_texts(given) else names}
    for ours, theirs in (("dataset_id", "id"), ("color", "color")):
        if item.get(theirs) is not None:
            entry[ours] = item[theirs]
    if "isthing" in item:
        entry["thing"] = bool(item["isthing"])
    return entry
