"""What was written by hand for the photographs hangs together, and is rasterised as its description says."""

from __future__ import annotations

import re

import numpy as np
import pytest

from reason.triplets import generic_document, image_document, parse_generic, parse_image
from tools.photos.content import (
    IGNORE_LABEL,
    LONG_SIDE,
    Photograph,
    Region,
    image_triplet,
    load_generic_reasons,
    load_photo_vocabulary,
    load_photographs,
    open_photograph,
    rasterise,
)

PHOTOGRAPHS = load_photographs()
VOCABULARY = load_photo_vocabulary()
ATTRIBUTES = 5

each_photograph = pytest.mark.parametrize("photograph", PHOTOGRAPHS, ids=lambda photograph: photograph.stem)


def painted(*regions: Region, size: tuple[int, int] = (20, 10)) -> Photograph:
    return Photograph("test", "skimage", "data/camera.png", size, "", "", regions, {})


def box(left: int, top: int, right: int, bottom: int) -> tuple[tuple[int, int], ...]:
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def test_vocabulary_has_things_stuff_and_classes_in_no_photograph() -> None:
    visible = frozenset().union(*(photograph.visible for photograph in PHOTOGRAPHS))
    names = set(VOCABULARY.class_names)
    things = {VOCABULARY.class_names[index] for index in VOCABULARY.thing_indices}
    assert len(PHOTOGRAPHS) == 8
    assert visible <= names
    assert visible & things
    assert visible - things
    assert {"dog", "car"} <= names - visible
    assert len(set(VOCABULARY.palette)) == len(VOCABULARY)
    prompted = [synonym for synonyms in VOCABULARY.synonyms for synonym in synonyms]
    assert len(set(prompted)) == len(prompted), "a name that serves two classes makes reasons ambiguous"


def test_every_class_has_a_generic_reason_in_the_published_answer_form() -> None:
    reasons = load_generic_reasons()
    assert tuple(reasons) == VOCABULARY.class_names
    for name, reason in reasons.items():
        assert len(set(reason.attributes)) == ATTRIBUTES
        found = re.fullmatch(
            r"A1: This object belongs to \[(.+)\]\. A2: This '(.+)' is \[(.+)\]\. A3: This '(.+)' '(.+)' can be "
            r"recognized as (.+) because it contains visual attributes: \[(.+)\]\.",
            reason.raw_response or "",
        )
        assert found, name
        category, sub_category = reason.general_category, reason.sub_category
        assert found.groups()[:6] == (category, category, sub_category, sub_category, category, name)
        assert found.group(7) == ", ".join(reason.attributes)
    assert parse_generic(generic_document(reasons), where="test") == reasons


@each_photograph
def test_image_reasons_are_about_the_labelled_classes(photograph: Photograph) -> None:
    assert set(photograph.reasons) == photograph.visible
    assert photograph.visible <= set(VOCABULARY.class_names)
    for reason in photograph.reasons.values():
        assert reason.general_category
        assert reason.sub_category
        assert len(set(reason.attributes)) == ATTRIBUTES
    triplet = parse_image(image_document(image_triplet(photograph)), where=photograph.stem)
    assert triplet.reasons == photograph.reasons
    assert triplet.extra["description"] == photograph.description
    assert triplet.extra["provenance"] == {"author": "written by hand"}


def test_image_reasons_are_specific() -> None:
    generic = load_generic_reasons()
    for photograph in PHOTOGRAPHS:
        for name, reason in photograph.reasons.items():
            assert not set(reason.attributes) & set(generic[name].attributes), (photograph.stem, name)


@each_photograph
def test_photograph_is_installed_and_polygons_lie_inside(photograph: Photograph) -> None:
    picture = open_photograph(photograph)
    assert picture.mode == "RGB"
    assert picture.size == photograph.size
    assert max(picture.size) <= LONG_SIDE
    width, height = picture.size
    for region in photograph.regions:
        assert region.polygons
        for polygon in region.polygons:
            assert len(polygon) >= 3
            assert all(0 <= x < width and 0 <= y < height for x, y in polygon), (region.name, polygon)


@each_photograph
def test_labels_show_every_class_that_was_drawn(photograph: Photograph) -> None:
    labels = rasterise(photograph, VOCABULARY)
    values = set(np.unique(labels.classes).tolist()) - {IGNORE_LABEL}
    assert {VOCABULARY.class_names[value] for value in values} == photograph.visible
    assert labels.classes.shape == (photograph.size[1], photograph.size[0])
    assert np.mean(labels.classes != IGNORE_LABEL) > 0.5
    ids = [info["id"] for info in labels.segments_info]
    assert set(np.unique(labels.segments).tolist()) - {0} == set(ids)
    assert len(ids) == len(set(ids))
    for info in labels.segments_info:
        mask = labels.segments == info["id"]
        x, y, width, height = info["bbox"]
        assert info["area"] == mask.sum() >= 50
        assert mask[y : y + height, x : x + width].sum() == info["area"]
        assert set(labels.classes[mask].tolist()) == {info["category_id"]}
    assert (labels.classes[labels.segments == 0] == IGNORE_LABEL).all()


def test_later_regions_cover_earlier_ones_and_stuff_is_one_segment() -> None:
    cat, sky = VOCABULARY.class_names.index("cat"), VOCABULARY.class_names.index("sky")
    labels = rasterise(
        painted(
            Region("sky", (box(0, 0, 3, 9),)),
            Region("cat", (box(2, 0, 5, 9), box(18, 0, 19, 9))),
            Region("cat", (box(8, 0, 9, 9),)),
            Region("sky", (box(12, 0, 13, 9),)),
            Region(None, (box(12, 0, 12, 9),)),
        ),
        VOCABULARY,
    )
    expected = [sky] * 2 + [cat] * 4 + [IGNORE_LABEL] * 2 + [cat] * 2 + [IGNORE_LABEL] * 3 + [sky]
    expected += [IGNORE_LABEL] * 4 + [cat] * 2
    assert labels.classes.tolist() == [expected] * 10
    assert [(info["category_id"], info["area"]) for info in labels.segments_info] == [(sky, 30), (cat, 60), (cat, 20)]
    assert labels.segments_info[0]["bbox"] == [0, 0, 14, 10]


def test_a_region_that_is_painted_over_has_no_segment() -> None:
    labels = rasterise(painted(Region("cat", (box(3, 3, 5, 5),)), Region("dog", (box(0, 0, 19, 9),))), VOCABULARY)
    dog = VOCABULARY.class_names.index("dog")
    assert [(info["category_id"], info["area"]) for info in labels.segments_info] == [(dog, 200)]
