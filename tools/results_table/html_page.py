"""The report as one HTML page that needs no other file. Every text is escaped here."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from itertools import groupby
from pathlib import Path

from markupsafe import Markup

from reason.pages import breakable, render

from .table import Cell, Report, Table
from .words import ORIGIN_HEADER, cell_words, origin_words

_HERE = Path(__file__).resolve().parent
_NOTABLE = 0.05
"""Differences smaller than the published figures' rounding are not coloured."""


def html(report: Report) -> str:
    """The report as an HTML document."""
    return render(
        "results.html",
        folder=_HERE,
        title="OpenSeg-R: results",
        alarm=report.alarm,
        tables=Markup("\n".join(map(_figures, report.tables))),
        notes=report.notes,
        origins=Markup(_origins(report)),
    )


def _figures(table: Table) -> str:
    head = "".join(f'<th scope="col" class="number">{escape(column.title)}</th>' for column in table.columns)
    bodies = []
    for method, group in groupby(table.rows, key=lambda row: row.method):
        rows = list(group)
        lines = []
        for place, row in enumerate(rows):
            name = f'<th scope="rowgroup" rowspan="{len(rows)}">{breakable(method)}</th>' if place == 0 else ""
            kind = "published" if row.kind == "published" else "own"
            cells = "".join(_cell(cell, column.title) for cell, column in zip(row.cells, table.columns, strict=True))
            lines.append(f'<tr class="{kind}">{name}<td class="kind">{escape(row.kind)}</td>{cells}</tr>')
        bodies.append("<tbody>\n" + "\n".join(lines) + "\n</tbody>")
    return (
        f"<h2>{escape(table.title)}</h2>\n"
        f'<div class="scroll"><table class="figures"><thead><tr><th scope="col">method</th><th scope="col">figures</th>'
        f"{head}</tr></thead>\n{''.join(bodies)}</table></div>"
    )


def _cell(cell: Cell, name: str) -> str:
    words = cell_words(cell)
    parts = [f"<b>{escape(words.figure)}</b>" if cell.state == "measured" else escape(words.figure)]
    if cell.difference is not None:
        trend = "up" if cell.difference >= _NOTABLE else "down" if cell.difference <= -_NOTABLE else "same"
        parts.append(f'<span class="{trend}">{escape(words.difference)}</span>')
    if words.source:
        parts.append(f'<a href="#origin-{escape(words.source)}">{escape(words.source)}</a>')
    # On a phone a row is a list of names and figures.
    return f'<td class="number {cell.state}" data-name="{escape(name)}"><div>{" ".join(parts)}</div></td>'


def _origins(report: Report) -> str:
    if not report.origins:
        return ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ORIGIN_HEADER)
    rows = []
    for origin in report.origins:
        texts = zip(origin_words(origin, short=True), origin_words(origin, short=False), strict=True)
        rows.append(
            f'<tr id="origin-{origin.number}">{_join(map(_text_cell, ORIGIN_HEADER, *zip(*texts, strict=True)))}</tr>'
        )
    grid = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{_join(rows)}\n</tbody>"
    return f'<h2>Where the figures come from</h2>\n<div class="scroll"><table class="origins">{grid}</table></div>'


def _text_cell(name: str, short: str, whole: str) -> str:
    title = "" if short == whole else f' title="{escape(whole)}"'
    return f'<td{title} data-name="{escape(name)}"><div>{breakable(short)}</div></td>'


def _join(parts: Iterable[str]) -> str:
    return "\n".join(parts)
