"""One HTML page from plain values. Every text is escaped here, and only here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

from reason.triplets import Reason

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Legend:
    """One class of a picture: its name, its RGB colour in [0, 255], and its part of the picture in [0, 1]."""

    name: str
    color: tuple[int, int, int]
    share: float


@dataclass(frozen=True)
class Figure:
    """A picture with its caption; without `uri` the note stands in its place."""

    title: str
    uri: str | None = None
    note: str = ""
    legend: tuple[Legend, ...] = ()


@dataclass(frozen=True)
class Section:
    """One photograph."""

    title: str
    description: str
    credit: str
    figures: tuple[Figure, ...]
    reasons_title: str
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Table:
    """A table; the columns after the first `texts` ones hold numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """All that the page says."""

    title: str
    alarm: str
    introduction: tuple[str, ...]
    tables: tuple[Table, ...]
    sections: tuple[Section, ...]


def render(page: Page) -> str:
    """The page as one HTML document that needs no other file."""
    template = Template((_HERE / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(page.title),
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        banner=f'<div class="banner" role="alert"><p>{escape(page.alarm)}</p></div>' if page.alarm else "",
        introduction=_join(f"<p>{escape(text)}</p>" for text in page.introduction),
        results=_join(_table(table) for table in page.tables),
        photographs=_join(_section(section) for section in page.sections),
    )


def rows_of(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """(name, value) texts of nested mappings, the names joined by dots."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += [(f"{key}.{name}", text) for name, text in rows_of(value)]
        else:
            rows.append((key, str(value)))
    return rows


def _table(table: Table) -> str:
    def cell(tag: str, column: int, text: str) -> str:
        kind = ' class="number"' if column >= table.texts else ""
        return f"<{tag}{kind}>{escape(text)}</{tag}>"

    head = "".join(cell("th", column, text) for column, text in enumerate(table.header))
    body = _join("<tr>" + "".join(cell("td", c, text) for c, text in enumerate(row)) + "</tr>" for row in table.rows)
    grid = f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    if table.folded:
        return f"<details><summary>{escape(table.title)}</summary>{grid}</details>"
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return f"<h3>{escape(table.title)}</h3>{grid}{note}"


def _section(section: Section) -> str:
    figures = _join(_figure(figure, section) for figure in section.figures)
    return (
        f"<section>\n<h2>{escape(section.title)}</h2>\n<p>{escape(section.description)}</p>\n"
        f'<div class="figures">\n{figures}\n</div>\n{_reasons(section)}\n'
        f'<p class="credit">{escape(section.credit)}</p>\n</section>'
    )


def _figure(figure: Figure, section: Section) -> str:
    title = f"<b>{escape(figure.title)}</b>"
    if figure.uri is None:
        return f'<figure><figcaption>{title}</figcaption><div class="absent">{escape(figure.note)}</div></figure>'
    caption = f"<figcaption>{title}{escape(figure.note) or '&nbsp;'}</figcaption>"
    alternative = escape(f"{section.title}: {figure.title}")
    image = f'<img src="{escape(figure.uri)}" alt="{alternative}">'
    legend = "".join(_legend(entry) for entry in figure.legend)
    legend = f'<ul class="legend">{legend}</ul>' if legend else ""
    return f"<figure>{caption}{image}{legend}</figure>"


def _legend(entry: Legend) -> str:
    red, green, blue = (int(channel) for channel in entry.color)
    share = "&lt; 1%" if entry.share < 0.01 else f"{entry.share:.0%}"
    swatch = f'<i style="background:rgb({red} {green} {blue})"></i>'
    return f"<li>{swatch}{escape(entry.name)} <span>{share}</span></li>"


def _reasons(section: Section) -> str:
    if not section.reasons:
        return f'<h3>{escape(section.reasons_title)}</h3><p class="note">There are none for this photograph.</p>'
    entries = _join(_reason(reason) for reason in section.reasons)
    return f'<h3>{escape(section.reasons_title)}</h3>\n<dl class="reasons">\n{entries}\n</dl>'


def _reason(reason: Reason) -> str:
    way = " &rarr; ".join(escape(part) for part in (reason.general_category, reason.sub_category) if part)
    attributes = escape("; ".join(reason.attributes))
    way = f'<span class="way">{way}</span> &rarr; ' if way else ""
    return f"<dt>{escape(reason.name)}</dt><dd>{way}{attributes}</dd>"


def _join(parts: Iterable[str]) -> str:
    return "\n".join(parts)
