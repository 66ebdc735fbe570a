"""Strict reading of JSON files: what is not plain JSON is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn


class JsonError(ValueError):
    """A file that is no JSON document; the message says what is wrong, without the file's name."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, value in pairs:
        if key in document:
            raise JsonError(f"the key {key!r} stands twice in one object; keep one of the two")
        document[key] = value
    return document


def _no_constant(text: str) -> NoReturn:
    raise JsonError(f"{text} is not a JSON value; write a number, a string or null")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise JsonError(f"the number {text[:40]} is too large")
    return value


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        JsonError: not JSON, a key twice in one object, NaN or infinity, or nested too deep.
    """
    if not text.strip():
        raise JsonError("the file is empty; write it again")
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise JsonError(
            f"not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}); "
            "the file may be cut off: write or download it again"
        ) from error
    except JsonError:
        raise
    except (ValueError, RecursionError) as error:
        raise JsonError(f"not readable as JSON ({error})") from error


def read_json(path: Path) -> Any:
    """The value of the JSON file `path` (UTF-8, a byte-order mark is allowed).

    Raises:
        JsonError: missing, unreadable, not UTF-8, or see `parse_json`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise JsonError("no such file") from error
    except OSError as error:
        raise JsonError(f"cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise JsonError(f"not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    return parse_json(text)
