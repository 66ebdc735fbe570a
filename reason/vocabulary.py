"""Vocabularies: the classes of a data set, with the names they are prompted by.

A vocabulary file is one JSON object, `{"vocabulary": name, "title": text, "classes": [...]}`; a class is
`{"index": int, "dataset_id": int, "name": text, "synonyms": [text, ...], "thing": bool, "color": [r, g, b], "sed":
text}` of which only `name` and `synonyms` are required. The benchmarks' files lie in `datasets/vocabularies/`. A
user's own classes may also come as text, and as the class lists of other projects (`reason.classlists`).
"""

from __future__ import annotations

import colorsys
import contextlib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from reason.classlists import ClassListError, Entry, entries_of_document, entries_of_lines, parse_document, unquoted
from reason.files import write_text
from reason.jsonfile import JsonError, read_json
from reason.suggest import closest, did_you_mean

_LONGEST_NAME = 40
_YAML = (".yaml", ".yml")
_FILES = (".json", ".txt", *_YAML, ".jsonl", ".csv", ".tsv", ".names")
"""Endings by which a text is the name of a file, be it there or not."""


class VocabularyError(ValueError):
    """A vocabulary that cannot be used; one line that names the file, the class and the field."""


@dataclass(frozen=True)
class VocabularyClass:
    """One class of a vocabulary.

    Attributes:
        index: position in the vocabulary, and the value of its pixels in a prepared label map.
        name: the data set's own name of the class (may hold commas: "building, edifice").
        synonyms: the names it is prompted by, in order; repeated entries are kept, since they count as prompt rows.
        thing: countable.
        color: RGB in [0, 255] for images, or None.
        dataset_id: the identifier the data set's release uses, or None.
        sed: the string of SED's own name lists where it is not `name`, or None.
    """

    index: int
    name: str
    synonyms: tuple[str, ...]
    thing: bool = False
    color: tuple[int, int, int] | None = None
    dataset_id: int | None = None
    sed: str | None = None

    @property
    def sed_names(self) -> tuple[str, ...]:
        """The names that SED scores the class by: its string split at comma and space, and only there."""
        return tuple((self.name if self.sed is None else self.sed).split(", "))


@dataclass(frozen=True)
class Vocabulary:
    """Classes in label order.

    Attributes:
        name: short name, which is also the name of its folder in `reason_data/image_reason/<model>/`.
        title: name for people.
        classes: class i has index i.
    """

    name: str
    title: str
    classes: tuple[VocabularyClass, ...]

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def summary(self) -> str:
        """Such as "vocabulary: pc59, 59 classes": said first, so that nobody waits for another one than meant."""
        return f"vocabulary: {self.name}, {len(self)} class{'es' * (len(self) != 1)}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The data set's own class names, in label order."""
        return tuple(entry.name for entry in self.classes)

    @property
    def synonyms(self) -> tuple[tuple[str, ...], ...]:
        """The prompt names of every class, in label order."""
        return tuple(entry.synonyms for entry in self.classes)

    @property
    def sed_names(self) -> tuple[tuple[str, ...], ...]:
        """The names that SED scores every class by, in label order."""
        return tuple(entry.sed_names for entry in self.classes)

    @property
    def thing_indices(self) -> frozenset[int]:
        """Indices of the countable classes."""
        return frozenset(entry.index for entry in self.classes if entry.thing)

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """One RGB colour in [0, 255] per class, no two alike: the data set's where it has one, else one from the index.

        Some data sets give one colour to several classes (pc459: 59 colours); the first of them keeps it.
        """
        colors: dict[tuple[int, int, int], None] = {}
        for entry in self.classes:
            color, step = entry.color or spread_color(entry.index), 0
            while color in colors:
                color, step = spread_color(entry.index + step * len(self.classes)), step + 1
            colors[color] = None
        return tuple(colors)


def spread_color(index: int) -> tuple[int, int, int]:
    """A colour for class `index`: hues a golden section apart, so that neighbours differ, bright ones first."""
    hue = (index * (5**0.5 - 1) / 2) % 1
    # A dozen hues a shade; darker and paler shades follow, thirty before the first one comes again.
    value, saturation = 0.95 - 0.09 * (index // 12 % 6), 0.8 - 0.11 * (index // 72 % 5)
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


def split_synonyms(text: str) -> tuple[str, ...]:
    """The prompt names in a comma list: ", " counts as ",", and nothing else is stripped.

    See docs/numerics.md, "Sentences".
    """
    return tuple(text.replace(", ", ",").split(","))


def vocabulary_folder() -> Path:
    """Where the benchmarks' vocabularies lie: inside the installed package, or in `datasets/` of the checkout."""
    package = Path(str(files("reason")))
    inside = package / "vocabularies"
    return inside if inside.is_dir() else package.resolve().parent / "datasets" / "vocabularies"


def known_vocabularies() -> tuple[str, ...]:
    """Names of the vocabularies in `vocabulary_folder()`, sorted."""
    return tuple(sorted(path.stem for path in vocabulary_folder().glob("*.json")))


def load_vocabulary(name_or_path: str | Path) -> Vocabulary:
    """Read a vocabulary.

    Args:
        name_or_path: the name of a benchmark's vocabulary ("pc59"), the path of a JSON file as described above, or the
            path of a text file with one class a line, or of a yaml file of names.

    Raises:
        VocabularyError: unknown name, or a file that is malformed; says which class and field.
    """
    path = Path(name_or_path).expanduser()
    bare = isinstance(name_or_path, str) and path.name == name_or_path and not path.suffix
    if bare:
        own = vocabulary_folder() / f"{name_or_path}.json"
        if own.is_file():
            path = own
        elif not path.is_file():
            known = ", ".join(known_vocabularies()) or "none found"
            hint = did_you_mean(str(name_or_path), known_vocabularies())
            raise VocabularyError(
                f"{name_or_path}: no such vocabulary{hint}; known are {known}; or give the path of a file"
            )
    if path.suffix.lower() == ".json":
        try:
            document = read_json(path)
        except JsonError as error:
            raise VocabularyError(f"{path}: {error}") from error
        return vocabulary_from_json(document, where=str(path), name=path.stem)
    lines = _read_lines(path)
    with _naming(str(path)):
        document = _yaml(path, lines) if path.suffix.lower() in _YAML else parse_document("\n".join(lines))
        entries = [] if document is not None else entries_of_lines(lines)
    if document is not None:  # JSON under another suffix
        return vocabulary_from_json(document, where=str(path), name=path.stem)
    return _build(entries, path.stem, str(path))


@contextlib.contextmanager
def _naming(where: str) -> Iterator[None]:
    """Name the source in an error about a class list."""
    try:
        yield
    except ClassListError as error:
        raise VocabularyError(f"{where}: {error}") from error


def _yaml(path: Path, lines: Sequence[str]) -> Any:
    import yaml

    try:
        return yaml.safe_load("\n".join(lines))
    except yaml.YAMLError as error:
        raise VocabularyError(f"{path}: not valid yaml ({' '.join(str(error).split())})") from error


def read_vocabulary(text: str) -> Vocabulary:
    """The classes that a user gives in one text: a benchmark's name, a file, or a list.

    A list is named after its classes ("cat-dog-sofa"), so that different lists have folders of their own.

    Raises:
        VocabularyError: no class, a class twice, a file that cannot be read, or a single word that looks like a known
            name; a comma behind it ("pc95,") insists on a class of that name.
    """
    text = os.path.expanduser(text)
    path = Path(text)
    known = known_vocabularies()
    if (path.suffix.lower() in _FILES and "," not in text) or text in known or _is_file(path):
        return load_vocabulary(text)
    if re.fullmatch(r"[.~]{1,2}|(?=.*[/\\])[^,;\n\s\[{(\"']+", text):
        raise VocabularyError(
            f"{text}: no such file of classes; check the path, or for one class of that name, write '{text},'"
        )
    near = closest(text, known) if re.fullmatch(r"\s*[\w.-]+\s*", text) else []
    if near:
        raise VocabularyError(
            f"{text.strip()}: no such vocabulary; did you mean {' or '.join(near)}? For one class of that name, write "
            f"'{text.strip()},'"
        )
    vocabulary = parse_vocabulary(text)
    name = "-".join(re.sub(r"\W+", "-", entry.name).strip("-") for entry in vocabulary.classes).lower()
    if len(name) > _LONGEST_NAME:
        content = json.dumps(vocabulary.class_names, ensure_ascii=False, separators=(",", ":"))
        digest = hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        name = f"{name[:_LONGEST_NAME].rstrip('-')}-{digest[:6]}"
    return replace(vocabulary, name=name, title=name)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a list of classes may be too long for a file name
        return False


def parse_vocabulary(text: str, *, name: str = "custom") -> Vocabulary:
    """A user's own classes from one text.

    `"cat, dog, sofa"` is three classes. With semicolons or line breaks these part the classes and commas part the
    synonyms of one: `"cat, kitten; dog, puppy"` is two classes of two names each. Blank lines and lines that start with
    `#` are skipped. A JSON list and lines of "index:name" are taken as well (`reason.classlists`).

    Raises:
        VocabularyError: no class, an empty name, or a class twice.
    """
    where = "the list of classes"
    with _naming(where):
        document = parse_document(text)
        entries = [] if document is not None else _entries(text)
    if document is not None:
        return vocabulary_from_json(document, where=where, name=name)
    return _build(entries, name, where)


def _entries(text: str) -> list[Entry]:
    if re.search(r"[;\n]", text):
        return entries_of_lines(re.split(r"[;\n]", text))
    classes = [part.strip() for part in text.split(",")]
    if not classes[-1]:  # a trailing comma is no class
        classes.pop()
    if len(classes) > 1 and all(re.match(r"\d+\s*[:=.)\s]", part) for part in classes):
        return entries_of_lines(classes)
    return [{"name": name, "synonyms": [name]} for name in map(unquoted, classes)]


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "not UTF-8 text"
        raise VocabularyError(
            f"{path}: cannot be read as a vocabulary ({problem}); give a .json file or a text file of one class a line"
        ) from error


def _build(entries: list[dict[str, Any]], name: str, where: str) -> Vocabulary:
    classes = [{"sed": ", ".join(entry["synonyms"]), **entry} for entry in entries]
    return vocabulary_from_json({"vocabulary": name, "title": name, "classes": classes}, where=where, name=name)


def vocabulary_from_json(document: Any, *, where: str, name: str = "custom") -> Vocabulary:
    """A vocabulary from the value of a vocabulary file.

    Args:
        document: the JSON value; also a class list of another project (`reason.classlists`).
        where: what to call the source in messages.
        name: the vocabulary's name where the document has none.

    Raises:
        VocabularyError: naming `where`, the class and the field.
    """
    if not isinstance(document, dict) or not isinstance(document.get("classes"), list):
        with _naming(where):
            entries = entries_of_document(document)
        if entries:
            return _build(entries, name, where)
        raise VocabularyError(f'{where}: no list "classes"; write {{"vocabulary": …, "classes": [{{"name": …}}, …]}}')
    if not document["classes"]:
        raise VocabularyError(f"{where}: no class in it; name at least one")
    title = document.get("title", document.get("vocabulary", name))
    own_name = document.get("vocabulary", name)
    if not isinstance(own_name, str) or not isinstance(title, str):
        raise VocabularyError(f'{where}: "vocabulary" and "title" must be texts')
    classes = tuple(_class(entry, index, where) for index, entry in enumerate(document["classes"]))
    first: dict[str, int] = {}
    for entry in classes:
        if entry.name in first:
            raise VocabularyError(
                f"{where}: class {entry.index}, field 'name': {entry.name!r} is class {first[entry.name]} already; "
                "names must differ"
            )
        first[entry.name] = entry.index
    with_id = Counter(entry.dataset_id for entry in classes if entry.dataset_id is not None)
    if twice := [identifier for identifier, count in with_id.items() if count > 1]:
        both = " and ".join(repr(entry.name) for entry in classes if entry.dataset_id == twice[0])
        raise VocabularyError(f"{where}: field 'dataset_id': {both} have {twice[0]}; ids must differ")
    return Vocabulary(own_name, title, classes)


def _class(entry: Any, index: int, where: str) -> VocabularyClass:
    def fail(field: str, problem: str) -> VocabularyError:
        label = entry.get("name") if isinstance(entry, dict) else None
        return VocabularyError(f"{where}: class {index} ({label!r}), field {field!r}: {problem}")

    if not isinstance(entry, dict):
        raise VocabularyError(f'{where}: class {index} is no object; write {{"name": …, "synonyms": […]}}')
    class_name = entry.get("name")
    if not isinstance(class_name, str) or not _is_text(class_name):
        raise fail("name", "must be a text that is not empty")
    synonyms = entry.get("synonyms")
    if not isinstance(synonyms, list) or not synonyms:
        raise fail("synonyms", "must be a list of at least one name; repeat the class name if there is no other")
    for synonym in synonyms:
        if not _is_text(synonym) or "," in synonym:
            raise fail("synonyms", f"{synonym!r} must be a text that is not empty and holds no comma; split it in two")
    if entry.get("index", index) != index or isinstance(entry.get("index"), bool):
        raise fail("index", f"is {entry['index']!r}, its place in the list is {index}; sort the list by index")
    thing = entry.get("thing", False)
    if not isinstance(thing, bool):
        raise fail("thing", "must be true or false")
    dataset_id = entry.get("dataset_id")
    if dataset_id is not None and (isinstance(dataset_id, bool) or not isinstance(dataset_id, int)):
        raise fail("dataset_id", "must be an integer")
    sed = entry.get("sed")
    if sed is not None and (not isinstance(sed, str) or not all(_is_text(part) for part in sed.split(", "))):
        raise fail("sed", "must be a text of names with a comma and a space between them")
    # The same text as the name says nothing of its own.
    own = None if sed == class_name else sed
    return VocabularyClass(index, class_name, tuple(synonyms), thing, _color(entry.get("color"), fail), dataset_id, own)


def _color(value: Any, fail: Any) -> tuple[int, int, int] | None:
    if value is None:
        return None
    whole = isinstance(value, list) and all(isinstance(c, int) and not isinstance(c, bool) for c in value)
    if not whole or len(value) != 3 or not all(0 <= c <= 255 for c in value):
        raise fail("color", "must be three integers from 0 to 255")
    return value[0], value[1], value[2]


def _is_text(value: Any) -> bool:
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def dump_vocabulary(vocabulary: Vocabulary, path: str | Path) -> None:
    """Write `vocabulary` as a JSON file of one class a line, which `load_vocabulary` reads back equal."""
    lines = []
    for entry in vocabulary.classes:
        fields: dict[str, Any] = {"index": entry.index, "name": entry.name, "synonyms": list(entry.synonyms)}
        fields["thing"] = entry.thing
        if entry.dataset_id is not None:
            fields["dataset_id"] = entry.dataset_id
        if entry.color is not None:
            fields["color"] = list(entry.color)
        if entry.sed is not None:
            fields["sed"] = entry.sed
        lines.append("  " + json.dumps(fields, ensure_ascii=False))
    head = f'{{"vocabulary": {json.dumps(vocabulary.name, ensure_ascii=False)}, '
    head += f'"title": {json.dumps(vocabulary.title, ensure_ascii=False)}, "classes": [\n'
    write_text(Path(path), head + ",\n".join(lines) + "\n]}\n")
