"""Results on disk: every one whole, at once, and only of one provenance.

    <folder>/<name>.json           results
    <folder>/.reason/              provenance.json, vocabulary.json, failed/<name>.json, and the claims

A result is written aside and renamed into place. Files are not synced one by one: after a power failure (a kill loses
nothing) the last ones may be empty; a file that is cut off counts as not done, and is done again.

Which results belong is not remembered but read: each one carries the hash of its provenance. What has another hash, or
none, is replaced only when that is asked for, and stands until its replacement is ready.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from reason.errors import ReasonError
from reason.files import replacing
from reason.jsonfile import JsonError, parse_json, read_json
from reason.runs.claims import Claims
from reason.runs.provenance import Provenance, changes

STATE_FOLDER = ".reason"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_READERS = 8
_CHUNK = 256

Stamp = tuple[int, int, int]
"""Inode, time of change in ns, and size of a file: another one means that the file was replaced."""

Kind = Literal["current", "other", "damaged"]


@dataclass(frozen=True)
class Survey:
    """What there is for a list of names.

    Attributes:
        names: all of them, in order.
        done: those with a result of this provenance.
        failed: name -> stamp of the record of those that failed with this provenance.
        other: name -> stamp of results of another provenance, or none.
        damaged: name -> stamp of results that are no JSON object: cut off by a power failure.
        strangers: results of another provenance in the folder, of names that are not in the list.
        example: the parts of the provenance of one of `other` or `strangers`; None if none has any.
    """

    names: tuple[str, ...]
    done: frozenset[str]
    failed: Mapping[str, Stamp]
    other: Mapping[str, Stamp]
    damaged: Mapping[str, Stamp]
    strangers: int
    example: Mapping[str, str] | None

    def todo(self, *, retry_failed: bool) -> list[str]:
        """What is to be done, in order."""
        skipped = self.done if retry_failed else self.done | self.failed.keys()
        return [name for name in self.names if name not in skipped]


class ResultStore:
    """The results of one folder, shared by any number of processes; a context manager once work begins.

    Args:
        folder: of the results; made when work begins.
        provenance: of everything that this process writes.
        state: of what is kept beside the results; default: `.reason` in the folder.
    """

    def __init__(self, folder: Path, provenance: Provenance, *, state: Path | None = None) -> None:
        self.folder = folder
        self.state = state or folder / STATE_FOLDER
        self.provenance = provenance
        self._claims: Claims | None = None
        self._survey: Survey | None = None
        self._hash = provenance.hash

    def survey(self, names: Iterable[str]) -> Survey:
        """Look at everything once; 20,000 results take about a second."""
        listed = tuple(names)
        wanted = set(listed)
        there = [name.removesuffix(".json") for name in json_files(self.folder)]
        kinds = dict(zip(there, self._classify(there), strict=True))
        by_kind: dict[str, dict[str, Stamp]] = {kind: {} for kind in ("current", "other", "damaged")}
        for name, (kind, stamp, _) in kinds.items():
            if name in wanted:
                by_kind[kind][name] = stamp
        strangers = [name for name, (kind, _, _) in kinds.items() if kind == "other" and name not in wanted]
        examples = (parts for kind, _, parts in kinds.values() if kind == "other" and parts)
        return Survey(
            names=listed,
            done=frozenset(by_kind["current"]),
            failed=self._failed(wanted - by_kind["current"].keys()),
            other=by_kind["other"],
            damaged=by_kind["damaged"],
            strangers=len(strangers),
            example=next(examples, None),
        )

    def refusal(self, survey: Survey) -> str:
        """Why work on this folder would mix results, in one sentence; "" if it would not."""
        if not survey.other and not survey.strangers:
            return ""
        why = "they say nothing of where they come from (published, or made by hand)"
        if survey.example is not None:
            why = changes(survey.example, self.provenance.parts) or "their provenance was edited"
        count = f"{len(survey.other)} of these {len(survey.names)} have a result of other settings"
        if survey.strangers:
            count += f", and so have {survey.strangers} that are not among them"
        return f"{self.folder}: {count} ({why})"

    def begin(self, survey: Survey, *, resume: bool, note: Mapping[str, Any]) -> None:
        """Make the folder this process's place of work.

        Args:
            survey: of the names that are to be done.
            resume: results of other settings may be replaced.
            note: what `status` and other processes may know.

        Raises:
            ReasonError: results would mix, another process writes with other settings, or the folder cannot be written.
        """
        refusal = self.refusal(survey)
        if refusal and not resume:
            raise ReasonError(
                f"{refusal}; --resume does those {len(survey.other)} again, each old file stays until its replacement "
                "is ready; or name another --output"
            )
        with self._guard():
            self.folder.mkdir(parents=True, exist_ok=True)
            claims = Claims(self.state, {**note, "provenance": self._hash})
        self._claims, self._survey = claims, survey
        try:
            for worker in claims.others():
                if worker.note.get("provenance") != self._hash:
                    raise ReasonError(
                        f"{self.folder}: process {worker.pid} on {worker.host} is writing here with other settings; "
                        "wait for it, stop it, or name another --output"
                    )
            with self._guard():
                claims.clear(survey.done)
            self.keep("provenance.json", {**self.provenance.document(), "work": dict(note)})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ResultStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is claimed; results stay."""
        if self._claims is not None:
            self._claims.close()
            self._claims = None

    def describe(self, **record: Any) -> None:
        """Add to what is recorded beside the results from now on; the hash stays."""
        self.provenance = replace(self.provenance, record={**self.provenance.record, **record})

    def keep(self, file_name: str, document: Mapping[str, Any]) -> None:
        """Write a JSON object beside the results."""
        self._write(self.state / file_name, document)

    def claim(self, name: str) -> Literal["mine", "taken", "finished"]:
        """Ask for a name: it is this process's now, another's, or has been finished since the survey."""
        with self._guard():
            claims = self._working()
            if not claims.take(name):
                return "finished" if self._is_finished(name) else "taken"
            if self._is_finished(name):
                claims.drop(name, finished=True)
                return "finished"
        return "mine"

    def write(self, name: str, document: Mapping[str, Any], *, more: Mapping[str, Any] | None = None) -> None:
        """Put a result in its place and give up the claim.

        Args:
            name: claimed before.
            document: the result; its field "provenance" is written here.
            more: fields for the provenance of this one result.
        """
        provenance = {**self.provenance.document(), **(more or {}), "time": _now()}
        self._write(self.result_file(name), {**document, "provenance": provenance})
        with self._guard():
            if self._survey is not None and name in self._survey.failed:
                self._failed_file(name).unlink(missing_ok=True)
            self._working().drop(name, finished=True)

    def fail(self, name: str, failures: Sequence[Mapping[str, Any]]) -> None:
        """Record why a name has no result, and give up the claim.

        Args:
            name: claimed before.
            failures: in order, each with the fields of `reason.asking.messages.Failure`.
        """
        record = {
            "name": name,
            "failures": list(failures),
            "provenance": {"hash": self._hash, "time": _now()},
        }
        self._write(self._failed_file(name), record)
        with self._guard():
            self._working().drop(name, finished=True)

    def result_file(self, name: str) -> Path:
        """Where the result of `name` is or will be."""
        return self.folder / f"{name}.json"

    def reason_of_failure(self, name: str) -> str:
        """The last problem that is recorded for a name; "" if there is no record."""
        try:
            failures = read_json(self._failed_file(name))["failures"]
            return f"{failures[-1]['step']}: {failures[-1]['problem']}" if failures else "no reason recorded"
        except (JsonError, KeyError, TypeError):
            return ""

    def _working(self) -> Claims:
        if self._claims is None:
            raise RuntimeError("the store is not open: call begin first")
        return self._claims

    def _is_finished(self, name: str) -> bool:
        """Whether somebody has written the result or the failure of `name` since the survey."""
        survey = self._survey
        if survey is None:
            raise RuntimeError("the store is not open: call begin first")
        result, failure = _stamp(self.result_file(name)), _stamp(self._failed_file(name))
        known = survey.other.get(name) or survey.damaged.get(name)
        if result is not None and result != known and self._kind(self.result_file(name))[0] == "current":
            return True
        return failure is not None and failure != survey.failed.get(name) and self._is_own_failure(name)

    def _is_own_failure(self, name: str) -> bool:
        try:
            return bool(read_json(self._failed_file(name))["provenance"]["hash"] == self._hash)
        except (JsonError, KeyError, TypeError):
            return False

    def _failed(self, names: set[str]) -> dict[str, Stamp]:
        found = {}
        for file_name in json_files(self.state / "failed"):
            name = file_name.removesuffix(".json")
            stamp = _stamp(self._failed_file(name))
            if name in names and stamp is not None and self._is_own_failure(name):
                found[name] = stamp
        return found

    def _failed_file(self, name: str) -> Path:
        return self.state / "failed" / f"{name}.json"

    def _classify(self, names: Sequence[str]) -> Iterator[tuple[Kind, Stamp, Mapping[str, str] | None]]:
        def classify(chunk: Sequence[str]) -> list[tuple[Kind, Stamp, Mapping[str, str] | None]]:
            return [self._kind(self.result_file(name)) for name in chunk]

        chunks = [names[start : start + _CHUNK] for start in range(0, len(names), _CHUNK)]
        with ThreadPoolExecutor(_READERS) as pool:
            for kinds in pool.map(classify, chunks):
                yield from kinds

    def _kind(self, path: Path) -> tuple[Kind, Stamp, Mapping[str, str] | None]:
        try:
            with path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                data = stream.read()
        except OSError as error:
            raise ReasonError(f"{path}: cannot be read ({error.strerror}); see to its permissions") from error
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        # The hash is looked for first: it decides without parsing, and a file that was cut off lacks its last brace.
        if f'"hash": "{self._hash}"'.encode() in data and data.endswith(b"}\n"):
            return "current", stamp, None
        try:
            document = parse_json(data.decode("utf-8-sig"))
        except (JsonError, UnicodeDecodeError):
            return "damaged", stamp, None
        provenance = document.get("provenance") if isinstance(document, dict) else None
        parts = provenance.get("parts") if isinstance(provenance, dict) else None
        if isinstance(provenance, dict) and provenance.get("hash") == self._hash:
            return "current", stamp, None
        return "other", stamp, parts if isinstance(parts, dict) else None

    def _write(self, path: Path, document: Mapping[str, Any]) -> None:
        with self._guard():
            content = _lines(document).encode()
            with replacing(path, aside=self._working().aside) as stream:
                stream.write(content)

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = f"{error.filename or self.folder}: cannot be written"
            if error.errno in _FULL:
                what = f"{self.folder}: no space left for results; everything written so far is whole; free some space"
                raise ReasonError(f"{what}, then the same command continues") from error
            raise ReasonError(
                f"{where} ({error.strerror}); name another --output, or see to its permissions"
            ) from error


def _lines(document: Mapping[str, Any]) -> str:
    """The JSON text of an object, one field a line: readable, and written in a fifth of the time of an indented one."""
    fields = (
        f"{json.dumps(key, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for key, value in document.items()
    )
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def json_files(folder: Path) -> list[str]:
    """Names of the JSON files of a folder, sorted; none where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name for entry in entries if entry.name.endswith(".json") and not entry.name.startswith(".")
            )
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ReasonError(f"{folder}: cannot be listed ({error.strerror}); name another --output") from error


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
