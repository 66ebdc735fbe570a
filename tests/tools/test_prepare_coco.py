"""tools.prepare_datasets coco_stuff171, coco_panoptic: miniatures of the official archives, and what comes out."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from tools.prepare_datasets.__main__ import main

HEIGHT, WIDTH = 60, 80
STEMS = {"train": ("000000000009", "000000000025"), "val": ("000000000139",)}
CAT, SEA, SKY = 17, 155, 187
"""Category identifiers of COCO panoptic: a thing, a stuff class, a merged stuff class."""


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def jpeg(stem: str) -> bytes:
    buffer = io.BytesIO()
    place = int(stem)
    Image.fromarray(skimage.data.astronaut()[place : place + HEIGHT, :WIDTH]).save(buffer, format="JPEG")
    return buffer.getvalue()


def stuff_values(stem: str) -> np.ndarray:
    """A map of stuffthingmaps: person, cat, an unused number (street sign), banner, wood, and unlabelled."""
    values = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    values[:10], values[10:20], values[20:30], values[30:40], values[40:50] = 0, 16, 11, 91, 181
    values[:, int(stem) % 7] = 12
    return values


def stuff_truth(stem: str) -> np.ndarray:
    truth = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    truth[:10], truth[10:20], truth[20:30], truth[30:40], truth[40:50] = 0, 15, 255, 80, 170
    truth[:, int(stem) % 7] = 11
    return truth


def panoptic_image(stem: str) -> np.ndarray:
    """RGB: sky above sea with a cat in it, and a line without segment."""
    image = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[:20], image[21:] = (1, 0, 0), (0, 2, 3)
    image[30:40, 10 : 10 + int(stem) % 20 + 1] = (255, 255, 0)
    return image


SEGMENTS = ((1, SKY), (2 * 256 + 3 * 65536, SEA), (255 + 255 * 256, CAT))


def panoptic_document(split: str) -> dict:
    segments = [
        {"id": identifier, "category_id": category, "iscrowd": 0, "bbox": [0, 0, 1, 1], "area": 1}
        for identifier, category in SEGMENTS
    ]
    return {
        "info": {"year": 2018},
        "images": [
            {"id": int(stem), "file_name": f"{stem}.jpg", "height": HEIGHT, "width": WIDTH} for stem in STEMS[split]
        ],
        "annotations": [
            {"image_id": int(stem), "file_name": f"{stem}.png", "segments_info": segments} for stem in STEMS[split]
        ],
        "categories": [
            {"id": CAT, "name": "cat", "supercategory": "animal", "isthing": 1},
            {"id": SEA, "name": "sea", "supercategory": "water", "isthing": 0},
            {"id": SKY, "name": "sky-other-merged", "supercategory": "sky", "isthing": 0},
        ],
    }


def panoptic_files(split: str) -> dict[str, bytes]:
    folder = f"panoptic_{split}2017"
    inner = {f"{folder}/{stem}.png": png(panoptic_image(stem)) for stem in STEMS[split]}
    inner[f"__MACOSX/{folder}/._{STEMS[split][0]}.png"] = b"left by a Macintosh"
    document = json.dumps(panoptic_document(split)).encode()
    return {f"annotations/{folder}.json": document, f"annotations/{folder}.zip": zipped(inner)}


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    folder = tmp_path / "downloads"
    folder.mkdir()
    for split, stems in STEMS.items():
        images = {f"{split}2017/{stem}.jpg": jpeg(stem) for stem in stems}
        (folder / f"{split}2017.zip").write_bytes(zipped(images))
    labels = {f"{split}2017/{stem}.png": png(stuff_values(stem)) for split, stems in STEMS.items() for stem in stems}
    (folder / "stuffthingmaps_trainval2017.zip").write_bytes(zipped(labels))
    annotations = panoptic_files("train") | panoptic_files("val")
    (folder / "panoptic_annotations_trainval2017.zip").write_bytes(zipped(annotations))
    return folder


def prepare(root: Path, *words: object) -> int:
    arguments = [*map(str, words), "--root", str(root), "--workers", "2"]
    return main(arguments)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_stuff(downloads: Path, tmp_path: Path) -> None:
    root = tmp_path / "datasets"
    assert prepare(root, "coco_stuff171", "--from", downloads) == 0
    for split, stems in STEMS.items():
        folder = root / "coco" / "stuffthingmaps_detectron2" / f"{split}2017"
        assert sorted(path.stem for path in folder.iterdir()) == sorted(stems)
        for stem in stems:
            found = np.asarray(Image.open(folder / f"{stem}.png"))
            assert found.dtype == np.uint8 and np.array_equal(found, stuff_truth(stem))
        copied = contents(root / "coco" / f"{split}2017")
        assert copied == {f"{stem}.jpg": jpeg(stem) for stem in stems}


def test_stuff_where_it_was_unpacked(downloads: Path, tmp_path: Path) -> None:
    """The tree that the reference's users have: everything unpacked below the data-set root, prepared there, twice."""
    base = tmp_path / "datasets" / "coco"
    for split, stems in STEMS.items():
        for stem in stems:
            for name, data in (
                (f"{split}2017/{stem}.jpg", jpeg(stem)),
                (f"stuffthingmaps/{split}2017/{stem}.png", png(stuff_values(stem))),
            ):
                (base / name).parent.mkdir(parents=True, exist_ok=True)
                (base / name).write_bytes(data)
    for _ in range(2):
        assert prepare(base.parent, "coco_stuff171", "--from", base) == 0
        for split, stems in STEMS.items():
            for stem in stems:
                path = base / "stuffthingmaps_detectron2" / f"{split}2017" / f"{stem}.png"
                assert np.array_equal(np.asarray(Image.open(path)), stuff_truth(stem))
    other = tmp_path / "other"
    assert prepare(other, "coco_stuff171", "--from", downloads) == 0
    ours = {name: data for name, data in contents(base).items() if not name.startswith("stuffthingmaps/")}
    records = {"coco_stuff171.provenance.json"}
    theirs = contents(other / "coco")
    assert {k: v for k, v in ours.items() if k not in records} == {k: v for k, v in theirs.items() if k not in records}


def test_a_split_that_was_not_given(downloads: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (downloads / "train2017.zip").unlink()
    root = tmp_path / "datasets"
    assert prepare(root, "coco_stuff171", "--from", downloads) == 0
    assert "train: left out, its images were not given" in capsys.readouterr().out
    assert not list(root.rglob("*train2017*"))
    (downloads / "val2017.zip").unlink()
    assert prepare(tmp_path / "none", "coco_stuff171", "--from", downloads) == 2
    assert "nothing to prepare" in capsys.readouterr().err


@pytest.mark.parametrize("value", [182, 254])
def test_values_that_coco_stuff_does_not_have(
    value: int, downloads: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {f"val2017/{STEMS['val'][0]}.png": png(np.full((HEIGHT, WIDTH), value, dtype=np.uint8))}
    (downloads / "stuffthingmaps_trainval2017.zip").write_bytes(zipped(labels))
    assert prepare(tmp_path / "datasets", "coco_stuff171", "--from", downloads) == 2
    assert f"holds {value}, which this data set does not have" in capsys.readouterr().err


def test_panoptic(downloads: Path, tmp_path: Path) -> None:
    """The zip inside the zip is read in place; JSON, PNG and images come out as they are."""
    root = tmp_path / "datasets"
    assert prepare(root, "coco_panoptic", "--from", downloads) == 0
    expected = {}
    for split, stems in STEMS.items():
        expected[f"annotations/panoptic_{split}2017.json"] = json.dumps(panoptic_document(split)).encode()
        for stem in stems:
            expected[f"panoptic_{split}2017/{stem}.png"] = png(panoptic_image(stem))
            expected[f"{split}2017/{stem}.jpg"] = jpeg(stem)
    found = contents(root / "coco")
    del found["coco_panoptic.provenance.json"]
    assert found == expected
    assert not (root / ".prepare").exists()


def changed(change: str) -> tuple[dict, dict[str, bytes]]:
    document = panoptic_document("train")
    images = {f"panoptic_train2017/{stem}.png": png(panoptic_image(stem)) for stem in STEMS["train"]}
    first = f"panoptic_train2017/{STEMS['train'][0]}.png"
    if change == "unlisted":
        image = panoptic_image(STEMS["train"][0])
        image[0, 0] = (7, 0, 0)
        images[first] = png(image)
    elif change == "lost":
        image = panoptic_image(STEMS["train"][0])
        image[:20] = 0
        images[first] = png(image)
    elif change == "no png":
        del images[first]
    elif change == "grey":
        images[first] = png(panoptic_image(STEMS["train"][0])[..., 0])
    elif change == "kind":
        document["categories"][0]["isthing"] = 0
    elif change == "category":
        document["annotations"][1]["segments_info"] = [{"id": 1, "category_id": 12}]
    elif change == "field":
        del document["annotations"][1]["segments_info"]
    elif change == "image":
        document["images"].pop()
    return document, images


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("unlisted", "segment 7 is not in both"),
        ("lost", "segment 1 is not in both"),
        ("no png", "1 of 2 panoptic PNG"),
        ("grey", "RGB image"),
        ("kind", "category 17 is none of the 133"),
        ("category", "category 12 is none of COCO's"),
        ("field", "KeyError('segments_info')"),
        ("image", "KeyError(25)"),
    ],
)
def test_damaged_panoptic(
    change: str, problem: str, downloads: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document, images = changed(change)
    files = {"annotations/panoptic_train2017.json": json.dumps(document).encode()}
    files["annotations/panoptic_train2017.zip"] = zipped(images)
    (downloads / "panoptic_annotations_trainval2017.zip").write_bytes(zipped(files))
    assert prepare(tmp_path / "datasets", "coco_panoptic", "--from", downloads) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("error: ") == 1, error


def evaluate(train_net: Callable[..., None], root: Path, output: Path, dataset: str, **changes: str) -> dict:
    """The results of train_net.py with class names only."""
    options = {
        "MODEL.META_ARCHITECTURE": "MAFT_Plus",
        "MODEL.DEVICE": "cpu",
        "DATASETS.TEST": f"('{dataset}',)",
        "TEST.SAVE_PREDICTIONS": "True",
        "OUTPUT_DIR": str(output),
    } | {key.replace("__", "."): value for key, value in changes.items()}
    train_net("tests/assets/tiny.yaml", "--eval-only", keys=options, datasets=root)
    return json.loads((output / "inference" / dataset / "results.json").read_text())


def test_train_net_evaluates_stuff(train_net: Callable[..., None], downloads: Path, tmp_path: Path) -> None:
    """The pixel accuracy is that of the predictions against the labels made by hand."""
    root, output = tmp_path / "datasets", tmp_path / "out"
    assert prepare(root, "coco_stuff171", "--from", downloads) == 0
    dataset = "openvocab_coco_2017_test_stuff_sem_seg"
    results = evaluate(train_net, root, output, dataset)
    (stem,) = STEMS["val"]
    truth = stuff_truth(stem)
    predicted = np.asarray(Image.open(next((output / "inference" / dataset / "sem_seg").glob(f"{stem}.*"))))
    kept = truth != 255
    assert results["metrics"]["sem_seg"]["pACC"] == pytest.approx(100 * (predicted == truth)[kept].mean(), abs=1e-6)


def test_train_net_evaluates_panoptic(train_net: Callable[..., None], downloads: Path, tmp_path: Path) -> None:
    root = tmp_path / "datasets"
    assert prepare(root, "coco_panoptic", "--from", downloads) == 0
    changes = {"MODEL__MASK_FORMER__TEST__PANOPTIC_ON": "True", "INPUT__DATASET_MAPPER_NAME": "coco_panoptic_lsj"}
    results = evaluate(train_net, root, tmp_path / "out", "coco_seg_pan_voab", **changes)
    assert results["images"]["total"] == len(STEMS["train"])
    classes = results["metrics"]["panoptic_seg"]["per_class"]
    segments = {name: entry["matched"] + entry["false_negatives"] for name, entry in classes.items()}
    assert {name: number for name, number in segments.items() if number} == {"cat": 2, "sea": 2, "sky-other-merged": 2}
