"""Panoptic quality against numbers worked out by hand."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image

from maft.errors import UserError
from maft.evaluation.panoptic import (
    CategoryCounts,
    GroundTruthError,
    add_counts,
    match_segments,
    panoptic_scores,
)
from maft.files import encode_panoptic, read_panoptic


def row(*runs):
    """A map of one row from (id, length) runs."""
    return np.array([[i for i, length in runs for _ in range(length)]])


def infos(categories, crowd=()):
    return [{"id": i, "category_id": c, "iscrowd": int(i in crowd)} for i, c in categories.items()]


def match(predicted, predicted_categories, true, true_categories, crowd=()):
    return match_segments(predicted, infos(predicted_categories), true, infos(true_categories, crowd))


def test_a_match_needs_more_than_half():
    half = match(row((1, 6), (0, 2)), {1: 4}, row((7, 4), (8, 4)), {7: 4, 8: 5})
    # Segment 1 overlaps 7 by 4 of a union of 6 (2/3): matched; 8 is missed.
    assert half == {4: CategoryCounts(4 / 6, 1, 0, 0), 5: CategoryCounts(0, 0, 0, 1)}
    exactly = match(row((1, 4), (0, 4)), {1: 4}, row((7, 2), (9, 2), (8, 4)), {7: 4, 9: 6, 8: 5})
    # IoU of segment 1 with 7 is exactly 1/2: no match.
    assert exactly[4] == CategoryCounts(0, 0, 1, 1)


def test_pixels_on_void_leave_the_union():
    # Segment 1 covers 4 pixels of segment 7 and 6 of void: with void in the union IoU would be 0.4, without it is 1.
    assert match(row((1, 10)), {1: 2}, row((7, 4), (0, 6)), {7: 2}) == {2: CategoryCounts(1.0, 1, 0, 0)}


def test_a_prediction_mostly_on_void_is_forgiven():
    true, categories = row((0, 6), (7, 10)), {7: 2}
    forgiven = match(row((1, 6), (0, 10)), {1: 3}, true, categories)
    assert forgiven == {2: CategoryCounts(0, 0, 0, 1)}
    just_half = match(row((0, 3), (1, 6), (0, 7)), {1: 3}, true, categories)  # 3 of 6 pixels on void: counts as wrong
    assert just_half == {2: CategoryCounts(0, 0, 0, 1), 3: CategoryCounts(0, 0, 1, 0)}


def test_crowd_is_never_matched_nor_missed_and_forgives_its_own_class_only():
    true, categories = row((7, 8), (8, 4)), {7: 1, 8: 2}
    same = match(row((1, 8), (2, 4)), {1: 1, 2: 2}, true, categories, crowd={7})
    assert same == {2: CategoryCounts(1.0, 1, 0, 0)}
    other = match(row((1, 8), (2, 4)), {1: 3, 2: 2}, true, categories, crowd={7})
    assert other == {2: CategoryCounts(1.0, 1, 0, 0), 3: CategoryCounts(0, 0, 1, 0)}


def test_void_and_crowd_forgive_together():
    # 3 of 10 pixels on void and 3 on crowd of the class: 6 of 10 are forgiven.
    true = row((0, 3), (7, 3), (8, 4))
    assert match(row((1, 10)), {1: 1}, true, {7: 1, 8: 2}, crowd={7}) == {2: CategoryCounts(0, 0, 0, 1)}


def test_a_split_segment():
    # The true segment of 10 is predicted as 6 and 4: the larger part matches with IoU 0.6, the other is wrong.
    assert match(row((1, 6), (2, 4)), {1: 1, 2: 1}, row((7, 10)), {7: 1}) == {1: CategoryCounts(0.6, 1, 1, 0)}
    # Split into halves, nothing matches.
    assert match(row((1, 5), (2, 5)), {1: 1, 2: 1}, row((7, 10)), {7: 1}) == {1: CategoryCounts(0, 0, 2, 1)}


def test_the_right_mask_with_the_wrong_class_is_wrong_and_missed():
    assert match(row((1, 5)), {1: 2}, row((7, 5)), {7: 1}) == {
        1: CategoryCounts(0, 0, 0, 1),
        2: CategoryCounts(0, 0, 1, 0),
    }


def test_no_prediction_and_no_ground_truth():
    assert match(row((0, 5)), {}, row((7, 3), (0, 2)), {7: 1}) == {1: CategoryCounts(0, 0, 0, 1)}
    assert match(row((3, 5)), {3: 1}, row((0, 5)), {}) == {}
    assert match(row((0, 5)), {}, row((0, 5)), {}) == {}


def test_a_listed_segment_without_a_pixel_is_missed_unless_it_is_crowd():
    assert match(row((0, 5)), {}, row((0, 5)), {9: 3, 8: 4}, crowd={8}) == {3: CategoryCounts(0, 0, 0, 1)}


def test_only_the_number_1_makes_a_crowd():
    """As panopticapi reads it; some programs write numbers as text."""
    segments, whole = row((7, 5)), [{"id": 7, "category_id": 1}]
    for crowd, counted in (("0", 1), (0, 1), (None, 1), (True, 0), (1, 0)):
        counts = match_segments(segments, whole, segments, [{"id": 7, "category_id": 1, "iscrowd": crowd}])
        assert sum(of.matched for of in counts.values()) == counted, crowd


def test_contradictions_are_refused():
    with pytest.raises(GroundTruthError, match="segment 7"):
        match(row((0, 5)), {}, row((7, 5)), {})
    with pytest.raises(ValueError, match="segment 3"):
        match(row((3, 5)), {}, row((7, 5)), {7: 1})
    with pytest.raises(ValueError, match="no pixel"):
        match(row((0, 5)), {3: 1}, row((7, 5)), {7: 1})
    with pytest.raises(ValueError, match="shape"):
        match(row((0, 4)), {}, row((7, 5)), {7: 1})


def test_scores_by_hand():
    counts = {
        0: CategoryCounts(iou=1.5, matched=2, wrong=1, missed=1),  # PQ 1.5/3, SQ 0.75, RQ 2/3
        1: CategoryCounts(iou=0.0, matched=0, wrong=0, missed=3),  # all 0
        2: CategoryCounts(iou=0.8, matched=1, wrong=0, missed=0),  # PQ 0.8, SQ 0.8, RQ 1
    }
    scores = panoptic_scores(counts, ["cat", "dog", "sky", "sea"], {0, 1})
    things, stuff = scores["things"], scores["stuff"]
    assert (things["PQ"], things["SQ"], things["RQ"]) == pytest.approx((25, 37.5, 100 / 3), abs=1e-6)
    assert (stuff["PQ"], stuff["SQ"], stuff["RQ"]) == pytest.approx((80, 80, 100), abs=1e-6)
    assert scores["all"]["PQ"] == pytest.approx((50 + 0 + 80) / 3, abs=1e-6)
    assert [scores[part]["classes"] for part in ("all", "things", "stuff")] == [3, 2, 1]
    assert scores["per_class"]["sea"]["PQ"] is None
    assert scores["per_class"]["dog"] == {
        "PQ": 0.0,
        "SQ": 0.0,
        "RQ": 0.0,
        "thing": True,
        "matched": 0,
        "false_positives": 0,
        "false_negatives": 3,
    }
    json.dumps(scores, allow_nan=False)


def test_a_group_without_classes_has_no_number():
    scores = panoptic_scores({0: CategoryCounts(1.0, 1, 0, 0)}, ["sky"], set())
    assert scores["things"] == {"PQ": None, "SQ": None, "RQ": None, "classes": 0}


def test_the_sum_does_not_depend_on_the_order_of_images():
    images = [{0: CategoryCounts(value, 1, 0, 2)} for value in (0.1, 0.7, 1e-17, 0.9999999999, 1 / 3)]
    sums = {add_counts(order)[0] for order in itertools.permutations(images)}
    assert len(sums) == 1
    assert next(iter(sums)).missed == 10


def test_png_round_trip_and_what_is_no_panoptic_png(tmp_path):
    ids = np.array([[0, 255, 256], [65535, 65536, 2**24 - 1]])
    path = tmp_path / "a.png"
    Image.fromarray(encode_panoptic(ids)).save(path)
    assert Image.open(path).getpixel((2, 0)) == (0, 1, 0)  # id 256 is G = 1
    assert (read_panoptic(path) == ids).all()
    with pytest.raises(ValueError, match="2\\^24"):
        encode_panoptic(np.array([[2**24]]))

    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "grey.png")
    with pytest.raises(UserError, match=r"grey\.png.*mode L"):
        read_panoptic(tmp_path / "grey.png")
    (tmp_path / "torn.png").write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=r"torn\.png"):
        read_panoptic(tmp_path / "torn.png")
    with pytest.raises(UserError, match=r"none\.png"):
        read_panoptic(tmp_path / "none.png")


@pytest.mark.parametrize("largest", [7, 2**16 - 1, 2**16, 2**24])
def test_small_and_large_segment_ids_count_alike(largest: int) -> None:
    generator = np.random.default_rng(largest)
    ids = np.array([0, 3, 5, largest])
    places = generator.integers(0, 4, (9, 11))
    infos = [{"id": int(i), "category_id": 1} for i in ids[1:]]
    other = np.array([0, 1, 2, 6])
    same = match_segments(ids[places], infos, ids[places], infos)
    assert same[1].matched == 3 and same[1].iou == 3.0
    small = [{"id": int(i), "category_id": 1} for i in other[1:]]
    assert match_segments(other[places], small, ids[places], infos) == same
