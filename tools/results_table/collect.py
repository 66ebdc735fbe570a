"""Finding evaluations below folders: finished ones, unfinished ones, and files that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maft.errors import UserError
from maft.evaluation.journal import FINISHED, FOLDER, read_journal
from maft.evaluation.metrics import main_figures
from maft.evaluation.provenance import ABSENT
from maft.evaluation.results import generic_origin
from maft.weights.seeding import SEEDED

from ..benchmarks import SUITES

RESULTS = "results.json"
REASON_ARCHITECTURES = ("MAFT_Plus_Reason", "SED_Reason")


@dataclass(frozen=True)
class Result:
    """One task of one finished evaluation.

    Attributes:
        path: its results.json.
        dataset: registered data set.
        task: "sem_seg" or "panoptic_seg".
        metrics: name -> value in percent; of all classes.
        images: number of images.
        usage: how often which reasons were used.
        provenance: the block of results.json.
    """

    path: Path
    dataset: str
    task: str
    metrics: Mapping[str, float]
    images: int
    usage: Mapping[str, int]
    provenance: Mapping[str, Any]

    @property
    def seeded(self) -> bool:
        """Made with random stand-in weights: the figures mean nothing."""
        return self.part("weights") == SEEDED or self.provenance.get("weights_file", "") is None

    @property
    def reasons(self) -> bool:
        """Made with reasons rather than class names only."""
        if "architecture" in self.provenance:
            return str(self.provenance["architecture"]) in REASON_ARCHITECTURES
        return any(count and name != "plain" for name, count in self.usage.items())

    @property
    def generic_origin(self) -> str:
        """What must be said of the generic reasons that were used; "" for nothing."""
        return generic_origin(self.usage, self.provenance)

    @property
    def suite(self) -> str:
        """Which of the published models, "base", "large" or "pano"; "" if it is none of them."""
        config, weights = Path(self.text("config_file")).as_posix(), Path(self.text("weights_file")).name
        for suite in SUITES.values():
            if config.endswith((suite.config, suite.config_plain)):
                return suite.name
        return next((suite.name for suite in SUITES.values() if Path(suite.weights).name == weights), "")

    @property
    def mini(self) -> str:
        """Which of mini's evaluations, by its folder: "names", "generic", "image", ...; "" if it is none of them."""
        return self.path.parents[2].name if self.dataset.startswith("mini_") else ""

    @property
    def run(self) -> Path:
        """The folder that several data sets of one set-up share: OUTPUT_DIR, or the one above a folder a benchmark."""
        output = self.path.parents[2]
        names = {benchmark.name for suite in SUITES.values() for benchmark in suite.benchmarks}
        return output.parent if output.name in names else output

    def part(self, name: str) -> str:
        """One part of the fingerprint ("config", "weights", "triplets", "code")."""
        found = self.provenance.get("fingerprint")
        return str(found.get(name, ABSENT)) if isinstance(found, Mapping) else ABSENT

    def text(self, name: str) -> str:
        """One entry of the provenance."""
        value = self.provenance.get(name)
        return ABSENT if value is None else str(value)


@dataclass(frozen=True)
class Collection:
    """What lies below the folders.

    Attributes:
        results: of finished evaluations, by path.
        unfinished: a sentence for each evaluation that has not come to its end.
        problems: a sentence for each results.json that cannot be used.
    """

    results: tuple[Result, ...]
    unfinished: tuple[str, ...]
    problems: tuple[str, ...]


def collect(folders: Sequence[Path]) -> Collection:
    """Look through folders, at any depth; what an evaluation has set aside (`earlier-<n>`) does not count.

    Args:
        folders: or results.json files, which stand for the folders that they lie in.

    Raises:
        UserError: a folder is not there.
    """
    folders = [folder.parent if folder.is_file() and folder.name == RESULTS else folder for folder in folders]
    results: list[Result] = []
    unfinished: list[str] = []
    problems: list[str] = []
    for place in sorted({place for folder in folders for place in _places(folder)}):
        if sentence := _unfinished(place):
            unfinished.append(sentence)
        if (place / RESULTS).is_file():
            try:
                results += _read(place / RESULTS)
            except UserError as error:
                problems.append(str(error))
    return Collection(tuple(results), tuple(unfinished), tuple(problems))


def _places(folder: Path) -> Iterator[Path]:
    """Folders of one data set's evaluation: those with results or a journal."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; name one that train_net.py has written to (OUTPUT_DIR), such as out/"
        )
    for pattern in (RESULTS, FOLDER):
        for found in folder.rglob(pattern):
            below = found.relative_to(folder).parts[:-1]
            if not any(name.startswith(("earlier-", ".")) for name in below) and found.is_dir() == (pattern == FOLDER):
                yield found.parent


def _unfinished(place: Path) -> str:
    if not (place / FOLDER).is_dir() or (place / FOLDER / FINISHED).exists():
        return ""
    try:
        journal = read_journal(place)
    except UserError as error:
        return str(error)
    if journal is None:
        return ""
    what = "is being evaluated anew" if (place / RESULTS).is_file() else "has not been evaluated to the end"
    return f"{place}: {place.name} {what}, {len(journal.entries)} images so far; the same command goes on"


def _read(path: Path) -> list[Result]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "dataset" not in content and (path.parent / "names" / "inference").is_dir():
            return []  # mini's summary of the evaluations in the folders beside it
        return [
            Result(
                path,
                str(content["dataset"]),
                task,
                {name: float(value) for name, value in _numbers(task, metrics).items()},
                int(content["images"]["total"]),
                dict(content.get("usage") or {}),
                dict(content.get("provenance") or {}),
            )
            for task, metrics in content["metrics"].items()
        ]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the results of an evaluation ({type(error).__name__}: {error})") from error


def _numbers(task: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    figures = main_figures(task, metrics)
    missing = [name for name, value in figures.items() if value is None]
    if missing and task != "instances":  # there is no AP of small objects where there is no small object
        raise KeyError(*missing)
    return {name: value for name, value in figures.items() if value is not None}
