"""The names a class goes by: what the model reads and writes, what files are keyed by, how spellings compare."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reason.vocabulary import Vocabulary, VocabularyClass

_SHOWN_SYNONYMS = 3


def fold(name: str) -> str:
    """`name` without what spellings differ in: case, hyphens and underscores, repeated space, a leading article."""
    text = unicodedata.normalize("NFKC", name).casefold()
    text = " ".join(re.sub(r"[-_\s]+", " ", text).split())
    return re.sub(r"^(an?|the) (?=\S)", "", text)


def bare(name: str) -> str:
    """`name` without a remark in brackets at its end: "crane (machine)" is "crane"."""
    head, opening, _ = name.rstrip().partition(" (")
    return head if opening and head and name.rstrip().endswith(")") else name


def singulars(folded: str) -> tuple[str, ...]:
    """`folded` and the words it may be the plural of, itself first: "benches" gives benches, benche, bench."""
    found = [folded]
    if folded.endswith("s") and not folded.endswith("ss"):
        found.append(folded[:-1])
    if folded.endswith(("ses", "xes", "zes", "ches", "shes")):
        found.append(folded[:-2])
    if folded.endswith("ies"):
        found.append(folded[:-3] + "y")
    if folded.endswith("ves"):
        found += [folded[:-3] + "f", folded[:-3] + "fe"]
    return tuple(word for word in found if len(word) > 1 or word == folded)


@dataclass(frozen=True)
class VocabularyNames:
    """The names of a vocabulary's classes, all in label order.

    Attributes:
        labels: one short name a class, without comma, all different: what the model is asked about and writes.
        lines: the label followed by further names in brackets: a class as the prompts list it.
        keys: what triplet files are keyed by, all different. It is the class's own name, unless the segmentor, which
            compares the comma parts of a key with the prompt names of all classes (docs/numerics.md, "Sentences"),
            would not find the class by it or would give its reasons to another class too; then it is the prompt names
            that only this class has.
        file_order: class indices in the order their entries should stand in a file. The first key that names a class
            wins there, so the few keys that serve several classes, for want of names of their own, stand last.
    """

    labels: tuple[str, ...]
    lines: tuple[str, ...]
    keys: tuple[str, ...]
    file_order: tuple[int, ...]

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> VocabularyNames:
        """The names of `vocabulary`."""
        labels = _labels(vocabulary)
        lines = tuple(_line(label, entry) for label, entry in zip(labels, vocabulary.classes, strict=True))
        owners = _owners(vocabulary)
        keys = _keys(vocabulary, owners)
        order = sorted(range(len(keys)), key=lambda index: (len(_served(keys[index].split(","), owners)), index))
        return cls(labels, lines, keys, tuple(order))


def _labels(vocabulary: Vocabulary) -> tuple[str, ...]:
    """A class of fewer names chooses first, since it has less to choose from."""
    firsts = [fold(entry.synonyms[0]) for entry in vocabulary.classes]
    taken: set[str] = set()
    labels = [""] * len(firsts)
    for index in sorted(range(len(firsts)), key=lambda index: (len(vocabulary.classes[index].synonyms), index)):
        entry = vocabulary.classes[index]
        others = {folded for number, folded in enumerate(firsts) if folded != firsts[index]} | taken
        names = [*entry.synonyms, entry.name.replace(",", " /")]
        own = entry.name.split(",")[0]
        spare = [f"{own} ({number})" for number in range(2, len(firsts) + 2)]
        label = next(name for name in names + spare if fold(name) not in others)
        labels[index] = " ".join(label.split())
        taken.add(fold(label))
    return tuple(labels)


def _line(label: str, entry: VocabularyClass) -> str:
    seen = set(singulars(fold(label)))
    shown: list[str] = []
    for name in entry.synonyms:
        forms = singulars(fold(name))
        if seen.isdisjoint(forms) and len(shown) < _SHOWN_SYNONYMS:
            shown.append(" ".join(name.split()))
        seen.update(forms)
    return f"{label} ({', '.join(shown)})" if shown else label


def _owners(vocabulary: Vocabulary) -> dict[str, set[int]]:
    """The classes that are prompted by each name."""
    owners: dict[str, set[int]] = {}
    for entry in vocabulary.classes:
        for name in entry.synonyms:
            owners.setdefault(name, set()).add(entry.index)
    return owners


def _served(names: Iterable[str], owners: Mapping[str, set[int]]) -> set[int]:
    """The classes that would take the reasons of a key with these comma parts."""
    return {index for name in names for index in owners.get(name.strip(), ())}


def _keys(vocabulary: Vocabulary, owners: Mapping[str, set[int]]) -> tuple[str, ...]:
    keys: list[str] = []
    for entry in vocabulary.classes:
        own = [name for name in entry.synonyms if name == name.strip() and owners[name] == {entry.index}]
        by_name = _served(entry.name.split(","), owners)
        choices = [entry.name, *entry.synonyms] if entry.index in by_name else [*entry.synonyms, entry.name]
        if by_name != {entry.index} and own:
            choices.insert(0, ", ".join(dict.fromkeys(own)))
        choices += [f"{entry.name} ({number})" for number in range(2, len(vocabulary) + 2)]
        keys.append(next(key for key in choices if key not in keys))
    return tuple(keys)


def named_classes(keys: Iterable[str], vocabulary: Vocabulary) -> tuple[set[int], list[str]]:
    """The classes that the keys of a triplet file stand for, and the keys that stand for none.

    As the segmentor reads them (docs/numerics.md, "Sentences"): a key stands for every class of which a name equals
    one of the key's comma parts, stripped.
    """
    classes: set[int] = set()
    unknown: list[str] = []
    index_of: dict[str, list[int]] = {}
    for entry in vocabulary.classes:
        for name in entry.synonyms:
            index_of.setdefault(name, []).append(entry.index)
    for key in keys:
        found = {index for part in key.split(",") for index in index_of.get(part.strip(), ())}
        classes |= found
        if not found:
            unknown.append(key)
    return classes, unknown
