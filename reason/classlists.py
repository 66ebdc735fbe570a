"""Class lists in circulation, read as the entries of a vocabulary file.

- One class a line, the synonyms after commas; or all in one text, parted by semicolons: "cat, kitten; dog".
- The same with indices before colons (FC-CLIP, MAFT+ and the reference): "0:invalid_class_id", "1:wall,walls". The
  lines are put in the order of their indices, and the entry for invalid pixels is left out.
- A JSON list of names, with synonyms after commas (SED, CAT-Seg), also on the command line.
- A JSON list of objects with "name" (COCO's categories, with "id", "isthing", "color"), or an object that holds such a
  list as "categories".
- A JSON object from indices to names ({"0": "wall"}), or from names to synonyms ({"cat": ["cat", "kitten"]}).
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reason.jsonfile import JsonError, parse_json

Entry = dict[str, Any]
"""Fields of a class as `reason.vocabulary` reads them."""

_INVALID = ("invalid_class_id", "invalid class id")
_INDEXED = re.compile(r"\s*(\d+)\s*:\s*(.*)", re.DOTALL)


def entries_of_lines(lines: Iterable[str]) -> list[Entry]:
    """The classes of lines of names; blank ones and those that begin with `#` are passed over."""
    kept = [line.strip() for line in lines]
    kept = [line for line in kept if line and not line.startswith("#")]
    indexed = [_INDEXED.fullmatch(line) for line in kept]
    if kept and all(indexed):
        pairs = sorted((int(match[1]), match[2].strip()) for match in indexed if match)
        kept = [text for _, text in pairs if text.lower() not in _INVALID]
    return _of_texts(kept)


def entries_of_document(document: Any) -> list[Entry] | None:
    """The classes of a JSON value that is no vocabulary file; None where it is of no known form."""
    if isinstance(document, Mapping):
        if isinstance(document.get("categories"), list):  # an annotation file of COCO
            return entries_of_document(document["categories"])
        return _of_mapping(document)
    if not isinstance(document, list) or not document:
        return None
    if all(isinstance(item, str) for item in document):
        return entries_of_lines(document) if all(map(_INDEXED.fullmatch, document)) else _of_texts(document)
    if all(isinstance(item, Mapping) and isinstance(item.get("name"), str) for item in document):
        return [_of_category(item) for item in document]
    return None


def parse_document(text: str) -> Any:
    """The value of a class list written as JSON, or as Python writes a list; None where `text` is neither."""
    if not text.lstrip().startswith(("[", "{", "(")):
        return None
    try:
        return parse_json(text)
    except JsonError:
        pass
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return list(value) if isinstance(value, list | tuple) else value if isinstance(value, dict) else None


def _of_mapping(document: Mapping[str, Any]) -> list[Entry] | None:
    if not document:
        return None
    if all(isinstance(value, str) and str(key).isdecimal() for key, value in document.items()):
        ordered = sorted(document.items(), key=lambda item: int(item[0]))
        return _of_texts([value for _, value in ordered if value.strip().lower() not in _INVALID])
    if all(_are_texts(value) for value in document.values()):
        return [{"name": name, "synonyms": list(synonyms)} for name, synonyms in document.items()]
    return None


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _of_texts(texts: Sequence[str]) -> list[Entry]:
    """A class is called by its first name, or, where another has the same, by all of them."""
    split = [[part.strip() for part in text.split(",")] for text in texts]
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
