"""What prepare_datasets makes, check_datasets finds in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from tools.check_datasets.__main__ import check
from tools.check_datasets.semantic import Options
from tools.prepare_datasets.__main__ import prepare

HEIGHT, WIDTH = 40, 60


def save(path: Path, values: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if mode == "P":
        image = image.convert("P")
        image.putpalette([entry // 3 for entry in range(768)])
        image.putdata(values.ravel().tolist())
    image.save(path)


def photograph(path: Path) -> None:
    save(path, np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def ade_challenge(folder: Path) -> Path:
    """Wall everywhere, two beds (class 8, the first thing) of which one covers a part of the floor, and no label."""
    for split, stem in (("validation", "ADE_val_00000001"), ("training", "ADE_train_00000001")):
        photograph(folder / f"images/{split}/{stem}.jpg")
        labels = np.ones((HEIGHT, WIDTH), np.uint8)
        labels[20:], labels[:10, :10], labels[5:25, 30:50] = 4, 0, 8
        save(folder / f"annotations/{split}/{stem}.png", labels)
        objects = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        objects[5:25, 30:40] = (1, 1, 0)
        objects[5:28, 40:50] = (1, 2, 0)
        save(folder / f"annotations_instance/{split}/{stem}.png", objects)
    return folder


def voc(folder: Path) -> Path:
    kit = folder / "VOCdevkit/VOC2012"
    for split, stem in (("train", "2007_000032"), ("val", "2007_000033")):
        photograph(kit / f"JPEGImages/{stem}.jpg")
        values = np.zeros((HEIGHT, WIDTH), np.uint8)
        values[10:20], values[20:22], values[22:] = 1, 255, 20
        save(kit / f"SegmentationClass/{stem}.png", values, "P")
        names = kit / f"ImageSets/Segmentation/{split}.txt"
        names.parent.mkdir(parents=True, exist_ok=True)
        names.write_text(f"{stem}\n")
    return folder


def context(folder: Path) -> Path:
    kit = folder / "VOCdevkit/VOC2010"
    for split, stem in (("train", "2008_000002"), ("val", "2008_000003")):
        photograph(kit / f"JPEGImages/{stem}.jpg")
        numbers = np.zeros((HEIGHT, WIDTH), np.uint16)
        numbers[10:20], numbers[20:] = 2, 459  # aeroplane and the last class
        maps = folder / "trainval"
        maps.mkdir(exist_ok=True)
        scipy.io.savemat(maps / f"{stem}.mat", {"LabelMap": numbers}, do_compression=True)
        names = kit / f"ImageSets/Main/{split}.txt"
        names.parent.mkdir(parents=True, exist_ok=True)
        names.write_text(f"{stem}\n")
    return folder


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (ade_challenge, ("ade150", "ade150_panoptic", "ade150_instances")),
        (voc, ("voc20",)),
        (context, ("pc459", "pc59")),
    ],
)
def test_what_was_prepared_passes_the_check(
    tmp_path: Path, build: Callable[[Path], Path], names: tuple[str, ...]
) -> None:
    source = build(tmp_path / "given")
    root = tmp_path / "sets"
    root.mkdir()
    prepare(names, [source], root, ("train", "val"), 1)
    reports = check(names, Options(root, counts=False, workers=1))
    assert [report.name for report in reports] == [name for name in names for _ in range(2)]
    for report in reports:
        assert report.state == "ok", (report.dataset, report.problems)
        assert report.pairs == report.looked_into == 1 and report.per_class
    if "ade150_panoptic" in names:
        panoptic = next(report for report in reports if report.dataset == "openvocab_ade20k_panoptic_val")
        assert panoptic.per_class["bed"] == 2 and not panoptic.notes
