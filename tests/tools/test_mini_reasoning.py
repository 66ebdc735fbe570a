"""Grades of what mini's model wrote, to which step an error goes back, and the reasons as they ship."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maft.errors import UserError
from reason.triplets import ImageTriplet, Reason, dump_generic, dump_image, load_generic
from tools.mini import shipped_reasons
from tools.mini.ask_model import compared
from tools.mini.lmm.grading import grade, present
from tools.mini.lmm.looks import VAL_NAMES, Look, candidates, describe_scene, description
from tools.mini.lmm.looks import reasons as reasons_of
from tools.mini.lmm.steps import SWAPS, figures, judge, swapped
from tools.mini.scenes import Scene, render_scene
from tools.mini.world import VAL_CLASSES, values_of

LISTED = [entry.name for entry in VAL_CLASSES]


def written(looks: list[Look], named: list[str] | None = None) -> ImageTriplet:
    """What a model writes that sees this, and names all of it, or these."""
    named = candidates(looks, LISTED) if named is None else named
    reasons = {
        name: Reason(name, str(one["general_category"]), str(one["sub_category"]), tuple(one["attributes"]))  # type: ignore[arg-type]
        for name, one in reasons_of(looks, named).items()
    }
    return ImageTriplet(reasons, {"description": description(looks), "candidates": named})


@pytest.fixture(scope="module")
def scene() -> Scene:
    """One with at least two things, all of different classes."""
    for number in range(100):
        found = render_scene(number, "val")
        things = [segment for segment in found.segments if segment.thing]
        if len(things) >= 3 and len({one.class_index for one in things}) == len(things):
            return found
    raise AssertionError("no such scene")


def test_a_faultless_triplet_has_no_error(scene: Scene) -> None:
    for number in range(40):
        drawn = render_scene(number, "val")
        looks = describe_scene(drawn, VAL_NAMES)
        graded = grade(drawn, written(looks))
        assert (graded.missed, graded.added, graded.wrong, graded.remarks) == ([], [], {}, [])
        assert set(graded.right) == set(present(drawn)) and graded.asked == graded.said
    found = figures(
        [(scene, written(describe_scene(scene, VAL_NAMES)), judge(scene, written(describe_scene(scene, VAL_NAMES))))]
    )
    assert {value for name, value in found.items() if name.split()[0] not in ("missed", "added", "misread")} == {1.0}
    assert {value for name, value in found.items() if name.split()[0] in ("missed", "added", "misread")} == {0.0}


def test_errors_go_back_to_the_step_that_made_them(scene: Scene) -> None:
    looks = describe_scene(scene, VAL_NAMES)
    place = next(index for index, look in enumerate(looks) if look.thing)
    thing = looks[place]
    other = next(value for value in values_of(True)["color"] if value != thing.attributes["color"])
    absent = next(name for name in LISTED if name not in present(scene))

    overlooked = judge(scene, written([look for look in looks if look is not thing]))
    assert overlooked.missed == {thing.name: "LOOK"}
    unsaid = judge(scene, written(looks, [name for name in candidates(looks, LISTED) if name != thing.name]))
    assert unsaid.missed == {thing.name: "NAME"}
    miscalled = [*looks[:place], replace(thing, name=absent), *looks[place + 1 :]]
    assert judge(scene, written(miscalled)).missed == {thing.name: "NAME"}
    assert judge(scene, written(miscalled)).added == {absent: "NAME"}

    misread = [*looks[:place], replace(thing, attributes={**thing.attributes, "color": other}), *looks[place + 1 :]]
    judged = judge(scene, written(misread))
    assert judged.misread == {thing.name: {"color": "LOOK"}}
    assert judged.grade.remarks == [f"{thing.name}: misread, color {other} in place of {thing.attributes['color']}"]
    slip = written(looks)
    said = replace(
        slip.reasons[thing.name],
        attributes=tuple(
            text.replace(thing.attributes["color"], other) for text in slip.reasons[thing.name].attributes
        ),
    )
    slip = replace(slip, reasons={**slip.reasons, thing.name: said})
    assert judge(scene, slip).misread == {thing.name: {"color": "REASON"}}
    # Called by another kind's name since it was misread: both errors are LOOK's.
    both = [
        *looks[:place],
        replace(thing, attributes={**thing.attributes, "color": other}, name=absent),
        *looks[place + 1 :],
    ]
    judged = judge(scene, written(both))
    assert (judged.missed, judged.added) == ({thing.name: "LOOK"}, {absent: "LOOK"})
    found = figures([(scene, written(both), judged)])
    assert found["missed LOOK"] == found["added LOOK"] == 1 and found["missed NAME"] == 0
    assert found["recall"] == pytest.approx(1 - 1 / len(present(scene)))


@pytest.mark.parametrize("swap", SWAPS)
def test_a_step_put_right_takes_its_errors_away_and_no_others(scene: Scene, swap: str) -> None:
    looks = describe_scene(scene, VAL_NAMES)
    first, second = [look for look in looks if look.thing][:2]
    other = next(value for value in values_of(True)["texture"] if value != second.attributes["texture"])
    seen = [
        replace(look, attributes={**look.attributes, "texture": other}) if look is second else look
        for look in looks
        if look is not first
    ]
    absent = next(name for name in LISTED if name not in present(scene))
    triplet = written(seen)
    triplet = replace(triplet, reasons={**triplet.reasons, absent: Reason(absent, "object", "object", ("a red body",))})
    graded = grade(scene, swapped(scene, triplet, swap))  # type: ignore[arg-type]
    kept = {
        "look": (set(), {absent}, set()),  # a name out of nothing is NAME's error
        "name": (set(), set(), {second.name}),
        "reason": ({first.name}, {absent}, set()),
        "all": (set(), set(), set()),
    }[swap]
    assert (set(graded.missed), set(graded.added), set(graded.wrong)) == kept


def test_what_ships_is_about_the_images_that_are_drawn() -> None:
    origin, triplets = shipped_reasons.shipped_images()
    assert origin["weights"] == shipped_reasons.weights_digest(), "written by other weights than those that ship"
    assert len(triplets) == 120 and {"engine", "engine_version", "parts"} <= origin.keys()
    for number in range(0, 120, 7):
        stem, drawn = f"val_{number:04d}", render_scene(number, "val")
        triplet = shipped_reasons.check_scene(stem, drawn, triplets[stem])
        assert triplet.extra["description"].endswith(".")
        assert set(triplet.reasons) <= set(triplet.extra["candidates"])
        with pytest.raises(
            UserError, match=f"{stem} was written about another image than is drawn now; make them anew"
        ):
            shipped_reasons.check_scene(stem, render_scene(number + 1, "val"), triplets[stem])
    nearly = np.clip(drawn.image.astype(int) + 1, 0, 255).astype(np.uint8)
    assert shipped_reasons.check_scene(stem, replace(drawn, image=nearly), triplets[stem]) == triplet
    with pytest.raises(UserError, match=f"{stem} was written about another image"):
        shipped_reasons.check_scene(stem, replace(drawn, image=drawn.image[::-1]), triplets[stem])
    with pytest.raises(UserError, match="has no reasons for val_0120"):
        shipped_reasons.check_scene("val_0120", render_scene(120, "val"), None)
    assert list(load_generic(shipped_reasons.FOLDER / "generic.json")) == LISTED


def made(folder: Path, count: int = 120) -> Path:
    """The shipped reasons as --reason writes them."""
    origin, triplets = shipped_reasons.shipped_images()
    for stem, triplet in list(triplets.items())[:count]:
        kept = {key: value for key, value in triplet.extra.items() if key not in ("digest", "colors")}
        extra = {**kept, "provenance": origin}
        dump_image(replace(triplet, extra=extra), folder / "image" / "mini" / f"{stem}.json")
    dump_generic(shipped_reasons.shipped_generic(), folder / "generic.json")
    return folder


def test_packing_gives_the_same_files_again(tmp_path: Path) -> None:
    folder = made(tmp_path / "made")
    target = tmp_path / "packed"
    target.mkdir()
    shipped_reasons.pack(folder / "image" / "mini", folder / "generic.json", target)
    for name in (shipped_reasons.IMAGE_FILE, shipped_reasons.GENERIC_FILE):
        assert json.loads((target / name).read_text()) == json.loads((shipped_reasons.FOLDER / name).read_text())
    (folder / "image" / "mini" / "val_0007.json").unlink()
    with pytest.raises(UserError, match="not every validation image"):
        shipped_reasons.pack(folder / "image" / "mini", folder / "generic.json", target)


def test_whether_reasons_made_anew_equal_the_shipped_ones_is_said(tmp_path: Path) -> None:
    folder = made(tmp_path / "made")
    assert compared(folder) == "The reasons made now equal the shipped ones: 120 images, 26 classes."
    path = folder / "image" / "mini" / "val_0003.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["description"] += " Nothing else."
    path.write_text(json.dumps(document), encoding="utf-8")
    said = compared(folder)
    assert said.startswith(
        "The reasons made now differ from the shipped ones in 1 of 120 images and 0 of 26 classes (val_0003)"
    )
