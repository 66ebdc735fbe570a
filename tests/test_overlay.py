"""What overlays show: legends, names in regions, an alarm, and their size."""

from __future__ import annotations

import numpy as np
from PIL import Image

from maft.drawing import Maps, shares
from maft.inputs import read_classes
from maft.legend import compose
from maft.region_names import write_names
from maft.result import FoundClass, Result


def test_the_legend_fits_however_long_the_names_are() -> None:
    image = np.full((40, 500, 3), 128, dtype=np.uint8)
    entries = [(f"{'a long name ' * number} 5.0%", (255, 0, 0)) for number in range(1, 30)]
    drawn = np.array(compose(image, entries)).astype(int)
    assert drawn.shape[1] == 500 and (drawn[:40] == 128).all()
    foot = drawn[40:]
    swatches = (foot[..., 0] > 200) & (foot[..., 1] < 60)
    assert len(np.flatnonzero(np.diff(swatches[:, 15].astype(int)) == 1)) == len(entries)
    assert (foot[:, -3:] == 255).all(), "no text runs out of the image"
    assert compose(image, []).size == (500, 40)


def test_names_stand_in_regions_that_have_room_for_them() -> None:
    labels = np.zeros((300, 600), dtype=np.int32)
    labels[:, 300:] = 1
    labels[140:160, 440:460] = 2  # too small for any name
    labels[0:300, 0:6] = 3  # large enough, and too narrow
    image = Image.new("RGB", (600, 300), (90, 120, 150))
    write_names(image, Maps(labels, labels), ["left", "right", "small", "narrow"])
    written = (np.array(image) != (90, 120, 150)).any(axis=-1)
    assert set(np.unique(labels[written])) == {0, 1}
    for index in (0, 1):
        rows, columns = np.nonzero(written & (labels == index))
        assert 8 < np.ptp(rows) < 40 and 20 < np.ptp(columns) < 150
    assert (np.array(image)[written] > 200).any(axis=-1).any(), "white letters"
    empty = Image.new("RGB", (600, 300))
    write_names(empty, Maps(labels * 0 - 1, labels * 0), ["left", "right", "small", "narrow"])
    assert not np.array(empty).any(), "what has no class has no name"


def test_each_of_thirty_classes_is_named_where_it_lies() -> None:
    """A grid of 30 classes: every cell has its own name in it."""
    labels = np.repeat(np.repeat(np.arange(30, dtype=np.int32).reshape(5, 6), 100, axis=0), 130, axis=1)
    image = Image.new("RGB", (780, 500))
    write_names(image, Maps(labels, labels), [f"class {index}" for index in range(30)])
    written = (np.array(image) > 200).all(axis=-1)
    assert set(np.unique(labels[written])) == set(range(30))
    edges = written[[99, 100, 199, 200, 299, 300]].any() or written[:, [129, 130, 259, 260]].any()
    assert not edges, "names stay inside their cells"


def _result(height: int, width: int) -> Result:
    vocabulary = read_classes(["wall", "猫"])
    labels = np.zeros((height, width), dtype=np.int32)
    labels[:, width // 2 :] = 1
    found = tuple(FoundClass(i, vocabulary.classes[i].synonyms[0], s, 0.5) for i, s in shares(Maps(labels, labels)))
    image = np.full((height, width, 3), 128, dtype=np.uint8)
    return Result(image, vocabulary, labels, found, None, None, {}, "names")


def test_overlays_are_made_smaller_and_get_an_alarm_when_asked() -> None:
    result = _result(400, 800)
    bare = result.overlay(with_legend=False, with_names=False)
    assert bare.size == (800, 400)
    assert result.overlay(with_legend=False, with_names=False, pixels=80_000).size == (400, 200)
    named = np.array(result.overlay(with_legend=False))
    assert (named != np.array(bare)).any()
    alarmed = np.array(result.overlay(with_legend=False, alarm="This means nothing.").convert("RGB")).astype(int)
    assert alarmed.shape[0] > 400
    assert (alarmed[2, :, 0] > 150).all() and (alarmed[2, :, 1:] < 60).all()
