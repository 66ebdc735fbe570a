"""SED on VOC 2012 with background: from the archive's files to mIoU, which is computed by hand here."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from numpy.typing import NDArray
from PIL import Image

from maft.config import build_config
from maft.data import register_all
from maft.errors import UserError
from maft.evaluation.evaluators import SemanticEvaluator
from maft.training.checks import check_training
from reason.vocabulary import load_vocabulary
from tools.check_datasets.__main__ import main as check
from tools.evaluate.__main__ import main as evaluate
from tools.prepare_datasets.__main__ import main as prepare

NAME, SEDS = "openvocab_pascal20b_sem_seg_val", "voc_2012_test_background_sem_seg"
STEMS = ("2007_000033", "2007_000042")
AEROPLANE, PERSON, BORDER = 1, 15, 255
"""Values of SegmentationClass; 0 is background."""
HEIGHT, WIDTH = 40, 60
SKY, WALL = map(load_vocabulary("voc20b").class_names.index, ("sky", "wall"))


def annotation(stem: str) -> NDArray[np.uint8]:
    """As the release has it: 10 rows of an aeroplane, a row of its border, background; a person in one image."""
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[:10], values[10] = AEROPLANE, BORDER
    if stem == STEMS[1]:
        values[30:] = PERSON
    return values


def truth(stem: str) -> NDArray[np.uint8]:
    values = np.full((HEIGHT, WIDTH), 20, np.uint8)
    values[:10], values[10] = 0, 255
    if stem == STEMS[1]:
        values[30:] = 14
    return values


def png(values: NDArray[np.uint8]) -> bytes:
    image = Image.new("P", (WIDTH, HEIGHT))
    image.putdata(values.ravel().tolist())
    image.putpalette([(37 * entry) % 256 for entry in range(768)])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC 2012 in its official layout, prepared as PAS-20 first and as PAS-20b then."""
    kit = tmp_path_factory.mktemp("given") / "VOCdevkit/VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (kit / folder).mkdir(parents=True)
    (kit / "ImageSets/Segmentation/val.txt").write_text("\n".join(STEMS) + "\n")
    for place, stem in enumerate(STEMS):
        pixels = skimage.data.chelsea()[60 * place : 60 * place + HEIGHT, 100 : 100 + WIDTH]
        Image.fromarray(pixels).save(kit / f"JPEGImages/{stem}.jpg")
        (kit / f"SegmentationClass/{stem}.png").write_bytes(png(annotation(stem)))
    root = tmp_path_factory.mktemp("datasets")
    assert prepare(["voc20", "voc20b", "--from", str(kit.parents[1]), "--root", str(root), "--workers", "1"]) == 0
    return root


@pytest.fixture
def registered(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    register_all()


def test_the_label_maps_and_their_check(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = root / "VOCdevkit/VOC2012"
    found = {path.stem: np.asarray(Image.open(path)) for path in (base / "annotations_detectron2_bg/val").iterdir()}
    assert sorted(found) == sorted(STEMS) and all(np.array_equal(found[stem], truth(stem)) for stem in STEMS)
    plain = np.asarray(Image.open(base / f"annotations_ovs/{STEMS[0]}.png"))
    assert np.array_equal(plain, np.where(truth(STEMS[0]) == 20, 255, truth(STEMS[0]))), "those of PAS-20 stay"
    assert not (base / "annotations_detectron2_bg/train").exists()
    words = ["--root", str(root), "--no-counts", "--workers", "1", "--json"]
    assert check(["voc20b", *words]) == 0
    (report,) = json.loads(capsys.readouterr().out)["reports"]
    assert report["state"] == "ok" and report["classes"] == 21
    assert report["per_class"] == {"aeroplane": 20 * WIDTH, "person": 10 * WIDTH, "background": 48 * WIDTH}


def test_a_label_of_the_39_is_an_error(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / "VOCdevkit/VOC2012"
    for folder in ("images_detectron2", "annotations_detectron2_bg/val"):
        (base / folder).mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(base / f"images_detectron2/{STEMS[0]}.jpg")
    (base / f"annotations_detectron2_bg/val/{STEMS[0]}.png").write_bytes(png(np.full((HEIGHT, WIDTH), 21, np.uint8)))
    assert check(["voc20b", "--root", str(tmp_path), "--no-counts", "--workers", "1"]) == 1
    assert "21" in capsys.readouterr().out


def test_the_classes_that_sed_is_asked_for() -> None:
    classes, pascal, context = (load_vocabulary(name) for name in ("voc20b", "voc20", "pc59"))
    assert classes.class_names[:20] == pascal.class_names
    assert classes.class_names[20:] == tuple(name for name in context.class_names if name not in pascal.class_names)
    assert classes.sed_names == tuple((name,) for name in classes.class_names), "one name a class"


def by_hand(predicted: Callable[[str], NDArray[np.integer]]) -> tuple[float, dict[int, float]]:
    """mIoU and IoU of the classes in the ground truth, pixel sets of both images counted one by one."""
    shared, either = dict.fromkeys(range(21), 0), dict.fromkeys(range(21), 0)
    for stem in STEMS:
        label, found = truth(stem), predicted(stem)
        counted = label != 255
        for index in range(21):
            true, said = (label == index) & counted, (found == index) & counted
            shared[index] += int((true & said).sum())
            either[index] += int((true | said).sum())
    iou = {index: 100 * shared[index] / either[index] for index in (0, 14, 20)}
    return sum(iou.values()) / 3, iou


def test_every_class_from_20_on_counts_as_background(registered: None, tmp_path: Path) -> None:
    """Sky and wall where background is, and wall on a half of the aeroplanes: IoU 50, 100 and a known one."""
    records = DatasetCatalog.get(NAME)
    evaluator = SemanticEvaluator(NAME, tmp_path, True, records=records)
    found = {}
    for record in records:
        stem = Path(record["file_name"]).stem
        raw = truth(stem).astype(np.int64)
        raw[raw == 20] = SKY
        raw[20:30][raw[20:30] == SKY] = WALL
        raw[:5], raw[10] = WALL, 3
        scores = torch.nn.functional.one_hot(torch.from_numpy(raw), 59).permute(2, 0, 1).float()
        found[record["file_name"]] = evaluator.process_one(record, {"sem_seg": scores})
        with pytest.raises(UserError, match="the model scores 21 classes, .* has 59"):
            evaluator.process_one(record, {"sem_seg": scores[:21]})
    result = evaluator.summarise(found)["sem_seg"]
    # Background: rows 11 to 39 of one image and 11 to 29 of the other; the half of 2 aeroplanes is 10 rows more.
    iou = {"aeroplane": 50.0, "person": 100.0, "background": 100 * 48 / 58}
    assert result["classes"] == {"vocabulary": 21, "in_ground_truth": 3, "in_ground_truth_or_prediction": 3}
    assert {name: result["per_class"][name]["IoU"] for name in iou} == pytest.approx(iou)
    assert result["mIoU_reference"] == result["mIoU_present"] == pytest.approx(sum(iou.values()) / 3)
    saved = np.asarray(Image.open(tmp_path / f"sem_seg/{STEMS[0]}.png"))
    assert set(np.unique(saved)) == {0, 3, 20}, "what was counted is what is saved"


def test_train_net_evaluates_it(train_net: Callable[..., None], root: Path, tmp_path: Path) -> None:
    """By SED's own name of it; mIoU equals that of its saved predictions against the labels made by hand."""
    options = {
        "MODEL.META_ARCHITECTURE": "SED_Reason",
        "MODEL.TEST_CLASS_REASON_JSON": "reason_data/general_reason/written/voc20b_class_reason.json",
        "MODEL.NUM_DES": "1",
        "MODEL.DEVICE": "cpu",
        "DATASETS.TEST": f"('{SEDS}',)",
        "TEST.SAVE_PREDICTIONS": "True",
        "OUTPUT_DIR": str(tmp_path),
    }
    train_net("tests/assets/tiny_sed.yaml", "--eval-only", keys=options, datasets=root)
    folder = tmp_path / "inference" / SEDS

    def predicted(stem: str) -> NDArray[np.integer]:
        return np.asarray(Image.open(folder / f"sem_seg/{stem}.png"))

    values = set(np.unique([predicted(stem) for stem in STEMS]).tolist())
    assert max(values) == 20, "39 of 59 random classes are background"
    results = json.loads((folder / "results.json").read_text())["metrics"]["sem_seg"]
    miou, iou = by_hand(predicted)
    assert results["mIoU_present"] == pytest.approx(miou, abs=1e-6)
    assert results["per_class"]["background"]["IoU"] == pytest.approx(iou[20], abs=1e-6)


def test_predictions_of_other_programs(
    registered: None, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They may hold any of the 59 classes, or background as 20."""
    given = tmp_path / "given"
    given.mkdir()
    for stem, rest in zip(STEMS, (WALL, 20), strict=True):
        labels = truth(stem)
        labels[labels >= 20] = rest
        Image.fromarray(labels).save(given / f"{stem}.png")
    words = ["--predictions", str(given), "--dataset", NAME, "--output", str(tmp_path / "out")]
    assert evaluate(words) == 0, capsys.readouterr().err
    (file,) = (tmp_path / "out").rglob("results.json")
    assert json.loads(file.read_text())["metrics"]["sem_seg"]["mIoU_present"] == 100


def test_it_is_not_trained_on(registered: None, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    keys = ["DATASETS.TRAIN", f"('{NAME}',)", "DATASETS.TEST", "()", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "59"]
    with pytest.raises(UserError, match=f"DATASETS.TRAIN: {NAME} has one label for all classes of its background"):
        check_training(build_config("tests/assets/tiny_sed.yaml", keys))
    assert MetadataCatalog.get(SEDS).background == 20 and MetadataCatalog.get(NAME).short_names[20] == "background"
