"""detectron2 as this project uses it, against values worked out by hand. They hold for the subset and the real one."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, configurable, get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    MapDataset,
    MetadataCatalog,
    build_detection_test_loader,
)
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from detectron2.data.samplers import InferenceSampler
from detectron2.engine import default_argument_parser, launch
from detectron2.evaluation import DatasetEvaluators, inference_context, print_csv_format
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.memory import retry_if_cuda_oom
from PIL import Image
from torch import nn


def test_defaults_have_their_types() -> None:
    cfg = get_cfg()
    assert cfg.VERSION == 2
    assert cfg.MODEL.PIXEL_MEAN == [103.53, 116.28, 123.675]
    assert cfg.INPUT.MIN_SIZE_TRAIN == (800,)
    assert cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS[1] == (20.0, 20.0, 10.0, 10.0)
    assert cfg.SOLVER.WEIGHT_DECAY_BIAS is None
    assert cfg.DATASETS.TEST == ()
    assert isinstance(cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE, float)
    assert cfg.OUTPUT_DIR == "./output"


def test_files_are_merged_over_their_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("VERSION: 2\nSEED: 1\nDATASETS:\n  TEST: ('a',)\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "child.yaml").write_text("_BASE_: ../base.yaml\nSEED: 2\n")
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "sub" / "child.yaml"))
    assert (cfg.SEED, cfg.DATASETS.TEST) == (2, ("a",))
    assert get_cfg().SEED == -1


def test_unknown_keys_are_errors(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("VERSION: 2\nMODEL: {WEIGHT: x}\n")
    cfg = get_cfg()
    with pytest.raises(KeyError, match=r"MODEL\.WEIGHT"):
        cfg.merge_from_file(str(tmp_path / "bad.yaml"))
    with pytest.raises(AssertionError, match=r"MODEL\.WEIGHT"):
        cfg.merge_from_list(["MODEL.WEIGHT", "x"])


def test_a_frozen_tree_stays_as_it_is() -> None:
    cfg = get_cfg()
    cfg.freeze()
    with pytest.raises(AttributeError):
        cfg.MODEL.DEVICE = "cpu"
    assert cfg.MODEL.DEVICE == "cuda"


def test_configurable_maps_a_config_to_arguments() -> None:
    class Part:
        @configurable
        def __init__(self, *, size: int, name: str = "n") -> None:
            self.values = (size, name)

        @classmethod
        def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
            return {"size": cfg.SIZE}

    cfg = CfgNode({"SIZE": 3})
    assert Part(size=1).values == (1, "n")
    assert Part(cfg).values == (3, "n")
    assert Part(cfg, name="m", size=5).values == (5, "m")


def test_catalogs() -> None:
    DatasetCatalog.register("unit_a", lambda: [{"n": 1}])
    try:
        assert DatasetCatalog.get("unit_a") == [{"n": 1}]
        with pytest.raises(AssertionError, match="unit_a"):
            DatasetCatalog.register("unit_a", list)
    finally:
        DatasetCatalog.remove("unit_a")
    with pytest.raises(KeyError, match="unit_a"):
        DatasetCatalog.get("unit_a")

    meta = MetadataCatalog.get("unit_a").set(ignore_label=255, colors=["r"])
    try:
        meta.ignore_label = 255
        with pytest.raises(AssertionError, match="ignore_label"):
            meta.ignore_label = 0
        with pytest.raises(AttributeError, match="unit_a"):
            _ = meta.stuff_classes
        assert MetadataCatalog.get("unit_a").colors == ["r"]
        assert meta.as_dict() == {"name": "unit_a", "ignore_label": 255, "colors": ["r"]}
    finally:
        MetadataCatalog.remove("unit_a")


def test_metadata_takes_arrays() -> None:
    meta = MetadataCatalog.get("unit_array")
    try:
        meta.palette = np.arange(3)
        assert meta.palette.tolist() == [0, 1, 2]
    finally:
        MetadataCatalog.remove("unit_array")


@pytest.mark.parametrize(
    ("size", "world", "shares"),
    [
        (5, 2, [[0, 1, 2], [3, 4]]),
        (7, 3, [[0, 1, 2], [3, 4], [5, 6]]),
        (2, 4, [[0], [1], [], []]),
        (6, 3, [[0, 1], [2, 3], [4, 5]]),
    ],
)
def test_every_index_goes_to_one_process(size: int, world: int, shares: list[list[int]]) -> None:
    assert [list(InferenceSampler._get_local_indices(size, world, rank)) for rank in range(world)] == shares


def test_loader_keeps_order_and_its_items() -> None:
    items = [{"n": n} for n in range(5)]

    def mapper(item: dict[str, Any]) -> int:
        item["n"] += 10
        return item["n"]

    loader = build_detection_test_loader(items, mapper=mapper, batch_size=2)
    assert len(loader) == 3
    assert list(loader) == [[10, 11], [12, 13], [14]]
    assert list(loader) == [[10, 11], [12, 13], [14]]


def test_a_mapper_that_returns_none_gets_another_item() -> None:
    data_set = MapDataset(DatasetFromList(list(range(6))), lambda n: n if n % 2 else None)
    assert data_set[3] == 3
    assert data_set[2] in (1, 3, 5)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((427, 640), (800, 1199)),  # 640 * 800 / 427 = 1199.06
        ((640, 427), (1199, 800)),
        ((300, 1000), (400, 1333)),  # capped: 300 * 1.333 = 399.9
        ((800, 800), (800, 800)),
        ((1, 3), (444, 1333)),
        ((480, 801), (799, 1333)),  # 480 * 1333 / 801 = 798.80
    ],
)
def test_resize_rule(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert T.ResizeShortestEdge.get_output_shape(*size, 800, 1333) == expected


def test_resize_uses_pillow_for_bytes_and_torch_for_floats() -> None:
    row = np.array([[0, 0, 200, 200]], dtype=np.uint8)
    resize = T.ResizeTransform(1, 4, 1, 2)
    # Pillow's triangle weighs the two pixels of a half and their neighbour 3 : 3 : 1, and 200 / 7 = 28.6.
    assert resize.apply_image(row).tolist() == [[29, 171]]
    assert resize.apply_image(row.astype(np.float32)).tolist() == [[0.0, 200.0]]
    labels = np.array([[1, 2], [3, 4]], dtype=np.uint8)
    doubled = T.ResizeTransform(2, 2, 4, 4).apply_segmentation(labels)
    assert doubled.tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]


def test_augmentations_change_everything_alike() -> None:
    inputs = T.AugInput(
        np.zeros((10, 20, 3), np.uint8), boxes=np.array([[1.0, 2.0, 3.0, 4.0]]), sem_seg=np.ones((10, 20), np.uint8)
    )
    chosen = T.AugmentationList([T.ResizeShortestEdge([20], sample_style="choice")])(inputs)
    assert inputs.image.shape == (20, 40, 3)
    assert inputs.sem_seg is not None and inputs.sem_seg.shape == (20, 40)
    assert inputs.boxes is not None and inputs.boxes.tolist() == [[2.0, 4.0, 6.0, 8.0]]
    assert len(chosen.transforms) == 1


def test_images_are_read_upright(tmp_path: Path) -> None:
    stored = np.array([[[255, 0, 0], [0, 255, 0]]], dtype=np.uint8)  # red, green
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    file = str(tmp_path / "turned.png")
    assert read_image(file, "RGB").tolist() == [[[255, 0, 0]], [[0, 255, 0]]]
    assert read_image(file, "BGR").tolist() == [[[0, 0, 255]], [[0, 255, 0]]]
    assert read_image(file, "L").tolist() == [[[76]], [[150]]]  # 0.299 * 255 and 0.587 * 255
    with pytest.raises(OSError):
        read_image(str(tmp_path / "nowhere.png"), "RGB")


def test_image_list_pads_right_and_bottom() -> None:
    images = [torch.ones(1, 2, 3), 2 * torch.ones(1, 3, 1)]
    batch = ImageList.from_tensors(images, size_divisibility=4, pad_value=-1.0)
    assert batch.tensor.tolist() == [
        [[[1, 1, 1, -1], [1, 1, 1, -1], [-1, -1, -1, -1], [-1, -1, -1, -1]]],
        [[[2, -1, -1, -1], [2, -1, -1, -1], [2, -1, -1, -1], [-1, -1, -1, -1]]],
    ]
    assert batch.image_sizes == [(2, 3), (3, 1)]
    assert torch.equal(batch[1], images[1])


def test_instances_boxes_and_masks() -> None:
    bits = torch.zeros(2, 4, 5, dtype=torch.bool)
    bits[0, 1:3, 2:5] = True
    masks = BitMasks(bits)
    boxes = masks.get_bounding_boxes()
    assert boxes.tensor.tolist() == [[2, 1, 5, 3], [0, 0, 0, 0]]
    assert boxes.area().tolist() == [6, 0]
    instances = Instances((4, 5), scores=torch.tensor([0.9, 0.1]), pred_boxes=boxes, pred_masks=masks)
    best = instances[instances.scores > 0.5]
    assert (len(best), best.pred_boxes.tensor.tolist(), best.image_size) == (1, [[2, 1, 5, 3]], (4, 5))
    with pytest.raises(AssertionError):
        instances.pred_classes = torch.tensor([1])
    with pytest.raises(AttributeError, match="pred_classes"):
        _ = instances.pred_classes
    assert Boxes(torch.empty(0)).tensor.shape == (0, 4)


def test_checkpoints_report_what_does_not_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(2, 3)
    torch.save({"weight": torch.ones(3, 2), "strange": torch.ones(1)}, tmp_path / "w.pth")
    with caplog.at_level(logging.WARNING):
        checkpointer = DetectionCheckpointer(model)
        report = checkpointer._load_model({"model": {"weight": torch.ones(3, 2), "strange": torch.ones(1)}})
        checkpointer.load(str(tmp_path / "w.pth"))
    assert (report.missing_keys, report.unexpected_keys, report.incorrect_shapes) == (["bias"], ["strange"], [])
    assert model.weight.tolist() == [[1, 1]] * 3
    assert "strange" in caplog.text and "bias" in caplog.text
    report = checkpointer._load_model({"model": {"weight": torch.ones(1, 2), "bias": torch.ones(3)}})
    assert report.incorrect_shapes == [("weight", (1, 2), (3, 2))]


def test_flags() -> None:
    args = default_argument_parser().parse_args(["--config-file", "c.yaml", "--num-gpus", "0", "SEED", "1"])
    assert (args.config_file, args.num_gpus, args.eval_only, args.opts) == ("c.yaml", 0, False, ["SEED", "1"])
    assert isinstance(args, argparse.Namespace)


@pytest.mark.parametrize("gpus", [0, 1])
def test_one_process_is_this_one(gpus: int) -> None:
    seen: list[int] = []
    launch(seen.append, gpus, args=(gpus,))
    assert seen == [gpus]


def test_csv_lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("detectron2"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="detectron2"):
        print_csv_format({"sem_seg": {"mIoU": 12.34567, "IoU-cat": 1.0, "pACC": 50}})
    assert caplog.messages == ["copypaste: Task: sem_seg", "copypaste: mIoU,pACC", "copypaste: 12.3457,50.0000"]


def test_evaluation_mode_ends_with_the_context() -> None:
    model = nn.Dropout()
    with inference_context(model):
        assert not model.training
    assert model.training
    assert dict(DatasetEvaluators([]).evaluate()) == {}


def test_out_of_memory_is_tried_again() -> None:
    calls: list[int] = []

    def compute(value: int) -> int:
        calls.append(value)
        if len(calls) < 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
        return value + 1

    assert retry_if_cuda_oom(compute)(1) == 2
    assert calls == [1, 1, 1]
