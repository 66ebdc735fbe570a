"""What the contrastive training of the mini CLIP says of regions, and which of it is true of which region.

A saying becomes one classifier row, as in the segmentor: the average over its sentences, each a template filled with
"<name>" or "<name> that has <phrase>" (`maft.text.prompts`). Names are a kind's own (or its synonym), made up, or a
word for anything; only the first kind tells something. Combinations and names of new kinds are never said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maft.text.templates import template_set

from .names import made_up_name
from .scenes import Segment
from .world import (
    KINDS,
    SEEN,
    STUFF_VALUES,
    THING_VALUES,
    Attributes,
    Kind,
    describe,
    held_out,
    reason_phrases,
    values_of,
)

Facts = NDArray[np.int64]
"""A region or a saying as numbers: the kind's place in `KINDS`, then for every one of `AXES` the value's place; -1
where a region has none, or where nothing is said."""

AXES: tuple[tuple[bool, str, tuple[str, ...]], ...] = (
    *((True, axis, values) for axis, values in THING_VALUES.items()),
    *((False, axis, values) for axis, values in STUFF_VALUES.items()),
)
"""Whether of things, name, and values of every axis."""

_NOUNS = {True: ("thing", "object"), False: ("ground", "place")}
_NOTHING = -1
_TRUE_NAME, _NAME_ALONE, _MADE_UP_ALONE, _MADE_UP, _AS_IN_REASONS, _COLOR_UNKNOWN = 0.45, 0.4, 0.05, 0.9, 0.6, 0.15
"""How often: a known kind goes by its name; a name or a made-up name stands alone; an unknown name is made up instead
of a word for anything; phrases are those of reasons; these leave the colour open, as for kinds that vary."""


@dataclass(frozen=True)
class Saying:
    """One row of text: its sentences, at least one, and what they say together."""

    sentences: tuple[str, ...]
    facts: Facts


def facts_of(kind: Kind | None, thing: bool, attributes: Attributes) -> Facts:
    """`Facts` of a region of this kind with these attributes; others than those of `AXES` are left out."""
    values = [
        options.index(attributes[axis]) if of_things == thing and axis in attributes else _NOTHING
        for of_things, axis, options in AXES
    ]
    return np.array([_NOTHING if kind is None else KINDS.index(kind), *values], dtype=np.int64)


def truth(regions: Facts, sayings: Sequence[Saying]) -> Tensor:
    """(N, F) facts of regions and M sayings -> (N, M) bool: everything that is said holds."""
    said = np.stack([saying.facts for saying in sayings])
    return torch.from_numpy(((said[None] == _NOTHING) | (said[None] == regions[:, None])).all(axis=-1))


def say(segment: Segment, rng: np.random.Generator) -> Saying:
    """Something true of a region."""
    return _saying(segment.kind, segment.thing, _looks(segment), rng)


def say_of_look_alike(segment: Segment, rng: np.random.Generator) -> Saying:
    """Something true of what differs from the region in one attribute: a hard negative."""
    looks = _looks(segment)
    while True:
        axis = _pick(rng, list(looks))
        value = _pick(rng, [other for other in values_of(segment.thing)[axis] if other != looks[axis]])
        changed = {**looks, axis: value}
        if not held_out(segment.thing, changed):
            return _saying(None, segment.thing, changed, rng)


def questions(rng: np.random.Generator) -> list[tuple[str, ...]]:
    """Sentences to choose from: what it is called, then for every one of `AXES` which value it has.

    Returns:
        1 + axes tuples, in the order of `Facts`: a name for every one of `SEEN` and a made-up one, which is right for
        free combinations; then a sentence a value.
    """
    names = [_name(kind, kind.thing, rng) for kind in SEEN]
    asked = [tuple(_fill(name, rng) for name in (*names, made_up_name(rng)))]
    for thing, axis, values in AXES:
        names = [_name(None, thing, rng) for _ in values]
        phrases = [describe(thing, {axis: value}) for value in values]
        asked.append(tuple(_fill(f"{name} that has {said}", rng) for name, said in zip(names, phrases, strict=True)))
    return asked


def answers(regions: Facts) -> Tensor:
    """(N, F) facts of regions -> (N, F) int64 place of the right option of every one of `questions`; -1: not asked."""
    right = torch.from_numpy(regions.copy())
    right[right[:, 0] == _NOTHING, 0] = len(SEEN)
    return right


def _looks(segment: Segment) -> dict[str, str]:
    axes = values_of(segment.thing)
    return {axis: value for axis, value in segment.attributes.items() if axis in axes}


def _saying(kind: Kind | None, thing: bool, looks: Attributes, rng: np.random.Generator) -> Saying:
    known = kind if rng.random() < _TRUE_NAME else None
    name = _name(known, thing, rng)
    if rng.random() < (_NAME_ALONE if known else _MADE_UP_ALONE):
        return Saying((_fill(name, rng),), facts_of(known, thing, {}))
    said, phrases = _phrases(thing, looks, rng)
    return Saying(tuple(_fill(f"{name} that has {phrase}", rng) for phrase in phrases), facts_of(known, thing, said))


def _name(kind: Kind | None, thing: bool, rng: np.random.Generator) -> str:
    if kind is not None:
        return kind.name if rng.random() < 0.5 else kind.synonym
    return made_up_name(rng) if rng.random() < _MADE_UP else _pick(rng, _NOUNS[thing])


def _phrases(thing: bool, looks: Attributes, rng: np.random.Generator) -> tuple[dict[str, str], tuple[str, ...]]:
    """The attributes that are said, and the phrases: all that reasons have, or one about any axes."""
    if rng.random() < _AS_IN_REASONS:
        unknown = "color" if rng.random() < _COLOR_UNKNOWN else ""
        said = {axis: value for axis, value in looks.items() if axis != unknown}
        return said, reason_phrases(thing, said)
    axes = [str(axis) for axis in rng.permutation(list(looks))][: int(rng.integers(1, len(looks) + 1))]
    said = {axis: looks[axis] for axis in axes}
    return said, (describe(thing, said),)


def _fill(phrase: str, rng: np.random.Generator) -> str:
    return _pick(rng, template_set("vild").templates).format(phrase)


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]
