"""The whole command on a few images with stand-in weights; its figures are those of train_net.py."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog

from maft.config import build_config
from maft.data import InferenceMapper
from maft.meta_arch import build_network
from maft.run import evaluate_all, register_datasets
from maft.weights.loading import load_for_evaluation
from maft.weights.seeding import SEEDED
from reason.jsonfile import read_json
from tools.mini import dataset, sed_designs
from tools.mini.__main__ import main
from tools.mini.dataset import LIST_ONLY, MODEL, Layout
from tools.mini.methods import main_methods, sed_methods
from tools.mini.observer import LEVELS
from tools.mini.report import SWEEP_FILE
from tools.mini.results import DATASET, read_evaluation, scores_of
from tools.mini.train import shipped
from tools.mini.world import GROUPS

IMAGES = {"train": 2, "val": 3, "closed": 2}
FIRST_TWO = "mini_val_2_sem_seg"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, root: Path, in_repository: None) -> None:
    """Three images below a folder of their own; and what train_net.py's tests set up in this process undone."""
    monkeypatch.setattr(logging.getLogger("maft"), "propagate", True)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    monkeypatch.setattr(dataset, "COUNTS", IMAGES)


@pytest.fixture
def output(few: None, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]) -> Path:
    folder = tmp_path_factory.mktemp("out")
    words = ["evaluate", "--output", str(folder), "--observer-sweep", "--", "MODEL.WEIGHTS", SEEDED]
    assert main(words) == 0
    printed = capsys.readouterr()
    kinds = ("names only", "generic reasons", "image-specific reasons")
    for title in (*kinds, "image-specific, aligned", *(f"SED, {kind}" for kind in kinds)):
        assert f"== {title}" in printed.out
        assert f"| {title}" in printed.out
    assert "Seen kinds alone, by names only (2 other images, 16 classes): mIoU" in printed.out
    assert "MEANS NOTHING" in printed.err
    return folder


def test_one_command_leaves_figures_and_report_and_equals_train_net(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Layout(dataset.default_root(), "val")
    document = read_json(output / "results.json")
    methods = main_methods(layout)
    for method in (*methods, *sed_methods(layout)):
        results = read_evaluation(output / method.name, panoptic=method.panoptic)
        assert results["images"] == {"total": 3, "earlier_run": 0, "this_run": 3}
        scores = scores_of(results)
        assert document[method.name] == {group: scores[group] for group in GROUPS}
        kind = method.name.removeprefix("sed_")
        expected = {"names": {"plain": 3}, "generic": {"generic_missing_file": 3}}.get(kind, {"image": 3})
        assert {key: results["usage"].get(key) for key in expected} == expected
        assert results["provenance"]["reasons"]["mode"] == {
            "names": "class names only",
            "image_aligned": "aligned",
        }.get(kind, "reference")
    text = (output / "report.html").read_text(encoding="utf-8")
    assert "random stand-ins" in text
    rows = {(row["reasons"], row["observer"]): row["scores"] for row in read_json(output / SWEEP_FILE)["rows"]}
    assert rows.keys() == {(kind, who) for kind in ("generic", "image") for who in (MODEL, *LEVELS)} | {
        ("image", LIST_ONLY)
    }
    for kind in ("generic", "image"):
        assert rows[kind, MODEL] == scores_of(read_evaluation(output / kind))
        shown = "image-specific" if kind == "image" else kind
        assert text.count(f" errors: {shown} reasons</td>") == len(LEVELS)
    assert rows["image", LIST_ONLY] == scores_of(read_evaluation(output / "sweep" / f"image@{LIST_ONLY}"))

    image = methods[2]
    keys = {**image.keys, "MODEL.WEIGHTS": SEEDED, "MODEL.DEVICE": "cpu", "OUTPUT_DIR": str(output / "same")}
    keys["DATASETS.TEST"] = "('mini_val_sem_seg',)"
    keys["MODEL.REASON.BANK_DIR"] = ""
    semantic = through_train_net(keys)
    assert semantic["metrics"]["sem_seg"] == read_evaluation(output / image.name)["metrics"]["sem_seg"]
    panoptic = through_train_net(
        {**keys, "DATASETS.TEST": f"('{DATASET}',)", "INPUT.DATASET_MAPPER_NAME": "coco_panoptic_lsj"}
    )
    assert panoptic["metrics"]["panoptic_seg"] == read_evaluation(output / image.name)["metrics"]["panoptic_seg"]

    assert main(["evaluate", "--output", str(output), "--resume", "--", "MODEL.WEIGHTS", SEEDED]) == 0
    assert read_json(output / "results.json") == document
    assert "0.0" in capsys.readouterr().out


def through_train_net(keys: dict[str, str]) -> dict[str, Any]:
    """What `train_net.py --eval-only` does in its one process."""
    config = "configs/mini/eval_reason.yaml"
    cfg = build_config(config, [word for pair in keys.items() for word in pair])
    register_datasets(cfg)
    cfg.freeze()
    model = build_network(cfg)
    load_for_evaluation(model, cfg.MODEL.WEIGHTS)
    ((_, evaluation),) = evaluate_all(cfg, model, config, resume=False).items()
    return dict(evaluation)


def test_missing_weights_are_one_line(few: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["evaluate", "--output", str(tmp_path), "--", "MODEL.WEIGHTS", str(tmp_path / "none.safetensors")])
    assert status == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ")
    assert "none.safetensors" in error
    assert "Traceback" not in error


def test_images_reach_the_network_in_their_own_size(few: None) -> None:
    """No image is resized or padded: 256 pixels are a multiple of the network's stride."""
    cfg = build_config("configs/mini/eval_reason.yaml", ["MODEL.DEVICE", "cpu"])
    register_datasets(cfg)
    record = DatasetCatalog.get(DATASET)[0]
    assert InferenceMapper.from_config(cfg)(record)["image"].shape == (3, 256, 256)


@pytest.mark.slow
def test_designs_of_sed_are_compared_over_weight_files(
    few: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    designs = ("passes", "mean")
    monkeypatch.setattr(sed_designs, "DESIGNS", designs)
    first, second = (tmp_path / name / "sed-mini.safetensors" for name in ("one", "two"))
    for copy in (first, second):
        copy.parent.mkdir()
        shutil.copy(shipped("sed"), copy)
    words, files = ["sed-designs", "--output", str(tmp_path / "out")], [str(first), str(second)]
    assert main([*words, *files]) == 2  # this small world has no 120 images
    words += ["--images", "2"]
    assert main([*words, *files]) == 0
    found = read_json(tmp_path / "out" / "designs.json")
    assert found.keys() == {
        "sed_names",
        *(f"sed_{kind}_{design}" for kind in ("generic", "image") for design in designs),
    }
    for of_files in found.values():
        assert len(of_files) == 2 and of_files[0].keys() == {*GROUPS, "varying", "all", "seconds"}
        assert {key: of_files[0][key] - of_files[1][key] for key in GROUPS} == dict.fromkeys(GROUPS, 0.0)
    assert len({tuple(found[f"sed_generic_{design}"][0][group] for group in GROUPS) for design in designs}) == 2
    results = read_evaluation(
        tmp_path / "out" / "two-sed-mini" / "sed_image_mean", "mini_val_2_sem_seg", panoptic=False
    )
    assert results["usage"]["image"] == 2
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| SED, ")]
    assert len(lines) == 5 and all(line.count(" ± ") == 6 for line in lines)
    assert main([*words, *files, files[0]]) == 2  # whose results would lie in one folder
