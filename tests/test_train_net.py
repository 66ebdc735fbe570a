"""train_net.py as its users run it: subprocesses, real files, a small model with seeded weights."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import forked
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from maft.config import build_config
from maft.errors import run_command
from maft.launch import main, parse_arguments
from maft.meta_arch.parts import reason_settings
from reason.vocabulary import load_vocabulary

CONFIG = "tests/assets/tiny.yaml"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
DATASET = "openvocab_pascal20_sem_seg_val"
STEMS = ("2007_000033", "2007_000042", "2007_000061.v2", "2007_000123")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PAS-20 in miniature: four real photographs, label maps, generic reasons, image-specific ones for two of them."""
    root = tmp_path_factory.mktemp("world")
    images = root / "datasets" / "VOCdevkit" / "VOC2012" / "images_detectron2" / "val"
    labels = root / "datasets" / "VOCdevkit" / "VOC2012" / "annotations_ovs" / "val"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    photographs = (
        skimage.data.chelsea(),
        skimage.data.astronaut(),
        skimage.data.coffee(),
        skimage.data.chelsea()[:200],
    )
    for number, (stem, photograph) in enumerate(zip(STEMS, photographs, strict=True)):
        small = Image.fromarray(photograph).resize((150 + 11 * number, 110))
        small.save(images / f"{stem}.jpg")
        label = np.full((110, 150 + 11 * number), 255, dtype=np.uint8)
        label[20:90, 30:100] = 7 + number
        label[90:, :] = 14
        Image.fromarray(label).save(labels / f"{stem}.png")
    vocabulary = load_vocabulary("voc20")
    generic = {entry.name: {"class_des": [f"{entry.name} part {n}" for n in range(5)]} for entry in vocabulary.classes}
    (root / "voc20.json").write_text(json.dumps(generic))
    folder = root / "image_reason" / "voc20"
    folder.mkdir(parents=True)
    reasons = {"cat": {"reason3": ["brown fur", "green eyes"]}, "person": {"reason3": ["orange suit", "smile", "hair"]}}
    for stem in STEMS[:2]:
        (folder / f"{stem}.json").write_text(json.dumps({"reasoning": {"map_class_reason": reasons}}))
    return root


def keys(world: Path, output: Path, **changes: object) -> list[str]:
    options: dict[str, object] = {
        "MODEL.DEVICE": "cpu",
        "MODEL.TEST_CLASS_REASON_JSON": world / "voc20.json",
        "MODEL.REASON_DIR": world / "image_reason",
        "MODEL.REASON_DATA": "voc20",
        "DATASETS.TEST": f"('{DATASET}',)",
        "OUTPUT_DIR": output,
    }
    options |= {key.replace("__", "."): value for key, value in changes.items()}
    return [str(item) for pair in options.items() for item in pair]


def environment(world: Path) -> dict[str, str]:
    return os.environ | {"DETECTRON2_DATASETS": str(world / "datasets"), "OMP_NUM_THREADS": "1"}


def command(arguments: list[str], *flags: str) -> list[str]:
    return ["train_net.py", "--config-file", CONFIG, "--eval-only", *flags, *arguments]


def run(world: Path, arguments: list[str], *flags: str) -> subprocess.CompletedProcess[str]:
    return forked.run(command(arguments, *flags), env=environment(world))


def run_anew(
    repository: Path, world: Path, arguments: list[str], launcher: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """The same in a new interpreter, or in several by way of a launcher."""
    words = [sys.executable, *launcher, *command(arguments)]
    return subprocess.run(
        words, cwd=repository, env=environment(world), capture_output=True, text=True, timeout=300, check=False
    )


def run_here(world: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """The same without a new interpreter, whose start takes longer than most of these errors."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world / "datasets"))
    command = ["--config-file", CONFIG, "--eval-only", *arguments]
    parsed = parse_arguments(command)
    status = run_command(lambda: main(parsed))
    for name in ("detectron2", "maft", "reason"):
        # They write to a stream that pytest closes after the test.
        logging.getLogger(name).handlers.clear()
    captured = capfd.readouterr()
    return subprocess.CompletedProcess(command, status, captured.out, captured.err)


def results(output: Path, dataset: str = DATASET) -> dict:
    return json.loads((output / "inference" / dataset / "results.json").read_text())


@pytest.fixture(scope="module")
def evaluated(repository: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one whole evaluation, predictions included."""
    output = tmp_path_factory.mktemp("out")
    done = run_anew(repository, world, keys(world, output, TEST__SAVE_PREDICTIONS=True))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MEANS NOTHING" in done.stdout + done.stderr
    (output / "screen").write_text(done.stdout + done.stderr)
    return output


def test_the_config_is_logged_once_and_to_the_file(evaluated: Path) -> None:
    screen, log = (evaluated / "screen").read_text(), (evaluated / "log.txt").read_text()
    assert log.count("Running with full config") == log.count("TRANSFORMER_DECODER_NAME") == 1
    assert "full config:" not in screen and "TRANSFORMER_DECODER_NAME" not in screen
    assert screen.index(f"vocabulary: {DATASET}, 20 classes") < screen.index("MEANS NOTHING")
    assert "\r" not in screen and f"\n{DATASET}: 4/4 image, 100%" in screen


def test_results_agree_with_the_saved_predictions(evaluated: Path, world: Path) -> None:
    """Both definitions of mIoU, recomputed here from prediction and label files by their definition."""
    found = results(evaluated)
    labels = world / "datasets" / "VOCdevkit" / "VOC2012" / "annotations_ovs" / "val"
    saved = sorted((evaluated / "inference" / DATASET / "sem_seg").glob("*.png"))
    assert [path.stem for path in saved] == sorted(STEMS)
    hits, truth, predicted = np.zeros(20), np.zeros(20), np.zeros(20)
    for path in saved:
        label, prediction = np.array(Image.open(labels / path.name)), np.array(Image.open(path))
        assert prediction.shape == label.shape
        kept = label != 255
        for index in range(20):
            hits[index] += (kept & (label == index) & (prediction == index)).sum()
            truth[index] += (kept & (label == index)).sum()
            predicted[index] += (kept & (prediction == index)).sum()
    occurs = truth > 0
    iou = 100 * hits[occurs] / (truth + predicted - hits)[occurs]
    metrics = found["metrics"]["sem_seg"]
    assert metrics["mIoU_reference"] == pytest.approx(iou.sum() / ((truth + predicted) > 0).sum(), abs=1e-6)
    assert metrics["mIoU_present"] == pytest.approx(iou.mean(), abs=1e-6)
    assert metrics["pACC"] == pytest.approx(100 * hits.sum() / truth.sum(), abs=1e-6)


def test_reasons_are_counted_beside_the_result(evaluated: Path) -> None:
    found = results(evaluated)
    assert found["images"]["total"] == 4
    assert found["usage"]["image"] == 2 and found["usage"]["generic_missing_file"] == 2
    assert found["usage"]["padded_attributes"] == 2, "two images whose 'cat' has two attributes of three"
    assert found["provenance"]["weights_file"] is None
    assert found["provenance"]["reasons"]["mode"] == "reference"


@pytest.mark.parametrize("changes", [{"TEST__BATCH_SIZE": 3}, {"DATALOADER__NUM_WORKERS": 2}])
def test_batches_and_workers_change_nothing(
    world: Path, evaluated: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    done = run(world, keys(world, tmp_path, TEST__SAVE_PREDICTIONS=True, **changes))
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(tmp_path)["metrics"] == results(evaluated)["metrics"]


def test_torchrun_gives_the_same(repository: Path, world: Path, evaluated: Path, tmp_path: Path) -> None:
    done = run_anew(repository, world, keys(world, tmp_path), TORCHRUN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(tmp_path)["metrics"] == results(evaluated)["metrics"]


def test_more_gpus_than_there_are(world: Path, tmp_path: Path) -> None:
    """The reference's command asks for 4 GPUs: without one it runs on the CPU and says so."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    arguments = keys(world, tmp_path)
    del arguments[arguments.index("MODEL.DEVICE") : arguments.index("MODEL.DEVICE") + 2]
    done = run(world, arguments, "--num-gpus", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "running on the CPU" in done.stderr


@pytest.mark.parametrize("architecture", ["MAFT_Plus", "MAFT_Plus_Reason"])
def test_modes_and_architectures(world: Path, tmp_path: Path, architecture: str) -> None:
    """Plain MAFT+ and aligned reasons come from the same command."""
    changes = {"MODEL__META_ARCHITECTURE": architecture, "MODEL__REASON__MODE": "aligned"}
    done = run(world, keys(world, tmp_path, **changes))
    assert done.returncode == 0, done.stdout + done.stderr
    mode = results(tmp_path)["provenance"]["reasons"]["mode"]
    assert mode == ("aligned" if architecture.endswith("Reason") else "class names only")


OWN_DATA = """
from maft.data import register_custom

def register():
    register_custom(
        "own_panoptic_val", "voc20", "{world}/images", "{world}/panoptic", panoptic_json="{world}/panoptic.json"
    )
"""


def test_a_users_own_panoptic_data_set(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of DATASETS.REGISTER; the panoptic path with generic reasons for some, where the reference crashes."""
    shutil.copytree(world / "datasets" / "VOCdevkit" / "VOC2012" / "images_detectron2" / "val", tmp_path / "images")
    (tmp_path / "panoptic").mkdir()
    images, annotations = [], []
    for number, stem in enumerate(STEMS):
        width = 150 + 11 * number
        ids = np.zeros((110, width, 3), dtype=np.uint8)
        ids[20:90, 30:100, 0], ids[90:, :, 0] = 1, 2
        Image.fromarray(ids).save(tmp_path / "panoptic" / f"{stem}.png")
        images.append({"id": number, "file_name": f"{stem}.jpg", "height": 110, "width": width})
        segments = [
            {"id": 1, "category_id": 8, "area": 4900, "bbox": [30, 20, 70, 70], "iscrowd": 0},
            {"id": 2, "category_id": 15, "area": 20 * width, "bbox": [0, 90, width, 20], "iscrowd": 0},
        ]
        annotations.append({"image_id": number, "file_name": f"{stem}.png", "segments_info": segments})
    categories = [{"id": 8, "name": "cat", "isthing": 1}, {"id": 15, "name": "person", "isthing": 1}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "panoptic.json").write_text(json.dumps(document))
    (tmp_path / "own_data.py").write_text(OWN_DATA.format(world=tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    arguments = keys(
        world,
        tmp_path,
        DATASETS__REGISTER="('own_data',)",
        DATASETS__TEST="('own_panoptic_val',)",
        MODEL__MASK_FORMER__TEST__PANOPTIC_ON=True,
        MODEL__MASK_FORMER__TEST__INSTANCE_ON=True,
        MODEL__MASK_FORMER__TEST__OVERLAP_THRESHOLD=0.1,
        INPUT__DATASET_MAPPER_NAME="coco_panoptic_lsj",
        TEST__SAVE_PREDICTIONS=True,
    )
    done = run(world, arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(tmp_path, "own_panoptic_val")
    assert found["images"]["total"] == 4
    assert found["usage"]["generic_missing_file"] == 2 and found["usage"]["image"] == 2
    assert set(found["metrics"]["panoptic_seg"]["all"]) >= {"PQ", "SQ", "RQ"}


KILLED = """
import os, signal
from maft.evaluation.journal import JournalWriter

written = 0
append = JournalWriter.append

def append_and_die(self, entries):
    global written
    append(self, entries)
    written += 1
    if written == 2:
        os.kill(os.getpid(), signal.SIGKILL)

def register():
    JournalWriter.append = append_and_die
"""


def test_killed_and_continued(world: Path, evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL after the second image: the next run evaluates the two others only, and the result is the same."""
    (tmp_path / "killed.py").write_text(KILLED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    arguments = keys(world, tmp_path, TEST__SAVE_PREDICTIONS=True)
    killed = run(world, [*arguments, "DATASETS.REGISTER", "('killed',)"])
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "inference" / DATASET / "results.json").exists()
    done = run(world, arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(tmp_path)["images"] == {"total": 4, "earlier_run": 2, "this_run": 2}
    assert results(tmp_path)["metrics"] == results(evaluated)["metrics"]
    assert results(tmp_path)["usage"] == results(evaluated)["usage"]


def a_bad_world(world: Path, tmp_path: Path, what: str) -> Mapping[str, object]:
    """Break one thing in a copy of the world; the config changes that go with it."""
    copy = tmp_path / "world"
    shutil.copytree(world, copy)
    voc = copy / "datasets" / "VOCdevkit" / "VOC2012"
    images, labels = voc / "images_detectron2" / "val", voc / "annotations_ovs" / "val"
    reasons = copy / "image_reason" / "voc20" / f"{STEMS[0]}.json"
    if what == "malformed triplet":
        reasons.write_text(json.dumps({"reasoning": {"map_class_reason": {"cat": {"reason3": "brown fur"}}}}))
    elif what == "truncated triplet":
        reasons.write_text(reasons.read_text()[:50])
    elif what == "empty triplet":
        reasons.write_text("")
    elif what == "missing class":
        generic = json.loads((copy / "voc20.json").read_text())
        generic["settee"] = generic.pop("sofa")
        (copy / "voc20.json").write_text(json.dumps(generic))
    elif what == "bad label":
        Image.fromarray(np.full((110, 150), 77, dtype=np.uint8)).save(labels / f"{STEMS[0]}.png")
    elif what == "unreadable image":
        path = images / f"{STEMS[1]}.jpg"
        path.write_bytes(path.read_bytes()[:700])
    elif what == "missing reasons as an error":
        return {"MODEL__REASON__FALLBACK": "error"}
    elif what == "truncated weights":
        torch.save({"model": {"a": torch.zeros(1000)}}, copy / "w.pth")
        (copy / "w.pth").write_bytes((copy / "w.pth").read_bytes()[:2000])
        return {"MODEL__WEIGHTS": copy / "w.pth"}
    elif what == "other weights":
        torch.save({"model": {"void_embedding.weight": torch.zeros(1, 640)}}, copy / "w.pth")
        return {"MODEL__WEIGHTS": copy / "w.pth"}
    elif what == "missing weights":
        return {"MODEL__WEIGHTS": "pretrained/no_such_file.pth"}
    elif what == "no data":
        shutil.rmtree(labels)
    return {}


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("malformed triplet", (f"{STEMS[0]}.json", "cat", "reason3")),
        ("truncated triplet", (f"{STEMS[0]}.json",)),
        ("empty triplet", (f"{STEMS[0]}.json", "empty")),
        ("missing class", ("voc20.json", "sofa", "'settee' is no class of the vocabulary")),
        ("bad label", (f"{STEMS[0]}.png", "77")),
        ("unreadable image", (f"{STEMS[1]}.jpg",)),
        ("missing reasons as an error", (f"{STEMS[2]}.json", "MODEL.REASON.FALLBACK")),
        ("truncated weights", ("w.pth", "truncated")),
        ("other weights", ("w.pth", "another size")),
        ("missing weights", ("MODEL.WEIGHTS", "no_such_file.pth", "pretrained/README.md")),
        ("no data", ("annotations_ovs", "datasets/README.md")),
    ],
)
@pytest.mark.usefixtures("in_repository")
def test_bad_input_is_one_line_and_status_2(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    what: str,
    words: tuple[str, ...],
) -> None:
    changes = a_bad_world(world, tmp_path, what)
    arguments = keys(tmp_path / "world", tmp_path / "out", **changes)
    assert_one_line_error(run_here(tmp_path / "world", arguments, monkeypatch, capfd), words)


def test_an_unreadable_image_as_a_user_sees_it(world: Path, tmp_path: Path) -> None:
    a_bad_world(world, tmp_path, "unreadable image")
    done = run(tmp_path / "world", keys(tmp_path / "world", tmp_path / "out", DATALOADER__NUM_WORKERS=2))
    assert_one_line_error(done, (f"{STEMS[1]}.jpg",))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["MODEL.NO_SUCH_KEY", "1"], ("MODEL.NO_SUCH_KEY",)),
        (["MODEL.NUM_DES"], ("MODEL.NUM_DES", "no value")),
        (["MODEL.NUM_DES", "many"], ("MODEL.NUM_DES",)),
        (["MODEL.REASON.MODE", "modern"], ("MODEL.REASON.MODE", "aligned")),
        (["MODEL.META_ARCHITECTURE", "MaskFormer"], ("MaskFormer", "MAFT_Plus_Reason")),
        (["DATASETS.TEST", "('cityscapes',)"], ("cityscapes", "openvocab_pascal20_sem_seg_val")),
        (["MODEL.FC_CLIP.CLIP_MODEL_NAME", "no_such_clip"], ("no_such_clip", "convnext_base_w_320")),
        (["MODEL.FC_CLIP.EMBED_DIM", "640"], ("EMBED_DIM", "64")),
        (["INPUT.DATASET_MAPPER_NAME", "coco_panoptic_lsj"], ("PANOPTIC_ON",)),
    ],
)
@pytest.mark.usefixtures("in_repository")
def test_bad_keys_are_one_line_and_status_2(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    words: tuple[str, ...],
) -> None:
    assert_one_line_error(run_here(world, [*keys(world, tmp_path), *arguments], monkeypatch, capfd), words)


def test_a_user_error_in_one_of_several_processes(world: Path, tmp_path: Path) -> None:
    a_bad_world(world, tmp_path, "unreadable image")
    words = command(keys(tmp_path / "world", tmp_path / "out"))
    done = forked.run([*TORCHRUN, *words], env=environment(tmp_path / "world"))
    assert done.returncode != 0
    assert sum(line.startswith("error: ") and f"{STEMS[1]}.jpg" in line for line in done.stderr.splitlines()) == 1


def assert_one_line_error(done: subprocess.CompletedProcess[str], words: tuple[str, ...]) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and done.stderr.rstrip().endswith(errors[0])
    assert "Traceback" not in done.stderr + done.stdout
    for word in words:
        assert word in errors[0]


@pytest.mark.usefixtures("in_repository")
def test_keys_without_effect_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """The reference's scripts set MODEL.CLASS_NAME_JSON, which the reference never reads."""
    build_config(CONFIG, ["MODEL.CLASS_NAME_JSON", "datasets/pc59.json", "MODEL.NUM_DES", "2"])
    assert "MODEL.CLASS_NAME_JSON" in caplog.text and "MODEL.NUM_DES" not in caplog.text


def test_no_config_and_nothing_to_train_on() -> None:
    for arguments, word in ((["--eval-only"], "--config-file"), (["--config-file", CONFIG], "DATASETS.TRAIN")):
        done = forked.run(["train_net.py", *arguments])
        assert_one_line_error(done, (word,))


@pytest.mark.usefixtures("in_repository")
def test_reasons_of_two_folders_do_not_mix(world: Path, tmp_path: Path) -> None:
    """Where the folder of the model is there, the one without the model level is not looked into for any image."""
    shutil.copytree(world / "image_reason", tmp_path / "image_reason")
    (tmp_path / "image_reason" / "model" / "voc20").mkdir(parents=True)
    folder = tmp_path / "image_reason" / "model"
    cfg = build_config(CONFIG, keys(world, tmp_path, MODEL__REASON_DIR=folder))
    assert reason_settings(cfg, reasons=True).image_folders == (folder / "voc20",)
    cfg.MODEL.REASON_DIR = str(tmp_path / "image_reason" / "another model")
    assert reason_settings(cfg, reasons=True).image_folders == (tmp_path / "image_reason" / "voc20",)
