"""The data sets that can be prepared, by their names on the command line."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from maft.errors import UserError

from .engine import Plan
from .pool import Pool


class PlanFunction(Protocol):
    """Finds a data set among what was given and says what is to be made of it.

    It reads lists of names and small files only; raises UserError where something needed is not given.

    Args:
        pool: what the user gave.
        root: data-set root, for what was prepared before.
        splits: of "train" and "val", those that are wanted; one that was not given is left out with a note, none is an
            error.
    """

    def __call__(self, pool: Pool, root: Path, splits: Sequence[str]) -> Plan: ...


_FUNCTIONS = {
    "ade150": "ade:plan_semantic",
    "ade150_panoptic": "ade_things:plan_panoptic",
    "ade150_instances": "ade_things:plan_instances",
    "ade847": "ade_full:plan",
    "voc20": "voc:plan",
    "voc20b": "voc:plan_background",
    "pc59": "pascal_context:plan_pc59",
    "pc459": "pascal_context:plan_pc459",
    "coco_stuff171": "coco:plan_stuff",
    "coco_panoptic": "coco:plan_panoptic",
}

NAMES = tuple(_FUNCTIONS)
"""In the order in which `--list` shows them."""


def plan_function(name: str) -> PlanFunction:
    """The plan function of a data set; imported when it is asked for, since each brings libraries of its own.

    Raises:
        UserError: unknown name.
    """
    if name not in _FUNCTIONS:
        raise UserError(f"no data set {name!r} can be prepared; known are {', '.join(NAMES)}")
    module, function = _FUNCTIONS[name].split(":")
    found: PlanFunction = getattr(importlib.import_module(f"{__package__}.{module}"), function)
    return found
