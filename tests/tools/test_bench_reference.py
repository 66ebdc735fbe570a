"""`tools.bench.image --reference`: a clone is started without being touched, and every way it can fail is one line."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch

from maft import build
from maft.errors import UserError
from maft.weights.seeding import seed_module
from tools.bench.image import __main__ as command
from tools.bench.image.reference import OURS, STAGES, Ours, check_clone, parse_answer, started, table

IMAGE, SIZE = torch.zeros(3, 32, 48, dtype=torch.uint8), (20, 30)
CONFIG = "configs/semantic/eval_base_reason.yaml"

MODEL = """
import os
import numpy as np
import torch
from types import SimpleNamespace

class Part:
    def extract_features(self, x): return x
    def forward_features(self, x): return x
    def forward(self, x): return x

class Model:
    def __init__(self):
        self.backbone, self.clip_type, self.calls = Part(), "Fake", 0
        self.sem_seg_head = SimpleNamespace(pixel_decoder=Part(), predictor=Part())
        names = ["sky", "cup,mug", "cat, cats", "wall,walls", "dog,dogs", "bus,buses"]
        self.test_metadata = {"openvocab_pascal_ctx59_sem_seg_val": SimpleNamespace(stuff_classes=names)}
    def eval(self): return self
    def get_text_classifier_image(self, dataname, files):
        stem = os.path.basename(files[0])
        reasons = __import__("json").load(open(files[0]))["reasoning"]["map_class_reason"]
        self.test_class_names = [a for one in reasons.values() for a in one["reason3"] * 28]
        stored = os.path.exists(os.path.join("./reason_data/image_reason_feat/benchmark/Fake", stem))
        # The first call makes the features; after it, one of the two images finds them.
        assert stored == (self.calls > 0 and stem == "text_on_disk.json"), (stored, self.calls, stem)
        self.calls += 1
        return torch.zeros(24, 8), [6] * 4, [1, 2, 3, 4]
    def __call__(self, inputs):
        one = inputs[0]
        assert os.path.exists("datasets/classes.txt") and one["image"].shape == (3, 32, 48)
        folder = os.path.join(os.getcwd(), "reason_data/image_reason/benchmark")
        stem = one["file_name"].split("/")[-1].split(".")[0]
        self.get_text_classifier_image(one["meta"]["dataname"], [os.path.join(folder, stem + ".json")])
        self.backbone.extract_features(0)
        self.sem_seg_head.pixel_decoder.forward_features(0)
        self.sem_seg_head.predictor.forward(0)
        return [{"sem_seg": torch.zeros(6, one["height"], one["width"])}]
"""
FILES = {
    "maft/__init__.py": "raise ImportError('the published one imports what is not there')",
    "maft/data/__init__.py": "open('datasets/classes.txt')",
    "maft/modeling/__init__.py": "",
    "maft/modeling/backbone/__init__.py": "",
    "maft/modeling/backbone/clip.py": "class CLIP: pass",
    "maft/maft_plus.py": MODEL,
    "maft/config.py": "def add_maskformer2_config(cfg): pass\ndef add_fcclip_config(cfg): pass\n",
    "datasets/classes.txt": "",
    "reason_data/image_reason_feat/benchmark/Fake/as_shipped.json": "a file of the clone's own: not to be found",
    CONFIG: "",
}
DETECTRON2 = {
    "detectron2/__init__.py": "",
    "detectron2/config.py": """
from types import SimpleNamespace
class Config(SimpleNamespace):
    def merge_from_file(self, path): open(path)
def get_cfg(): return Config(MODEL=SimpleNamespace(), DATASETS=SimpleNamespace())
""",
    "detectron2/projects/__init__.py": "",
    "detectron2/projects/deeplab.py": "def add_deeplab_config(cfg): pass",
    "detectron2/modeling.py": "def build_model(cfg):\n    import maft.maft_plus\n    return maft.maft_plus.Model()\n",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_clone_is_run_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone, d2 = write(tmp_path / "clone", FILES), write(tmp_path / "d2", DETECTRON2)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(d2), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    before = listing(clone)
    check_clone(clone, ["base"])
    with started(clone, "base", IMAGE, SIZE) as ask:
        facts, first, second = ask(), ask(), ask()
    assert facts["sentences"] == 336 and facts["op"] == "PyTorch"  # 4 classes x 3 attributes x 28
    for answer in (first, second):
        for seconds in answer["seconds"].values():
            assert set(seconds) == set(STAGES) and seconds["all"] >= sum(seconds[stage] for stage in STAGES[:-1])
    assert set(first["seconds"]) == {"as shipped", "text on disk"}
    assert listing(clone) == before


@pytest.mark.skipif(importlib.util.find_spec("detectron2.projects") is not None, reason="the full detectron2 is here")
def test_without_the_full_detectron2_the_way_out_is_named(tmp_path: Path) -> None:
    clone = write(tmp_path / "clone", FILES)
    with started(clone, "base", IMAGE, SIZE) as ask, pytest.raises(UserError, match="facebookresearch/detectron2"):
        ask()


@pytest.mark.parametrize(
    ("files", "models", "says"),
    [
        (None, ["base"], "no such folder; git clone"),
        ({"README.md": ""}, ["base"], "no clone of Hanzy1996/OpenSeg-R, it has no maft/maft_plus.py"),
        (FILES, ["base", "large"], "it has no configs/semantic/eval_large_reason.yaml"),
        (FILES, ["mini"], "it has no mini to hold against"),
    ],
)
def test_no_clone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, str] | None, models: list[str], says: str
) -> None:
    clone = tmp_path / "clone" if files is None else write(tmp_path / "clone", files)
    assert command.main(["--models", *models, "--reference", str(clone)]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "ended early: Killed"),
        ("not JSON", "ended early: Killed"),
        ('{"missing": "fvcore.nn"}', "install fvcore with pip"),
        ('{"missing": "hydra"}', "install hydra-core with pip"),
        ('{"missing": "detectron2.layers"}', "it needs detectron2.layers; put a clone of"),
        ('{"missing": "maft.config"}', "it has no module maft.config"),
        ('{"error": "KeyError: 3"}', "KeyError: 3"),
        ('{"seconds": {"as shipped": {"text": 1.0}}}', "as shipped: no seconds for 'backbone'"),
        (json.dumps({"seconds": {"as shipped": dict.fromkeys(STAGES, float("nan"))}}), "no seconds for 'text'"),
    ],
)
def test_answers_that_are_none(line: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_answer(line, Path("clone"), lambda: "Killed")
    assert says in str(caught.value) and str(caught.value).startswith("--reference clone: ")


def test_ours_is_the_same_image_in_every_way() -> None:
    network = seed_module(build.build_network("mini")).requires_grad_(False)
    image = torch.randint(0, 256, (3, 64, 96), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    ours = Ours(network, image, (48, 72))
    assert ours.sentences == 336
    for _ in range(2):
        ours.round()
    assert set(ours.clocks) == set(OURS) == set(ours.agreement)
    for clock in ours.clocks.values():
        assert {name: len(values) for name, values in clock.seconds.items()} == dict.fromkeys(STAGES, 2)
    assert ours.agreement["float32"] == ours.agreement["first, float32"] == 1
    assert 0.5 < ours.agreement["bfloat16"] <= 1


def test_a_sound_answer_and_the_table() -> None:
    seconds = dict.fromkeys(STAGES, 2.0)
    answer = {"seconds": {"as shipped": seconds, "text on disk": seconds}}
    assert parse_answer(json.dumps(answer), Path("clone"), lambda: "") == answer
    one = {"median": 3.0, "low": 2.5, "high": 3.5}
    found = {
        "sentences": 336,
        "op": "PyTorch",
        "torch": "2",
        "seconds": {"reference, as shipped": {"all": one}, "float32": {"all": one}},
        "ratios": {"float32": {"as shipped": one, "text on disk": one}},
        "agreement": {"float32": 1.0},
    }
    assert "3.00 (2.50 to 3.50)" in table(found)
