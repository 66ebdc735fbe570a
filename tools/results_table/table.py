"""The table as values: rows of methods, columns of data sets, and where each figure comes from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from maft.evaluation.metrics import APS

from ..benchmarks import SUITES
from ..dataset_facts import split_facts
from .collect import Collection, Result
from .published import (
    PANOPTIC,
    QUALITIES,
    SEMANTIC,
    SOURCE,
    panoptic_benchmark,
    published,
    semantic_benchmarks,
    title_of,
)

State = Literal["published", "measured", "seeded", "part", "missing", "unpublished"]
"""seeded: random weights, means nothing; part: other images than the data set has; unpublished: no figure is known."""

DIFFER = 0.005
"""Two definitions of mIoU that are nearer than this look the same with two decimals."""
USUAL_ATTRIBUTES = 3
GENERIC_COUNTERS = ("generic_missing_file", "generic_no_class")
"""Counters of images for which generic reasons stood in."""


@dataclass(frozen=True)
class Column:
    """A data set's metric."""

    dataset: str
    metric: str
    title: str


@dataclass(frozen=True)
class Cell:
    """One figure.

    Attributes:
        state: see `State`.
        value: in percent; None where there is none.
        difference: to the published figure, in percentage points; None where it would mean nothing.
        source: number of its origin in `Report.origins`, from 1; None for published figures.
    """

    state: State
    value: float | None = None
    difference: float | None = None
    source: int | None = None


@dataclass(frozen=True)
class Row:
    """The figures of one method: published, or of one run."""

    method: str
    kind: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """One task."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Origin:
    """Where the figures of one evaluation come from: what its cells refer to."""

    number: int
    result: Result
    note: str


@dataclass
class Report:
    """All that is to be said."""

    tables: list[Table] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    alarm: str = ""


def build(collection: Collection) -> Report:
    """Lay the results beside the published figures."""
    report = Report()
    runs = {str(result.run.absolute()) for result in collection.results}
    common = os.path.commonpath(runs) if runs else ""
    tasks = {
        "sem_seg": ("Semantic segmentation, mIoU", _semantic_columns, SEMANTIC),
        "panoptic_seg": ("Panoptic segmentation", _panoptic_columns, PANOPTIC),
        "instances": ("Instances, AP of masks", _instance_columns, ()),
    }
    for task, (title, columns_of, known) in tasks.items():
        results = [result for result in collection.results if result.task == task]
        if not results and not known:
            continue
        columns = columns_of(results)
        methods = [(suite, reasons) for suite, reasons in known]
        rows = _Rows(report, columns, common).blocks(methods, results)
        report.tables.append(Table(title, columns, tuple(rows)))
    states = {cell.state for table in report.tables for row in table.rows for cell in row.cells}
    if "seeded" in states:
        report.alarm = "Figures marked † were made with random stand-in weights: they mean nothing."
    report.notes += _notes(report, states, collection)
    return report


def _semantic_columns(results: Iterable[Result]) -> tuple[Column, ...]:
    known = [Column(entry.dataset, "mIoU_reference", entry.title) for entry in semantic_benchmarks()]
    others = sorted({result.dataset for result in results} - {column.dataset for column in known})
    return (*known, *(Column(name, "mIoU_reference", title_of(name)) for name in others))


def _panoptic_columns(results: Iterable[Result]) -> tuple[Column, ...]:
    known = panoptic_benchmark()
    others = sorted({result.dataset for result in results} - {known.dataset})
    titles = {known.dataset: "ADE20K", **{name: title_of(name).removesuffix(", panoptic") for name in others}}
    return tuple(Column(name, metric, f"{title} {metric}") for name, title in titles.items() for metric in QUALITIES)


def _instance_columns(results: Iterable[Result]) -> tuple[Column, ...]:
    names = sorted({result.dataset for result in results})
    return tuple(Column(name, metric, f"{title_of(name)} {metric}") for name in names for metric in APS)


MINI_METHODS = {
    "names": "names only",
    "generic": "generic reasons",
    "image": "image-specific reasons",
    "image_aligned": "image-specific reasons, aligned",
    "sed_names": "SED, names only",
    "sed_generic": "SED, generic reasons",
    "sed_image": "SED, image-specific reasons",
}
"""Folder of an evaluation of mini -> what it was given."""


def own_name(result: Result) -> str:
    """What the rows of a result are called: by the method, of mini by what the model was given."""
    if result.mini:
        return f"mini, {MINI_METHODS.get(result.mini, result.mini)}"
    return method_name(result.suite, result.reasons, result.text("config_file"))


def method_name(suite: str, reasons: bool, config: str = "") -> str:
    """A method as the papers' tables call it; of an unknown model, the name of its config with its folder."""
    known = {"base": "MAFT+ base", "large": "MAFT+ large", "pano": "MAFT+ large"}
    known |= {"sed-base": "SED base", "sed-large": "SED large"}
    model = known.get(suite, "/".join(Path(config.removesuffix(".yaml")).parts[-2:]))
    return f"OpenSeg-R, {model}" if reasons else model


class _Rows:
    """Makes the rows of one table, and numbers the origins of its cells."""

    def __init__(self, report: Report, columns: Sequence[Column], common: str) -> None:
        self._report, self._columns, self._common = report, columns, common

    def blocks(self, methods: Iterable[tuple[str, bool]], results: Sequence[Result]) -> Iterable[Row]:
        """A block a method: the published figures, then every run's; methods without published figures come last."""
        own: dict[str, list[Result]] = {}
        for result in results:
            own.setdefault(own_name(result), []).append(result)
        for suite, reasons in methods:
            name = method_name(suite, reasons)
            figures = published(suite, reasons)
            cells = [figures.get((column.dataset, column.metric)) for column in self._columns]
            yield Row(
                name, "published", tuple(Cell("unpublished") if v is None else Cell("published", v) for v in cells)
            )
            yield from self._measured(name, own.pop(name, []), figures)
        for name, found in sorted(own.items()):
            yield from self._measured(name, found, {})

    def _measured(self, name: str, results: Sequence[Result], figures: dict[tuple[str, str], float]) -> Iterable[Row]:
        runs = _runs(results)
        if not runs:
            yield Row(name, "measured", tuple(Cell("missing") for _ in self._columns))
        variants = [variant for variant, _ in runs]
        for variant, run in runs:
            by_dataset = {result.dataset: result for result in run}
            folder = self._run_name(run[0]) if variants.count(variant) > 1 else ""
            kind = ", ".join(part for part in ("measured", variant, folder) if part)
            cells = [self._cell(by_dataset.get(column.dataset), column, figures) for column in self._columns]
            yield Row(name, kind, tuple(cells))
            if any(_definitions_differ(result) for result in run):
                yield Row(name, f"{kind}, mIoU_present", tuple(map(_present, cells, self._results_of(by_dataset))))
            self._warn_of_mixed_code(name, run)

    def _run_name(self, result: Result) -> str:
        """The run's folder without what all runs share; the origins have the whole path."""
        run = result.run.absolute()
        return run.name if str(run) == self._common else os.path.relpath(run, self._common)

    def _results_of(self, by_dataset: dict[str, Result]) -> list[Result | None]:
        return [by_dataset.get(column.dataset) for column in self._columns]

    def _cell(self, result: Result | None, column: Column, figures: dict[tuple[str, str], float]) -> Cell:
        if result is None or column.metric not in result.metrics:
            return Cell("missing")
        state: State = "seeded" if result.seeded else "part" if _other_images(result) else "measured"
        value = result.metrics[column.metric]
        aim = figures.get((column.dataset, column.metric))
        difference = value - aim if aim is not None and state == "measured" else None
        return Cell(state, value, difference, self._number(result))

    def _number(self, result: Result) -> int:
        for origin in self._report.origins:
            if origin.result is result:
                return origin.number
        number = len(self._report.origins) + 1
        self._report.origins.append(Origin(number, result, _images_and_reasons(result)))
        return number

    def _warn_of_mixed_code(self, name: str, run: Sequence[Result]) -> None:
        versions = {result.part("code") for result in run}
        if len(versions) > 1:
            numbers = ", ".join(f"[{self._number(result)}]" for result in run)
            self._report.notes.append(f"{name}: {numbers} were made with {len(versions)} versions of the code.")


def _runs(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    """(variant, results) of one method, those of one set-up together; a data set twice in one set-up makes two runs."""
    runs: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        key = (_variant(result), result.part("weights"), str(result.run))
        again = 0
        while any(other.dataset == result.dataset for other in runs.get((*key, str(again)), ())):
            again += 1
        runs.setdefault((*key, str(again)), []).append(result)
    return [(key[0], run) for key, run in sorted(runs.items())]


def _variant(result: Result) -> str:
    """In what a run differs from the published set-up."""
    reasons = result.provenance.get("reasons")
    places = reasons if isinstance(reasons, dict) else {}
    suite = SUITES.get(result.suite)
    parts = ["random weights"] if result.seeded else []
    if not result.seeded and suite and Path(result.text("weights_file")).name != Path(suite.weights).name:
        parts.append(Path(result.text("weights_file")).name)
    if places.get("mode") == "aligned":
        parts.append("aligned")
    if result.generic_origin:
        parts.append("shipped generic reasons")
    if places.get("attributes", USUAL_ATTRIBUTES) != USUAL_ATTRIBUTES:
        parts.append(f"{places['attributes']} attributes")
    return ", ".join(parts)


def _definitions_differ(result: Result) -> bool:
    values = [result.metrics.get(name) for name in ("mIoU_reference", "mIoU_present")]
    return None not in values and abs(values[0] - values[1]) >= DIFFER  # type: ignore[operator]


def _present(cell: Cell, result: Result | None) -> Cell:
    """The same figure by the other definition; nothing published is of it."""
    return Cell(cell.state, result.metrics["mIoU_present"], None, cell.source) if result else cell


def _other_images(result: Result) -> bool:
    facts = split_facts(result.dataset)
    return facts is not None and facts.images.verified and result.images not in facts.images.values


def _images_and_reasons(result: Result) -> str:
    facts = split_facts(result.dataset)
    number = _images(result.images)
    if facts is not None and result.images not in facts.images.values:
        number += f" (the data set has {facts.images})"
    usage = ", ".join(f"{name} {count}" for name, count in result.usage.items())
    origin = f"; generic reasons: {result.generic_origin}" if result.generic_origin else ""
    return f"{number}; reasons: {usage}{origin}" if usage else number


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"


def _notes(report: Report, states: set[State], collection: Collection) -> list[str]:
    notes = [SOURCE] if collection.results else ["No finished evaluation was found.", SOURCE]
    notes.append("Beside a measured figure: its difference to the published one, and the number of its origin below.")
    if any(row.kind.endswith("mIoU_present") for table in report.tables for row in table.rows):
        notes.append(
            "mIoU_reference divides by the classes in ground truth or prediction, mIoU_present by those in the ground "
            "truth; a row of the second stands where they differ."
        )
    if "part" in states:
        notes.append("‡ evaluated on another number of images than the data set has: not to be compared.")
    for origin in report.origins:
        stood_in = sum(origin.result.usage.get(name, 0) for name in GENERIC_COUNTERS)
        if stood_in and origin.result.reasons:
            notes.append(f"[{origin.number}]: generic reasons stood in for image-specific ones in {_images(stood_in)}.")
    notes += [f"Unfinished: {sentence}." for sentence in collection.unfinished]
    return notes + [f"Left out: {sentence}." for sentence in collection.problems]
