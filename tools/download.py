"""Large files over HTTP(S): resumed after an interruption, checked, and renamed into place when whole.

Not pooch, which starts over after an interruption, nor huggingface_hub, which knows its own hub only.

A download that is under way lies beside its target as `<name>.part`; `<name>.part.json` says what it is a part of, so
that it is never continued with bytes of another file.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from maft.errors import UserError
from reason.bars import Bar

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""HTTP statuses that may be gone in a moment."""


class DownloadError(UserError):
    """A file that could not be fetched from one address."""


class _PassingError(Exception):
    """Worth another attempt: the connection broke, or the server is busy."""


@dataclass(frozen=True)
class _Origin:
    """What a partial file is a part of.

    Attributes:
        url: where its bytes came from.
        total: bytes of the whole file; None if the server does not say.
        validator: strong ETag or Last-Modified, "" if the server gives neither.
    """

    url: str
    total: int | None
    validator: str


def fetch(
    urls: str | Sequence[str],
    target: Path,
    *,
    size: int | None = None,
    digest: tuple[str, str] | None = None,
    timeout: float = 60.0,
    attempts: int = 6,
    pause: float = 2.0,
) -> Path:
    """Download one file; what is there already is not fetched again.

    Args:
        urls: http or https addresses of the same file, tried in this order.
        target: where it goes; its folder is made.
        size: bytes it must have; None: what the server says counts.
        digest: algorithm (as in hashlib) and hexadecimal digest it must have; None: not checked.
        timeout: seconds without a byte until a connection counts as broken.
        attempts: connections in a row that may break without bringing a single byte.
        pause: seconds before the next attempt, doubled each time (at most one minute).

    Returns:
        `target`.

    Raises:
        DownloadError: no address gave the whole file; names the file, what is wrong and the way out.
        UserError: a file of another size lies there, no space on the disk, or another process is fetching it.
    """
    addresses = (urls,) if isinstance(urls, str) else tuple(urls)
    if target.exists():
        _check_present(target, size)
        return target
    failures = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(_part(target)) as part:
            if target.exists():  # another process finished it while this one waited for the lock
                return target
            for url in addresses:
                try:
                    _from_one(url, target, part, size=size, digest=digest, timeout=timeout, tries=(attempts, pause))
                except DownloadError as error:
                    failures.append(str(error))
                    continue
                return target
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error}); choose another folder") from error
    raise DownloadError("; ".join(failures))


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _check_present(target: Path, size: int | None) -> None:
    found = target.stat().st_size
    if size is not None and found != size:
        raise UserError(
            f"{target}: has {found:,} bytes instead of {size:,}; it is another file or was cut off: move it away and "
            "start again"
        )


@contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """The partial file, opened for appending, while no other process has it; an empty one is not left behind."""
    with part.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{part}: another process is writing to it; wait for it, or end it") from error
        try:
            yield file
        finally:
            if not _length(file):
                part.unlink(missing_ok=True)
                part.with_name(f"{part.name}.json").unlink(missing_ok=True)


def _from_one(
    url: str,
    target: Path,
    part: BinaryIO,
    *,
    size: int | None,
    digest: tuple[str, str] | None,
    timeout: float,
    tries: tuple[int, float],
) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url}: not an http or https address")
    attempts, pause = tries
    fruitless = 0
    while True:
        before = _length(part)
        try:
            _one_connection(url, target, part, size=size, resume_any=digest is not None, timeout=timeout)
            break
        except _PassingError as error:
            fruitless = 0 if _length(part) > before else fruitless + 1
            if fruitless >= attempts:
                raise DownloadError(
                    f"{url}: {error}, {fruitless} times in a row; what has come so far is kept, start again to go on"
                ) from error
            logger.warning("%s: %s; going on at byte %d", url, error, _length(part))
            time.sleep(min(60.0, pause * 2 ** max(0, fruitless - 1)))
    if digest is not None:
        _check_digest(url, target, part, digest)
    os.fsync(part.fileno())
    _part(target).replace(target)
    _origin_file(target).unlink(missing_ok=True)


def _one_connection(
    url: str, target: Path, part: BinaryIO, *, size: int | None, resume_any: bool, timeout: float
) -> None:
    """Bring what is missing over one connection.

    Raises:
        _PassingError: the connection broke or could not be made.
        DownloadError: the server will not give the file.
    """
    have, known = _length(part), _read_origin(target)
    # Bytes of another address are only continued where a digest will tell whether that was right.
    if have and (known is None or (known.url != url and not (resume_any and known.total is not None))):
        have = _start_over(part)
    if have and known is not None and known.total == have:
        return
    request = urllib.request.Request(url, headers={"User-Agent": "openseg-r", "Accept-Encoding": "identity"})
    if have and known is not None:
        request.add_header("Range", f"bytes={have}-")
        if known.validator and known.url == url:
            request.add_header("If-Range", known.validator)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            origin, start = _agree(url, response, have, known, size, target)
            if start != have:
                logger.warning("%s: the file has changed, or the server cannot resume; starting again", url)
                _start_over(part)
            _write_origin(target, origin)
            _copy(response, part, origin, target)
    except urllib.error.HTTPError as error:
        _refused(url, error, part)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise _PassingError(f"the connection broke ({reason})") from error


def _refused(url: str, error: urllib.error.HTTPError, part: BinaryIO) -> None:
    if error.code == 416:  # the partial file does not belong to what lies there now
        _start_over(part)
        raise _PassingError("the server has another file than the one that was begun") from error
    if error.code in _PASSING:
        raise _PassingError(f"the server answers {error.code} {error.reason}") from error
    raise DownloadError(f"{url}: the server answers {error.code} {error.reason}; fetch it by hand") from error


def _agree(
    url: str,
    response: http.client.HTTPResponse,
    have: int,
    known: _Origin | None,
    size: int | None,
    target: Path,
) -> tuple[_Origin, int]:
    """What the server sends: the whole file's description, and the byte that the body starts at."""
    headers = response.headers
    if headers.get_content_type() == "text/html" and target.suffix.lower() not in (".html", ".htm"):
        raise DownloadError(f"{url}: a web page came instead of the file; open the address in a browser to see why")
    length = headers.get("Content-Length")
    start, total = 0, int(length) if length and length.isdigit() else None
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
        if match is None or int(match[1]) != have:
            raise DownloadError(f"{url}: the server resumes at another byte than {have}; fetch it by hand")
        start, total = have, None if match[2] == "*" else int(match[2])
    etag = headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
    if start and known is not None and known.total != total:
        raise DownloadError(f"{url}: has {total} bytes now, {known.total} before; delete {_part(target)}, start again")
    if size is not None and total is not None and total != size:
        raise DownloadError(
            f"{url}: the server has a file of {total:,} bytes, {size:,} are published; it was replaced, or this is an "
            "error page: fetch it by hand if you trust it"
        )
    _check_space(target, (total or size or 0) - have)
    return _Origin(url, size if total is None else total, validator), start


def _check_space(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise UserError(
            f"{target.parent}: {needed / 1e9:.2f} GB are needed for {target.name}, {free / 1e9:.2f} GB are free; "
            "make room or choose another folder"
        )


def _copy(response: http.client.HTTPResponse, part: BinaryIO, origin: _Origin, target: Path) -> None:
    done = _length(part)
    bar = Bar(total=origin.total, initial=done, unit="B", unit_scale=True, desc=target.name)
    with bar:
        while chunk := _read(response):
            part.write(chunk)
            part.flush()
            bar.update(len(chunk))
    done = _length(part)
    if origin.total is not None and done < origin.total:
        raise _PassingError(f"the connection broke after {done:,} of {origin.total:,} bytes")
    if origin.total is not None and done > origin.total:
        _start_over(part)
        raise _PassingError(f"the server sent {done:,} bytes, more than the {origin.total:,} that it said")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_CHUNK)
    except (OSError, http.client.HTTPException) as error:  # a TLS error is an OSError that nothing else tells apart
        raise _PassingError(f"the connection broke ({error})") from error


def _check_digest(url: str, target: Path, part: BinaryIO, digest: tuple[str, str]) -> None:
    algorithm, expected = digest
    found = hashlib.new(algorithm, usedforsecurity=False)
    part.seek(0)
    while chunk := part.read(_CHUNK):
        found.update(chunk)
    if found.hexdigest() != expected.lower():
        _start_over(part)
        _origin_file(target).unlink(missing_ok=True)
        raise DownloadError(
            f"{url}: what came is not {target.name} as published ({algorithm} {found.hexdigest()} instead of "
            f"{expected}); it was deleted"
        )


def _length(part: BinaryIO) -> int:
    return os.fstat(part.fileno()).st_size


def _start_over(part: BinaryIO) -> int:
    part.truncate(0)
    return 0


def _origin_file(target: Path) -> Path:
    return target.with_name(f"{target.name}.part.json")


def _read_origin(target: Path) -> _Origin | None:
    try:
        values = json.loads(_origin_file(target).read_bytes())
        origin = _Origin(str(values["url"]), values["total"], str(values["validator"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return origin if origin.total is None or isinstance(origin.total, int) else None


def _write_origin(target: Path, origin: _Origin) -> None:
    aside = target.with_name(f"{target.name}.part.json.tmp")
    aside.write_text(json.dumps(asdict(origin)), encoding="utf-8")
    aside.replace(_origin_file(target))
