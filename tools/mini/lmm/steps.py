"""Where the model's errors arise: in what it sees (LOOK), what it calls that (NAME), or what it says of it (REASON)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from reason.triplets import ImageTriplet, Reason

from ..scenes import Scene, Segment
from ..world import VAL_CLASSES, values_of
from .grading import CLASSES, Grade, described, grade, present, read_reason
from .looks import VAL_NAMES, Look, describe_scene, paired, reason_of

Step = Literal["LOOK", "NAME", "REASON"]
_STEPS: tuple[Step, ...] = ("LOOK", "NAME", "REASON")
Swap = Literal["look", "name", "reason", "all"]
SWAPS: Mapping[Swap, str] = {
    "look": "LOOK true: whatever was misread or overlooked is put right, with its name and reason",
    "name": "NAME true: the classes that are there, those that it missed with true reasons",
    "reason": "REASON true: its classes, each that is there with true values",
    "all": "all true",
}


@dataclass(frozen=True)
class Judged:
    """One image: the grade, and to which step each error goes back.

    missed, added: class to step. misread: class to axis to step.
    """

    grade: Grade
    missed: dict[str, Step]
    added: dict[str, Step]
    misread: dict[str, dict[str, Step]]


def judge(scene: Scene, triplet: ImageTriplet) -> Judged:
    """Grade a triplet, and find for every error the first step that made it."""
    graded, looks, there = grade(scene, triplet), described(triplet), present(scene)
    missed: dict[str, Step] = {name: _why_missed(name, there[name], looks) for name in graded.missed}
    segments = [segment for some in there.values() for segment in some]
    added: dict[str, Step] = {}
    for name in graded.added:
        called = [look for look in looks if look.name == name]
        # What is there, but is called something else, was misnamed; what is not there was misread.
        seen = any(_shows(look, segment) for look in called for segment in segments)
        added[name] = "NAME" if seen or not called else "LOOK"
    misread: dict[str, dict[str, Step]] = {}
    for name, values in graded.wrong.items():
        first = next((look for look in looks if look.name == name), None)
        for axis, (_, said) in values.items():
            step: Step = "LOOK" if first is not None and first.attributes[axis] == said else "REASON"
            misread.setdefault(name, {})[axis] = step
    return Judged(graded, missed, added, misread)


def swapped(scene: Scene, triplet: ImageTriplet, swap: Swap) -> ImageTriplet:
    """The triplet with a step as a faultless model would have done it; its other errors stay.

    Args:
        scene: what was drawn.
        triplet: what the model wrote.
        swap: which step.
    """
    judged, there = judge(scene, triplet), present(scene)
    true = {name: true_reason(name, segments) for name, segments in there.items()}
    reasons = dict(triplet.reasons)
    if swap in ("name", "all"):
        reasons = {name: reasons.get(name, true[name]) for name in there}
    if swap in ("reason", "all"):
        reasons = {name: true.get(name, reason) for name, reason in reasons.items()}
    if swap == "look":
        gone = {name for name, step in judged.added.items() if step == "LOOK"}
        reasons = {name: reason for name, reason in reasons.items() if name not in gone}
        for name, step in judged.missed.items():
            if step == "LOOK":
                reasons[name] = true[name]
        for name, axes in judged.misread.items():
            if "LOOK" in axes.values():
                reasons[name] = true[name]
    return replace(triplet, reasons=reasons)


def figures(judged: Iterable[tuple[Scene, ImageTriplet, Judged]]) -> dict[str, float]:
    """Parts of 1, and counts of errors, over images.

    Returns:
        "recall" and "precision" of classes; "recall seen", "… synonym", "… new", "… varying"; "attributes" of the
        rightly named, and by axis; "phrases known", "phrases new": grounds and things of which LOOK says every value
        right, things within one cell of their place; "named after a right phrase": of these, the classes that are among
        the candidates; and "LOOK", "NAME", "REASON": errors that go back to them, "missed LOOK" and so on.
    """
    counts: Counter[str] = Counter()
    for scene, triplet, one in judged:
        _count_classes(counts, one.grade)
        true = describe_scene(scene, VAL_NAMES)
        for look, said in zip(true, paired(described(triplet), true), strict=True):
            group = "new" if CLASSES[look.name].group == "new" else "known"
            right = said is not None and said.attributes == look.attributes
            counts[f"phrases {group}"] += 1
            counts[f"phrases {group} right"] += right
            counts["named after a right phrase"] += right
            counts["named after a right phrase right"] += right and look.name in triplet.reasons
        for kind, steps in (
            ("missed", one.missed.values()),
            ("added", one.added.values()),
            ("misread", [step for axes in one.misread.values() for step in axes.values()]),
        ):
            for step in steps:
                counts[f"{kind} {step}"] += 1
    found = {
        name: counts[f"{name} right"] / total
        for name, total in sorted(counts.items())
        if total and not name.endswith(" right")
    }
    errors = {f"{kind} {step}": counts[f"{kind} {step}"] for kind in ("missed", "added", "misread") for step in _STEPS}
    return found | {name: float(count) for name, count in errors.items()}


def _count_classes(counts: Counter[str], graded: Grade) -> None:
    for name in (*graded.right, *graded.missed):
        entry = CLASSES[name]
        for key in ("recall", f"recall {entry.group}", *(["recall varying"] if entry.kind.varies else [])):
            counts[key] += 1
            counts[f"{key} right"] += name in graded.right
    counts["precision"] += len(graded.right) + len(graded.added)
    counts["precision right"] += len(graded.right)
    for axis, asked in graded.asked.items():
        for key in ("attributes", f"attributes, {axis}"):
            counts[key] += asked
            counts[f"{key} right"] += graded.said[axis]


def _why_missed(name: str, segments: list[Segment], looks: list[Look]) -> Step:
    called = any(look.name == name for look in looks)
    seen = any(_shows(look, segment) for look in looks for segment in segments)
    return "NAME" if called or seen else "LOOK"


def _shows(look: Look, segment: Segment) -> bool:
    axes = values_of(segment.thing)
    return look.thing == segment.thing and all(look.attributes[axis] == segment.attributes[axis] for axis in axes)


def true_reason(name: str, segments: list[Segment]) -> Reason:
    """What a faultless model would say of a class in an image: of its first segment."""
    thing = CLASSES[name].kind.thing
    values = reason_of(thing, {axis: segments[0].attributes[axis] for axis in values_of(thing)})
    attributes = values["attributes"]
    assert isinstance(attributes, list)
    return Reason(name, str(values["general_category"]), str(values["sub_category"]), tuple(attributes))


def true_values(reasons: Mapping[str, Reason]) -> float:
    """The part of the values of generic reasons that are right, of the classes of validation; a free colour is none."""
    asked = right = 0
    for entry in VAL_CLASSES:
        said = read_reason(entry.kind.thing, reasons[entry.name]) if entry.name in reasons else {}
        for axis, value in entry.kind.attributes.items():
            asked += 1
            right += said.get(axis) == value
    return right / asked
