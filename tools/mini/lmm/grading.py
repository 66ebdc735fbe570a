"""What the model wrote about an image, against what was drawn."""

from __future__ import annotations

from dataclasses import dataclass, field

from reason.triplets import ImageTriplet, Reason

from ..scenes import Scene, Segment
from ..world import PART_PHRASES, VAL_CLASSES, values_of
from .looks import Look, read_description

CLASSES = {entry.name: entry for entry in VAL_CLASSES}


@dataclass(frozen=True)
class Grade:
    """One image's triplet, judged.

    Attributes:
        right, missed, added: classes that are named and there, there and not named, named and not there.
        wrong: of a class that is named and there: axis to (true value, what its reason says; "" where it says nothing).
        asked: how many values of such classes there were to say, by axis ("thing color", "stuff color", …).
        said: how many of them were right.
    """

    right: list[str]
    missed: list[str]
    added: list[str]
    wrong: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    said: dict[str, int] = field(default_factory=dict)

    @property
    def remarks(self) -> list[str]:
        """What is wrong, a sentence each, beginning with the class."""
        texts = [f"{name}: in the image, but not named" for name in self.missed]
        texts += [f"{name}: named, but not in the image" for name in self.added]
        for name, values in self.wrong.items():
            listed = ", ".join(
                f"{axis} {said or 'nothing'} in place of {true}" for axis, (true, said) in values.items()
            )
            texts.append(f"{name}: misread, {listed}")
        return texts


def grade(scene: Scene, triplet: ImageTriplet) -> Grade:
    """Judge the triplet of a validation image."""
    there = present(scene)
    named = [name for name in triplet.reasons if name in CLASSES]
    grade = Grade(
        right=[name for name in named if name in there],
        missed=[name for name in there if name not in named],
        added=[name for name in named if name not in there],
    )
    for name in grade.right:
        thing = CLASSES[name].kind.thing
        said = read_reason(thing, triplet.reasons[name])
        # Of several of a kind, whichever the reason fits best: the model chooses whom it describes.
        best = max(
            there[name], key=lambda one: sum(said.get(axis) == one.attributes[axis] for axis in values_of(thing))
        )
        for axis in values_of(thing):
            key = f"{'thing' if thing else 'stuff'} {axis}"
            true, value = best.attributes[axis], said.get(axis, "")
            grade.asked[key] = grade.asked.get(key, 0) + 1
            grade.said[key] = grade.said.get(key, 0) + (value == true)
            if value != true:
                grade.wrong.setdefault(name, {})[axis] = (true, value)
    return grade


def present(scene: Scene) -> dict[str, list[Segment]]:
    """The classes of a validation scene, each with its segments."""
    found: dict[str, list[Segment]] = {}
    for segment in scene.segments:
        if segment.class_index is not None:
            found.setdefault(VAL_CLASSES[segment.class_index].name, []).append(segment)
    return found


def read_reason(thing: bool, reason: Reason) -> dict[str, str]:
    """Axis to the value that a reason's phrases say; the first that is said counts."""
    found: dict[str, str] = {}
    for phrase in reason.attributes:
        words = phrase.split()
        for axis, values in values_of(thing).items():
            if axis == "part":
                said = [part for part, text in PART_PHRASES.items() if phrase.endswith(f" with {text}")]
            else:
                said = [value for value in values if value in words]
            if said:
                found.setdefault(axis, said[0])
    return found


def described(triplet: ImageTriplet) -> list[Look]:
    """What the description of a triplet says; empty if it has none."""
    return read_description(str(triplet.extra.get("description") or ""))
