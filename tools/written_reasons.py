"""Generic reasons written for this repository: from the table `entries.tsv` to one file a vocabulary.

python -m tools.written_reasons                      write the files again from the table
python -m tools.written_reasons --import FILE ...    join tables into entries.tsv first
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from maft.errors import UserError, run_command, run_process
from reason.files import user_path, write_text
from reason.names import VocabularyNames
from reason.shipped import ENDING, HEADER, TABLE, Entry, read_entries
from reason.triplets import Reason, dump_generic
from reason.vocabulary import load_vocabulary

from .commands import described

FOLDER = Path("reason_data/general_reason/written")
_KEYS = {"ade847": (130, "flowerpot", 188)}
"""Vocabulary -> a class, its key, and the class it stands before. "pot, flowerpot" shares one name with "pot" and one
with "plant pots"; the key that it shares with the latter, behind that entry and before "pot", is its own."""


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
            dump_generic(reasons, options.folder / f"{name}{ENDING}")
            print(f"{options.folder / f'{name}_class_reason.json'}: {len(reasons)} classes")
        return 0

    return run_command(body, debug=False)


if __name__ == "__main__":
    run_process(main)
