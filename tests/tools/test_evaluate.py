"""Predictions of any origin score what panopticapi, pycocotools and the definitions of mIoU say."""

import contextlib
import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pycocotools.mask
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maft.errors import UserError
from maft.files import encode_panoptic
from tools.evaluate.__main__ import main
from tools.evaluate.kinds import find_predictions
from tools.evaluate.score import score
from tools.results_table.collect import collect

NAME = "scene_of_others"


@pytest.fixture
def register():
    """Registers records with metadata under NAME, for the test."""

    def as_data_set(records, **metadata):
        DatasetCatalog.register(NAME, lambda: records)
        MetadataCatalog.get(NAME).set(**metadata)
        return records

    yield as_data_set
    if NAME in DatasetCatalog.list():
        DatasetCatalog.remove(NAME)
    MetadataCatalog.pop(NAME, None)


# Label maps

TRUTH = {"a/x": [[0, 0, 1, 1]], "b/x": [[2, 2, 255, 0]]}
GUESS = {"a/x": [[0, 1, 1, 1]], "b/x": [[2, 3, 0, 0]]}
"""IoU: class 0 2/3 (the pixel that is ignored does not count), class 1 2/3, class 2 1/2; class 3 is predicted only."""


def write_map(path: Path, rows, dtype=np.uint8) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(rows, dtype)).save(path)
    return str(path)


@pytest.fixture
def label_maps(tmp_path, register):
    records = [
        {
            "file_name": write_map(tmp_path / f"images/{name}.jpg", rows),
            "sem_seg_file_name": write_map(tmp_path / f"labels/{name}.png", rows),
        }
        for name, rows in TRUTH.items()
    ]
    return register(records, stuff_classes=["road", "sky", "tree", "cat"], ignore_label=255)


@pytest.mark.parametrize("first_class", [0, 1])
def test_label_maps_in_both_definitions(label_maps, tmp_path, first_class):
    for number, (name, rows) in enumerate(GUESS.items()):
        dtype, suffix = ((np.uint8, ".png"), (np.uint16, ".tif"))[number]
        write_map(tmp_path / f"guess/{name}{suffix}", np.asarray(rows) + first_class, dtype)
    predictions = find_predictions(tmp_path / "guess")
    found = score(predictions, NAME, label_maps, tmp_path / "out", first_class=first_class)["sem_seg"]
    assert found["mIoU_reference"] == pytest.approx(100 * (2 / 3 + 2 / 3 + 1 / 2) / 4)
    assert found["mIoU_present"] == pytest.approx(100 * (2 / 3 + 2 / 3 + 1 / 2) / 3)
    assert np.asarray(Image.open(tmp_path / "out/sem_seg/a/x.png")).tolist() == GUESS["a/x"]


def test_label_maps_that_do_not_fit(label_maps, tmp_path):
    guess = tmp_path / "guess"
    write_map(guess / "a/x.png", GUESS["a/x"])
    for content, message in (
        (None, "could be of"),  # one map of a bare name that two images have
        ([[4, 0, 0, 0]], "holds 4, the classes are 0 to 3; every pixel needs a class; --first-class 1"),
        ([[0, 0, 0]], "b/x"),
        (np.zeros((1, 4, 3)), "has mode RGB"),
    ):
        if content is not None:
            write_map(guess / "b/x.png", content)
        with pytest.raises(UserError, match=message):
            score(find_predictions(guess), NAME, label_maps, tmp_path / "out")
    write_map(tmp_path / "other/y.png", GUESS["a/x"])
    with pytest.raises(UserError, match=r"2 of 2 images have no label map, such as a/x\.png, b/x\.png"):
        score(find_predictions(tmp_path / "other"), NAME, label_maps, tmp_path / "out")


# Panoptic JSON


def panopticapi_scenes():
    """The module with scenes and what panopticapi gave for them."""
    path = Path(__file__).parents[1] / "evaluation/test_panopticapi.py"
    spec = importlib.util.spec_from_file_location("panopticapi_scenes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCENES = panopticapi_scenes()


def write_panoptic(path: Path, segment_ids) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(encode_panoptic(segment_ids)).save(path)
    return str(path)


def panoptic_files(folder, register, seed):
    """The scene as a data set whose categories are numbered from 100, and its predictions as panoptic JSON."""
    records, annotations = [], []
    for number, (true, infos, predicted, guesses) in enumerate(SCENES.scene(seed)):
        file = write_panoptic(folder / f"true/{number}.png", true)
        records.append(
            {"file_name": f"{number}.jpg", "image_id": number, "pan_seg_file_name": file, "segments_info": infos}
        )
        write_panoptic(folder / f"guess/{number}.png", predicted)
        segments = [{**info, "category_id": info["category_id"] + 100} for info in guesses]
        annotations.append({"image_id": str(number), "file_name": f"{number}.png", "segments_info": segments})
    (folder / "guess.json").write_text(json.dumps({"annotations": annotations}))
    register(
        records,
        stuff_classes=[str(index) for index in range(SCENES.CLASSES)],
        ignore_label=255,
        thing_dataset_id_to_contiguous_id={index + 100: index for index in SCENES.THINGS},
        stuff_dataset_id_to_contiguous_id={index + 100: index for index in range(SCENES.CLASSES)},
    )
    return records, annotations


@pytest.mark.parametrize("seed", [0, 4])
def test_panoptic_json_equals_panopticapi(tmp_path, register, seed):
    records, _ = panoptic_files(tmp_path, register, seed)
    found = score(find_predictions(tmp_path / "guess.json"), NAME, records, tmp_path / "out")["panoptic_seg"]
    for part, values in SCENES.PUBLISHED[seed].items():
        assert [found[part][key] / 100 for key in ("PQ", "SQ", "RQ")] == pytest.approx(values, abs=1e-9), part
    # What it saved is what it read.
    again = score(find_predictions(tmp_path / "out/panoptic_seg.json"), NAME, records, tmp_path / "again")
    assert again["panoptic_seg"] == found


def test_panoptic_json_that_does_not_fit(tmp_path, register):
    records, annotations = panoptic_files(tmp_path, register, 0)
    last = annotations[-1]
    first_segment = last["segments_info"][0]
    for broken, message in (
        ([*annotations[:-1]], "1 of 8 images of the data set are missing, such as image 7"),
        ([*annotations, last], "lists image 7 twice"),
        ([*annotations[:-1], {**last, "segments_info": []}], "is drawn but not listed"),
        (
            [*annotations[:-1], {**last, "segments_info": [*last["segments_info"], {"id": 9, "category_id": 100}]}],
            "segment 9 is listed but has no pixel",
        ),
        ([*annotations[:-1], {**last, "segments_info": [{**first_segment, "category_id": 5}]}], "no category 5"),
        ([{"image_id": 1}], "entry 0 has no 'file_name'"),
    ):
        (tmp_path / "guess.json").write_text(json.dumps({"annotations": broken}))
        with pytest.raises(UserError, match=message):
            score(find_predictions(tmp_path / "guess.json"), NAME, records, tmp_path / "out")


# Instances, through the command line

INSTANCES = "openvocab_ade20k_instance_val"
BED, DOOR = 7, 14
HEIGHT, WIDTH = 40, 60


def runs(top, left, height=10, width=10):
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[top : top + height, left : left + width] = 1
    found = pycocotools.mask.encode(np.asfortranarray(mask))
    return {"size": [HEIGHT, WIDTH], "counts": found["counts"].decode()}


@pytest.fixture
def instances(tmp_path, monkeypatch):
    """Annotations and detections, shifted by a few pixels at random; the paths of both files."""
    rng = np.random.default_rng(3)
    base = tmp_path / "ade/ADEChallengeData2016"
    (base / "images/validation").mkdir(parents=True)
    images, annotations, detections = [], [], []
    for stem in "abcd":
        Image.new("RGB", (WIDTH, HEIGHT)).save(base / f"images/validation/{stem}.jpg")
        images.append({"id": stem, "file_name": f"{stem}.jpg", "width": WIDTH, "height": HEIGHT})
        for _ in range(4):
            category, top, left = int(rng.choice([BED, DOOR])), *rng.integers((HEIGHT - 13, WIDTH - 13)).tolist()
            true = {"iscrowd": int(rng.random() < 0.1), "area": 100, "segmentation": runs(top, left)}
            annotations.append({"id": len(annotations) + 1, "image_id": stem, "category_id": category, **true})
            guess = runs(top + int(rng.integers(4)), left + int(rng.integers(4)))
            score_ = float(rng.random())
            detections.append({"image_id": stem, "category_id": category, "score": score_, "segmentation": guess})
    categories = [{"id": BED, "name": "bed"}, {"id": DOOR, "name": "door"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (base / "ade20k_instance_val.json").write_text(json.dumps(document))
    (tmp_path / "results.json").write_text(json.dumps(detections))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return base / "ade20k_instance_val.json", tmp_path / "results.json"


def test_instance_results_equal_pycocotools(instances, tmp_path):
    annotations, results = instances
    words = ["--predictions", str(results), "--dataset", INSTANCES, "--output", str(tmp_path / "out")]
    assert main(words) == 0
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    (result,) = collect([tmp_path / "out"]).results
    expected = dict(zip(("AP", "AP50", "AP75", "APs"), 100 * evaluation.stats[:4], strict=True))
    assert 10 < expected["AP"] < 90 and dict(result.metrics) == pytest.approx(expected)


def test_errors_of_the_command_line_are_one_line(instances, tmp_path, capsys):
    _, results = instances
    (tmp_path / "odd.json").write_text("3")
    (tmp_path / "foreign.json").write_text(
        json.dumps([{"image_id": "z", "category_id": BED, "score": 1.0, "segmentation": runs(0, 0)}])
    )
    output = ["--output", str(tmp_path / "out")]
    for words, message in (
        (["--predictions", str(results), "--dataset", "nowhere"], "nowhere: not registered"),
        (["--predictions", str(tmp_path / "none"), "--dataset", INSTANCES], "no such file or folder"),
        (["--predictions", str(tmp_path / "odd.json"), "--dataset", INSTANCES], "neither COCO panoptic JSON"),
        (["--predictions", str(tmp_path / "foreign.json"), "--dataset", INSTANCES], "has no image z"),
    ):
        assert main([*words, *output]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert message in error
