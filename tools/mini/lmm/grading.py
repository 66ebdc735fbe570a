"""What the model wrote about an image, against what was drawn."""

from __future__ import annotations

from dataclasses import dataclass, field

from reason.triplets import ImageTriplet, Reason

from ..scenes import Scene, Segment
from ..world import PART_PHRASES, VAL_CLASSES, values_of
from .looks import VAL_NAMES, Look, describe_scene, paired, read_description

CLASSES = {entry.name: entry for entry in VAL_CLASSES}
Corrections = dict[str, str]
"""Words of a sentence that are wrong, and what should stand there."""


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


def corrected_description(scene: Scene, triplet: ImageTriplet) -> list[tuple[str, Corrections]]:
    """The sentences of LOOK, each with what is wrong in it; all of it, where it speaks of nothing that is there.

    A description that is not altogether made of sentences that can be read comes back as it is.
    """
    text, said, true = str(triplet.extra.get("description") or ""), described(triplet), describe_scene(scene, VAL_NAMES)
    if text != " ".join(look.sentence for look in said):
        return [(text, {})]
    matches = {id(match): look for look, match in zip(true, paired(said, true), strict=True) if match is not None}
    sentences: list[tuple[str, Corrections]] = []
    for look in said:
        there = matches.get(id(look))
        if there is None:
            sentences.append((look.sentence, {look.sentence: "nothing that is there"}))
            continue
        pairs = [(look.attributes[axis], there.attributes[axis], axis) for axis in look.attributes]
        wrong = {_wording(axis, one): _wording(axis, other) for one, other, axis in pairs if one != other}
        names = {look.name: there.name} if look.name != there.name else {}
        sentences.append((look.sentence, wrong | names))
    return sentences


def corrections(graded: Grade, name: str) -> Corrections:
    """What is wrong in the reason of a class; what it leaves out has no words to be marked."""
    wrong = graded.wrong.get(name, {})
    return {_wording(axis, said): _wording(axis, true) for axis, (true, said) in wrong.items() if said}


def _wording(axis: str, value: str) -> str:
    return PART_PHRASES[value] if axis == "part" else value


def described(triplet: ImageTriplet) -> list[Look]:
    """What the description of a triplet says; empty if it has none."""
    return read_description(str(triplet.extra.get("description") or ""))
