"""The generic reasons that come along: written for this repository, not by the paper's model.

In a checkout they lie in `reason_data/general_reason/written/`; a wheel has them inside the package. There is a file
for each benchmark's vocabulary, and the table that they are made from, in which any list of classes finds its reasons
by name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from reason.names import VocabularyNames, bare, fold, singulars
from reason.triplets import Reason, TripletError, load_generic
from reason.vocabulary import Vocabulary, VocabularyClass, known_vocabularies, load_vocabulary

NOT_THE_PAPERS = "written for this repository, not by Qwen2.5-VL-72B; not the paper's"
"""What must stand beside a result that was made with them."""

GENERIC = "generic"
"""The word for them where a file of generic reasons may be named; a file of that name is "./generic"."""

ENDING = "_class_reason.json"
TABLE = "entries.tsv"
HEADER = "concept\tclasses\tgeneral_category\tsub_category\tattributes"
_PLACE = ("reason_data", "general_reason", "written")


def shipped_folder() -> Path:
    """Where they lie; relative to the current folder where that is the checkout."""
    package = Path(str(files("reason")))
    inside = package / "written"
    if inside.is_dir():
        return inside
    root = package.resolve().parent
    here = Path(*_PLACE)
    return here if root == Path.cwd() else root / here


def shipped_file(vocabulary: str) -> Path | None:
    """The shipped generic reasons of a benchmark's vocabulary, such as "pc59"; None for another."""
    path = shipped_folder() / f"{vocabulary}{ENDING}"
    return path if path.is_file() else None


def is_shipped(path: str | Path) -> bool:
    """Whether a file of generic reasons is a shipped one, or a copy of one under any name, or the word for them."""
    if str(path) == GENERIC:
        return True
    try:
        content = Path(path).read_bytes()
        return any(
            shipped.stat().st_size == len(content) and shipped.read_bytes() == content
            for shipped in shipped_folder().glob(f"*{ENDING}")
        )
    except OSError:
        return False


@dataclass(frozen=True)
class Entry:
    """One line of the table: a thing, and the classes that it is.

    Attributes:
        concept: its name.
        classes: (vocabulary, index) of the classes.
        general_category: such as "vehicle".
        sub_category: such as "aircraft".
        attributes: the most telling first.
    """

    concept: str
    classes: tuple[tuple[str, int], ...]
    general_category: str
    sub_category: str
    attributes: tuple[str, ...]

    def reason(self, key: str, label: str) -> Reason:
        """The entry of a generic file, with the sentence of the published files made from the fields."""
        raw = (
            f"A1: This object belongs to [{self.general_category}]. A2: This '{self.general_category}' is "
            f"[{self.sub_category}]. A3: This '{self.sub_category}' '{self.general_category}' can be recognized as "
            f"{label} because it contains visual attributes: [{', '.join(self.attributes)}]."
        )
        return Reason(key, self.general_category, self.sub_category, self.attributes, raw)


def read_entries(paths: Iterable[Path]) -> list[Entry]:
    """The entries of tables, in their order.

    Raises:
        TripletError: a table that is not there, or a line that is malformed; names the file and the line.
    """
    entries: list[Entry] = []
    for path in paths:
        if not path.is_file():
            raise TripletError(f"{path}: no such table; name it, or run this in the root of the checkout")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip() and line != HEADER:
                entries.append(_entry(line, f"{path}, line {number}"))
    return entries


def _entry(line: str, where: str) -> Entry:
    fields = [field.strip() for field in line.split("\t")]
    if len(fields) != 5 or not all(fields):
        raise TripletError(f"{where}: must be five fields with tabs between them: {HEADER.expandtabs(1)}")
    classes = []
    for part in fields[1].split(","):
        vocabulary, _, index = part.strip().partition("#")
        if not index.isdecimal():
            raise TripletError(f"{where}: {part!r} must be VOCABULARY#INDEX")
        classes.append((vocabulary, int(index)))
    attributes = tuple(attribute.strip() for attribute in fields[4].split(";") if attribute.strip())
    return Entry(fields[0], tuple(classes), fields[2], fields[3], attributes)


@dataclass(frozen=True)
class Lookup:
    """What the table has for a list of classes.

    Attributes:
        reasons: by keys that lead each class to its own, in the order that a file has them; classes that the table does
            not know have none.
        chosen: class -> the sub-category of the entry it takes, where entries of the same rank compete for its names.
    """

    reasons: dict[str, Reason]
    chosen: dict[str, str]


def reasons_for(vocabulary: Vocabulary) -> Lookup:
    """The shipped reasons of a benchmark's vocabulary, or of any list of classes by their names.

    Of several entries that a class's names lead to it takes the one that most of them lead to; then the one that the
    first of them leads to; then the one that is called so, before one whose first name it is, before one for which it
    is a further name; then the one of the smallest vocabulary. So "pot, flowerpot" says which pot is meant.

    Raises:
        TripletError: the shipped files are damaged.
    """
    path = shipped_file(vocabulary.name) if vocabulary.name in known_vocabularies() else None
    if path is not None and load_vocabulary(vocabulary.name).synonyms == vocabulary.synonyms:
        return Lookup(load_generic(path), {})
    names = VocabularyNames.of(vocabulary)
    reasons: dict[str, Reason] = {}
    chosen: dict[str, str] = {}
    for index in names.file_order:
        entry, alone = _entry_of(vocabulary.classes[index].synonyms)
        if entry is not None:
            reasons[names.keys[index]] = entry.reason(names.keys[index], names.labels[index])
            if not alone:
                chosen[names.labels[index]] = entry.sub_category
    return Lookup(reasons, chosen)


@lru_cache(maxsize=8)
def vocabulary_of(names: tuple[tuple[str, ...], ...]) -> Vocabulary:
    """The vocabulary of lists of names, one a class: a benchmark's, under its own name, where they are its names."""
    for known in map(load_vocabulary, known_vocabularies()):
        if names in (known.synonyms, known.sed_names):
            return known
    classes = tuple(VocabularyClass(index, ",".join(own), own) for index, own in enumerate(names))
    return Vocabulary("", "", classes)


def _entry_of(synonyms: Iterable[str]) -> tuple[Entry | None, bool]:
    """The entry of a class, and whether nothing but the size of vocabularies spoke against another."""
    entries, by_name = _table()
    ranks: dict[int, list[tuple[int, int, int]]] = {}
    for place, name in enumerate(dict.fromkeys(map(fold, synonyms))):
        for number, (rank, size) in _hits(name, by_name).items():
            ranks.setdefault(number, []).append((place, rank, size))
    order = sorted((-len(found), *min(found), number) for number, found in ranks.items())
    if not order:
        return None, True
    return entries[order[0][-1]], len(order) == 1 or order[0][:3] != order[1][:3]


_Hits = dict[int, tuple[int, int]]
"""Number of an entry -> (rank of the name among its names, classes of the smallest vocabulary that has it)."""


def _hits(name: str, by_name: dict[str, _Hits]) -> _Hits:
    """The entries that go by a folded name; else by its singular; else by what it is the singular of."""
    for form in dict.fromkeys((name, fold(bare(name)), *singulars(name))):
        if form in by_name:
            return by_name[form]
    return by_name.get(f"{name}s", {})


@lru_cache(maxsize=1)
def _table() -> tuple[tuple[Entry, ...], dict[str, _Hits]]:
    entries = tuple(read_entries([shipped_folder() / TABLE]))
    vocabularies = {name: load_vocabulary(name) for name in {name for entry in entries for name, _ in entry.classes}}
    by_name: dict[str, _Hits] = {}
    for number, entry in enumerate(entries):
        concept = fold(entry.concept)
        for vocabulary, index in entry.classes:
            classes = vocabularies[vocabulary].classes
            first = fold(classes[index].synonyms[0])
            for name in map(fold, (entry.concept, *classes[index].synonyms, *classes[index].name.split(","))):
                rank = 2 if name != first else 0 if name == concept else 1
                hits = by_name.setdefault(name, {})
                hits[number] = min(hits.get(number, (rank, len(classes))), (rank, len(classes)))
    return entries, by_name
