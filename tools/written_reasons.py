"""Generic reasons written for this repository: from the table `entries.tsv` to one file a vocabulary.

python -m tools.written_reasons                      write the files again from the table
python -m tools.written_reasons --import FILE ...    join tables into entries.tsv first
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from maft.errors import UserError, run_command
from reason.files import user_path, write_text
from reason.names import VocabularyNames
from reason.triplets import Reason, dump_generic
from reason.vocabulary import load_vocabulary

from .commands import described

FOLDER = Path("reason_data/general_reason/written")
TABLE = "entries.tsv"
_KEYS = {"ade847": (130, "flowerpot", 188)}
"""Vocabulary -> a class, its key, and the class it stands before. "pot, flowerpot" shares one name with "pot" and one
with "plant pots"; the key that it shares with the latter, behind that entry and before "pot", is its own."""
HEADER = "concept\tclasses\tgeneral_category\tsub_category\tattributes"


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
        UserError: a table that is not there, or a line that is malformed; names the file and the line.
    """
    entries: list[Entry] = []
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such table; name it, or run this in the root of the checkout")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip() and line != HEADER:
                entries.append(_entry(line, f"{path}, line {number}"))
    return entries


def _entry(line: str, where: str) -> Entry:
    fields = [field.strip() for field in line.split("\t")]
    if len(fields) != 5 or not all(fields):
        raise UserError(f"{where}: must be five fields with tabs between them: {HEADER.expandtabs(1)}")
    classes = []
    for part in fields[1].split(","):
        vocabulary, _, index = part.strip().partition("#")
        if not index.isdecimal():
            raise UserError(f"{where}: {part!r} must be VOCABULARY#INDEX")
        classes.append((vocabulary, int(index)))
    attributes = tuple(attribute.strip() for attribute in fields[4].split(";") if attribute.strip())
    return Entry(fields[0], tuple(classes), fields[2], fields[3], attributes)


def vocabularies(entries: Iterable[Entry]) -> list[str]:
    """The vocabularies that a table serves, sorted."""
    return sorted({vocabulary for entry in entries for vocabulary, _ in entry.classes})


def generic_reasons(entries: Iterable[Entry], vocabulary: str) -> dict[str, Reason]:
    """The content of a vocabulary's generic file, with the keys and in the order by which each class finds its own.

    Raises:
        UserError: a class that no entry serves, or several, or that the vocabulary has not.
        VocabularyError: unknown vocabulary.
    """
    classes = load_vocabulary(vocabulary)
    serving: dict[int, Entry] = {}
    for entry in entries:
        for index in [index for name, index in entry.classes if name == vocabulary]:
            if index in serving or index >= len(classes):
                problem = "served twice" if index in serving else "no class of the vocabulary"
                raise UserError(f"{entry.concept}: {vocabulary}#{index} is {problem}; correct the table")
            serving[index] = entry
    missing = [entry.name for entry in classes.classes if entry.index not in serving]
    if missing:
        raise UserError(f"{vocabulary}: no entry serves {', '.join(missing[:5])} ({len(missing)}); add them")
    names = VocabularyNames.of(classes)
    keys, order = list(names.keys), list(names.file_order)
    if vocabulary in _KEYS:
        index, key, before = _KEYS[vocabulary]
        keys[index] = key
        order.remove(index)
        order.insert(order.index(before), index)
    return {keys[index]: serving[index].reason(keys[index], names.labels[index]) for index in order}


def write_table(entries: Iterable[Entry], path: Path) -> None:
    """Write the table that `read_entries` reads back equal."""
    lines = [HEADER]
    for entry in entries:
        classes = ",".join(f"{vocabulary}#{index}" for vocabulary, index in entry.classes)
        fields = (entry.concept, classes, entry.general_category, entry.sub_category, "; ".join(entry.attributes))
        lines.append("\t".join(fields))
    write_text(path, "\n".join(lines) + "\n")


def main(words: Sequence[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=described(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--import", dest="tables", nargs="+", type=user_path, metavar="FILE", help="tables to join")
    parser.add_argument("--folder", type=user_path, default=FOLDER, help="default: %(default)s")
    options = parser.parse_args(sys.argv[1:] if words is None else words)

    def body() -> int:
        table = options.folder / TABLE
        entries = read_entries(options.tables or [table])
        files = {name: generic_reasons(entries, name) for name in vocabularies(entries)}
        options.folder.mkdir(parents=True, exist_ok=True)
        write_table(entries, table)
        for name, reasons in files.items():
            dump_generic(reasons, options.folder / f"{name}_class_reason.json")
            print(f"{options.folder / f'{name}_class_reason.json'}: {len(reasons)} classes")
        return 0

    return run_command(body, debug=False)


if __name__ == "__main__":
    sys.exit(main())
