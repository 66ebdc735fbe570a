"""A data set of one's own as a yaml file, everywhere that a data set's name is taken."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from maft.config import build_config
from maft.run import register_datasets
from reason.cli.main import main as reason_main
from reason.datasetfile import DatasetFileError, read_dataset_file
from tools.mini.scenes import render_scene
from tools.mini.world import vocabulary

ROOT = Path(__file__).resolve().parents[1]
CLASSES = [entry.synonyms[0] for entry in vocabulary("val").classes]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Ten drawn images, label maps, reasons of two kinds, and the file that names them."""
    for folder in ("photos", "masks", "seen"):
        (tmp_path / folder).mkdir()
    for number in range(10):
        scene = render_scene(number, "val")
        Image.fromarray(scene.image).save(tmp_path / f"photos/{number:02d}.png")
        Image.fromarray(scene.semantic).save(tmp_path / f"masks/{number:02d}.png")
        shown = [CLASSES[index] for index in np.unique(scene.semantic) if index < len(CLASSES)]
        entries = {name: {"reason3": ["a plain colour", "a round shape"]} for name in shown[1:]}
        document = {"reasoning": {"map_class_reason": entries}}
        (tmp_path / f"seen/{number:02d}.json").write_text(json.dumps(document), encoding="utf-8")
    generic = {name: {"class_des": ["a plain colour", "a round shape", "a thin rim"]} for name in CLASSES}
    (tmp_path / "generic.json").write_text(json.dumps(generic), encoding="utf-8")
    document = {"images": "photos", "labels": "masks", "vocabulary": CLASSES, "things": CLASSES[-1:]}
    document["reasons"] = {"generic": "generic.json", "images": "seen"}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def run(*words: object) -> str:
    """In a new interpreter: no other test starts these programs in one and lets them come to their end."""
    command = [sys.executable, *map(str, words)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_from_ten_images_to_a_table(mine: Path, tmp_path: Path, train_net: Callable[..., None]) -> None:
    assert re.search(r"mine +.*10", run("-m", "tools.check_datasets", mine))
    out = tmp_path / "out"
    keys = {"DATASETS.TEST": f"('{mine}',)", "OUTPUT_DIR": out, "TEST.SAVE_PREDICTIONS": "True"}
    train_net("configs/mini/eval_reason.yaml", "--eval-only", keys=keys)
    results = json.loads((out / "inference/mine/results.json").read_text())
    assert results["images"]["total"] == 10 and results["usage"]["image"] == 10
    assert results["provenance"]["reasons"]["generic"] == str(mine.with_name("generic.json"))
    assert "mine" in run("-m", "tools.results_table", out), "the table"
    scored = tmp_path / "scored"
    saved = out / "inference/mine/sem_seg"
    run("-m", "tools.evaluate", "--predictions", saved, "--dataset", mine, "--output", scored)
    again = json.loads((scored / "inference/mine/results.json").read_text())
    assert again["metrics"]["sem_seg"]["mIoU_reference"] == results["metrics"]["sem_seg"]["mIoU_reference"]
    assert "mIoU" in run("-m", "tools.diagnose", out, "--dataset", mine)


def test_later_processes_find_the_file_in_the_config(mine: Path) -> None:
    cfg = build_config("configs/mini/eval_reason.yaml", ["DATASETS.TEST", f"('{mine}',)"])
    register_datasets(cfg)
    assert cfg.DATASETS.TEST == ("mine",) and cfg.DATASETS.REGISTER[-1] == str(mine)
    assert (str(mine.parent), "seen") == (cfg.MODEL.REASON_DIR, cfg.MODEL.REASON_DATA)
    cfg.freeze()
    register_datasets(cfg)
    assert cfg.DATASETS.TEST == ("mine",)


def test_the_reasoning_takes_it(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reason_main(["score", "--dataset", str(mine), "--json", str(mine.with_name("score.json"))]) == 0
    assert f"vocabulary: mine, {len(CLASSES)} classes" in capsys.readouterr().out
    score = json.loads(mine.with_name("score.json").read_text())
    assert score["images"]["label_maps"] == score["images"]["scored"] == 10
    for words in (["score", "--dataset", str(mine), "--vocabulary", "cat"], ["image", "--vocabulary", "cat"]):
        assert reason_main(words) == 2
    assert "leave one of the two out" in capsys.readouterr().err
    # With the data set everything is said but the model.
    assert reason_main(["image", "--dataset", str(mine), "--model", str(mine.parent / "none")]) == 2
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": None}, "key 'images' is missing; give the path of a folder"),
        ({"labels": "nowhere"}, r"key 'labels': .*nowhere: no such folder"),
        ({"vocabulary": None}, "key 'vocabulary' is missing"),
        ({"vocabulary": ["cat", "cat"]}, "key 'vocabulary': .*cat"),
        ({"things": ["unicorn"]}, "key 'things': 'unicorn' is no class"),
        ({"ignore": -1}, "key 'ignore': -1; give a pixel value"),
        ({"name": "a/b"}, "key 'name': 'a/b'; give a name that can be a folder's"),
        ({"label": "masks"}, "key 'label': unknown; did you mean labels?"),
        ({"reasons": {"picture": "x"}}, "key 'reasons': write {generic: FILE, images: FOLDER}"),
        ({"panoptic": "nowhere.json"}, "key 'panoptic': .*no such file"),
    ],
)
def test_an_error_names_the_file_and_the_key(mine: Path, change: dict[str, object], words: str) -> None:
    document = yaml.safe_load(mine.read_text(encoding="utf-8")) | change
    mine.write_text(yaml.safe_dump({key: value for key, value in document.items() if value is not None}))
    with pytest.raises(DatasetFileError, match=words) as raised:
        read_dataset_file(mine)
    assert str(raised.value).startswith(f"{mine}: ")
