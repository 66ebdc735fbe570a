"""`python -m reason status`: what is done, failed and left in folders of results."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reason.errors import ReasonError
from reason.files import user_path
from reason.jsonfile import JsonError, read_json
from reason.runs.claims import claimed_names, living_workers
from reason.runs.progress import duration, plural
from reason.runs.store import STATE_FOLDER, json_files
from reason.runs.tally import tally

ROOT = Path("reason_data")
RATE_SECONDS = 600.0
"""The rate is that of the results of so long."""


@dataclass(frozen=True)
class Status:
    """How far the work of one folder is; counts are of files.

    Attributes:
        folder: of the results, or the generic file.
        unit: "image" or "class".
        total: things to do as of the last run; None: unknown.
        done, failed: results, and records of failures.
        claimed: names that have a claim, if a process is at work.
        rate: results a second, of the last ten minutes; None where nothing happens.
        remaining: seconds, at that rate.
        workers: "host, process" of those at work.
        settings: parts of the provenance.
        without_class: of the images done, those that name no class; None for classes.
        mean_classes: named by an image; None for classes, or without images.
    """

    folder: str
    unit: str
    total: int | None
    done: int
    failed: int
    claimed: int
    rate: float | None
    remaining: float | None
    workers: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    without_class: int | None = None
    mean_classes: float | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `python -m reason status`."""
    parser.description = "What is done, failed and left, at which rate, by whom. Reads only; may be asked at any time."
    parser.add_argument(
        "folders", nargs="*", type=user_path, metavar="FOLDER", help=f"folders of results (default: all below {ROOT}/)"
    )
    parser.add_argument("--failed", action="store_true", help="list what failed, with the reason")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(arguments: argparse.Namespace) -> int:
    """The body of `python -m reason status`; returns the exit status.

    Raises:
        ReasonError: a folder that holds no results.
    """
    places = [
        place for folder in arguments.folders or [ROOT] for place in _places(folder, named=bool(arguments.folders))
    ]
    found = [(folder_status(results, state), state) for results, state in places]
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(status) for status, _ in found], ensure_ascii=False, indent=1) + "\n")
        return 0
    if not found:
        sys.stdout.write(f"{ROOT}: nothing was begun there\n")
    for status, state in found:
        sys.stdout.write(format_status(status))
        for line in failed_lines(state) if arguments.failed else ():
            sys.stdout.write(f"    {line}\n")
    return 0


def folder_status(results: Path, state: Path) -> Status:
    """The status of one folder.

    Args:
        results: folder of the results.
        state: its folder of state.
    """
    try:
        provenance = read_json(state / "provenance.json")
    except JsonError:
        provenance = {}
    work: dict[str, Any] = provenance.get("work") or {}
    times = sorted(_times(results))
    workers = living_workers(state)
    failed = len(json_files(state / "failed"))
    unit = str(work.get("unit", "image"))
    counts = tally(results / name for name in json_files(results)) if unit == "image" else None
    total = work.get("total")
    rate = _rate(times, time.time()) if workers else None
    left = max(total - len(times) - failed, 0) if isinstance(total, int) else None
    return Status(
        folder=str(work.get("target") or results),
        unit=unit,
        total=total,
        done=len(times),
        failed=failed,
        claimed=len(claimed_names(state)) if workers else 0,
        rate=rate,
        remaining=left / rate if rate and left is not None else None,
        workers=[f"{worker.host}, process {worker.pid}" for worker in workers],
        settings=dict(provenance.get("parts") or {}),
        without_class=counts.empty if counts else None,
        mean_classes=counts.mean if counts else None,
    )


def format_status(status: Status) -> str:
    """The lines that people read."""
    units = plural(status.unit)
    of = f" of {status.total}" if status.total is not None else ""
    line = f"{status.folder}\n  {status.done}{of} {units} done"
    if status.failed:
        line += f", {status.failed} failed"
    if status.mean_classes is not None:
        line += f" ({status.without_class} name no class, {status.mean_classes:.1f} classes an image)"
    if status.workers:
        line += f"; {status.claimed} under way"
        if status.rate is not None:
            line += f", {status.rate * 60:.1f} a minute"
        if status.remaining is not None:
            line += f", {duration(status.remaining)} left"
        line += f"\n  at work: {'; '.join(status.workers)}"
    elif status.total is not None and status.done + status.failed < status.total:
        line += "; nobody is at work, the same command continues"
    settings = [
        f"{name} {value}" for name, value in status.settings.items() if name in ("model", "vocabulary", "prompts")
    ]
    return line + (f"\n  {'; '.join(settings)}" if settings else "") + "\n"


def failed_lines(state: Path) -> Iterator[str]:
    """One line a failure: name, step, problem."""
    for file_name in json_files(state / "failed"):
        try:
            last = read_json(state / "failed" / file_name)["failures"][-1]
            yield f"{file_name.removesuffix('.json')}: {last['step']}: {' '.join(str(last['problem']).split())}"
        except (JsonError, KeyError, IndexError, TypeError):
            yield f"{file_name.removesuffix('.json')}: no reason recorded"


def _places(folder: Path, *, named: bool) -> list[tuple[Path, Path]]:
    """(results, state) of everything begun at or below `folder`."""
    if not folder.is_dir():
        if named:
            raise ReasonError(f"{folder}: no such folder; name one of results, or none for all below {ROOT}")
        return []
    found = []
    for path, folders, _ in os.walk(folder):
        if STATE_FOLDER in folders:
            state = Path(path, STATE_FOLDER)
            folders.remove(STATE_FOLDER)
            if (state / "provenance.json").is_file():
                found.append((Path(path), state))
            else:  # generic: a folder of state for every vocabulary
                found += [
                    (inner / "classes", inner) for inner in sorted(state.iterdir()) if (inner / "classes").is_dir()
                ]
        folders.sort()
    if named and not found:
        found = [(folder, folder / STATE_FOLDER)] if json_files(folder) else []
        if not found:
            raise ReasonError(f"{folder}: no results in it, and none were begun; name a folder of results")
    return found


def _times(folder: Path) -> Iterator[float]:
    """When each result was written, in seconds since the epoch."""
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".json") and not entry.name.startswith("."):
                    yield entry.stat().st_mtime


def _rate(times: Sequence[float], now: float) -> float | None:
    recent = [moment for moment in times if now - RATE_SECONDS <= moment <= now]
    return (len(recent) - 1) / (now - recent[0]) if len(recent) > 1 and now > recent[0] else None
