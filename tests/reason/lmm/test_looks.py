"""What the tiny model is to say of an image, and what it is trained on."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from reason.asking.parsing import parse_candidates, parse_description, parse_reasons
from reason.asking.schemas import description_schema
from tools.mini.lmm.examples import ClassList, Scribe, draw_list, evaluated_list
from tools.mini.lmm.looks import (
    GRID,
    UNKNOWN,
    candidates,
    compact,
    describe_scene,
    description,
    imagine,
    mirrored,
    paired,
    read_description,
    reasons,
    renamed,
)
from tools.mini.scenes import SIDE, dev_scene, lmm_training_scene
from tools.mini.world import KINDS, NEW, VAL_CLASSES, held_out, kind_with

pytest.importorskip("transformers")


def test_a_description_says_all_that_was_drawn_and_is_read_back() -> None:
    for seed in range(20):
        scene = dev_scene(seed)
        looks = describe_scene(scene, evaluated_list().names)
        assert read_description(description(looks)) == looks
        assert sorted(look.name for look in looks) == sorted(
            VAL_CLASSES[segment.class_index].name for segment in scene.segments if segment.class_index is not None
        )
        areas = [
            next(s.area for s in scene.segments if s.attributes == look.attributes) for look in looks if not look.thing
        ]
        assert areas == sorted(areas, reverse=True)
        cells = [look.cell for look in looks if look.cell is not None]
        assert cells == sorted(cells)


def test_the_cell_of_a_thing_is_that_of_its_middle() -> None:
    scene = dev_scene(3)
    looks = [look for look in describe_scene(scene, {}) if look.cell is not None]
    middles = sorted(
        (int((y + height / 2) * GRID / SIDE), int((x + width / 2) * GRID / SIDE))
        for x, y, width, height in (segment.box for segment in scene.segments if segment.thing)
    )
    assert [look.cell for look in looks] == middles


def test_answers_pass_the_readers_and_schemas_of_reason() -> None:
    import jsonschema

    rng = np.random.default_rng(0)
    classes = evaluated_list()
    for _ in range(30):
        looks = imagine(rng, classes.names, exact=0.6, misread=0.2)
        text = compact({"description": description(looks)})
        jsonschema.validate(json.loads(text), description_schema())
        assert parse_description(text) == description(looks)
        named = candidates(looks, classes.listed)
        assert parse_candidates(compact({"classes": named})) == named
        if named:
            assert list(parse_reasons(compact(reasons(looks, named)), named, attributes=(3, 3))) == named


def test_training_images_hold_no_combination_of_a_new_kind() -> None:
    free = 0
    for seed in range(150):
        for segment in lmm_training_scene(seed).segments:
            assert not held_out(segment.thing, segment.attributes)
            assert segment.kind not in NEW
            free += segment.kind is None
    assert free > 150  # most show what has no name, so that no attribute tells another


def test_images_for_choices_are_none_of_validation() -> None:
    from tools.mini.scenes import render_scene

    ours = {dev_scene(seed).image.tobytes() for seed in range(12)}
    assert ours.isdisjoint(render_scene(seed, "val").image.tobytes() for seed in range(12))


def test_what_is_imagined_is_called_by_what_it_looks_like() -> None:
    rng = np.random.default_rng(1)
    names = {kind.name: kind.name for kind in KINDS}
    exact = [look for _ in range(200) for look in imagine(rng, names, exact=1.0, misread=0.0)]
    assert {look.name for look in exact} == set(names)
    for look in exact:
        kind = kind_with(look.thing, look.attributes)
        assert kind is not None and kind.name == look.name
    misread = [look for _ in range(100) for look in imagine(rng, names, exact=0.0, misread=1.0)]
    for look in misread:
        kind = next(kind for kind in KINDS if kind.name == look.name)
        wrong = [axis for axis, value in kind.attributes.items() if look.attributes[axis] != value]
        outside = kind.varies and look.attributes["color"] not in kind.colors
        assert len(wrong) + outside <= 1
    free = [look for _ in range(100) for look in imagine(rng, names, exact=0.0, misread=0.0)]
    assert sum(look.name == UNKNOWN for look in free) > 0.9 * len(free)


def test_names_are_those_of_the_list() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        classes = draw_list(rng)
        assert len(set(classes.listed)) == len(classes.listed)
        named = set(classes.names.values()) or {kind.name for kind in KINDS}
        assert set(classes.listed) <= named
        looks = imagine(rng, classes.names, exact=1.0, misread=0.0)
        assert set(candidates(looks, classes.listed)) == {look.name for look in looks} & set(classes.listed)


def test_a_mirrored_image_is_described_mirrored() -> None:
    looks = describe_scene(dev_scene(5), {})
    once = mirrored(looks)
    assert mirrored(once) == sorted(looks, key=lambda look: (-1, 0) if look.cell is None else look.cell)
    assert {(look.name, look.cell) for look in once} == {
        (look.name, look.cell and (look.cell[0], GRID - 1 - look.cell[1])) for look in looks
    }


def test_only_what_can_be_known_weighs(tokenizer: object) -> None:
    scribe, classes = Scribe(tokenizer), evaluated_list()
    looks = renamed(describe_scene(dev_scene(4), {}), classes.names)
    names = {look.name for look in looks}

    def words(example: object, part: bool) -> set[str]:
        ids, weights = example.ids, example.weights  # type: ignore[attr-defined]
        return {
            tokenizer.decode([token]).strip()  # type: ignore[attr-defined]
            for token, weight in zip(ids, weights, strict=True)
            if bool(weight) == part
        }

    seen = scribe.looking(looks, np.random.default_rng(0))
    assert names.isdisjoint(words(seen, True)) and "Row" in words(seen, True) and "body" in words(seen, True)
    said = scribe.talking(looks, classes.listed)
    assert names <= words(said, True) and "Row" not in words(said, True)
    assert words(said, True) >= {"classes", "general"}


def test_what_is_said_is_held_against_what_is_at_its_place() -> None:
    looks = describe_scene(dev_scene(5), {})
    assert paired(looks, looks) == looks
    things = [look for look in looks if look.cell is not None]
    moved = [replace(look, cell=(look.cell[0], (look.cell[1] + 4) % GRID)) for look in things if look.cell is not None]
    assert all(one is None or one.name != look.name for one, look in zip(paired(moved, things), things, strict=True))
    assert paired(things[:1], [things[0], things[0]]) == [things[0], None], "each saying once"


def test_words_before_the_next_are_not_to_be_relied_on(tokenizer: Any) -> None:
    """In front of its image, half of the values and names are read as others; what is to be said stays true."""
    scribe, rng = Scribe(tokenizer), np.random.default_rng(3)
    looks = renamed(describe_scene(lmm_training_scene(1), {}), {})
    new = {kind.name for kind in NEW}
    heard_new = changed = 0
    for _ in range(40):
        one = scribe.looking(looks, rng)
        assert one.heard is not None and len(one.heard) == len(one.ids)
        assert description(looks) in tokenizer.decode(one.ids)
        changed += one.heard != one.ids
        heard_new += bool({tokenizer.decode([token]).strip() for token in one.heard} & new)
    assert changed == 40 and heard_new > 5


def test_a_class_that_is_not_listed_is_described_but_not_named() -> None:
    looks = describe_scene(dev_scene(4), {})
    listed = ClassList([looks[0].name], {}).listed
    assert candidates(looks, listed) == [looks[0].name]
