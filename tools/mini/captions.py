"""What a region shows, in words, for the contrastive training of a small CLIP.

Captions name a region by its kind's name, by its synonym, by a made-up name that means nothing, or not at all, beside
some or all of its attributes in any order. Made-up names teach the text tower to read attributes past a name that it
does not know. The names of new kinds are never among them, nor are their combinations of attributes among the regions
(`world.held_out`).
"""

from __future__ import annotations

from functools import cache

import numpy as np

from maft.text.templates import template_set
from tools.mini.scenes import Scene, Segment
from tools.mini.world import KINDS, PART_PHRASES, STUFF_VALUES, THING_VALUES, describe, reason_phrases

CAPTIONS = 4
"""How many captions `region_captions` gives."""

_ONSETS = "b br d dr f fl g gl h k kl l m n p pl r s sk st t tr v y z".split()
_VOWELS = "a e i o u".split()
_CODAS = ["", *"l n r x p k m".split()]
_NOUNS = {True: ("thing", "object"), False: ("ground", "place")}
_BARE_FRAMES = 5
"""The first templates name no size."""

_SIZE_WORDS = ("small", "large")


def made_up_name(rng: np.random.Generator) -> str:
    """A name of two syllables that no kind has, out of about a million."""
    while True:
        name = "".join(part[int(rng.integers(len(part)))] for _ in range(2) for part in (_ONSETS, _VOWELS, _CODAS))
        if name not in _taken_words():
            return name


def region_captions(segment: Segment, rng: np.random.Generator) -> list[str]:
    """Captions of one region, all true: a name (if it has one), a name with attributes, attributes with and without a
    template around them.

    Args:
        segment: of `clip_training_scene` or of training pictures.
        rng: what to say of it, and how.

    Returns:
        `CAPTIONS` texts.
    """
    described = f"{_name(segment, rng)} that has {_attributes(segment, rng)}"
    named = _true_name(segment, rng) or f"{made_up_name(rng)} that has {_attributes(segment, rng)}"
    bare = _attributes(segment, rng).removeprefix("a ").removeprefix("an ")
    return [
        _framed(named, segment, rng),
        _framed(described, segment, rng),
        _attributes(segment, rng),
        _framed(bare, segment, rng),
    ]


def picture_caption(scene: Scene, rng: np.random.Generator) -> str:
    """One sentence about everything in a picture, in any order."""
    order = rng.permutation(len(scene.segments))
    segments = [scene.segments[int(place)] for place in order]
    return " and ".join(_true_name(segment, rng) or _attributes(segment, rng) for segment in segments)


def caption_words() -> frozenset[str]:
    """Every word that captions and reasons may hold beside made-up names, in lower case."""
    texts = [text for texts in (*THING_VALUES.values(), *STUFF_VALUES.values(), *_NOUNS.values()) for text in texts]
    texts += [*PART_PHRASES.values(), *_SIZE_WORDS, "a an body ground marks with that has and"]
    texts += [name for kind in KINDS for name in (kind.name, kind.synonym)]
    texts += template_set("vild").fill("")
    return frozenset(word.strip(".").lower() for text in texts for word in text.split())


@cache
def _taken_words() -> frozenset[str]:
    return caption_words()


def _true_name(segment: Segment, rng: np.random.Generator) -> str | None:
    if segment.kind is None:
        return None
    return segment.kind.name if rng.random() < 0.6 else segment.kind.synonym


def _name(segment: Segment, rng: np.random.Generator) -> str:
    """The region's own name or synonym, a made-up one, or a word for anything."""
    draw = rng.random()
    if draw < 0.4 and (name := _true_name(segment, rng)):
        return name
    nouns = _NOUNS[segment.thing]
    return made_up_name(rng) if draw < 0.85 else nouns[int(rng.integers(len(nouns)))]


def _attributes(segment: Segment, rng: np.random.Generator) -> str:
    """A phrase of some attributes: as in reasons, or a random choice, or two such phrases."""
    draw = rng.random()
    if draw < 0.45:
        phrases = reason_phrases(segment.thing, segment.attributes)
        return phrases[int(rng.integers(len(phrases)))]
    axes = [str(axis) for axis in rng.permutation(list(segment.attributes))]
    if draw < 0.85:
        return _phrase(segment, axes[: int(rng.integers(1, len(axes) + 1))])
    cut = int(rng.integers(1, len(axes)))
    return f"{_phrase(segment, axes[:cut])} and {_phrase(segment, axes[cut:])}"


def _phrase(segment: Segment, axes: list[str]) -> str:
    return describe(segment.thing, {axis: segment.attributes[axis] for axis in axes})


def _framed(text: str, segment: Segment, rng: np.random.Generator) -> str:
    """The text by itself or in a template, with a size only if it is the right one."""
    draw = rng.random()
    if draw < 0.3:
        return text
    templates = template_set("vild").templates
    frames = templates[:_BARE_FRAMES]
    if draw > 0.75 and segment.thing:
        frames = tuple(frame for frame in templates[_BARE_FRAMES:] if segment.attributes["size"] in frame)
    return frames[int(rng.integers(len(frames)))].format(text)
