"""PQ equals panopticapi's, which published figures come from, on random maps with crowds, overlaps and stale areas.

`PUBLISHED` was recorded by running `panopticapi.evaluation.pq_compute_single_core` and `PQStat.pq_average` of
github.com/cocodataset/panopticapi over the files of `scene(seed)`.
"""

import numpy as np
import pytest

from maft.evaluation.panoptic import GroundTruthError, Overlap, add_counts, match_segments, panoptic_scores

CLASSES, THINGS, IMAGES = 6, (0, 1, 2), 8
SIZE = (40, 56)


def scene(seed):
    """Images as (true map, true infos, predicted map, predicted infos); ground truth holds crowds and wrong areas."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(IMAGES):
        true, infos = np.zeros(SIZE, np.int64), []
        for identifier in rng.choice(2**24 - 1, rng.integers(1, 9), replace=False) + 1:
            top, left = rng.integers(SIZE[0] - 8), rng.integers(SIZE[1] - 8)
            box = np.s_[top : top + rng.integers(8, 28), left : left + rng.integers(8, 28)]
            category = int(rng.integers(CLASSES))
            true[box] = identifier
            # As where an instance is laid over stuff after its area was taken: too large, now and then too small.
            area = int((true[box] == identifier).sum() * rng.choice([1.0, 1.0, 0.8]))
            crowd = int(category in THINGS and rng.random() < 0.35)
            infos.append({"id": int(identifier), "category_id": category, "area": area, "iscrowd": crowd})
        predicted = np.roll(true, rng.integers(-3, 4, 2), axis=(0, 1))
        top, left = rng.integers(20), rng.integers(30)
        predicted[top : top + 20, left : left + 24] = 77
        category_of = {info["id"]: info["category_id"] for info in infos}
        guesses = []
        for identifier in np.unique(predicted[predicted > 0]):
            category = category_of.get(int(identifier), 0)
            category = int(rng.integers(CLASSES)) if rng.random() < 0.15 else category
            guesses.append({"id": int(identifier), "category_id": category})
        images.append((true, infos, predicted, guesses))
    return images


PUBLISHED = {
    0: {
        "all": (0.23558669006091523, 0.7576306882800075, 0.31489371577090874),
        "things": (0.20617029617835306, 0.7475242169625124, 0.26913580246913577),
        "stuff": (0.2650030839434774, 0.7677371595975023, 0.3606516290726817),
    },
    1: {
        "all": (0.20838222728339098, 0.7030127236591701, 0.3003764753764753),
        "things": (0.1363897498512883, 0.6961182336182336, 0.21001221001221002),
        "stuff": (0.28037470471549364, 0.7099072137001065, 0.3907407407407408),
    },
    2: {
        "all": (0.2808101614366682, 0.5779916110616363, 0.39831649831649835),
        "things": (0.3735573227910392, 0.6905382052891631, 0.5272727272727272),
        "stuff": (0.18806300008229723, 0.4654450168341095, 0.26936026936026936),
    },
    3: {
        "all": (0.3663220888417922, 0.6059975721230918, 0.5020424836601307),
        "things": (0.31771303072578233, 0.5028099208848941, 0.4166666666666667),
        "stuff": (0.41493114695780203, 0.7091852233612893, 0.5874183006535948),
    },
    4: {
        "all": (0.22661906677849852, 0.46329255430113875, 0.3318602693602694),
        "things": (0.17650303270462864, 0.24269166996886438, 0.24242424242424243),
        "stuff": (0.27673510085236835, 0.6838934386334131, 0.4212962962962963),
    },
    5: {
        "all": (0.20746968310458866, 0.6776761666715586, 0.31072631072631074),
        "things": (0.14293779992047068, 0.6880194596810295, 0.2113997113997114),
        "stuff": (0.2720015662887066, 0.6673328736620875, 0.41005291005291006),
    },
    6: {
        "all": (0.2759700282255465, 0.5962688764864333, 0.3772079772079772),
        "things": (0.15575252477980395, 0.4029160369769165, 0.25071225071225073),
        "stuff": (0.39618753167128906, 0.7896217159959501, 0.5037037037037037),
    },
    7: {
        "all": (0.2071892697177076, 0.45769886229129536, 0.3012210012210012),
        "things": (0.1349206349206349, 0.23611111111111113, 0.19047619047619047),
        "stuff": (0.2794579045147803, 0.6792866134714796, 0.411965811965812),
    },
    8: {
        "all": (0.2198126749241901, 0.7168875089751706, 0.3111111111111111),
        "things": (0.16405367231638415, 0.7023775894538605, 0.2333333333333333),
        "stuff": (0.2755716775319961, 0.7313974284964807, 0.38888888888888884),
    },
    9: {
        "all": (0.2255409526785229, 0.6584943673383455, 0.29259259259259257),
        "things": (0.18429945832322744, 0.670870725200097, 0.17777777777777778),
        "stuff": (0.2667824470338183, 0.6461180094765941, 0.40740740740740744),
    },
}


def scores(seed, **options):
    counts = add_counts(match_segments(p, guesses, t, infos, **options) for t, infos, p, guesses in scene(seed))
    return panoptic_scores(counts, [str(index) for index in range(CLASSES)], THINGS)


@pytest.mark.parametrize("seed", PUBLISHED)
def test_equals_panopticapi(seed):
    found = scores(seed)
    for part, values in PUBLISHED[seed].items():
        assert [found[part][key] / 100 for key in ("PQ", "SQ", "RQ")] == pytest.approx(values, abs=1e-9), part


def test_counting_pixels_gives_other_figures():
    differing = [seed for seed in PUBLISHED if scores(seed)["all"] != scores(seed, by_pixels=True)["all"]]
    assert differing == list(PUBLISHED)


def one_row(*runs):
    return np.array([[identifier for identifier, length in runs for _ in range(length)]])


def test_an_instance_over_stuff():
    """A wall of 10 listed pixels, 4 of which a bed lies over: a perfect prediction loses by the listed area."""
    true = one_row((1, 6), (2, 4))
    infos = [{"id": 1, "category_id": 0, "area": 10}, {"id": 2, "category_id": 1, "area": 4}]
    overlap = Overlap.of(true, infos, true, infos)
    assert overlap.counts()[0].iou == 0.6 and overlap.counts(by_pixels=True)[0].iou == 1.0


def test_of_two_crowds_of_a_class_the_last_one_forgives():
    true = one_row((1, 4), (2, 2), (0, 4))
    infos = [{"id": 1, "category_id": 0, "iscrowd": 1}, {"id": 2, "category_id": 0, "iscrowd": 1}]
    overlap = Overlap.of(one_row((5, 6), (0, 4)), [{"id": 5, "category_id": 0}], true, infos)
    assert overlap.counts()[0].wrong == 1 and overlap.counts(by_pixels=True) == {}


@pytest.mark.parametrize("of", ["truth", "prediction"])
def test_segment_0_is_refused(of):
    true, infos = one_row((0, 5), (1, 5)), [{"id": 0, "category_id": 0}, {"id": 1, "category_id": 1}]
    guesses = infos if of == "prediction" else infos[1:]
    error = ValueError if of == "prediction" else GroundTruthError
    with pytest.raises(error, match="id 0"):
        Overlap.of(true, guesses, true, infos[1:] if of == "prediction" else infos)


def test_an_area_that_leaves_no_union_is_refused():
    true = one_row((1, 4), (0, 4))
    with pytest.raises(GroundTruthError, match="segment 1 with area 0"):
        match_segments(true, [{"id": 1, "category_id": 0}], true, [{"id": 1, "category_id": 0, "area": 0}])
