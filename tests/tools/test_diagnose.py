"""Oracles and confusions by hand on three images; the bootstrap's intervals cover as often as they say."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from tools.diagnose.__main__ import main
from tools.diagnose.counts import Counts, with_true_classes, with_true_masks
from tools.diagnose.scores import class_iou, paired_bootstrap

NAME = "diagnosed"
TRUTH = {"x": [0, 0, 0, 1, 1, 255], "y": [1, 1, 1, 1, 0, 0], "z": [2, 2, 2, 0, 0, 0]}
GUESS = {"x": [0, 0, 1, 1, 1, 1], "y": [2, 2, 2, 2, 0, 0], "z": [2, 2, 2, 0, 0, 0]}


@pytest.fixture
def runs(tmp_path):
    """Run A as GUESS, run B perfect."""
    records = []
    for name, row in TRUTH.items():
        for folder, values in (("labels", row), ("A", GUESS[name]), ("B", [value % 255 for value in row])):
            place = tmp_path / folder / ("" if folder == "labels" else f"inference/{NAME}/sem_seg")
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.array([values], np.uint8)).save(place / f"{name}.png")
        label = str(tmp_path / "labels" / f"{name}.png")
        records.append({"file_name": str(tmp_path / f"{name}.jpg"), "sem_seg_file_name": label})
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(stuff_classes=["road", "sky", "tree"], ignore_label=255)
    yield tmp_path / "A", tmp_path / "B"
    DatasetCatalog.remove(NAME)
    MetadataCatalog.pop(NAME, None)


def test_three_images_by_hand(runs, tmp_path, capsys):
    assert main([*map(str, runs), "--dataset", NAME, "--output", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["in_words"] == capsys.readouterr().out.strip()
    first, second = report["runs"]
    # road: 7 of 8; sky: 2 right, 1 of road, 4 missed; tree: 3 right, 4 of sky.
    now = 100 * (7 / 8 + 2 / 7 + 3 / 7) / 3
    assert first["mIoU"] == pytest.approx({"mIoU_reference": now, "mIoU_present": now})
    # Classes given: y becomes sky; the pixel of road in x stays sky. Masks right: that pixel is road; y stays tree.
    classes, masks = 100 * (7 / 8 + 6 / 7 + 1) / 3, 100 * (1 + 2 / 6 + 3 / 7) / 3
    assert first["oracles_add"]["classes given"]["mIoU_present"] == pytest.approx(classes - now)
    assert first["oracles_add"]["masks right"]["mIoU_present"] == pytest.approx(masks - now)
    assert second["mIoU"]["mIoU_reference"] == 100 and second["confusions"] == []
    sky, road = first["confusions"]
    assert (sky["predicted"], sky["true"], sky["pixels"]) == ("tree", "sky", 4)
    assert (road["predicted"], road["true"], road["pixels"]) == ("sky", "road", 1)
    # Each alone leads where the oracle that mends it leads.
    assert sky["mIoU_present"] == pytest.approx(classes - now) and road["mIoU_present"] == pytest.approx(masks - now)
    assert report["comparison"]["mIoU"]["mIoU_present"]["value"] == pytest.approx(100 - now)


def test_missing_predictions_are_one_line(runs, tmp_path, capsys):
    assert main([str(tmp_path / "C"), "--dataset", NAME]) == 2
    assert "no saved predictions" in capsys.readouterr().err


def test_regions_of_one_class_vote_apart():
    predicted, label = np.array([[1, 1, 0, 1, 1]]), np.array([[2, 2, 0, 255, 255]])
    assert with_true_classes(predicted, label, 255).tolist() == [[2, 2, 0, 1, 1]]
    assert with_true_masks(np.array([[1, 1, 0, 3, 3]]), np.array([[2, 2, 0, 2, 2]]), 255).tolist() == [[1, 1, 0, 3, 3]]


def test_intervals_cover_as_stated():
    """90 % intervals of runs that are alike hold the true difference, 0, in about 90 % of 200 data sets."""
    rng = np.random.default_rng(0)
    covered = 0
    for number in range(200):
        true = np.full((60, 3), 100)
        runs = []
        for _ in range(2):
            hits = rng.binomial(100, rng.beta(6, 4, (60, 3)))
            missed = true - hits
            runs.append(Counts(hits, true, hits + np.roll(missed, 1, axis=1)))
        difference = paired_bootstrap(*runs, draws=200, level=0.9, seed=number)[0]["mIoU_present"]
        covered += difference.low <= 0 <= difference.high
    assert 168 <= covered <= 192  # about three standard deviations to either side of 180


def test_a_difference_that_holds_up_is_found():
    true = np.full((40, 2), 100)
    worse, better = np.tile([50, 80], (40, 1)), np.tile([70, 80], (40, 1))
    runs = [Counts(hits, true, hits) for hits in (worse, better)]
    overall, rows = paired_bootstrap(*runs, draws=200)
    assert overall["mIoU_present"].value == pytest.approx(10) and [row["holds_up"] for row in rows] == [True, False]
    assert class_iou(runs[0], np.ones((1, 40))).tolist() == [[50, 80]]
    with pytest.raises(ValueError, match="different ground truth"):
        paired_bootstrap(runs[0], Counts(worse, true + 1, worse))
