"""Reasons as rows of an editable table, and as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maft.errors import UserError
from reason.jsonfile import JsonError, read_json
from reason.triplets import ImageTriplet, Reason, parse_generic, parse_image

HEADERS = ("class", "category", "sub-category", "attributes (; between them)")
Row = list[str]


def to_rows(reasons: Mapping[str, Reason]) -> list[Row]:
    """One row per class; attributes are joined by "; "."""
    return [
        [name, reason.general_category, reason.sub_category, "; ".join(reason.attributes)]
        for name, reason in reasons.items()
    ]


def to_reasons(rows: Sequence[Sequence[Any]]) -> dict[str, Reason]:
    """The reasons of a table; rows without class or without attributes are left out.

    Raises:
        UserError: a class has two rows.
    """
    found: dict[str, Reason] = {}
    for row in rows:
        name, category, sub, attributes = (str(cell or "").strip() for cell in (*row, "", "", "", "")[:4])
        listed = tuple(part.strip() for part in attributes.split(";") if part.strip())
        if not name or not listed:
            continue
        if name in found:
            raise UserError(f"reasons: '{name}' has two rows; put its attributes into one")
        found[name] = Reason(name, category, sub, listed)
    return found


def load(path: str | Path) -> dict[str, Reason]:
    """The reasons of a file, generic or of an image.

    Raises:
        UserError: it cannot be read.
        TripletError: it is malformed.
    """
    where = Path(path).name
    try:
        document = read_json(Path(path))
    except JsonError as error:
        raise UserError(f"{where}: {error}") from error
    if isinstance(document, dict) and "reasoning" in document:
        return parse_image(document, where=where).reasons
    return parse_generic(document, where=where)


def as_triplet(reasons: Mapping[str, Reason]) -> ImageTriplet:
    """The reasons as those of an image, which is what the table's file holds."""
    return ImageTriplet(dict(reasons), {"reasoning": {}})
