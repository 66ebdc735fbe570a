"""COCO AP against values worked out by hand."""

import json

import numpy as np
import pycocotools.mask
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from PIL import Image

from maft.data import load_dataset, register_all
from maft.errors import UserError
from maft.evaluation.instances import InstanceEvaluator
from maft.evaluation.results import results_table, summary

NAME = "openvocab_ade20k_instance_val"
HEIGHT, WIDTH = 40, 60


def square(top, left, side=10):
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


BED, DOOR = 7, 14
"""Categories of ADE20K; of the things, bed is the first (0) and door the sixth (5)."""


@pytest.fixture
def evaluator(tmp_path, monkeypatch):
    """Two images: two beds and a door in the first, a bed in the second."""
    base = tmp_path / "ade/ADEChallengeData2016"
    (base / "images/validation").mkdir(parents=True)
    images, annotations = [], []
    for stem, objects in (("a", [(BED, 0, 0), (BED, 20, 0), (DOOR, 0, 30)]), ("b", [(BED, 5, 5)])):
        Image.new("RGB", (WIDTH, HEIGHT)).save(base / f"images/validation/{stem}.jpg")
        images.append({"id": stem, "file_name": f"{stem}.jpg", "width": WIDTH, "height": HEIGHT})
        for category, top, left in objects:
            runs = pycocotools.mask.encode(np.asfortranarray(square(top, left)))
            runs["counts"] = runs["counts"].decode()
            annotations.append(
                {"id": len(annotations), "image_id": stem, "category_id": category, "iscrowd": 0, "segmentation": runs}
            )
    categories = [{"id": BED, "name": "bed"}, {"id": DOOR, "name": "door"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (base / "ade20k_instance_val.json").write_text(json.dumps(document))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_all()
    return InstanceEvaluator(NAME, tmp_path / "out", True, records=load_dataset(NAME))


def detected(*found):
    instances = Instances((HEIGHT, WIDTH))
    instances.pred_masks = torch.from_numpy(np.stack([mask for mask, _, _ in found])).bool()
    instances.scores = torch.tensor([score for _, score, _ in found])
    instances.pred_classes = torch.tensor([index for _, _, index in found])
    return {"instances": instances}


def scores(evaluator, *outputs):
    files = [record["file_name"] for record in DatasetCatalog.get(NAME)]
    records = {
        file: evaluator.process_one({"file_name": file}, output) for file, output in zip(files, outputs, strict=True)
    }
    return evaluator.summarise(json.loads(json.dumps(records)))["instances"]


def index_of(category):
    return MetadataCatalog.get(NAME).thing_dataset_id_to_contiguous_id[category]


def test_a_perfect_prediction_has_ap_100(evaluator, tmp_path):
    bed, door = index_of(BED), index_of(DOOR)
    first = detected((square(0, 0), 0.9, bed), (square(20, 0), 0.8, bed), (square(0, 30), 0.7, door))
    found = scores(evaluator, first, detected((square(5, 5), 0.6, bed)))
    assert found["AP"] == found["AP50"] == found["APs"] == pytest.approx(100)
    assert found["APl"] is None and found["classes"] == 2
    assert found["per_class"]["bed"] == {"AP": pytest.approx(100), "objects": 3}
    assert found["per_class"]["cabinet"] == {"AP": None, "objects": 0}
    assert len(json.loads((tmp_path / "out/instances.json").read_text())) == 4
    evaluation = {"metrics": {"instances": found}, "images": {"total": 2, "this_run": 2, "earlier_run": 0}, "usage": {}}
    assert "100.000" in results_table(evaluation) and "AP50" in summary({NAME: evaluation})


def test_figures_worked_out_by_hand(evaluator):
    """Beds: one found, one wrong, one found at IoU 0.6, one missed; no door."""
    bed = index_of(BED)
    shifted = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    shifted[20:30, 0:6] = 1  # 60 of the 100 pixels of the second bed: IoU 0.6
    first = detected((square(0, 0), 0.9, bed), (square(28, 40), 0.8, bed), (shifted, 0.7, bed))
    empty = Instances((HEIGHT, WIDTH))
    empty.pred_masks = torch.zeros(0, HEIGHT, WIDTH, dtype=torch.bool)
    empty.scores, empty.pred_classes = torch.zeros(0), torch.zeros(0, dtype=torch.long)
    found = scores(evaluator, first, {"instances": empty})
    # Up to IoU 0.6 two of three beds are found: precision 1 up to recall 1/3 (34 of 101 points), 2/3 up to recall 2/3
    # (33 more); above, one of three. Doors: 0. IoU 0.6 meets COCO's thresholds 0.5, 0.55 and 0.6, not the other seven.
    low, high = (34 + 33 * 2 / 3) / 101, 34 / 101
    assert found["AP50"] == pytest.approx(100 * low / 2, abs=1e-6)
    assert found["AP75"] == pytest.approx(100 * high / 2, abs=1e-6)
    assert found["AP"] == pytest.approx(100 * (3 * low + 7 * high) / 10 / 2, abs=1e-6)
    assert found["per_class"]["door"]["AP"] == 0


def test_nothing_found_is_0_and_no_instances_are_an_error(evaluator):
    empty = Instances((HEIGHT, WIDTH))
    empty.pred_masks = torch.zeros(0, HEIGHT, WIDTH, dtype=torch.bool)
    empty.scores, empty.pred_classes = torch.zeros(0), torch.zeros(0, dtype=torch.long)
    assert scores(evaluator, {"instances": empty}, {"instances": empty})["AP"] == 0
    with pytest.raises(UserError, match="INSTANCE_ON True"):
        evaluator.process_one({"file_name": "a.jpg"}, {})


def test_a_file_that_is_no_annotation_file_is_named(evaluator):
    empty = detected((square(0, 0), 0.9, 0))
    path = evaluator._json_file
    path.write_text('{"images": [], "annotations": [{}]}')
    with pytest.raises(UserError, match=r"ade20k_instance_val\.json: not a COCO file of instances"):
        evaluator.summarise({next(iter(evaluator._image_ids)): evaluator.process_one({"file_name": "a"}, empty)})
