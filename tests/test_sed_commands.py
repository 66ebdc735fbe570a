"""SED by the commands that its users type, on miniatures in the official layout with seeded weights."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from maft.config import build_config
from maft.data import dataset_spec, register_all
from maft.data.specs import IGNORE_16BIT
from maft.files import read_label_map
from reason.vocabulary import load_vocabulary

PC59 = "openvocab_pascal_ctx59_sem_seg_val"
STEMS = ("2008_000002", "2008_000003", "2008_000007")
SMALL = {
    "MODEL.WEIGHTS": "seeded",
    "MODEL.DEVICE": "cpu",
    "MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED": "tests/assets/tiny_clip.json",
    "MODEL.SEM_SEG_HEAD.HIDDEN_DIMS": 32,
    "MODEL.SEM_SEG_HEAD.DECODER_DIMS": [16, 16, 16],
    "MODEL.SEM_SEG_HEAD.DECODER_GUIDANCE_DIMS": [160, 80, 40],
    "MODEL.SEM_SEG_HEAD.DECODER_GUIDANCE_PROJ_DIMS": [8, 8, 8],
    "MODEL.SEM_SEG_HEAD.NUM_HEADS": 2,
    "SED.IMAGE_SIDE": 64,
    "INPUT.MIN_SIZE_TEST": 64,
    "DATALOADER.NUM_WORKERS": 0,
}
"""Beside the published configurations: seconds on one core."""


def _words(*parts: Mapping[str, object]) -> list[str]:
    return [str(word) for part in parts for pair in part.items() for word in pair]


def _run(command: list[str], repository: Path, datasets: Path) -> str:
    environment = os.environ | {"DETECTRON2_DATASETS": str(datasets), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_pc59_with_generic_and_image_specific_reasons(repository: Path, tmp_path: Path) -> None:
    """`bash eval_reason_base.sh pc59 --model sed`: three images, two of them with reasons of their own."""
    voc = tmp_path / "datasets/VOCdevkit/VOC2010"
    images, labels = voc / "images", voc / "annotations_detectron2_ovs/pc59_val"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    classes = load_vocabulary("pc59").classes
    for number, stem in enumerate(STEMS):
        Image.fromarray(skimage.data.chelsea()[: 200 + 40 * number]).resize((96, 64 + 8 * number)).save(
            images / f"{stem}.jpg"
        )
        label = np.full((64 + 8 * number, 96), 255, dtype=np.uint8)
        label[10:50, 8:60], label[50:, :] = number, 58
        Image.fromarray(label).save(labels / f"{stem}.png")
    generic = {entry.name: {"class_des": ["a form", "a colour"]} for entry in classes}
    (tmp_path / "generic.json").write_text(json.dumps(generic))
    own = tmp_path / "reasons/pc59"
    own.mkdir(parents=True)
    seen = {entry.name: {"reason3": ["fur", "two, or four, ears"]} for entry in (classes[0], classes[1], classes[58])}
    for stem in STEMS[:2]:
        (own / f"{stem}.json").write_text(json.dumps({"reasoning": {"map_class_reason": seen}}))
    keys = {
        "MODEL.NUM_DES": 2,
        "MODEL.TEST_CLASS_REASON_JSON": tmp_path / "generic.json",
        "MODEL.REASON_DIR": tmp_path / "reasons",
        "MODEL.REASON.BANK_DIR": tmp_path / "bank",
        "OUTPUT_DIR": tmp_path / "out",
        "TEST.SAVE_PREDICTIONS": True,
    }
    command = ["bash", "eval_reason_base.sh", "pc59", "--model", "sed", "--num-gpus", "0", "--"]
    said = _run([*command, *_words(SMALL, keys)], repository, tmp_path / "datasets")
    assert "will run: pc59 (PC-59): bash eval_reason_base.sh --model sed pc59" in said and "MEANS NOTHING" in said
    folder = tmp_path / "out/inference" / PC59
    found = json.loads((folder / "results.json").read_text())
    assert found["usage"]["image"] == 2 and found["usage"]["generic_missing_file"] == 1
    right = counted = 0
    for number, stem in enumerate(STEMS):
        label = np.array(Image.open(labels / f"{stem}.png"))
        predicted = np.array(Image.open(folder / "sem_seg" / f"{stem}.png"))
        assert predicted.shape == label.shape
        assert number == 2 or set(np.unique(predicted)) <= {0, 1, 58}, "reasons of an image leave its classes"
        right += int((predicted == label)[label != 255].sum())
        counted += int((label != 255).sum())
    assert found["metrics"]["sem_seg"]["pACC"] == pytest.approx(100 * right / counted, abs=1e-6)


@pytest.mark.parametrize("size", ["B", "L"])
def test_the_published_yaml_files_load(size: str, tmp_path: Path) -> None:
    """Every key that SED's two configurations and their base have, with their values, and eval.sh's overrides."""
    channels = {"B": [512, 256, 128], "L": [768, 384, 192]}[size]
    base = {
        "MODEL": {
            "BACKBONE": {"FREEZE_AT": 0, "NAME": "D2SwinTransformer"},
            "SWIN": {
                "EMBED_DIM": 192,
                "DEPTHS": [2, 2, 18, 2],
                "NUM_HEADS": [4, 8, 16, 32],
                "WINDOW_SIZE": 12,
                "APE": False,
                "DROP_PATH_RATE": 0.3,
                "PATCH_NORM": True,
                "PRETRAIN_IMG_SIZE": 384,
                "OUT_FEATURES": ["res2", "res3", "res4"],
            },
            "PIXEL_MEAN": [123.675, 116.280, 103.530],
            "PIXEL_STD": [58.395, 57.120, 57.375],
        },
        "DATASETS": {
            "TRAIN": ["coco_2017_train_stuff_all_sem_seg"],
            "TEST": ["coco_2017_test_stuff_all_sem_seg"],
        },
        "SOLVER": {"OPTIMIZER": "ADAMW", "WARMUP_FACTOR": 1.0, "WARMUP_ITERS": 0, "WEIGHT_DECAY": 0.0001},
        "TEST": {"EVAL_PERIOD": 5000, "SLIDING_WINDOW": False},
        "DATALOADER": {"FILTER_EMPTY_ANNOTATIONS": True, "NUM_WORKERS": 8},
        "VERSION": 2,
        "CUDNN_BENCHMARK": True,
    }
    own = {
        "_BASE_": "config.yaml",
        "MODEL": {
            "META_ARCHITECTURE": "SED",
            "BACKBONE": {"NAME": "CLIP"},
            "WEIGHTS": "",
            "ENC": {"CLIP_MODEL_NAME": "convnext_base_w_320", "CLIP_PRETRAINED_WEIGHTS": "x", "EMBED_DIM": 768},
            "SEM_SEG_HEAD": {
                "NAME": "SEDHead",
                "IN_FEATURES": ["res2", "res3", "res4", "res5"],
                "IGNORE_VALUE": 255,
                "NUM_CLASSES": 171,
                "TRAIN_CLASS_JSON": "datasets/coco.json",
                "TEST_CLASS_JSON": "datasets/coco.json",
                "CLIP_PRETRAINED": f"Convnext-{size}",
                "PROMPT_DEPTH": 0,
                "PROMPT_LENGTH": 0,
                "TEXT_GUIDANCE_DIM": 0,
                "TEXT_GUIDANCE_PROJ_DIM": 0,
                "APPEARANCE_GUIDANCE_DIM": 1024,
                "APPEARANCE_GUIDANCE_PROJ_DIM": 128,
                "DECODER_DIMS": [64, 32, 16],
                "DECODER_GUIDANCE_DIMS": channels,
                "DECODER_GUIDANCE_PROJ_DIMS": [32, 16, 8],
                "NUM_LAYERS": 2,
                "NUM_HEADS": 4,
                "HIDDEN_DIMS": 128,
                "POOLING_SIZES": [2, 2],
                "FEATURE_RESOLUTION": [24, 24],
                "WINDOW_SIZES": 12,
                "ATTENTION_TYPE": "linear",
                "CNEXT_TYPE": "V1",
                "KERNEL_SIZE": [9, 9, 9],
                "CLIP_FINETUNE": "full",
            },
            "PROMPT_ENSEMBLE_TYPE": "imagenet",
        },
        "SOLVER": {"LR_SCHEDULER_NAME": "WarmupCosineLR", "BACKBONE_MULTIPLIER": 0.0, "CLIP_MULTIPLIER": 0.01},
        "TEST": {"FAST_INFERENCE": False, "TOPK": 1},
    }
    for name, content in (("config.yaml", base), ("convnext.yaml", own)):
        (tmp_path / name).write_text(json.dumps(content))  # JSON is YAML
    overrides = {
        "MODEL.SEM_SEG_HEAD.POOLING_SIZES": "[1,1]",
        "MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON": "datasets/pc59.json",
        "DATASETS.TEST": "('context_59_test_sem_seg',)",
    }
    cfg = build_config(str(tmp_path / "convnext.yaml"), _words(overrides))
    head = cfg.MODEL.SEM_SEG_HEAD
    assert ([1, 1], channels) == (head.POOLING_SIZES, head.DECODER_GUIDANCE_DIMS)
    register_all()
    assert all(dataset_spec(name) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))


def test_both_ignored_values_of_pc459(tmp_path: Path) -> None:
    spec = dataset_spec("context_459_test_sem_seg")
    assert (spec.ignore_label, spec.ignored_as_well) == (IGNORE_16BIT, (459,))
    for value in (IGNORE_16BIT, 459):
        Image.fromarray(np.array([[0, 458], [value, 3]], dtype=np.uint16)).save(tmp_path / "a.tif")
        read = read_label_map(tmp_path / "a.tif", 459, spec.ignore_label, spec.ignored_as_well)
        assert read.tolist() == [[0, 458], [IGNORE_16BIT, 3]]
