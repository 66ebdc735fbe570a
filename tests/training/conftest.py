"""A small training data set, and configurations that train a small model on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from detectron2.config import CfgNode
from PIL import Image

from maft.config import build_config
from maft.data import register_all

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN, VALIDATION = "openvocab_pascal20_sem_seg_train", "openvocab_pascal20_sem_seg_val"
PANOPTIC = "openvocab_ade20k_panoptic_train"
SIZES = ((110, 80), (80, 110))


def small_model_keys(output: Path) -> list[str]:
    """KEY VALUE pairs beside tests/assets/tiny.yaml: seconds for a few steps on one core."""
    keys = {
        "MODEL.DEVICE": "cpu",
        "MODEL.META_ARCHITECTURE": "MAFT_Plus",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 20,
        "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
        "MODEL.SEM_SEG_HEAD.MASK_DIM": 32,
        "MODEL.MASK_FORMER.HIDDEN_DIM": 32,
        "MODEL.MASK_FORMER.NHEADS": 2,
        "MODEL.MASK_FORMER.DEC_LAYERS": 3,
        "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 128,
        "DATASETS.TRAIN": f"('{TRAIN}',)",
        "DATASETS.TEST": "()",
        "INPUT.MIN_SIZE_TRAIN": "(64, 72)",
        "INPUT.MAX_SIZE_TRAIN": 96,
        "INPUT.MIN_SIZE_TEST": 64,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 6,
        "SOLVER.LOG_PERIOD": 1,
        "SOLVER.CHECKPOINT_PERIOD": 2,
        "SOLVER.AMP.ENABLED": False,
        "OUTPUT_DIR": output,
    }
    return [str(item) for pair in keys.items() for item in pair]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data-set root: six photographs with label maps for training, three for validation; two with segments."""
    root = tmp_path_factory.mktemp("datasets")
    images = root / "VOCdevkit" / "VOC2012" / "images_detectron2"
    images.mkdir(parents=True)
    photographs = (skimage.data.chelsea(), skimage.data.astronaut(), skimage.data.coffee())
    for split, count in (("train", 6), ("val", 3)):
        labels = root / "VOCdevkit" / "VOC2012" / "annotations_ovs" / split
        labels.mkdir(parents=True)
        for number in range(count):
            width, height = SIZES[number % 2]
            Image.fromarray(photographs[number % 3]).resize((width, height)).save(images / f"{split}{number}.jpg")
            label = np.full((height, width), 255, dtype=np.uint8)
            label[10:60, 10:50], label[60:] = number, 10 + number
            Image.fromarray(label).save(labels / f"{split}{number}.png")
    return root


@pytest.fixture(scope="session")
def panoptic_record(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """An image of 40 x 60 pixels with three segments, one of them a crowd, and void between them."""
    root = tmp_path_factory.mktemp("panoptic")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(root / "a.png")
    ids = np.zeros((40, 60), dtype=np.int64)
    ids[:20, :30], ids[20:, :30], ids[:20, 40:] = 7, 300, 70000
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)).save(root / "b.png")
    segments = [(7, 3, 0), (300, 3, 0), (70000, 5, 1)]
    return {
        "file_name": str(root / "a.png"),
        "pan_seg_file_name": str(root / "b.png"),
        "segments_info": [{"id": i, "category_id": c, "iscrowd": crowd} for i, c, crowd in segments],
        "meta": {"dataname": PANOPTIC},
    }


@pytest.fixture
def small_config(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CfgNode:
    """The configuration of a small training into tmp_path/out, with paths that do not depend on the folder."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    monkeypatch.chdir(REPOSITORY)
    register_all()
    return build_config("tests/assets/tiny.yaml", small_model_keys(tmp_path / "out"))


def metrics(folder: Path) -> list[dict]:
    """The lines of metrics.json without what depends on the machine's speed."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "time" not in key and "eta" not in key} for line in lines]
