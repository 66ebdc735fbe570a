"""Evaluators on real files: what they save, and what they refuse."""

import json

import evaluation_scene as scene
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from maft.errors import UserError
from maft.evaluation.evaluators import PanopticEvaluator, SemanticEvaluator
from maft.evaluation.metrics import confusion_matrix
from maft.evaluation.panoptic import match_segments
from maft.evaluation.results import results_folder
from maft.files import encode_panoptic, prediction_names, read_label_map, read_panoptic


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    scene.build(folder, 4)
    scene.register(folder)
    return folder


def outputs(data):
    inputs = [scene.InferenceMapper(short_edge=0)(record) for record in scene.records(data)]
    with torch.inference_mode():
        return list(zip(inputs, scene.Network().eval()(inputs), strict=True))


def one_hot(classes):
    return torch.nn.functional.one_hot(torch.as_tensor(classes).long(), len(scene.CLASSES)).permute(2, 0, 1).float()


def test_saved_predictions_are_what_was_evaluated(data, tmp_path):
    result = scene.run(data, tmp_path, save=True, batch=3)
    folder = results_folder(tmp_path, scene.NAME)
    document = json.loads((folder / "panoptic_seg.json").read_text())
    assert [annotation["image_id"] for annotation in document["annotations"]] == [0, 1, 2, 3]
    total = 0
    matched = 0
    for record, (_, output), annotation in zip(
        scene.records(data), outputs(data), document["annotations"], strict=True
    ):
        saved = read_label_map(folder / "sem_seg" / annotation["file_name"], len(scene.CLASSES), scene.IGNORE)
        assert (saved == output["sem_seg"].argmax(0).numpy()).all()
        total = total + confusion_matrix(saved, read_label_map(record["sem_seg_file_name"], 5, 255), 5, 255)
        segments = read_panoptic(folder / "panoptic_seg" / annotation["file_name"])
        assert (segments == output["panoptic_seg"][0].numpy()).all()
        assert sum(info["area"] for info in annotation["segments_info"]) == segments.size
        infos = [{**info, "category_id": info["category_id"] - 100} for info in annotation["segments_info"]]
        true = read_panoptic(record["pan_seg_file_name"])
        matched += sum(c.matched for c in match_segments(segments, infos, true, record["segments_info"]).values())
    assert 100 * total.diagonal().sum() / total.sum() == pytest.approx(result["metrics"]["sem_seg"]["pACC"], abs=1e-6)
    assert matched == sum(c["matched"] for c in result["metrics"]["panoptic_seg"]["per_class"].values())
    assert not [path for path in folder.rglob("*") if path.suffix in (".partial", ".tmp")]


def test_a_perfect_prediction_scores_a_hundred(data, tmp_path):
    semantic, panoptic = SemanticEvaluator(scene.NAME, tmp_path), PanopticEvaluator(scene.NAME, tmp_path)
    found = {"sem_seg": {}, "panoptic_seg": {}}
    for record in scene.records(data):
        label = read_label_map(record["sem_seg_file_name"], len(scene.CLASSES), scene.IGNORE)
        true = read_panoptic(record["pan_seg_file_name"])
        output = {
            "sem_seg": one_hot(np.where(label == scene.IGNORE, 0, label)),
            "panoptic_seg": (torch.from_numpy(true).int(), record["segments_info"]),
        }
        found["sem_seg"][record["file_name"]] = semantic.process_one(record, output)
        found["panoptic_seg"][record["file_name"]] = panoptic.process_one(record, output)
    scores = semantic.summarise(found["sem_seg"])["sem_seg"]
    assert [scores[key] for key in ("mIoU_reference", "mIoU_present", "fwIoU", "mACC", "pACC")] == [100.0] * 5
    assert panoptic.summarise(found["panoptic_seg"])["panoptic_seg"]["all"]["PQ"] == 100.0


def test_records_are_json_and_sum_in_any_order(data, tmp_path):
    for evaluator in (SemanticEvaluator(scene.NAME, tmp_path), PanopticEvaluator(scene.NAME, tmp_path)):
        records = {input["file_name"]: evaluator.process_one(input, output) for input, output in outputs(data)}
        again = json.loads(json.dumps(dict(reversed(records.items())), allow_nan=False))
        assert evaluator.summarise(records) == evaluator.summarise(again)


def test_sizes_that_differ_name_the_label_file(data, tmp_path):
    input, output = outputs(data)[1]
    smaller = {
        "sem_seg": output["sem_seg"][:, :-1],
        "panoptic_seg": (output["panoptic_seg"][0][:, :-1], output["panoptic_seg"][1]),
    }
    with pytest.raises(UserError, match=r"labels/001\.png: is 28x20 pixels, its image .*images/001\.png is 28x19"):
        SemanticEvaluator(scene.NAME, tmp_path).process_one(input, smaller)
    with pytest.raises(UserError, match=r"panoptic/001\.png: is 28x20 pixels, its image .*images/001\.png is 27x20"):
        PanopticEvaluator(scene.NAME, tmp_path).process_one(input, smaller)


def test_outputs_that_do_not_serve_are_refused(data, tmp_path):
    input, output = outputs(data)[1]
    semantic, panoptic = SemanticEvaluator(scene.NAME, tmp_path), PanopticEvaluator(scene.NAME, tmp_path)
    with pytest.raises(UserError, match="SEMANTIC_ON"):
        semantic.process_one(input, {})
    with pytest.raises(UserError, match="PANOPTIC_ON"):
        panoptic.process_one(input, {})
    with pytest.raises(UserError, match=f"scores 3 classes, {scene.NAME} has 5"):
        semantic.process_one(input, {"sem_seg": output["sem_seg"][:3]})


def test_a_label_outside_the_vocabulary_is_refused(data, tmp_path):
    path = data / "labels" / "001.png"
    label = np.array(Image.open(path))
    label[0, 0] = 17
    Image.fromarray(label).save(path)
    with pytest.raises(UserError, match=r"labels/001\.png: holds 17"):
        scene.run(data, tmp_path)


def test_panoptic_ground_truth_that_contradicts_itself_is_refused(data, tmp_path):
    path = data / "panoptic" / "002.png"
    segments = read_panoptic(path)
    segments[0, 0] = 77
    Image.fromarray(encode_panoptic(segments)).save(path)
    with pytest.raises(UserError, match=r"panoptic/002\.png: has pixels of segment 77"):
        scene.run(data, tmp_path)


def register_records(name, records):
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(stuff_classes=scene.CLASSES, ignore_label=scene.IGNORE)


def test_data_sets_without_images_or_ground_truth_are_refused(tmp_path):
    try:
        register_records("empty", [])
        register_records("unlabelled", [{"file_name": "a.png"}])
        with pytest.raises(UserError, match="empty: there is no image"):
            SemanticEvaluator("empty", tmp_path)
        with pytest.raises(UserError, match=r"a\.png: unlabelled names no ground truth.*sem_seg_file_name"):
            SemanticEvaluator("unlabelled", tmp_path)
        with pytest.raises(UserError, match="pan_seg_file_name"):
            PanopticEvaluator("unlabelled", tmp_path)
    finally:
        for name in ("empty", "unlabelled"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_nothing_evaluated_and_nothing_annotated_are_user_errors(data, tmp_path):
    semantic = SemanticEvaluator(scene.NAME, tmp_path)
    with pytest.raises(UserError, match="no image to evaluate"):
        semantic.summarise({})
    with pytest.raises(UserError, match=f"{scene.NAME}: no pixel of the ground truth is annotated"):
        semantic.summarise({"a": {"cells": [], "counts": []}})


def test_prediction_names_are_distinct_and_relative():
    names = prediction_names(["/d/x/a.jpg", "/d/y/a.jpg", "/d/y/b.v2.jpg"])
    assert names == {"/d/x/a.jpg": "x/a", "/d/y/a.jpg": "y/a", "/d/y/b.v2.jpg": "y/b.v2"}
    assert prediction_names(["/d/a.jpg", "/d/a.png"]) == {"/d/a.jpg": "a.jpg", "/d/a.png": "a.png"}
    assert prediction_names(["/d/a.jpg"]) == {"/d/a.jpg": "a"}
    names = prediction_names(["/d/a.jpg", "/d/a.png", "/d/a.jpg.png", "/d/b.jpg"])
    assert list(names.values()) == ["a.jpg", "a.png", "a.jpg.png", "b"]
