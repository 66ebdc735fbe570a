"""Scenes: an image of two to four things on one or two kinds of ground, with its labels; all from one number.

The same seed gives the same scene in every process. Nothing is read or written here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import drawing
from .world import (
    NEW,
    SEEN,
    SIZES,
    Kind,
    Split,
    classes_of,
    differing,
    held_out,
    kind_with,
    values_of,
)

SIDE = 256
"""Height and width of an image in pixels."""

IGNORE_LABEL = 255
_STREAMS = {"train": 1, "val": 2, "clip": 3, "closed": 4, "lmm": 5, "dev": 6}
_RADIUS = {"small": (29.0, 35.0), "large": (40.0, 48.0)}
_THINGS = (2, 5)
_TURN = 0.32
_OVERLAP = 0.12
_TRIES = 40
_CLIP_KNOWN = 0.5
_LMM_KNOWN = 0.25
_BESIDE_LOOK_ALIKE = 0.4
_NOISE = 4.0


@dataclass(frozen=True)
class Segment:
    """One thing, or all of one kind of ground.

    Attributes:
        id: its value in `Scene.panoptic`, from 1.
        class_index: its class in the split's vocabulary; None where it is none (CLIP scenes only).
        thing: countable.
        kind: what it is; None for a free combination of attributes.
        attributes: every axis with its value; things also have "size".
        box: x, y, width, height of the visible pixels.
        area: number of visible pixels.
    """

    id: int
    class_index: int | None
    thing: bool
    kind: Kind | None
    attributes: Mapping[str, str]
    box: tuple[int, int, int, int]
    area: int


@dataclass(frozen=True)
class Scene:
    """An image and what is in it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        semantic: (H, W) uint8 class index of the split's vocabulary, `IGNORE_LABEL` where a segment has none.
        panoptic: (H, W) int32 segment ids; every pixel belongs to a segment.
        segments: by id.
    """

    image: NDArray[np.uint8]
    semantic: NDArray[np.uint8]
    panoptic: NDArray[np.int32]
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class _Plan:
    """What is to be drawn: a kind or a free combination, with all attributes."""

    thing: bool
    kind: Kind | None
    attributes: Mapping[str, str]


def render_scene(seed: int, split: Split) -> Scene:
    """A scene of a split: all kinds for "val", seen kinds alone for the others.

    Args:
        seed: which one, from 0.
    """
    rng = _generator(seed, split)
    kinds = (*SEEN, *NEW) if split == "val" else SEEN
    return _render(_choose(rng, kinds), rng, _indices(split))


def clip_training_scene(seed: int) -> Scene:
    """A scene for CLIP: half of it seen kinds, half free combinations; never the combination of a new kind.

    Class indices are those of the training vocabulary. A free combination that is a seen kind's counts as that kind.
    """
    return _free_scene(_generator(seed, "clip"), _CLIP_KNOWN)


def lmm_training_scene(seed: int) -> Scene:
    """A scene for the multimodal model: as CLIP's, but with more free combinations.

    So that it reads each attribute for itself: where most things are known kinds, two attributes tell the others.
    """
    return _free_scene(_generator(seed, "lmm"), _LMM_KNOWN)


def dev_scene(seed: int) -> Scene:
    """A scene as validation has them, of other seeds: for choices about the multimodal model, never for training."""
    rng = _generator(seed, "dev")
    return _render(_choose(rng, (*SEEN, *NEW)), rng, _indices("val"))


def _free_scene(rng: np.random.Generator, known: float) -> Scene:
    count = int(rng.integers(*_THINGS))
    plans = [_free_plan(rng, known, thing=True) for _ in range(count)]
    plans += _distinct([_free_plan(rng, known, thing=False) for _ in range(int(rng.integers(1, 3)))])
    return _render(plans, rng, _indices("train"))


def _generator(seed: int, stream: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((_STREAMS[stream], seed))))


def _indices(split: Split) -> dict[str, int]:
    return {entry.kind.name: index for index, entry in enumerate(classes_of(split))}


def _choose(rng: np.random.Generator, kinds: Sequence[Kind]) -> list[_Plan]:
    """Kinds at random; often beside the one that is most easily taken for it."""
    things = [kind for kind in kinds if kind.thing]
    grounds = [kind for kind in kinds if not kind.thing]
    chosen: list[Kind] = []
    for _ in range(int(rng.integers(*_THINGS))):
        near = [kind for kind in things if chosen and len(differing(kind, chosen[-1])) == 1]
        pool = near if near and rng.random() < _BESIDE_LOOK_ALIKE else things
        chosen.append(pool[int(rng.integers(len(pool)))])
    for place in rng.permutation(len(grounds))[: int(rng.integers(1, 3))]:
        chosen.append(grounds[int(place)])
    colors = _colors_of_the_picture(rng, chosen)
    return [_plan(rng, kind, colors.get(kind.name)) for kind in chosen]


def _colors_of_the_picture(rng: np.random.Generator, chosen: Sequence[Kind]) -> dict[str, str]:
    """One colour for every kind that varies, such that no two kinds of the image look the same."""
    colors: dict[str, str] = {}
    for kind in chosen:
        if kind.varies and kind.name not in colors:
            twins = [other for other in chosen if other.name in colors and differing(kind, other) == {"color"}]
            taken = {colors[other.name] for other in twins}
            free = [color for color in kind.colors if color not in taken]
            colors[kind.name] = free[int(rng.integers(len(free)))]
    return colors


def _plan(rng: np.random.Generator, kind: Kind, color: str | None) -> _Plan:
    attributes = {axis: kind.attributes.get(axis, color or "") for axis in values_of(kind.thing)}
    return _Plan(kind.thing, kind, _sized(rng, attributes) if kind.thing else attributes)


def _free_plan(rng: np.random.Generator, known_share: float, *, thing: bool) -> _Plan:
    if rng.random() < known_share:
        known = [kind for kind in SEEN if kind.thing == thing]
        return _plan(rng, known[int(rng.integers(len(known)))], None)
    while True:
        attributes = {axis: str(rng.choice(values)) for axis, values in values_of(thing).items()}
        if not held_out(thing, attributes):
            kind = kind_with(thing, attributes, SEEN)
            return _Plan(thing, kind, _sized(rng, attributes) if thing else attributes)


def _sized(rng: np.random.Generator, attributes: dict[str, str]) -> dict[str, str]:
    return {**attributes, "size": SIZES[int(rng.integers(len(SIZES)))]}


def _distinct(plans: Sequence[_Plan]) -> list[_Plan]:
    """Each look of ground once, since all of one ground is one segment."""
    kept: list[_Plan] = []
    for plan in plans:
        if all(plan.attributes != other.attributes for other in kept):
            kept.append(plan)
    return kept


def _render(plans: Sequence[_Plan], rng: np.random.Generator, indices: Mapping[str, int]) -> Scene:
    grounds = [plan for plan in plans if not plan.thing]
    things = [plan for plan in plans if plan.thing]
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float32) + np.float32(0.5)
    canvas, panoptic = _draw_grounds(grounds, rng, columns, rows)
    drawn = list(grounds)
    taken: list[tuple[float, float, float]] = []
    for plan in things:
        place = _find_place(plan, taken, rng)
        if place is None:
            continue
        taken.append(place)
        drawn.append(plan)
        _draw_thing(plan, place, rng, canvas, panoptic, len(drawn))
    image = _light(canvas, rng, columns, rows)
    return _scene(image, panoptic, drawn, indices)


def _draw_grounds(
    plans: Sequence[_Plan], rng: np.random.Generator, columns: drawing.Field, rows: drawing.Field
) -> tuple[drawing.Field, NDArray[np.int32]]:
    canvas = np.zeros((SIDE, SIDE, 3), dtype=np.float32)
    panoptic = np.ones((SIDE, SIDE), dtype=np.int32)
    share = np.ones((SIDE, SIDE), dtype=np.float32)
    for number, plan in enumerate(plans, 1):
        if number > 1:  # the second ground lies beyond a wavy border
            share = drawing.coverage(_border(rng, columns, rows))
            panoptic[share > 0.5] = number
        x, y = _turned(columns - SIDE / 2, rows - SIDE / 2, rng.uniform(-0.15, 0.15))
        scale, shift_x, shift_y = rng.uniform(0.88, 1.15), rng.uniform(0, 200), rng.uniform(0, 200)
        values = plan.attributes
        paint = drawing.ground(
            values["color"],
            values["pattern"],
            values["tone"],
            x * np.float32(scale) + np.float32(shift_x),
            y * np.float32(scale) + np.float32(shift_y),
            rng.uniform(-8, 8, 3),
        )
        canvas += share[..., None] * (paint - canvas)
    return canvas, panoptic


def _border(rng: np.random.Generator, columns: drawing.Field, rows: drawing.Field) -> drawing.Field:
    """Signed distance to a wavy line across the image, at any angle, that leaves both sides room."""
    along, across = _turned(columns - SIDE / 2, rows - SIDE / 2, rng.uniform(0, 2 * np.pi))
    waves = rng.uniform(4, 12) * np.sin(along * np.float32(2 * np.pi / rng.uniform(90, 200)) + rng.uniform(0, 6))
    return (across + waves - rng.uniform(-40, 40)).astype(np.float32)


def _turned(x: drawing.Field, y: drawing.Field, angle: float) -> tuple[drawing.Field, drawing.Field]:
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cosine * x + sine * y, cosine * y - sine * x


def _find_place(
    plan: _Plan, taken: Sequence[tuple[float, float, float]], rng: np.random.Generator
) -> tuple[float, float, float] | None:
    """Centre x, y and radius of a thing, or None if what is there leaves no room: it would be covered too much."""
    radius = float(rng.uniform(*_RADIUS[plan.attributes["size"]]))
    reach = 1.25 * radius
    for _ in range(_TRIES):
        x, y = rng.uniform(reach, SIDE - reach, 2)
        if all(np.hypot(x - a, y - b) > (1.2 - _OVERLAP) * (radius + other) for a, b, other in taken):
            return float(x), float(y), radius
    return None


def _draw_thing(
    plan: _Plan,
    place: tuple[float, float, float],
    rng: np.random.Generator,
    canvas: drawing.Field,
    panoptic: NDArray[np.int32],
    number: int,
) -> None:
    x, y, radius = place
    reach = int(np.ceil(drawing.REACH * radius)) + 1
    window = tuple(slice(max(0, int(c) - reach), min(SIDE, int(c) + reach)) for c in (y, x))
    rows, columns = np.mgrid[window].astype(np.float32) + np.float32(0.5)
    values = plan.attributes
    u, v = _turned((columns - x) / np.float32(radius), (rows - y) / np.float32(radius), rng.uniform(-_TURN, _TURN))
    body = drawing.coverage(drawing.body(values["shape"], u, v) * np.float32(radius))
    part = drawing.coverage(drawing.parts(values["part"], values["shape"], u, v) * np.float32(radius))
    colors = drawing.body_color(
        values["color"], drawing.texture(values["texture"], u, v, 1 / radius), rng.uniform(-10, 10, 3)
    )
    patch = canvas[window]
    # A core lies on the body, everything else is attached behind it.
    layers: list[tuple[drawing.Field, drawing.Field]] = [(part, drawing.part_color()), (body, colors)]
    for cover, paint in reversed(layers) if values["part"] == "core" else layers:
        patch += cover[..., None] * (paint - patch)
    panoptic[window][np.maximum(body, part) > 0.5] = number


def _light(
    canvas: drawing.Field, rng: np.random.Generator, columns: drawing.Field, rows: drawing.Field
) -> NDArray[np.uint8]:
    """Brightness that falls off to one side, and a little noise."""
    along, _ = _turned(columns - SIDE / 2, rows - SIDE / 2, rng.uniform(0, 2 * np.pi))
    gain = rng.uniform(0.92, 1.06) + along * np.float32(rng.uniform(0, 0.12) / (SIDE / 2))
    noise = rng.standard_normal((SIDE, SIDE, 1), dtype=np.float32) * np.float32(_NOISE)
    return np.clip(canvas * gain[..., None] + noise + 0.5, 0, 255).astype(np.uint8)


def _scene(
    image: NDArray[np.uint8], panoptic: NDArray[np.int32], drawn: Sequence[_Plan], indices: Mapping[str, int]
) -> Scene:
    semantic = np.full(panoptic.shape, IGNORE_LABEL, dtype=np.uint8)
    segments = []
    for number, plan in enumerate(drawn, 1):
        mask = panoptic == number
        if not mask.any():
            continue
        index = None if plan.kind is None else indices[plan.kind.name]
        if index is not None:
            semantic[mask] = index
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = (int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
        segments.append(Segment(number, index, plan.thing, plan.kind, plan.attributes, box, int(mask.sum())))
    return Scene(image, semantic, panoptic, tuple(segments))
