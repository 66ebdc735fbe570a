"""What there is in the mini world: attributes, kinds of things and stuff, their names, and the two vocabularies.

A kind is a combination of attributes. Things have a shape, a colour, a texture and a part; stuff has a colour, a
pattern and a tone of the pattern. The combinations of the kinds of `NEW` occur in no training image, neither of CLIP
nor of the segmentor, and their names in no caption (`held_out`); each of their attributes does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from reason.vocabulary import Vocabulary, VocabularyClass

Group = Literal["seen", "synonym", "new"]
GROUPS: tuple[Group, ...] = ("seen", "synonym", "new")
Split = Literal["train", "val", "closed"]
"""Training, validation, and images of seen kinds alone that training does not show."""
Attributes = Mapping[str, str]

THING_VALUES: Mapping[str, tuple[str, ...]] = {
    "shape": ("round", "square", "triangular", "star-shaped", "cross-shaped", "ring-shaped", "crescent-shaped"),
    "color": ("red", "orange", "yellow", "green", "blue", "purple", "white"),
    "texture": ("plain", "striped", "dotted", "checked", "two-toned"),
    "part": ("stalk", "horns", "legs", "tail", "core", "none"),
}
STUFF_VALUES: Mapping[str, tuple[str, ...]] = {
    "color": ("green", "blue", "brown", "grey", "pink"),
    "pattern": ("blades", "waves", "bricks", "tiles", "pebbles"),
    "tone": ("dark", "pale"),
}
SIZES = ("small", "large")
"""How large a thing is drawn is free for every kind: captions say it, reasons do not."""

PART_PHRASES: Mapping[str, str] = {
    "stalk": "a stalk",
    "horns": "two horns",
    "legs": "two legs",
    "tail": "a tail",
    "core": "a dark core",
    "none": "nothing attached",
}
_THING_REASONS = (("color", "shape"), ("texture", "shape"), ("color", "part"))
_STUFF_REASONS = (("color", "pattern"), ("tone", "pattern"), ("color", "tone"))


@dataclass(frozen=True)
class Kind:
    """One kind of thing or stuff.

    Attributes:
        name: what its training images call it; of a new kind, what the validation vocabulary calls it.
        synonym: a second name, which CLIP's captions use and the segmentor's training does not; "" for new kinds.
        thing: countable.
        attributes: axis to value, as in `THING_VALUES` or `STUFF_VALUES`; no "color" if the colour varies.
        colors: of a kind that varies, the colours it may have; one colour holds for all of an image. Else empty.
    """

    name: str
    synonym: str
    thing: bool
    attributes: Attributes = field(hash=False)
    colors: tuple[str, ...] = ()

    @property
    def varies(self) -> bool:
        """Whether its colour is another one in every image."""
        return bool(self.colors)

    def matches(self, attributes: Attributes) -> bool:
        """Whether something with these attributes, one for every axis, is of this kind."""
        if self.varies and attributes["color"] not in self.colors:
            return False
        return all(attributes[axis] == value for axis, value in self.attributes.items())


def _thing(words: str, *, synonym: str = "", colors: str = "") -> Kind:
    name, shape, color, texture, part = words.split()
    attributes = {"shape": shape, "color": color, "texture": texture, "part": part}
    if colors:
        del attributes["color"]
    return Kind(name, synonym, True, attributes, tuple(colors.split()))


def _stuff(words: str, *, synonym: str = "") -> Kind:
    name, color, pattern, tone = words.split()
    return Kind(name, synonym, False, {"color": color, "pattern": pattern, "tone": tone})


SEEN: tuple[Kind, ...] = (
    _thing("cherry round red plain stalk", synonym="berry"),
    _thing("ladybird round red dotted legs", synonym="beetle"),
    _thing("kite triangular blue striped tail", synonym="glider"),
    _thing("tent triangular orange two-toned none", synonym="shelter"),
    _thing("dice square white dotted none", synonym="cube"),
    _thing("chest square orange checked legs", synonym="crate"),
    _thing("starfish star-shaped orange dotted core", synonym="seastar"),
    _thing("badge star-shaped yellow two-toned tail", synonym="medal"),
    _thing("robot square purple plain horns", synonym="android"),
    _thing("wheel ring-shaped blue striped none", synonym="tyre"),
    _thing("moon crescent-shaped yellow plain none", synonym="luna"),
    _thing("windmill cross-shaped white checked stalk", synonym="turbine"),
    _stuff("meadow green blades dark", synonym="lawn"),
    _stuff("lake blue waves pale", synonym="pond"),
    _stuff("wall brown bricks pale", synonym="masonry"),
    _stuff("pavement grey tiles dark", synonym="plaza"),
)
"""The kinds of the training images."""

CALLED_BY_SYNONYM = frozenset(("ladybird", "kite", "chest", "moon", "lake"))
"""Seen kinds that the validation vocabulary calls by their synonym."""

NEW: tuple[Kind, ...] = (
    _thing("brinzal round red striped stalk"),  # a cherry with stripes
    _thing("tarvok triangular purple plain horns"),  # a robot of another shape
    _thing("mupfel ring-shaped yellow striped none"),  # a wheel of another colour
    _thing("glimkan star-shaped orange dotted legs"),  # a starfish with legs in place of the core
    _thing("sondrup cross-shaped purple striped core"),
    # Colour free: two that differ in nothing but the colours they may have, one that is no ladybird only because it is
    # not red.
    _thing("yelvor crescent-shaped - checked horns", colors="red orange yellow"),
    _thing("zikmon crescent-shaped - checked horns", colors="green blue purple white"),
    _thing("harplin round - dotted legs", colors="orange yellow green blue purple white"),
    _stuff("flendor green bricks pale"),  # a wall of another colour
    _stuff("kuplax grey pebbles dark"),  # a pavement of another pattern
)
"""The kinds that only validation images have."""

KINDS = (*SEEN, *NEW)


@dataclass(frozen=True)
class MiniClass:
    """One class of a vocabulary: a kind, the one name it goes by there, and how that name is known."""

    name: str
    group: Group
    kind: Kind


TRAIN_CLASSES = tuple(MiniClass(kind.name, "seen", kind) for kind in SEEN)
VAL_CLASSES = (
    *(MiniClass(kind.name, "seen", kind) for kind in SEEN if kind.name not in CALLED_BY_SYNONYM),
    *(MiniClass(kind.synonym, "synonym", kind) for kind in SEEN if kind.name in CALLED_BY_SYNONYM),
    *(MiniClass(kind.name, "new", kind) for kind in NEW),
)


def classes_of(split: Split) -> tuple[MiniClass, ...]:
    """The classes of a split's vocabulary, in label order."""
    return VAL_CLASSES if split == "val" else TRAIN_CLASSES


def class_groups(split: Split) -> tuple[Group, ...]:
    """The group of every class, in label order."""
    return tuple(entry.group for entry in classes_of(split))


def vocabulary(split: Split) -> Vocabulary:
    """The classes as the data sets know them: "mini_train", the seen names; "mini", what is evaluated."""
    entries = enumerate(classes_of(split))
    classes = tuple(VocabularyClass(index, entry.name, (entry.name,), entry.kind.thing) for index, entry in entries)
    return Vocabulary("mini" if split == "val" else "mini_train", f"mini world, {split}", classes)


def values_of(thing: bool) -> Mapping[str, tuple[str, ...]]:
    """Axis to possible values, of things or of stuff."""
    return THING_VALUES if thing else STUFF_VALUES


def kind_with(thing: bool, attributes: Attributes, kinds: Iterable[Kind] = KINDS) -> Kind | None:
    """The first of `kinds` that something with all of these attributes may be of."""
    return next((kind for kind in kinds if kind.thing == thing and kind.matches(attributes)), None)


def held_out(thing: bool, attributes: Attributes) -> bool:
    """Whether this full combination belongs to a new kind, so that no training image may show it."""
    return kind_with(thing, attributes, NEW) is not None


def differing(one: Kind, other: Kind) -> frozenset[str]:
    """The axes in which two kinds differ; a colour that varies differs from every colour. All, if one is stuff."""
    if one.thing != other.thing:
        return frozenset((*values_of(True), *values_of(False)))
    axes = values_of(one.thing)
    return frozenset(
        axis for axis in axes if axis not in one.attributes or one.attributes[axis] != other.attributes.get(axis)
    )


def look_alike(kind: Kind, among: Iterable[Kind]) -> Kind | None:
    """The one of `among` that shares the most attributes with `kind`, the first of equals; itself left out."""
    others = [other for other in among if other.name != kind.name and other.thing == kind.thing]
    return min(others, key=lambda other: len(differing(kind, other)), default=None)


def describe(thing: bool, attributes: Attributes) -> str:
    """A short phrase that says these attributes and no others: "a striped red round body with a stalk".

    Args:
        thing: of a thing or of stuff.
        attributes: any of its axes, and for things also "size", at least one, in the order in which adjectives are to
            stand.
    """
    if thing:
        adjectives = [value for axis, value in attributes.items() if axis != "part"]
        phrase = _with_article(*adjectives, "body")
        return f"{phrase} with {PART_PHRASES[attributes['part']]}" if "part" in attributes else phrase
    marks = " ".join(attributes[axis] for axis in ("tone", "pattern") if axis in attributes)
    if "pattern" not in attributes:
        marks = f"{marks} marks" if marks else ""
    if "color" not in attributes:
        return marks
    ground = _with_article(attributes["color"], "ground")
    return f"{ground} with {marks}" if marks else ground


def reason_phrases(thing: bool, attributes: Attributes) -> tuple[str, ...]:
    """Three phrases that together say what something looks like, each by two attributes.

    Args:
        thing: of a thing or of stuff.
        attributes: all axes, or all but "color": then what is known of the colour is left out.
    """
    axes = _THING_REASONS if thing else _STUFF_REASONS
    return tuple(describe(thing, {axis: attributes[axis] for axis in pair if axis in attributes}) for pair in axes)


def _with_article(*words: str) -> str:
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"
