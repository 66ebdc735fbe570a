"""The page of results as HTML, from plain values. Every text is escaped here, and only here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from markupsafe import Markup

from reason.pages import render
from reason.triplets import Reason

_ONE_ROW = 6
"""Figures that stand in one row of a wide screen."""
_HERE = Path(__file__).resolve().parent
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Table:
    """A table whose first column is text; "" is an empty cell."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Bars:
    """One class: its name, what it looks like, and one value in percent a method, None where there is none."""

    name: str
    looks: str
    values: Sequence[tuple[str, float | None]]


@dataclass(frozen=True)
class Figure:
    """An image as a data URI, with the classes that are in it."""

    title: str
    note: str
    uri: str
    legend: Sequence[tuple[str, Color]] = ()


@dataclass(frozen=True)
class Difference:
    """What the reasons changed most in an image.

    Attributes:
        headline: the class and the parts of its pixels that are right, without and with reasons.
        better: whether it changed for the better.
        reason: the class's reason for this image; None if the model gave none.
        wrong: words of it that are wrong, and what should stand there.
        remarks: what the model got wrong about it.
    """

    headline: str
    better: bool
    reason: Reason | None
    wrong: Mapping[str, str]
    remarks: Sequence[str]


@dataclass(frozen=True)
class Picture:
    """One image of the validation split.

    Attributes:
        title, figures, difference: of the image.
        description: what the model wrote in the first step, sentence by sentence, with the words that are wrong, and
            what should stand there.
        candidates: the classes of the second step, "right" or "wrong", and those that it should have named, "missed".
        reasons: those of the third step, in the same manner.
        errors: what is wrong with all of it, a sentence each.
    """

    title: str
    figures: Sequence[Figure]
    difference: Difference | None
    description: Sequence[tuple[str, Mapping[str, str]]]
    candidates: Sequence[tuple[str, str]]
    reasons: Sequence[tuple[Reason, Mapping[str, str]]]
    errors: Sequence[str]


def key(methods: Iterable[tuple[str, str]]) -> str:
    """Which colour stands for which method: (name, title) pairs."""
    entries = (
        f'<span><i style="background:var(--{escape(name)})"></i>{escape(title)}</span>' for name, title in methods
    )
    return f'<div class="key">{"".join(entries)}</div>'


def table(content: Table) -> str:
    """A table."""
    head = "".join(f"<th>{escape(text)}</th>" for text in content.header)
    rows = "\n".join(f"<tr>{_cells(content.header, row)}</tr>" for row in content.rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'


def _cells(header: Sequence[str], row: Sequence[str]) -> str:
    """Cells that know their column's name, which a narrow screen shows beside them."""
    named = zip(header, row, strict=True)
    return "".join(f'<td data-name="{escape(name)}">{escape(text)}</td>' for name, text in named)


def paragraphs(*texts: str, style: str = "") -> str:
    """Plain paragraphs."""
    attribute = f' class="{style}"' if style else ""
    return "\n".join(f"<p{attribute}>{escape(text)}</p>" for text in texts)


def bars(classes: Sequence[Bars]) -> str:
    """One small bar chart a class."""
    return f'<div class="classes">{"".join(_class(entry) for entry in classes)}</div>'


def _class(entry: Bars) -> str:
    lines = "".join(_bar(method, value) for method, value in entry.values)
    return f'<div class="class"><b>{escape(entry.name)}</b><span class="soft">{escape(entry.looks)}</span>{lines}</div>'


def _bar(method: str, value: float | None) -> str:
    filled = f'<i style="width:{value or 0:.1f}%;background:var(--{escape(method)})"></i>'
    text = "-" if value is None else f"{value:.1f}"
    return f'<div class="bar" title="{escape(method)}"><div>{filled}</div><span>{text}</span></div>'


def picture(content: Picture) -> str:
    """One image with everything about it."""
    figures = "".join(_figure(figure, content.title) for figure in content.figures)
    reasons = "".join(
        f"<dt>{escape(reason.name)}</dt><dd>{_reason(reason, wrong)}</dd>" for reason, wrong in content.reasons
    )
    description = " ".join(_marked(sentence, wrong) for sentence, wrong in content.description)
    names = ", ".join(
        f'<span class="{escape(verdict)}">{escape(name)}{"" if verdict == "right" else f" ({escape(verdict)})"}</span>'
        for name, verdict in content.candidates
    )
    steps = (
        f"<p><b>Describe.</b> {description}</p><p><b>Name.</b> {names or 'nothing'}</p>"
        f"<p><b>Give the reasons.</b></p><dl>{reasons}</dl>"
    )
    errors = "".join(f'<p class="wrong">{escape(text)}</p>' for text in content.errors)
    errors = errors or "<p>No error in classes and reasons.</p>"
    rows = " two-rows" if len(content.figures) > _ONE_ROW else ""
    return (
        f'<div class="picture"><h3>{escape(content.title)}</h3><div class="figures{rows}">{figures}</div>'
        f"{_difference(content.difference)}"
        f"<details><summary>what the model wrote about this image, step by step, and what of it is wrong</summary>"
        f"{steps}{errors}</details></div>"
    )


def _figure(figure: Figure, title: str) -> str:
    names = "".join(
        f'<li><i style="background:rgb({red} {green} {blue})"></i>{escape(name)}</li>'
        for name, (red, green, blue) in figure.legend
    )
    legend = f'<ul class="legend">{names}</ul>' if names else ""
    return (
        f"<figure><figcaption><b>{escape(figure.title)}</b>{escape(figure.note) or '&nbsp;'}</figcaption>"
        f'<img src="{escape(figure.uri)}" alt="{escape(title)}: {escape(figure.title)}">{legend}</figure>'
    )


def _difference(content: Difference | None) -> str:
    if content is None:
        return ""
    reason = f"<p>{_reason(content.reason, content.wrong)}</p>" if content.reason else ""
    remarks = "".join(f'<p class="wrong">{escape(text)}</p>' for text in content.remarks)
    kind = "better" if content.better else "worse"
    return f'<div class="difference {kind}"><p><b>{escape(content.headline)}</b></p>{reason}{remarks}</div>'


def _reason(reason: Reason, wrong: Mapping[str, str]) -> str:
    way = " → ".join(part for part in (reason.general_category, reason.sub_category) if part)
    return f'<span class="way">{_marked(way, wrong)} →</span> {_marked("; ".join(reason.attributes), wrong)}'


def _marked(text: str, wrong: Mapping[str, str]) -> str:
    """The text, with what is wrong underlined; what should stand there shows under the pointer."""
    if not wrong:
        return escape(text)
    longest_first = sorted(wrong, key=len, reverse=True)
    parts = re.split(rf"(?<![\w-])({'|'.join(map(re.escape, longest_first))})(?![\w-])", text)
    return "".join(
        f'<span class="misread" title="in the image: {escape(wrong[part])}">{escape(part)}</span>'
        if part in wrong
        else escape(part)
        for part in parts
    )


def folded(summary: str, content: str) -> str:
    """Content that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def heading(text: str, level: int = 2) -> str:
    """A heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def document(title: str, parts: Iterable[str]) -> str:
    """The whole page: one file that needs no other."""
    return render("page.html", folder=_HERE, title=title, content=Markup("\n".join(parts)))
