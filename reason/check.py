"""What is wrong with a reason file, of any origin: the rules of `reason/asking/prompts`, checked.

A file that cannot be read at all is no finding but a `TripletError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reason.jsonfile import JsonError, read_json
from reason.names import bare, fold, singulars
from reason.triplets import Reason, TripletError, parse_generic, parse_image
from reason.vocabulary import Vocabulary

FEWEST, MOST = 5, 8
"""Attributes of a class in a generic file."""

FIRST = 3
"""How many attributes the segmentor reads in the published results (MODEL.NUM_DES)."""

MOST_TOKENS, MOST_WORDS = 14, 8
"""The longest attribute, in CLIP tokens where they can be counted, else in words."""

_FORBIDDEN = re.compile(
    r"\b(?:used (?:for|to|by|as|in)|(?:designed|intended|meant|made) (?:for|to)|for \w+ing|sounds?|noises?|noisy|loud"
    r"|smells?|smelly|scents?|scented|fragran\w+|odou?rs?|tastes?|tasty|delicious|expensive|valuable|beautiful"
    r"|comfortable|useful)\b"
)
"""Purpose, sound, smell, taste, value and feelings: what no image shows."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        rule: comma, name, count, repeated, same-first, missing, unknown, forbidden or long.
        name: the class it is about: a key of the file, or a class of the vocabulary.
        problem: what is wrong and the way out.
    """

    rule: str
    name: str
    problem: str


@dataclass(frozen=True)
class Ruler:
    """How attributes are measured.

    Attributes:
        unit: "CLIP tokens" or "words".
        most: the longest attribute that is no finding.
        length: the length of a text in that unit.
    """

    unit: str
    most: int
    length: Callable[[str], int]


def ruler() -> Ruler:
    """CLIP tokens where open_clip is installed, else words."""
    try:
        from open_clip.tokenizer import SimpleTokenizer
    except ImportError:
        return Ruler("words", MOST_WORDS, lambda text: len(text.split()))
    tokenizer = SimpleTokenizer()
    return Ruler("CLIP tokens", MOST_TOKENS, lambda text: len(tokenizer.encode(text)))


def read_reasons(path: str | Path) -> tuple[dict[str, Reason], bool]:
    """The reasons of a file of either kind, and whether it is a generic one.

    Raises:
        TripletError: missing, truncated or malformed; names the file, the class and the field.
    """
    try:
        document = read_json(Path(path))
    except JsonError as error:
        raise TripletError(f"{path}: {error}") from error
    if isinstance(document, dict) and isinstance(document.get("reasoning"), dict):
        return parse_image(document, where=str(path)).reasons, False
    return parse_generic(document, where=str(path)), True


def check_reasons(
    reasons: Mapping[str, Reason], vocabulary: Vocabulary | None = None, *, generic: bool, measure: Ruler | None = None
) -> list[Finding]:
    """Everything that is wrong with `reasons`, in the order of the file.

    Args:
        reasons: a file's content, in its order.
        vocabulary: what the file is for; without it, names are the keys' own, and none is missing or unknown.
        generic: a generic file: the number of attributes counts, and every class of the vocabulary has an entry. The
            file of one image holds only the classes that the model saw.
        measure: default: `ruler()`.
    """
    measure = measure or ruler()
    takers = _takers(reasons, vocabulary) if vocabulary else {}
    found: list[Finding] = []
    for key, reason in reasons.items():
        found += _entry(key, reason.attributes, _names(key, vocabulary, takers), generic, measure)
    found += _same_first(reasons)
    if vocabulary is not None:
        found += _coverage(reasons, vocabulary, takers, generic)
    return found


def key_of_classes(reasons: Mapping[str, Reason], vocabulary: Vocabulary) -> list[str | None]:
    """The key whose reasons each class takes: the first that names it, as in the segmentor; None for none."""
    first: dict[str, str] = {}
    position = {key: number for number, key in enumerate(reasons)}
    for key in reasons:
        for part in key.split(","):
            first.setdefault(part.strip(), key)
    named = [[first[name] for name in entry.synonyms if name in first] for entry in vocabulary.classes]
    return [min(keys, key=position.__getitem__) if keys else None for keys in named]


def _takers(reasons: Mapping[str, Reason], vocabulary: Vocabulary) -> dict[str, list[int]]:
    """The classes that take each key's reasons."""
    takers: dict[str, list[int]] = {}
    for index, key in enumerate(key_of_classes(reasons, vocabulary)):
        if key is not None:
            takers.setdefault(key, []).append(index)
    return takers


def _names(key: str, vocabulary: Vocabulary | None, takers: Mapping[str, Sequence[int]]) -> set[str]:
    """The folded names that the attributes of `key` must not hold."""
    names = set(key.split(","))
    if vocabulary is not None:
        for index in takers.get(key, ()):
            names.update(vocabulary.classes[index].synonyms)
    return {fold(bare(name)) for name in names} - {""}


def _entry(key: str, attributes: Sequence[str], names: set[str], generic: bool, measure: Ruler) -> Iterator[Finding]:
    if generic and not FEWEST <= len(attributes) <= MOST:
        yield Finding("count", key, f"{len(attributes)} attributes; give {FEWEST} to {MOST}")
    seen: dict[tuple[str, ...], str] = {}
    for attribute in attributes:
        folded = fold(attribute)
        if "," in attribute:
            yield Finding("comma", key, f"{attribute!r} holds a comma; make two attributes of it")
        held = next((name for name in sorted(names) if _holds(folded, name)), None)
        if held:
            yield Finding("name", key, f"{attribute!r} holds the class's name {held!r}; say what it looks like")
        forbidden = _FORBIDDEN.search(folded)
        if forbidden:
            yield Finding("forbidden", key, f"{attribute!r} says {forbidden[0]!r}; name what can be seen")
        length = measure.length(attribute)
        if length > measure.most:
            yield Finding("long", key, f"{attribute!r} has {length} {measure.unit}; at most {measure.most}")
        stem = _stem(folded)
        if stem in seen:
            yield Finding("repeated", key, f"{attribute!r} repeats {seen[stem]!r}; remove one")
        seen.setdefault(stem, attribute)


def _holds(folded: str, name: str) -> bool:
    """Whether `name` stands in the text as a word or as words, in the singular or the plural."""
    words, wanted = re.findall(r"\w+", folded), re.findall(r"\w+", name)
    if not wanted:
        return False
    *head, last = wanted
    last_forms = set(singulars(last))
    for start in range(len(words) - len(wanted) + 1):
        part = words[start : start + len(wanted)]
        if part[:-1] == head and last_forms & set(singulars(part[-1])):
            return True
    return False


def _stem(folded: str) -> tuple[str, ...]:
    return tuple(singulars(word)[-1] for word in re.findall(r"\w+", folded))


def _same_first(reasons: Mapping[str, Reason]) -> Iterator[Finding]:
    first: dict[frozenset[tuple[str, ...]], str] = {}
    for key, reason in reasons.items():
        three = frozenset(_stem(fold(attribute)) for attribute in reason.attributes[:FIRST])
        other = first.setdefault(three, key)
        if other != key:
            yield Finding("same-first", key, f"the first {FIRST} attributes are those of {other!r}; tell the two apart")


def _coverage(
    reasons: Mapping[str, Reason], vocabulary: Vocabulary, takers: Mapping[str, Sequence[int]], generic: bool
) -> Iterator[Finding]:
    for key in reasons:
        if key not in takers:
            yield Finding("unknown", key, f"no class of {vocabulary.name} takes it; correct the name or remove it")
    covered = {index for indices in takers.values() for index in indices}
    for entry in vocabulary.classes:
        if generic and entry.index not in covered:
            yield Finding("missing", entry.name, f"class {entry.index} of {vocabulary.name} has no entry; add it")
