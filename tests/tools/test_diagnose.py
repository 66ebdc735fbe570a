"""Oracles and confusions by hand on three images; the bootstrap's intervals cover as often as they say."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from maft import Segmentor, load_segmentor
from maft.class_maps import ClassMaps
from maft.evaluation.evaluators import SemanticEvaluator
from maft.evaluation.results import results_folder
from maft.meta_arch.vocabularies import registered_vocabulary
from reason.triplets import ImageTriplet, Reason, dump_image
from tools.diagnose.__main__ import main, read_lists
from tools.diagnose.attributes import Effect, attributes_given, effects, ranked
from tools.diagnose.counts import Counts, confusion, count, with_true_classes, with_true_masks
from tools.diagnose.saved import Truth
from tools.diagnose.scores import class_iou, paired_bootstrap, whole
from tools.mini import dataset

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


SCORES = {
    "x": ["rst", "rst", "srt", "srt", "srt", "srt"],
    "y": ["tsr", "tsr", "tsr", "trs", "rst", "rst"],
    "z": ["trs", "trs", "trs", "rst", "rst", "rst"],
}
"""GUESS as an order of classes at each pixel, by their first letters, the best first; both ignored classes of y have a
second choice."""


def scores_of(image: str) -> torch.Tensor:
    """(3, 1, 6): 3 for the class that comes first, 1 for the last."""
    orders = [["rst".index(letter) for letter in order] for order in SCORES[image]]
    scores = torch.zeros(3, 1, len(orders))
    for column, order in enumerate(orders):
        scores[order, 0, column] = torch.tensor([3.0, 2.0, 1.0])
    return scores


@pytest.mark.parametrize("as_maps", [False, True])
def test_the_true_classes_as_candidates_by_hand(runs, tmp_path, capsys, as_maps):
    """A run that saved them says what its second choices would add; one that did not says how to save them."""
    run = tmp_path / "C"
    evaluator = SemanticEvaluator(NAME, results_folder(run, NAME), save_oracle=True)
    assert evaluator.what == "sem_seg with predictions and oracle"
    for image in TRUTH:
        scores = scores_of(image)
        output = {"class_maps": ClassMaps(lambda scores=scores: scores, None, None, 3, (1, 6))}
        evaluator.process_one({"file_name": str(tmp_path / f"{image}.jpg")}, output if as_maps else {"sem_seg": scores})
    page = tmp_path / "page.html"
    words = ["--dataset", NAME, "--output", str(tmp_path / "report.json"), "--page", str(page)]
    assert main([str(run), str(runs[0]), *words]) == 0
    saved, not_saved = json.loads((tmp_path / "report.json").read_text())["runs"]
    # In y there is no tree: three of four pixels of sky become sky, one road. In x both classes stay, right or wrong.
    # road: 7 of 8 hit, 8 predicted; sky: 5 of 6 hit, 6 predicted; tree: 3 of 3.
    now, then = 100 * (7 / 8 + 2 / 7 + 3 / 7) / 3, 100 * (7 / 9 + 5 / 7 + 1) / 3
    assert saved["mIoU"]["mIoU_present"] == not_saved["mIoU"]["mIoU_present"] == pytest.approx(now)
    assert saved["oracles_add"]["candidates given"]["mIoU_present"] == pytest.approx(then - now)
    assert saved["not_saved"] == {} and "candidates given" not in not_saved["oracles_add"]
    assert "TEST.SAVE_ORACLE True" in not_saved["not_saved"]["candidates given"]
    assert f"competed for its pixels, it would have {then - now:+.2f} points" in capsys.readouterr().out
    text = page.read_text()
    assert f"{then - now:+.2f}" in text and "Candidates given: label maps hold no second choice" in text
    (results_folder(run, NAME) / "sem_seg_candidates_given/y.png").unlink()
    assert main([str(run), *words[:2]]) == 2 and "y.png" in capsys.readouterr().err


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


def reasons_of(folder: Path, **classes: list[str]) -> Path:
    """Reason files by image: a list of classes each, all with two attributes."""
    for stem, names in classes.items():
        reasons = {name: Reason(name, "", "", (f"a {name} look", "a <b> edge")) for name in names}
        dump_image(ImageTriplet(reasons), folder / f"{stem}.json")
    return folder


def test_lists_by_hand_and_a_page(runs, tmp_path, capsys):
    Image.fromarray(np.full((1, 6, 3), 90, np.uint8)).save(tmp_path / "y.jpg")
    folder = reasons_of(tmp_path / "reasons", x=["road"], y=["tree", "road"])
    words = [*map(str, runs[::-1]), "--dataset", NAME, "--image-reasons", str(folder)]
    assert main([*words, "--output", str(tmp_path / "a.json"), "--page", str(tmp_path / "a.html")]) == 0
    report = json.loads((tmp_path / "a.json").read_text())
    # Listed: 1 of 2 classes of x (road), 1 of 2 of y (road); tree is not in y. z has no file.
    assert report["lists"] | {"gain_by_recall": None} == {
        "images": 3,
        "without_list": 1,
        "recall": 2 / 4,
        "precision": 2 / 3,
        "gain_by_recall": None,
    }
    # The second run is GUESS. Sky in x lacks one pixel of five, y four of six; both lists have half of the classes.
    (row,) = report["lists"]["gain_by_recall"]
    assert row == {"lists": "at least half", "images": 2, "gain": pytest.approx(-(100 / 5 + 400 / 6) / 2)}
    # With complete lists the sky of y is right; the road of x that was taken for sky is listed, and stays.
    now, then = report["runs"][1]["mIoU"]["mIoU_present"], 100 * (7 / 8 + 6 / 7 + 1) / 3
    assert report["runs"][1]["oracles_add"]["lists complete"]["mIoU_present"] == pytest.approx(then - now)
    assert "lists complete" not in report["runs"][0]["oracles_add"]
    assert "do not list cost" in report["in_words"] and "recall 50%, precision 67%" in capsys.readouterr().out
    page = (tmp_path / "a.html").read_text()
    assert "sky, taken for tree" in page and page.count("data:image/jpeg") == 1
    assert "tree: a tree look, a &lt;b&gt; edge" in page and "<b> edge" not in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image-reasons", "nowhere"], "--image-reasons nowhere: no such folder"),
        (["--image-reasons", "."], "--image-reasons .: has no reasons for the images of diagnosed"),
        (["--attributes", "mini"], "--attributes: needs --image-reasons"),
        (["--true-reasons", "."], "--true-reasons: needs --attributes MODEL"),
        (["--image-reasons", ".", "--images", "0"], "--images 0: give a whole number"),
    ],
)
def test_bad_options_are_one_line(words, message, runs, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    try:
        status = main([str(runs[0]), "--dataset", NAME, *words])
    except SystemExit as error:
        status = error.code
    assert status == 2 and message in capsys.readouterr().err


def test_effects_of_an_attribute_are_summed_over_images():
    found = [
        Effect("x", "road", "grey", 30, 100),
        Effect("y", "road", "grey", -10, 300),
        Effect("y", "sky", "blue", -3, 300),
    ]
    assert ranked(found) == [
        {"class": "road", "attribute": "grey", "images": 2, "points": 5.0},
        {"class": "sky", "attribute": "blue", "images": 1, "points": -1.0},
    ]


@pytest.mark.slow
def test_effects_are_those_of_running_everything_again(tmp_path, monkeypatch):
    """Drawn images, the toy model: leaving an attribute out of the file and segmenting from the start."""
    monkeypatch.setattr(dataset, "COUNTS", {"train": 1, "val": 2, "closed": 1})
    dataset.register(tmp_path)
    truth, used = Truth.of("mini_val_sem_seg"), 2
    vocabulary = registered_vocabulary(truth.name)
    folder = dataset.Layout(tmp_path, "val").reason_dir() / "mini"
    lists = read_lists(folder, truth)
    segmentor = load_segmentor("mini", device="cpu", attributes=used)
    alone = effects(segmentor, truth, vocabulary, lists, used)
    found = {(each.image, each.class_name, each.attribute): each for each in alone}
    assert len(found) == sum(len(one.reasons) for one in lists) * used
    for record, one in zip(truth.records, lists, strict=True):
        label = truth.labels(record)
        whole = right_pixels(segmentor, record, vocabulary, one.reasons, label, truth.ignore, tmp_path)
        for index, reason in one.reasons.items():
            for attribute in reason.attributes[:used]:
                rest = tuple(other for other in reason.attributes[:used] if other != attribute)
                changed = {**one.reasons, index: replace(reason, attributes=rest, source={})}
                right = right_pixels(segmentor, record, vocabulary, changed, label, truth.ignore, tmp_path)
                effect = found[record["file_name"], truth.classes[index], attribute]
                assert effect.pixels == whole - right and effect.of == (label != truth.ignore).sum()
    assert any(effect.pixels > 20 for effect in found.values())


def right_pixels(segmentor: Segmentor, record, vocabulary, reasons, label, ignore, folder) -> int:
    dump_image(ImageTriplet({reason.name: reason for reason in reasons.values()}), folder / "one.json")
    labels = segmentor(record["file_name"], vocabulary, folder / "one.json").label_map
    return int(((labels == label) & (label != ignore)).sum())


@pytest.mark.slow
def test_true_attributes_add_what_segmenting_with_them_adds(tmp_path, monkeypatch):
    """The lists of an observer that errs often, with the looks of one that never does."""
    monkeypatch.setattr(dataset, "COUNTS", {"train": 1, "val": 3, "closed": 1})
    dataset.register(tmp_path)
    truth = Truth.of("mini_val_sem_seg")
    vocabulary = registered_vocabulary(truth.name)
    folder = dataset.Layout(tmp_path, "val").folder / "image_reason"
    own, true = (read_lists(folder / f"observer-{rate}" / "mini", truth) for rate in (30, 0))
    segmentor = load_segmentor("mini", device="cpu", attributes=2)
    found = attributes_given(segmentor, truth, vocabulary, own, true)
    scores, differ = [], 0
    for exact in (False, True):
        parts = []
        for record, erring, right in zip(truth.records, own, true, strict=True):
            reasons = erring.reasons | {index: right.reasons[index] for index in right.listed & erring.listed if exact}
            differ += exact and sum(reasons[i].attributes != erring.reasons[i].attributes for i in reasons)
            dump_image(ImageTriplet({reason.name: reason for reason in reasons.values()}), tmp_path / "one.json")
            labels = segmentor(record["file_name"], vocabulary, tmp_path / "one.json").label_map
            parts.append(confusion(labels.clip(min=0), truth.labels(record), len(truth.classes), truth.ignore))
        scores.append(whole(count(parts)))
    assert found["images"] == 3 and found["replaced"] == differ > 0
    assert found["adds"] == {name: pytest.approx(scores[1][name] - scores[0][name]) for name in scores[0]}
    assert attributes_given(segmentor, truth, vocabulary, own, own)["adds"] == dict.fromkeys(scores[0], 0.0)


@pytest.mark.slow
def test_attributes_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dataset, "COUNTS", {"train": 1, "val": 2, "closed": 1})
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    layouts = dataset.prepare(splits=("val",))
    saved = tmp_path / "run" / "inference" / "mini_val_sem_seg" / "sem_seg"
    saved.mkdir(parents=True)
    for file in layouts["val"].annotations.iterdir():
        labels = np.asarray(Image.open(file))
        Image.fromarray(np.where(labels == 255, 0, labels).astype(np.uint8)).save(saved / file.name)
    reasons = layouts["val"].reason_dir() / "mini"
    words = [str(tmp_path / "run"), "--register", "tools.mini.dataset", "--dataset", "mini_val_sem_seg"]
    words += [
        "--image-reasons",
        str(reasons),
        "--attributes",
        "mini",
        "--images",
        "1",
        "--page",
        str(tmp_path / "p.html"),
        "--true-reasons",
        str(reasons.parent.parent / "observer-0" / "mini"),
    ]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert re.search(r"The attribute that helps most is '.*' of \w+ \(\+", said)
    assert re.search(r"True attributes .* would add [+-]\d+\.\d\d points .*images looked at: 1", said)
    page = (tmp_path / "p.html").read_text()
    assert "<h2>Attributes</h2>" in page and "None: every pixel that counts is right." in page
