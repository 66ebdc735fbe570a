"""A data set of one's own as a yaml file: panoptic from check to table, training on it, the reasons that come along."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog
from PIL import Image

from maft import load_segmentor
from maft.config import build_config
from maft.errors import UserError, run_command
from maft.evaluation.evaluators import CANDIDATES_GIVEN
from maft.launch import main, parse_arguments
from maft.run import build_evaluator, fingerprint, register_datasets
from maft.weights.checkpoint import load_weights
from reason.cli.main import main as reason
from reason.datasetfile import DatasetFileError, read_dataset_file
from reason.shipped import NOT_THE_PAPERS
from tools.check_datasets.__main__ import main as check_datasets
from tools.diagnose.__main__ import main as diagnose
from tools.evaluate.__main__ import main as evaluate
from tools.mini.scenes import render_scene
from tools.mini.world import vocabulary
from tools.results_table.__main__ import main as results_table

pytestmark = pytest.mark.usefixtures("in_repository")

MINI = "tools/mini/weights/mini.safetensors"
ENTRIES = vocabulary("val").classes
CLASSES = [entry.synonyms[0] for entry in ENTRIES]
THINGS = [entry.synonyms[0] for entry in ENTRIES if entry.thing]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawn images with label maps and segments; the annotation file has only what is needed."""
    root = tmp_path_factory.mktemp("own")
    for name in ("photos", "masks", "segments"):
        (root / name).mkdir()
    annotations = []
    for number in range(2):
        scene, name = render_scene(number, "val"), f"{number:02d}.png"
        ids = np.zeros((*scene.panoptic.shape, 3), np.uint8)
        ids[..., 0] = scene.panoptic
        for place, pixels in (("photos", scene.image), ("masks", scene.semantic), ("segments", ids)):
            Image.fromarray(pixels).save(root / place / name)
        segments = [{"id": segment.id, "category_id": segment.class_index} for segment in scene.segments]
        annotations.append({"image_id": number, "file_name": name, "segments_info": segments})
    (root / "segments.json").write_text(json.dumps({"annotations": annotations}))
    return root


def write(folder: Path, name: str, *, panoptic: bool = False, **changes: object) -> Path:
    document: dict[str, Any] = {"images": "photos", "labels": "masks", "vocabulary": CLASSES, "things": THINGS}
    if panoptic:
        document |= {"labels": "segments", "panoptic": "segments.json"}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document | changes))
    return path


def train_net(config: str, *words: object) -> None:
    """The command line, without a new interpreter."""
    words = (*words, "MODEL.REASON.BANK_DIR", "")
    arguments = parse_arguments(["--config-file", f"configs/mini/{config}.yaml", *map(str, words)])
    try:
        assert run_command(lambda: main(arguments), debug=True) == 0
    finally:
        for name in ("detectron2", "maft", "reason"):  # they write to a stream that pytest closes after the test
            logging.getLogger(name).handlers.clear()
            logging.getLogger(name).propagate = True


def results(output: Path, dataset: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "inference" / dataset / "results.json").read_text())
    return found


def test_panoptic_from_check_to_table(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write(folder, "rooms", panoptic=True), tmp_path / "out"
    assert check_datasets([str(path)]) == 0, capsys.readouterr().out
    keys = ("DATASETS.TEST", f"('{path}',)", "OUTPUT_DIR", out, "TEST.SAVE_PREDICTIONS", True)
    train_net("eval", "--eval-only", *keys)
    panoptic = results(out, "rooms")["metrics"]["panoptic_seg"]
    things = set(THINGS)
    occur = {
        CLASSES[segment.class_index or 0] for number in range(2) for segment in render_scene(number, "val").segments
    }
    assert panoptic["all"]["PQ"] > 5, "weights that know the world find something in it"
    assert occur & things and occur - things and occur <= set(panoptic["per_class"])
    assert results_table([str(out)]) == 0 and "rooms" in capsys.readouterr().out
    saved, scored = out / "inference/rooms/panoptic_seg.json", tmp_path / "scored"
    words = ["--predictions", str(saved), "--dataset", str(path), "--output", str(scored)]
    assert evaluate(words) == 0
    assert results(scored, "rooms")["metrics"]["panoptic_seg"]["all"] == panoptic["all"]


@pytest.mark.parametrize(
    ("name", "panoptic", "mapper"),
    [("masks", False, "mask_former_semantic"), ("segments", True, "coco_panoptic_lsj")],
)
def test_weights_of_other_classes_are_trained_on_it(
    folder: Path, tmp_path: Path, name: str, panoptic: bool, mapper: str
) -> None:
    path, out = write(folder, name, panoptic=panoptic), tmp_path / "out"
    keys = {
        "DATASETS.TRAIN": f"('{path}',)",
        "DATASETS.TEST": f"('{path}',)",
        "OUTPUT_DIR": out,
        "INPUT.DATASET_MAPPER_NAME": mapper,
        "INPUT.IMAGE_SIZE": 128,
        "MODEL.WEIGHTS": MINI,
        "MODEL.rc_weights": 0.0,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": len(CLASSES),
        "SOLVER.IMS_PER_BATCH": 1,
        "SOLVER.MAX_ITER": 2,
        "SOLVER.LOG_PERIOD": 1,
    }
    train_net("train", *(word for pair in keys.items() for word in pair))
    assert f"{MINI} was trained on 16 classes, this model is built for {len(CLASSES)}" in (out / "log.txt").read_text()
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    losses = [line["total_loss"] for line in lines if "total_loss" in line]
    assert len(losses) == 2 and np.isfinite(losses).all()
    task = "panoptic_seg" if panoptic else "sem_seg"
    assert set(results(out, name)["metrics"]) == {task}, "evaluated after the last step"
    # What was trained is loaded like any other checkpoint, and is no longer what it was.
    before, after = load_weights(MINI), load_weights(out / "model_final.pth")
    assert any(before[key].shape == after[key].shape and not torch.equal(before[key], after[key]) for key in before)
    trained = load_segmentor("mini", out / "model_final.pth", device="cpu")
    assert trained(folder / "photos/00.png", CLASSES).label_map.shape == (256, 256)


def test_the_reasons_that_come_along(folder: Path, tmp_path: Path) -> None:
    path = write(folder, "worded", reasons="generic")
    train_net("eval_reason", "--eval-only", "DATASETS.TEST", f"('{path}',)", "OUTPUT_DIR", tmp_path)
    said = [line for line in (tmp_path / "log.txt").read_text().splitlines() if "generic reasons: those that" in line]
    assert len(said) == 1 and NOT_THE_PAPERS in said[0]
    assert "8 of 26 classes have one" in said[0] and "asked for by name: cherry, " in said[0]
    assert "tent" not in said[0].partition("by name: ")[2]
    found = results(tmp_path, "worded")
    assert found["usage"] == {"classes_by_name": 18, "generic_missing_file": 2}
    assert found["provenance"]["reasons"] | {"mode": ""} == {
        "mode": "",
        "attributes": 3,
        "generic": "generic",
        "generic_origin": NOT_THE_PAPERS,
        "image-specific": [],
    }


def test_what_only_the_true_classes_would_give(folder: Path, tmp_path: Path) -> None:
    """TEST.SAVE_ORACLE of a real network, and what `tools.diagnose` says of it; label maps beside panoptic ones."""
    path = write(folder, "known", panoptic=True, semantic="masks")
    keys = ("INPUT.DATASET_MAPPER_NAME", "mask_former_semantic", "OUTPUT_DIR", tmp_path, "TEST.SAVE_ORACLE", True)
    train_net("eval", "--eval-only", "DATASETS.TEST", f"('{path}',)", *keys)
    changed = 0
    for number in range(2):
        truth = render_scene(number, "val").semantic
        maps = (tmp_path / "inference/known" / kind / f"{number:02d}.png" for kind in ("sem_seg", CANDIDATES_GIVEN))
        predicted, given = (np.asarray(Image.open(file)) for file in maps)
        assert set(np.unique(given)) <= set(np.unique(truth))
        kept = np.isin(predicted, np.unique(truth))
        assert (given == predicted)[kept].all()
        changed += int((~kept).sum())
    assert changed > 100, "the network sees classes that are not there"
    assert diagnose([str(tmp_path), "--dataset", str(path), "--output", str(tmp_path / "report.json")]) == 0
    (run,) = json.loads((tmp_path / "report.json").read_text())["runs"]
    assert run["oracles_add"]["candidates given"]["mIoU_reference"] > 1


def test_the_oracle_is_refused_where_segments_are_evaluated(folder: Path) -> None:
    path = write(folder, "oracle", panoptic=True)
    cfg = build_config("configs/mini/eval.yaml", ["DATASETS.TEST", f"('{path}',)", "TEST.SAVE_ORACLE", "True"])
    register_datasets(cfg)
    with pytest.raises(UserError, match=r"TEST\.SAVE_ORACLE True: saves class maps.*mask_former_semantic"):
        build_evaluator(cfg, "oracle", DatasetCatalog.get("oracle"))


def test_label_maps_beside_panoptic_annotations(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "seen").mkdir(exist_ok=True)
    seen = {"reasoning": {"map_class_reason": {CLASSES[0]: {"reason3": ["a red skin"]}}}}
    (folder / "seen/00.json").write_text(json.dumps(seen))
    path = write(folder, "both", panoptic=True, semantic="masks", reasons={"images": "seen"})
    assert reason(["score", "--dataset", str(path)]) == 0, "the label maps are scored, not the segments' PNG files"
    path = write(folder, "alone", panoptic=True, reasons={"images": "seen"})
    assert reason(["score", "--dataset", str(path)]) == 2 and "its key semantic" in capsys.readouterr().err
    with pytest.raises(DatasetFileError, match="key 'semantic': goes with 'panoptic'"):
        read_dataset_file(write(folder, "bad", semantic="masks"))


def test_ones_own_file_is_read_and_never_the_shipped_one(folder: Path) -> None:
    for reasons, file, shipped in (
        ("generic", None, True),
        ({"generic": "generic"}, None, True),
        ({"generic": "./generic"}, folder / "generic", False),
        ({"generic": "mine.json"}, folder / "mine.json", False),
        ({"images": "seen"}, None, False),
    ):
        own = read_dataset_file(write(folder, "places", reasons=reasons))
        assert (own.generic_reasons, own.shipped_reasons, own.has_reasons) == (file, shipped, True)
    both = read_dataset_file(write(folder, "places", reasons={"generic": "generic", "images": "seen"}))
    assert both.shipped_reasons and both.image_reasons == folder / "seen"


def test_the_record_of_a_run_depends_on_the_shipped_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from maft import run
    from maft.config import build_config

    path = write(folder, "hashed", reasons="generic")
    cfg = build_config("configs/mini/eval_reason.yaml", ["DATASETS.TEST", f"('{path}',)"])
    register_datasets(cfg)
    before = fingerprint(cfg, "w")["triplets"]
    monkeypatch.setattr(run, "shipped_folder", lambda: folder)
    assert fingerprint(cfg, "w")["triplets"] != before
