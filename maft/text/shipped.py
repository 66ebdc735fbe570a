"""The generic reasons that come along, for the classes of a network, and what must be said of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from maft.errors import UserError
from reason.shipped import NOT_THE_PAPERS, reasons_for, vocabulary_of
from reason.triplets import Reason

_LISTED = 12

Names = tuple[tuple[str, ...], ...]
Find = Callable[[Names, Mapping[str, Reason]], list[str | None]]


@dataclass(frozen=True)
class ShippedReasons:
    """What the shipped reasons have for the classes of a vocabulary.

    reasons: by key.
    without: first names of the classes that have none: these are asked for by their names alone.
    note: what was asked for and found, on one line.
    """

    reasons: Mapping[str, Reason]
    without: tuple[str, ...]
    note: str


def shipped_reasons(names: Names, find: Find) -> ShippedReasons:
    """Look the classes up.

    Args:
        names: of every class.
        find: how the network finds reasons by their keys.

    Raises:
        UserError: no class has a reason.
        TripletError: the shipped files are damaged.
    """
    found = reasons_for(vocabulary_of(names))
    keys = find(names, found.reasons)
    without = tuple(own[0] for own, key in zip(names, keys, strict=True) if key is None)
    if len(without) == len(names):
        raise UserError(
            f"generic reasons: none of those that come along is of one of the {len(names)} classes "
            f"({_some(without)}); name a file of your own, or ask with class names alone"
        )
    of_classes = f"{len(names) - len(without)} of {len(names)} classes have one"
    note = f"generic reasons: those that come along, as asked for ({NOT_THE_PAPERS}); {of_classes}"
    if without:
        note += f"; without one, asked for by name: {_some(without)}"
    if found.chosen:
        note += "; " + _some([f"{name!r} is read as {kind}" for name, kind in found.chosen.items()])
    return ShippedReasons(found.reasons, without, note)


def _some(texts: tuple[str, ...] | list[str]) -> str:
    more = f", … ({len(texts)})" if len(texts) > _LISTED else ""
    return ", ".join(texts[:_LISTED]) + more
