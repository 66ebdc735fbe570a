"""A journal of per-image results, so that an evaluation that was killed goes on where it stopped.

Every rank appends to a file of its own, `<output folder>/journal/rank-<n>.jsonl`: a header line, then one line
an image. A line counts once its line break is on disk; a torn last line is cut off. On restart the union over all
files counts, whatever the number of ranks was. The empty file `journal/finished` is written last, when the results are.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maft.errors import UserError
from maft.files import locked

logger = logging.getLogger(__name__)

FORMAT = 1
FOLDER = "journal"
FINISHED = "finished"
LOCK = ".lock"
_LOCK_WAIT = 8.0
SYNC_SECONDS = 5.0
"""Lines reach the operating system at once (a killed process loses none); a power cut loses at most this much work."""


@dataclass(frozen=True)
class Header:
    """What a journal's results depend on. Results are only reused under an equal header."""

    dataset: str
    what: str  # the evaluator's description of itself
    fingerprint: Mapping[str, str]  # part ("config", "weights", ...) to hash

    def to_json(self) -> dict[str, Any]:
        """The header line's content."""
        parts = dict(self.fingerprint)
        return {"journal": FORMAT, "dataset": self.dataset, "what": self.what, "fingerprint": parts}

    def changes(self, other: Mapping[str, Any]) -> list[str]:
        """The names of the parts in which a header line found on disk differs from this header."""
        own = self.to_json()
        changed = [key for key in ("journal", "dataset", "what") if own[key] != other.get(key)]
        theirs = other.get("fingerprint")
        if not isinstance(theirs, dict):
            return [*changed, "fingerprint"]
        parts = own["fingerprint"]
        return changed + sorted(key for key in {*parts, *theirs} if parts.get(key) != theirs.get(key))


@dataclass(frozen=True)
class Entry:
    """One evaluated image: its key, the evaluator's record, and the usage counters that its batch moved."""

    image: str
    record: dict[str, Any]
    usage: dict[str, int] = field(default_factory=dict)

    def to_line(self) -> bytes:
        """The entry as a journal line."""
        content: dict[str, Any] = {"image": self.image, "record": self.record}
        if self.usage:
            content["usage"] = self.usage
        return _line(content)


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _whole_lines(data: bytes) -> bytes:
    """`data` up to its last line break: what follows was torn by a kill or a full disk."""
    return data[: data.rfind(b"\n") + 1]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


class JournalWriter:
    """Appends entries to one rank's file. Use as a context manager.

    Raises:
        UserError: the file cannot be written, for example on a full disk; what it held before stays valid.
    """

    def __init__(self, output_dir: str | Path, header: Header, rank: int) -> None:
        self._path = Path(output_dir) / FOLDER / f"rank-{rank}.jsonl"
        self._header = header
        self._descriptor = -1
        self._size = 0
        self._synced = time.monotonic()

    def __enter__(self) -> JournalWriter:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._size = len(_whole_lines(self._path.read_bytes()))
            os.ftruncate(self._descriptor, self._size)
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
        except OSError as error:
            self._close()
            raise self._error(error) from error
        if self._size == 0:
            self._write(_line(self._header.to_json()))
        return self

    def append(self, entries: Iterable[Entry]) -> None:
        """Write the entries of one batch, in one write, and hand them to the disk now and then."""
        self._write(b"".join(entry.to_line() for entry in entries))
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._sync()

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            try:
                self._sync()
            finally:
                self._close()

    def _write(self, data: bytes) -> None:
        try:
            written = 0
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError as error:
            self._undo_partial_write()
            raise self._error(error) from error
        self._size += len(data)

    def _undo_partial_write(self) -> None:
        try:
            os.ftruncate(self._descriptor, self._size)
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
        except OSError as error:
            # The reader cuts off a torn last line as well, so that nothing is lost.
            logger.warning("%s: a torn last line stays (%s)", self._path, error.strerror)

    def _sync(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._error(error) from error
        self._synced = time.monotonic()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _error(self, error: OSError) -> UserError:
        return UserError(
            f"{self._path}: cannot be written ({error.strerror}); what is there stays valid: "
            "make room or choose another OUTPUT_DIR, and the same command goes on"
        )


@dataclass(frozen=True)
class JournalContent:
    """What lies in a journal folder: its header lines, its entries by image, and whether it was finished."""

    headers: tuple[dict[str, Any], ...]
    entries: dict[str, Entry]
    finished: bool


def read_journal(output_dir: str | Path) -> JournalContent | None:
    """Read the journal of an output folder; None where there is none or none with a whole header.

    Raises:
        UserError: a file cannot be read.
    """
    folder = Path(output_dir) / FOLDER
    headers: list[dict[str, Any]] = []
    entries: dict[str, Entry] = {}
    for path in sorted(folder.glob("rank-*.jsonl")):
        header, found = _read_file(path)
        if header is not None:
            headers.append(header)
            entries.update({entry.image: entry for entry in found})
    if not headers:
        return None
    return JournalContent(tuple(headers), entries, (folder / FINISHED).exists())


def _read_file(path: Path) -> tuple[dict[str, Any] | None, list[Entry]]:
    try:
        lines = _whole_lines(path.read_bytes()).splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); delete {path.parent} to start over") from error
    if not lines:
        return None, []
    entries = []
    damaged = 0
    for line in lines[1:]:
        content = _parse(line)
        if content is None or not {"image", "record"} <= content.keys():
            damaged += 1
        else:
            entries.append(Entry(content["image"], content["record"], content.get("usage", {})))
    if damaged:
        logger.warning("%s: %d damaged lines are left out, their images are evaluated again", path, damaged)
    return _parse(lines[0]) or {}, entries


def open_journal(output_dir: str | Path, header: Header, images: int, *, resume: bool) -> dict[str, Entry]:
    """Decide what of an earlier run counts, make the folder ready, and say so in the log. Main rank only.

    - An unfinished journal with an equal header is continued.
    - One with another header is kept aside with its results, in `earlier-<n>/`, and the evaluation starts over.
    - A finished one with an equal header starts over too, unless `resume` is given.

    Args:
        output_dir: the folder of this data set's results.
        header: what this evaluation's results depend on.
        images: the number of images of the data set, for the announcement.
        resume: reuse a finished journal as well.

    Returns:
        The entries that count, by image.

    Raises:
        UserError: the folder cannot be read or written.
    """
    output_dir = Path(output_dir)
    folder = output_dir / FOLDER
    content = read_journal(output_dir)
    try:
        if content is None:
            shutil.rmtree(folder, ignore_errors=True)
            return {}
        changed = sorted({name for found in content.headers for name in header.changes(found)})
        if changed:
            aside = _set_aside(output_dir)
            logger.warning(
                "%s holds an evaluation of another set-up (changed: %s); it was moved to %s, starting over",
                output_dir,
                ", ".join(changed),
                aside,
            )
            return {}
        if content.finished and not resume:
            logger.info("%s holds a finished evaluation; starting over (--resume reuses it)", output_dir)
            shutil.rmtree(folder)
            return {}
        (folder / FINISHED).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{output_dir}: cannot be written ({error.strerror}); choose another OUTPUT_DIR") from error
    done = len(content.entries)
    logger.info("%d of %d images were evaluated by an earlier run; delete %s to start over", done, images, folder)
    return content.entries


def _set_aside(output_dir: Path) -> Path:
    """Move everything of an earlier evaluation into a new folder `earlier-<n>`; the journal goes last."""
    number = 1 + max((int(p.name[8:]) for p in output_dir.glob("earlier-*") if p.name[8:].isdecimal()), default=0)
    aside = output_dir / f"earlier-{number}"
    aside.mkdir()
    movable = [p for p in output_dir.iterdir() if p.name not in (FOLDER, LOCK) and not p.name.startswith("earlier-")]
    for path in [*movable, output_dir / FOLDER]:
        path.rename(aside / path.name)
    return aside


def mark_finished(output_dir: str | Path) -> None:
    """Say that the results of this journal are written. Does nothing where there is no journal.

    Raises:
        UserError: the marker cannot be written.
    """
    folder = Path(output_dir) / FOLDER
    if folder.is_dir():
        try:
            (folder / FINISHED).touch()
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); make room and start again") from error


@contextmanager
def exclusive(output_dir: str | Path) -> Iterator[None]:
    """Hold the output folder for this process: two runs must not write one journal.

    Loader processes of a run that was killed hold the lock until they notice, a few seconds later; it is waited for.

    Raises:
        UserError: another process holds the folder, or it cannot be written.
    """
    busy = "another evaluation is writing here; wait for it or choose another OUTPUT_DIR"
    with locked(Path(output_dir) / LOCK, busy, wait=_LOCK_WAIT):
        yield
