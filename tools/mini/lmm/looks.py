"""What the model says of an image, in words: the texts of its answers, and their readers.

LOOK goes through the grounds, the largest first, then through the things from top to bottom, and says of each what it
looks like before it says what it is: "A grey ground with dark pebbles, kuplax. Row four, column two: a dotted orange
star-shaped body with two legs, glimkan." What has no name is "unknown". Rows and columns are those of the 9 x 9 grid of
image tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..scenes import SIDE, Scene
from ..world import KINDS, PART_PHRASES, VAL_CLASSES, Kind, kind_with, reason_phrases, values_of

GRID = 9
"""Image tokens along a side: 256 pixels become 252, of which a token has 28."""

UNKNOWN = "unknown"
VAL_NAMES: Mapping[str, str] = {entry.kind.name: entry.name for entry in VAL_CLASSES}
"""What the validation vocabulary calls each kind, by the kind's own name."""
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_PARTS = {phrase: part for part, phrase in PART_PHRASES.items()}
_GROUND = re.compile(r"An? (\S+) ground with (\S+) (\S+), (\S+)\.")
_THING = re.compile(r"Row (\S+), column (\S+): an? (\S+) (\S+) (\S+) body with ([a-z ]+), (\S+)\.")


@dataclass(frozen=True)
class Look:
    """One thing, or one ground.

    Attributes:
        thing: which of the two.
        attributes: axis to value, without size.
        cell: row and column of a thing's middle, from 0; None for a ground.
        name: what it is called; `UNKNOWN` if it is nothing known.
    """

    thing: bool
    attributes: Mapping[str, str]
    cell: tuple[int, int] | None
    name: str

    @property
    def sentence(self) -> str:
        """What LOOK says of it."""
        values = self.attributes
        if self.cell is None:
            return f"A {values['color']} ground with {values['tone']} {values['pattern']}, {self.name}."
        row, column = (NUMBERS[place] for place in self.cell)
        body = f"a {values['texture']} {values['color']} {values['shape']} body"
        return f"Row {row}, column {column}: {body} with {PART_PHRASES[values['part']]}, {self.name}."

    @property
    def reason(self) -> dict[str, object]:
        """What REASON says of it, from coarse to fine."""
        return reason_of(self.thing, self.attributes)


def reason_of(thing: bool, attributes: Mapping[str, str]) -> dict[str, object]:
    """The three steps of a reason: thing or ground, its shape or pattern, and the phrases.

    Args:
        thing: of a thing or of stuff.
        attributes: all axes, or all but "color" for a kind whose colour varies.
    """
    return {
        "general_category": "object" if thing else "ground",
        "sub_category": f"{attributes['shape']} object" if thing else f"ground with {attributes['pattern']}",
        "attributes": list(reason_phrases(thing, attributes)),
    }


def describe_scene(scene: Scene, names: Mapping[str, str]) -> list[Look]:
    """What a faultless observer would say of a scene, in the order of LOOK.

    Args:
        scene: its segments say what they are.
        names: what each kind is called, by the kind's own name; a kind that is missing keeps its own.
    """
    grounds = sorted((segment for segment in scene.segments if not segment.thing), key=lambda one: -one.area)
    looks = [Look(False, one.attributes, None, name_of(one.kind, names)) for one in grounds]
    things = []
    for segment in scene.segments:
        if segment.thing:
            x, y, width, height = segment.box
            cell = cell_of(y + height / 2), cell_of(x + width / 2)
            attributes = {axis: segment.attributes[axis] for axis in values_of(True)}
            things.append(Look(True, attributes, cell, name_of(segment.kind, names)))
    return looks + sorted(things, key=_raster)


def mirrored(looks: Sequence[Look]) -> list[Look]:
    """What is said of the mirrored image."""
    turned = [one if one.cell is None else replace(one, cell=(one.cell[0], GRID - 1 - one.cell[1])) for one in looks]
    return sorted(turned, key=_raster)


def renamed(looks: Sequence[Look], names: Mapping[str, str]) -> list[Look]:
    """The same under the names of a vocabulary."""
    return [replace(look, name=names.get(look.name, look.name)) for look in looks]


def imagine(rng: np.random.Generator, names: Mapping[str, str], *, exact: float, misread: float) -> list[Look]:
    """A world in words alone, of all kinds, in the order of LOOK.

    Args:
        rng: what it is drawn from.
        names: as `describe_scene`.
        exact: how often something looks just as its kind does.
        misread: how often one of its values is another one, as somebody who misread it would say. What is left is of no
            kind, whatever it may be closest to.
    """
    looks: list[Look] = []
    seen: list[Mapping[str, str]] = []
    for thing in (False,) * int(rng.integers(1, 3)) + (True,) * int(rng.integers(2, 5)):
        kind, attributes = _imagined(rng, thing, exact, misread)
        if not thing and attributes in seen:
            continue
        seen.append(attributes)
        cell = (int(rng.integers(GRID)), int(rng.integers(GRID))) if thing else None
        looks.append(Look(thing, attributes, cell, name_of(kind, names)))
    return sorted(looks, key=_raster)


def description(looks: Sequence[Look]) -> str:
    """The text of LOOK."""
    return " ".join(look.sentence for look in looks)


def read_description(text: str) -> list[Look]:
    """The grounds and things of a description in the order in which they stand; what cannot be read is left out."""
    found: list[tuple[int, Look]] = []
    for match in _GROUND.finditer(text):
        attributes = {"color": match[1], "pattern": match[3], "tone": match[2]}
        found.append((match.start(), Look(False, attributes, None, match[4])))
    for match in _THING.finditer(text):
        if match[1] in NUMBERS and match[2] in NUMBERS and match[6] in _PARTS:
            attributes = {"shape": match[5], "color": match[4], "texture": match[3], "part": _PARTS[match[6]]}
            cell = NUMBERS.index(match[1]), NUMBERS.index(match[2])
            found.append((match.start(), Look(True, attributes, cell, match[7])))
    return [look for _, look in sorted(found, key=lambda pair: pair[0])]


def paired(said: Sequence[Look], true: Sequence[Look]) -> list[Look | None]:
    """What was said of each of those that are there; each saying once.

    Of what is said about a place (of a thing, the cell of its middle or one beside it; of grounds, any), the one with
    most values right; None where nothing is.
    """
    left, found = list(said), list[Look | None]()
    for look in true:
        near = [one for one in left if _near(one, look)]
        best = max(
            near,
            key=lambda one: sum(one.attributes[axis] == look.attributes[axis] for axis in look.attributes),
            default=None,
        )
        if best is not None:
            left.remove(best)
        found.append(best)
    return found


def candidates(looks: Sequence[Look], listed: Sequence[str]) -> list[str]:
    """What NAME answers: the names of the description that are in the list, each once."""
    known = set(listed)
    return list(dict.fromkeys(look.name for look in looks if look.name in known))


def reasons(looks: Sequence[Look], asked: Sequence[str]) -> dict[str, dict[str, object]]:
    """What REASON answers of the names asked about, each by the first that the description calls so."""
    first = {look.name: look for look in reversed(looks)}
    return {name: first[name].reason for name in asked}


def compact(value: object) -> str:
    """JSON on one line, without white space."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def cell_of(pixel: float) -> int:
    """The row or column of the grid that a place along a side lies in, in pixels of the drawn image."""
    return min(GRID - 1, int(pixel * GRID / SIDE))


def name_of(kind: Kind | None, names: Mapping[str, str]) -> str:
    """What a kind is called; `UNKNOWN` for none."""
    return UNKNOWN if kind is None else names.get(kind.name, kind.name)


def _imagined(
    rng: np.random.Generator, thing: bool, exact: float, misread: float
) -> tuple[Kind | None, Mapping[str, str]]:
    axes = values_of(thing)
    free = {axis: str(rng.choice(values)) for axis, values in axes.items()}
    draw = rng.random()
    if draw >= exact + misread:
        return kind_with(thing, free), free
    kinds = [kind for kind in KINDS if kind.thing == thing]
    kind = kinds[int(rng.integers(len(kinds)))]
    attributes = {axis: kind.attributes.get(axis) or str(rng.choice(kind.colors)) for axis in axes}
    if draw >= exact:
        axis = str(rng.choice(list(axes)))
        attributes[axis] = free[axis]
        # What has come to look just like another kind is that one to anybody.
        kind = kind_with(thing, attributes) or kind
    return kind, attributes


def _near(one: Look, other: Look) -> bool:
    if one.cell is None or other.cell is None:
        return one.cell is other.cell
    return max(abs(a - b) for a, b in zip(one.cell, other.cell, strict=True)) <= 1


def _raster(look: Look) -> tuple[int, int]:
    return (-1, 0) if look.cell is None else look.cell
