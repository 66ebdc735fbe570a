"""The simulated observer errs as often as it says, notes it, and writes valid reasons."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from reason.triplets import Reason, image_document, parse_image
from tools.mini.observer import LEVELS, Rates, observe_classes, observe_scene
from tools.mini.scenes import Scene, render_scene
from tools.mini.world import VAL_CLASSES, look_alike, reason_phrases, values_of

RATES = Rates(miss=0.1, add=0.2, misname=0.15)
PERFECT = Rates(0, 0, 0)
BY_NAME = {entry.name: entry for entry in VAL_CLASSES}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Enough images to look at; what the observer reads of them is the list of segments."""
    return [render_scene(seed, "val") for seed in range(60)]


def present(scene: Scene) -> dict[str, dict[str, str]]:
    """Class name to attributes."""
    return {
        VAL_CLASSES[segment.class_index].name: dict(segment.attributes)
        for segment in scene.segments
        if segment.class_index is not None
    }


def test_rates_measured_over_many_observations_are_those_stated(scenes: list[Scene]) -> None:
    counts: Counter[str] = Counter()
    for number, scene in enumerate(scenes):
        there = present(scene)
        for repetition in range(25):
            triplet = observe_scene(scene, VAL_CLASSES, RATES, 1000 * repetition + number)
            named = set(triplet.reasons)
            added = named - there.keys()
            errors = triplet.extra["observer"]
            assert set(errors["missed"]) == there.keys() - named
            assert set(errors["added"]) == added
            counts["present"] += len(there)
            counts["missed"] += len(there.keys() - named)
            counts["added"] += len(added)
            for name in named & there.keys():
                kind = BY_NAME[name].kind
                true = {axis: there[name][axis] for axis in values_of(kind.thing)}
                wrong = errors["misnamed"].get(name, {})
                counts["values"] += len(true)
                counts["misnamed"] += len(wrong)
                assert all(true[axis] == was and was != said for axis, (was, said) in wrong.items())
                seen = {**true, **{axis: said for axis, (_, said) in wrong.items()}}
                assert triplet.reasons[name].attributes == reason_phrases(kind.thing, seen)
    # Over 6,000 classes and 20,000 values: a percent is four standard deviations or more.
    assert counts["present"] > 5000
    assert counts["missed"] / counts["present"] == pytest.approx(RATES.miss, abs=0.016)
    assert counts["added"] / counts["present"] == pytest.approx(RATES.add, abs=0.022)
    assert counts["misnamed"] / counts["values"] == pytest.approx(RATES.misname, abs=0.012)


def test_a_perfect_observer_names_exactly_what_is_there(scenes: list[Scene]) -> None:
    for number, scene in enumerate(scenes):
        triplet = observe_scene(scene, VAL_CLASSES, PERFECT, number)
        there = present(scene)
        assert triplet.reasons.keys() == there.keys()
        for name, reason in triplet.reasons.items():
            assert reason.attributes == reason_phrases(BY_NAME[name].kind.thing, there[name])
        assert triplet.extra["observer"] == {"missed": [], "added": [], "misnamed": {}}


def test_added_classes_are_half_look_alikes(scenes: list[Scene]) -> None:
    """With one class in sight and one added, the added one is the most alike in half of the cases and now and then."""
    alike = total = 0
    for number, scene in enumerate(scenes):
        thing = next(segment for segment in scene.segments if segment.thing)
        alone = replace(scene, segments=(thing,))
        assert thing.class_index is not None
        own = VAL_CLASSES[thing.class_index]
        twin = look_alike(own.kind, [entry.kind for entry in VAL_CLASSES])
        for seed in range(15 * number, 15 * number + 15):
            triplet = observe_scene(alone, VAL_CLASSES, Rates(0, 1, 0), seed)
            (added,) = triplet.reasons.keys() - {own.name}
            total += 1
            alike += BY_NAME[added].kind == twin
    assert alike / total == pytest.approx(0.5 + 0.5 / (len(VAL_CLASSES) - 1), abs=0.06)


def test_the_same_seed_errs_the_same_way_and_another_differently(scenes: list[Scene]) -> None:
    first = [image_document(observe_scene(scene, VAL_CLASSES, RATES, n)) for n, scene in enumerate(scenes)]
    again = [image_document(observe_scene(scene, VAL_CLASSES, RATES, n)) for n, scene in enumerate(scenes)]
    other = [image_document(observe_scene(scene, VAL_CLASSES, RATES, n + 999)) for n, scene in enumerate(scenes)]
    assert first == again
    assert sum(a != b for a, b in zip(first, other, strict=True)) > len(scenes) // 2
    for document in first:
        assert parse_image(document, where="observed").reasons is not None


def test_generic_reasons_cover_every_class_and_know_no_varying_colour() -> None:
    reasons = observe_classes(VAL_CLASSES, PERFECT)
    assert list(reasons) == [entry.name for entry in VAL_CLASSES]
    for entry in VAL_CLASSES:
        assert reasons[entry.name].attributes == reason_phrases(entry.kind.thing, entry.kind.attributes)
        if entry.kind.varies:
            text = " ".join(reasons[entry.name].attributes)
            assert not any(color in text.split() for color in ("red", *entry.kind.colors))
    assert len({reason.attributes for reason in reasons.values()}) == len(reasons) - 1  # the two crescents


def test_generic_observer_misnames_at_the_stated_rate() -> None:
    wrong = total = 0
    exact = observe_classes(VAL_CLASSES, PERFECT)
    for seed in range(300):
        given: dict[str, Reason] = observe_classes(VAL_CLASSES, Rates(1, 1, 0.1), seed)
        for entry in VAL_CLASSES:
            if entry.kind.thing and not entry.kind.varies:
                total += 1
                wrong += given[entry.name].sub_category != exact[entry.name].sub_category  # the shape alone
    assert wrong / total == pytest.approx(0.1, abs=0.02)


def test_levels_are_named_after_their_rates() -> None:
    assert LEVELS["observer-10"] == Rates(0.1, 0.1, 0.1)
    assert [rates.miss for rates in LEVELS.values()] == [0, 0.1, 0.2, 0.3]
