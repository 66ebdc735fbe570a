"""What a check of one data set found, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tabulate import tabulate

from ..dataset_facts import Fact
from .files import EXAMPLES

State = Literal["ok", "problems", "not there"]


@dataclass
class Problem:
    """One kind of fault.

    Attributes:
        kind: a word or two.
        count: how many files or entries have it.
        examples: a few of them, one line each.
    """

    kind: str
    count: int
    examples: list[str]


@dataclass
class Findings:
    """The check of one data set.

    Attributes:
        name: of `prepare_datasets`.
        dataset: registered name.
        classes: size of the vocabulary (of its countable part for instances).
        images, labels, pairs: image files, labels, and labels that have their image.
        looked_into: pairs whose content was read.
        types: label maps by pixel type.
        lowest, highest: label values beside the ignored one.
        ignored: pixels with the ignored value, or of no segment.
        per_class: pixels, segments or objects of every class that occurs.
        expected_images, expected_classes: published counts; None where nothing is known or nothing is to be compared.
        places: where the files were found.
        problems: what makes the data set wrong.
        notes: what a user should know and what is no fault.
        looked_at: where it was looked for, if it is not there.
    """

    name: str
    dataset: str
    classes: int
    there: bool = True
    images: int = 0
    labels: int = 0
    pairs: int = 0
    looked_into: int = 0
    types: dict[str, int] = field(default_factory=dict)
    lowest: int | None = None
    highest: int | None = None
    ignored: int = 0
    per_class: dict[str, int] = field(default_factory=dict)
    expected_images: Fact | None = None
    expected_classes: Fact | None = None
    places: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    looked_at: list[str] = field(default_factory=list)

    @property
    def state(self) -> State:
        """In a word."""
        if self.problems:
            return "problems"
        return "ok" if self.there else "not there"

    def problem(self, kind: str, *lines: str, count: int | None = None) -> None:
        """Record a fault with its examples; without lines, nothing is recorded."""
        if lines:
            self.problems.append(Problem(kind, len(lines) if count is None else count, list(lines[:EXAMPLES])))

    def as_json(self) -> dict[str, Any]:
        """The report for programs."""
        return {**asdict(self), "state": self.state, "occurring": len(self.per_class)}


def table(reports: Sequence[Findings]) -> str:
    """All reports for people: a table, then what is wrong with each data set and what to know about it."""
    rows = [_row(report) for report in reports]
    headers = ["data set", "images", "labels", "pairs", "published", "type", "values", "classes that occur", "result"]
    lines = [tabulate(rows, headers, tablefmt="simple", disable_numparse=True)]
    for report in reports:
        details = _details(report)
        if details:
            lines += ["", f"{report.dataset} ({report.name})", *details]
    return "\n".join(lines)


def _row(report: Findings) -> list[str]:
    if not report.there:
        return [report.dataset, *["-"] * 7, "NOT THERE" if report.problems else "not there"]
    values = "-" if report.lowest is None else f"{report.lowest} to {report.highest}"
    expected = f" (published {report.expected_classes})" if report.expected_classes else ""
    return [
        report.dataset,
        str(report.images),
        str(report.labels),
        str(report.pairs),
        str(report.expected_images) if report.expected_images else "-",
        ", ".join(report.types) or "-",
        values,
        f"{len(report.per_class)} of {report.classes}{expected}",
        "PROBLEMS" if report.problems else "ok",
    ]


def _details(report: Findings) -> list[str]:
    lines = [f"  looked for: {line}" for line in report.looked_at]
    for problem in report.problems:
        lines.append(f"  PROBLEM {problem.kind}: {problem.count}")
        lines += [f"    {example}" for example in problem.examples]
        if problem.count > len(problem.examples):
            lines.append(f"    and {problem.count - len(problem.examples)} more")
    return lines + [f"  note: {note}" for note in report.notes]
