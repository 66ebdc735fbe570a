"""The report as Markdown for people and as CSV for programs.

Not tabulate or pandas: neither escapes what Markdown takes for markup.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from .table import Cell, Report
from .words import ORIGIN_HEADER, cell_words, origin_words

CSV_HEADER = (
    "table",
    "method",
    "row",
    "data_set",
    "metric",
    "state",
    "value",
    "difference",
    "images",
    "config_file",
    "weights_file",
    "weights_hash",
    "triplets_hash",
    "config_hash",
    "code_hash",
    "commit",
    "results_file",
)


def markdown(report: Report) -> str:
    """The report as Markdown tables (GitHub's kind)."""
    parts = ["# Results"]
    if report.alarm:
        parts.append(f"**{_escape(report.alarm)}**")
    for table in report.tables:
        header = ["method", "figures", *(column.title for column in table.columns)]
        rows = [[row.method, row.kind, *map(_cell, row.cells)] for row in table.rows]
        parts += [f"## {_escape(table.title)}", _table(header, rows, texts=2)]
    parts.append("\n".join(f"- {_escape(note)}" for note in report.notes))
    if report.origins:
        rows = [list(origin_words(origin, short=True)) for origin in report.origins]
        parts += ["## Origins", _table(ORIGIN_HEADER, rows, texts=len(ORIGIN_HEADER))]
    return "\n\n".join(parts) + "\n"


def _cell(cell: Cell) -> str:
    words = cell_words(cell)
    parts = [
        words.figure,
        f"({words.difference})" if words.difference else "",
        f"[{words.source}]" if words.source else "",
    ]
    return " ".join(part for part in parts if part)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], texts: int) -> str:
    """A table whose columns after the first `texts` ones are aligned to the right."""
    rule = ["---" if place < texts else "--:" for place in range(len(header))]
    lines = [[_escape(text) for text in header], rule, *([_escape(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: str) -> str:
    for sign in "\\`*_|<~":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split())


def comma_separated(report: Report) -> str:
    """The report as CSV (RFC 4180), one line a cell, hashes whole, figures unrounded."""
    origins = {origin.number: origin.result for origin in report.origins}
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(CSV_HEADER)
    for table in report.tables:
        for row in table.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                metric = "mIoU_present" if row.kind.endswith("mIoU_present") else column.metric
                result = origins.get(cell.source or 0)
                provenance = [""] * 9
                if result is not None:
                    provenance = [
                        str(result.images),
                        result.text("config_file"),
                        "seeded" if result.seeded else result.text("weights_file"),
                        result.part("weights"),
                        result.part("triplets"),
                        result.part("config"),
                        result.part("code"),
                        result.text("commit"),
                        str(result.path),
                    ]
                numbers = ["" if value is None else repr(value) for value in (cell.value, cell.difference)]
                writer.writerow(
                    [table.title, row.method, row.kind, column.dataset, metric, cell.state, *numbers, *provenance]
                )
    return stream.getvalue()
