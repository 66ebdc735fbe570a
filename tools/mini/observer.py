"""What if: a simulated observer, which writes reasons for the mini world from the truth, with errors at stated rates.

Mini's reasons come from a model (`lmm`); this says what better or worse ones would give. It knows the vocabulary and
what each class generally looks like, it looks at an image, and it errs at random. What it got wrong is noted in the
image-specific file (field "observer"), for people; no reader of reasons looks at it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reason.triplets import ImageTriplet, Reason

from .scenes import Scene, Segment
from .world import Kind, MiniClass, look_alike, reason_phrases, values_of

_GENERIC_STREAM, _IMAGE_STREAM = 101, 102
_ADD_LOOK_ALIKE = 0.5


@dataclass(frozen=True)
class Rates:
    """How often the observer errs, each in [0, 1].

    Attributes:
        miss: a class that is in the image is not named.
        add: for every class in the image, one that is not in it is named beside it; in half of the cases it is the
            absent class most like the one in the image, else any.
        misname: a value (a colour, a shape, …) of a named class is given as another value of that axis, at random. The
            class's phrases then all say the wrong one.
    """

    miss: float
    add: float
    misname: float


LEVELS: Mapping[str, Rates] = {
    f"observer-{percent}": Rates(percent / 100, percent / 100, percent / 100) for percent in (0, 10, 20, 30)
}
"""Observers by name."""


def observe_classes(classes: Sequence[MiniClass], rates: Rates, seed: int = 0) -> dict[str, Reason]:
    """Generic reasons of every class, without an image; only `rates.misname` matters.

    The colour of a class that varies is not known, so no phrase names one.
    """
    rng = _generator(_GENERIC_STREAM, seed)
    reasons = {}
    for entry in classes:
        seen, _ = _look(entry.kind.attributes, entry.kind.thing, rates, rng)
        reasons[entry.name] = _reason(entry.name, entry.kind.thing, seen)
    return reasons


def observe_scene(scene: Scene, classes: Sequence[MiniClass], rates: Rates, seed: int) -> ImageTriplet:
    """Reasons for one image: of the classes that the observer believes to see.

    Args:
        scene: its class indices are those of `classes`.
        classes: the vocabulary.
        rates: how often it errs.
        seed: the image's number; the same seed gives the same errors.

    Returns:
        the triplet; it may name no class.
    """
    rng = _generator(_IMAGE_STREAM, seed)
    present: dict[int, Segment] = {}
    for segment in scene.segments:
        if segment.class_index is not None:
            present.setdefault(segment.class_index, segment)
    absent = [entry for index, entry in enumerate(classes) if index not in present]
    named: list[tuple[MiniClass, Mapping[str, str]]] = []
    missed: list[str] = []
    added: list[str] = []
    for index, segment in present.items():
        if rng.random() < rates.miss:
            missed.append(classes[index].name)
        else:
            named.append((classes[index], segment.attributes))
        if rng.random() < rates.add and absent:
            entry = absent.pop(_wrong_class(classes[index], absent, rng))
            added.append(entry.name)
            named.append((entry, _imagined(entry.kind, rng)))
    reasons, misnamed = {}, {}
    for entry, attributes in named:
        seen, wrong = _look(attributes, entry.kind.thing, rates, rng)
        reasons[entry.name] = _reason(entry.name, entry.kind.thing, seen)
        if wrong:
            misnamed[entry.name] = wrong
    errors = {"missed": missed, "added": added, "misnamed": misnamed}
    return ImageTriplet(
        reasons, {"description": _sentence(reasons), "provenance": _origin(rates, seed), "observer": errors}
    )


def _generator(stream: int, seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((stream, seed))))


def _wrong_class(entry: MiniClass, absent: Sequence[MiniClass], rng: np.random.Generator) -> int:
    """The place in `absent` of the class that is named by mistake."""
    if rng.random() < _ADD_LOOK_ALIKE:
        twin = look_alike(entry.kind, [other.kind for other in absent])
        if twin is not None:
            return [other.kind.name for other in absent].index(twin.name)
    return int(rng.integers(len(absent)))


def _imagined(kind: Kind, rng: np.random.Generator) -> Mapping[str, str]:
    """What an observer believes to see of a class that is not there: its usual look."""
    if not kind.varies:
        return kind.attributes
    return {**kind.attributes, "color": kind.colors[int(rng.integers(len(kind.colors)))]}


def _look(
    attributes: Mapping[str, str], thing: bool, rates: Rates, rng: np.random.Generator
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The attributes as the observer names them, and the wrong ones: axis to [true, named]."""
    seen: dict[str, str] = {}
    wrong: dict[str, list[str]] = {}
    for axis, values in values_of(thing).items():
        if axis not in attributes:
            continue
        seen[axis] = attributes[axis]
        if rng.random() < rates.misname:
            others = [value for value in values if value != attributes[axis]]
            seen[axis] = others[int(rng.integers(len(others)))]
            wrong[axis] = [attributes[axis], seen[axis]]
    return seen, wrong


def _reason(name: str, thing: bool, seen: Mapping[str, str]) -> Reason:
    """From coarse to fine: thing or ground, its shape or pattern, and the phrases."""
    coarse = "object" if thing else "ground"
    fine = f"{seen['shape']} object" if thing else f"ground with {seen['pattern']}"
    return Reason(name, coarse, fine, reason_phrases(thing, seen))


def _sentence(reasons: Mapping[str, Reason]) -> str:
    looks = [reason.attributes[0] for reason in reasons.values()]
    return f"There is {', '.join(looks)}." if looks else "There is nothing that I know."


def _origin(rates: Rates, seed: int) -> dict[str, Any]:
    return {"engine": "simulated observer", "rates": asdict(rates), "seed": seed}
