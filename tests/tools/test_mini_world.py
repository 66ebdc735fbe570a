"""The drawn world: what is held out is held out, labels are what was drawn, captions are true."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from tools.mini import drawing
from tools.mini.names import made_up_name, meaningful_words
from tools.mini.scenes import IGNORE_LABEL, SIDE, Scene, clip_training_scene, render_scene
from tools.mini.world import (
    CALLED_BY_SYNONYM,
    KINDS,
    NEW,
    SEEN,
    STUFF_VALUES,
    THING_VALUES,
    TRAIN_CLASSES,
    VAL_CLASSES,
    Kind,
    class_groups,
    describe,
    differing,
    held_out,
    look_alike,
    reason_phrases,
    values_of,
    vocabulary,
)

SCENES = 60


@pytest.fixture(scope="module")
def val_scenes() -> list[Scene]:
    return [render_scene(seed, "val") for seed in range(SCENES)]


@pytest.fixture(scope="module")
def clip_scenes() -> list[Scene]:
    return [clip_training_scene(seed) for seed in range(SCENES)]


def test_a_seed_gives_the_same_scene_in_another_process(repository: Path) -> None:
    code = (
        "from hashlib import sha256\n"
        "from tools.mini.scenes import clip_training_scene, render_scene\n"
        "for s in (render_scene(7, 'val'), render_scene(7, 'train'), clip_training_scene(7)):\n"
        "    print(sha256(s.image.tobytes() + s.panoptic.tobytes() + s.semantic.tobytes()).hexdigest())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    scene = clip_training_scene(7)
    pixels = scene.image.tobytes() + scene.panoptic.tobytes() + scene.semantic.tobytes()
    assert runs[0].split()[2] == hashlib.sha256(pixels).hexdigest()
    assert len(set(runs[0].split())) == 3
    assert not np.array_equal(render_scene(7, "closed").image, render_scene(7, "train").image)


def test_labels_say_what_was_drawn(val_scenes: list[Scene], clip_scenes: list[Scene]) -> None:
    for scene in [*val_scenes, *clip_scenes]:
        assert scene.image.shape == (SIDE, SIDE, 3)
        assert [segment.id for segment in scene.segments] == np.unique(scene.panoptic).tolist()
        for segment in scene.segments:
            mask = scene.panoptic == segment.id
            rows, columns = np.nonzero(mask)
            assert segment.area == mask.sum()
            assert segment.box == (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
            expected = IGNORE_LABEL if segment.class_index is None else segment.class_index
            assert (scene.semantic[mask] == expected).all()
            if segment.kind is not None:
                looks = {axis: segment.attributes[axis] for axis in values_of(segment.thing)}
                assert segment.kind.matches(looks)
                assert not segment.kind.varies or looks["color"] in segment.kind.colors
            if segment.thing:
                assert min(segment.box[2:]) >= 40, segment
                assert segment.area >= 600, segment
    for scene in val_scenes:
        for segment in scene.segments:
            assert segment.class_index is not None
            assert VAL_CLASSES[segment.class_index].kind == segment.kind


def test_pixels_of_a_plain_thing_have_its_colour(val_scenes: list[Scene]) -> None:
    """The body's colour, which no lighting hides: the nearest of all body colours."""
    seen = 0
    for scene in val_scenes:
        for segment in scene.segments:
            if segment.thing and segment.attributes["texture"] == "plain" and segment.attributes["part"] == "none":
                pixel = np.median(scene.image[scene.panoptic == segment.id], axis=0)
                colors = {name: drawing.body_color(name, np.zeros(1), np.zeros(3))[0] for name in THING_VALUES["color"]}
                nearest = min(colors, key=lambda name: float(np.abs(colors[name] - pixel).sum()))
                assert nearest == segment.attributes["color"]
                seen += 1
    assert seen >= 5


def test_every_validation_class_occurs_often_enough() -> None:
    from tools.mini.dataset import COUNTS

    counts: Counter[int] = Counter()
    for seed in range(COUNTS["val"]):
        counts.update(
            {segment.class_index for segment in render_scene(seed, "val").segments if segment.class_index is not None}
        )
    assert len(counts) == len(VAL_CLASSES)
    assert min(counts.values()) >= 5, counts


def test_new_kinds_are_held_out_of_every_training_image(clip_scenes: list[Scene]) -> None:
    train = [render_scene(seed, split) for split in ("train", "closed") for seed in range(20)]
    free = 0
    for scene in [*train, *clip_scenes]:
        for segment in scene.segments:
            looks = {axis: segment.attributes[axis] for axis in values_of(segment.thing)}
            assert not held_out(segment.thing, looks)
            assert segment.kind is None or segment.kind in SEEN
            free += segment.kind is None
    assert free >= SCENES // 2
    combinations = list(product(*THING_VALUES.values()))
    held = sum(held_out(True, dict(zip(THING_VALUES, values, strict=True))) for values in combinations)
    # Five fixed kinds; the look of the two crescents, and of the round one but for a ladybird's red, in every colour.
    assert held == 5 + len(THING_VALUES["color"]) + len(THING_VALUES["color"]) - 1
    assert (
        sum(held_out(False, dict(zip(STUFF_VALUES, values, strict=True))) for values in product(*STUFF_VALUES.values()))
        == 2
    )


def test_attributes_of_new_kinds_are_each_seen_in_seen_or_free_combinations(clip_scenes: list[Scene]) -> None:
    shown: set[tuple[bool, str, str]] = set()
    for scene in clip_scenes:
        shown |= {(s.thing, axis, value) for s in scene.segments for axis, value in s.attributes.items()}
    for kind in NEW:
        assert {(kind.thing, axis, value) for axis, value in kind.attributes.items()} <= shown


def test_kinds_differ_and_at_least_four_new_ones_by_one_attribute_only() -> None:
    for one, other in product(KINDS, KINDS):
        if one is not other:
            assert differing(one, other), (one.name, other.name)
    assert sum(any(len(differing(new, seen)) == 1 for seen in SEEN) for new in NEW if not new.varies) >= 4
    varying = [kind for kind in NEW if kind.varies]
    assert len(varying) == 3
    for kind in varying:
        twin = look_alike(kind, KINDS)
        assert twin is not None
        assert differing(kind, twin) == {"color"}


def test_vocabularies_and_groups() -> None:
    groups = Counter(class_groups("val"))
    assert groups == {"seen": len(SEEN) - 5, "synonym": 5, "new": len(NEW)}
    assert len(CALLED_BY_SYNONYM) == 5
    assert set(class_groups("train")) == {"seen"}
    names = [name for kind in KINDS for name in (kind.name, kind.synonym) if name]
    assert len(set(names)) == len(names)
    trained = {entry.name for entry in TRAIN_CLASSES}
    assert not trained & {entry.name for entry in VAL_CLASSES if entry.group != "seen"}
    assert vocabulary("val").name == "mini"
    assert [entry.thing for entry in vocabulary("val").classes] == [entry.kind.thing for entry in VAL_CLASSES]


def test_phrases_tell_every_pair_of_classes_apart() -> None:
    looks = {kind: reason_phrases(kind.thing, kind.attributes) for kind in KINDS}
    for one, other in product(KINDS, KINDS):
        if one is not other and differing(one, other) != {"color"}:
            assert looks[one] != looks[other]
    assert looks[NEW[0]] == ("a red round body", "a striped round body", "a red body with a stalk")
    assert looks[NEW[5]] == ("a crescent-shaped body", "a checked crescent-shaped body", "a body with two horns")
    assert looks[NEW[-1]] == ("a grey ground with pebbles", "dark pebbles", "a grey ground with dark marks")
    assert describe(True, {"color": "orange", "part": "none"}) == "an orange body with nothing attached"


def test_made_up_names_are_many_and_nobodys() -> None:
    rng = np.random.default_rng(1)
    names = {made_up_name(rng) for _ in range(3000)}
    assert len(names) > 2900
    assert not names & meaningful_words()
    assert not names & {kind.name for kind in KINDS}


def test_colour_of_a_varying_kind_holds_for_an_image_and_tells_twins_apart() -> None:
    seen: dict[str, set[str]] = {}
    together = 0
    for seed in range(150):
        colors: dict[Kind, set[str]] = {}
        for segment in render_scene(seed, "val").segments:
            if segment.kind is not None and segment.kind.varies:
                colors.setdefault(segment.kind, set()).add(segment.attributes["color"])
        assert all(len(values) == 1 for values in colors.values())
        for kind, values in colors.items():
            seen.setdefault(kind.name, set()).update(values)
        if {"yelvor", "zikmon"} <= {kind.name for kind in colors}:
            together += 1
            assert colors[NEW[5]] != colors[NEW[6]]
    assert together >= 3
    assert seen == {kind.name: set(kind.colors) for kind in NEW if kind.varies}
    assert set(NEW[5].colors).isdisjoint(NEW[6].colors), "nobody could tell these two apart"
