"""tools.prepare_datasets voc20, pc59, pc459: miniatures of the official archives, and what comes out, by hand."""

from __future__ import annotations

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import skimage.data
from PIL import Image
from pycocotools import mask as coco_mask

from reason.vocabulary import load_vocabulary
from tools.prepare_datasets.__main__ import main

HEIGHT, WIDTH = 60, 80
TRAIN, VAL = ("2008_000001",), ("2008_000002", "2008_000003", "2010_004219")
MARKS = {"2008_000001": 5, "2008_000002": 8, "2008_000003": 12, "2010_004219": 15}
"""Images of VOC and the class of their main object."""

AEROPLANE, SKY, TABLE, WOOD, UNKNOWN, ACCORDION = 2, 360, 397, 458, 431, 1
"""Numbers in PASCAL-Context's list of 459."""


def jpeg(stem: str) -> bytes:
    buffer = io.BytesIO()
    place = 40 * sorted(MARKS).index(stem)
    Image.fromarray(skimage.data.chelsea()[place : place + HEIGHT, place : place + WIDTH]).save(buffer, format="JPEG")
    return buffer.getvalue()


def voc_png(stem: str) -> bytes:
    """A palette PNG as VOC has them: background, an object, its border."""
    values = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    values[10:40, 20:60] = MARKS[stem]
    values[10, 20:60] = 255
    values[50:] = 20
    image = Image.fromarray(values).convert("P")
    image.putdata(values.ravel().tolist())
    image.putpalette([(37 * entry) % 256 for entry in range(768)])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def voc_truth(stem: str) -> np.ndarray:
    truth = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    truth[11:40, 20:60] = MARKS[stem] - 1
    truth[50:] = 19
    return truth


def context_mat(stem: str) -> bytes:
    """A LabelMap of PASCAL-Context: unlabelled, sky, an aeroplane, a table, an accordion, wood and "unknown"."""
    numbers = np.zeros((HEIGHT, WIDTH), dtype=np.uint16)
    numbers[:30] = SKY
    numbers[10:20, 10 : 10 + MARKS[stem]] = AEROPLANE
    numbers[40:] = TABLE
    numbers[40:45, :10], numbers[50:55, :10], numbers[50:55, 70:] = ACCORDION, UNKNOWN, WOOD
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"LabelMap": numbers}, do_compression=True)
    return buffer.getvalue()


def truth_459(stem: str) -> np.ndarray:
    truth = np.full((HEIGHT, WIDTH), 65535, dtype=np.uint16)
    truth[:30] = 359
    truth[10:20, 10 : 10 + MARKS[stem]] = 1
    truth[40:] = 396
    truth[40:45, :10], truth[50:55, :10], truth[50:55, 70:] = 0, 430, 457
    return truth


def truth_59(stem: str) -> np.ndarray:
    """By name: sky 46, aeroplane 0, table is diningtable 49, wood 58; accordion and unknown are ignored."""
    truth = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    truth[:30] = 46
    truth[10:20, 10 : 10 + MARKS[stem]] = 0
    truth[40:] = 49
    truth[40:45, :10] = truth[50:55, :10] = 255
    truth[50:55, 70:] = 58
    return truth


def merged_json() -> bytes:
    """trainval_merged.json: other pixels than the .mat maps, overlapping regions, things that are passed over."""
    images, regions = [], []
    for stem in (*TRAIN, *VAL):
        number = int(stem.replace("_", ""))
        phase = "train" if stem in TRAIN else "val"
        size = {"height": HEIGHT, "width": WIDTH}
        images.append({"file_name": f"{stem}.jpg", "image_id": number, "phase": phase, **size, "license": 1})
        sky, plane, unknown = (np.zeros((HEIGHT, WIDTH), dtype=np.uint8) for _ in range(3))
        sky[:25], plane[20:30, 5 : 5 + MARKS[stem]], unknown[50:, 70:] = 1, 1, 1
        for category, mask in ((SKY, sky), (AEROPLANE, plane), (UNKNOWN, unknown)):
            encoded = coco_mask.encode(np.asfortranarray(mask))
            segmentation = {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}
            part = {"part_id": 3, "segmentation": segmentation}
            entry = {"id": len(regions), "image_id": number, "category_id": category, "iscrowd": 0}
            regions.append({**entry, "segmentation": segmentation, "parts": [part]})
    names = {AEROPLANE: "aeroplane", SKY: "sky", TABLE: "table", UNKNOWN: "unknown"}
    categories = [{"category_id": number, "name": name, "onlysemantic": 0} for number, name in names.items()]
    document = {"info": {"year": 2017}, "images": images, "annos_segmentation": regions, "categories": categories}
    return json.dumps(document | {"annos_boundary": [{"image_id": 1, "boundary_mask": {}}], "parts": []}).encode()


def truth_merged(stem: str) -> np.ndarray:
    truth = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    truth[:25] = 46
    truth[20:30, 5 : 5 + MARKS[stem]] = 0
    return truth


def voc_kit(year: str, labelled: bool = True) -> dict[str, bytes]:
    kit = f"VOCdevkit/VOC{year}"
    lists = {"train": "\n".join(TRAIN) + "\n", "val": "\n".join(VAL) + "\n"}
    files = {f"{kit}/JPEGImages/{stem}.jpg": jpeg(stem) for stem in MARKS}
    folder = "Segmentation" if labelled else "Main"
    files |= {f"{kit}/ImageSets/{folder}/{split}.txt": text.encode() for split, text in lists.items()}
    if labelled:
        files |= {f"{kit}/SegmentationClass/{stem}.png": voc_png(stem) for stem in MARKS}
        files |= {f"{kit}/SegmentationObject/{stem}.png": voc_png("2008_000001") for stem in MARKS}
        files[f"{kit}/JPEGImages/2009_005311.jpg"] = jpeg("2008_000001")
    else:
        files[f"{kit}/ImageSets/Segmentation/val.txt"] = b"2008_000001\n"
        files[f"{kit}/SegmentationClass/2008_000002.png"] = voc_png("2008_000003")
    return files


def context_files() -> dict[str, bytes]:
    files = {f"trainval/{stem}.mat": context_mat(stem) for stem in MARKS}
    names = load_vocabulary("pc459").class_names
    text = "".join(f"{number}: {name}\n" for number, name in enumerate(names, start=1))
    return files | {"labels.txt": text.encode()}


def pack(path: Path, files: Mapping[str, bytes]) -> Path:
    """A tar as the releases are: with folders, and gzipped if its name says so."""
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for folder in sorted({name.rpartition("/")[0] for name in files} - {""}):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def unpack(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of downloads, VOC 2010 and 2012 side by side."""
    folder = tmp_path_factory.mktemp("downloads")
    pack(folder / "VOCtrainval_03-May-2010.tar", voc_kit("2010", labelled=False))
    pack(folder / "VOCtrainval_11-May-2012.tar", voc_kit("2012"))
    pack(folder / "trainval.tar.gz", context_files())
    (folder / "trainval_merged.json").write_bytes(merged_json())
    return folder


def prepare(root: Path, *words: object) -> int:
    arguments = [*map(str, words), "--root", str(root), "--workers", "2"]
    return main(arguments)


def labels_in(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.asarray(Image.open(path)) for path in sorted(folder.iterdir()) if path.is_file()}


def same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert sorted(found) == sorted(expected)
    for stem, truth in expected.items():
        assert found[stem].dtype == truth.dtype and np.array_equal(found[stem], truth), stem


def provenance(root: Path, name: str) -> dict:
    year = "VOC2012" if name == "voc20" else "VOC2010"
    return json.loads((root / "VOCdevkit" / year / f"{name}.provenance.json").read_text())


@pytest.fixture(scope="module")
def prepared(downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    assert prepare(root, "voc20", "pc59", "pc459", "--from", downloads) == 0
    return root


def test_voc20(prepared: Path) -> None:
    base = prepared / "VOCdevkit" / "VOC2012"
    same(labels_in(base / "annotations_ovs"), {stem: voc_truth(stem) for stem in VAL})
    same(labels_in(base / "annotations_ovs" / "train"), {stem: voc_truth(stem) for stem in TRAIN})
    copied = {path.stem: path.read_bytes() for path in (base / "images_detectron2").iterdir()}
    assert copied == {stem: jpeg(stem) for stem in MARKS}, "what the lists name, byte for byte"


def test_pc59_from_the_merged_file(prepared: Path) -> None:
    base = prepared / "VOCdevkit" / "VOC2010"
    same(labels_in(base / "annotations_detectron2_ovs" / "pc59_val"), {stem: truth_merged(stem) for stem in VAL})
    same(labels_in(base / "annotations_detectron2_ovs" / "pc59_train"), {stem: truth_merged(stem) for stem in TRAIN})
    assert {path.stem: path.read_bytes() for path in (base / "images").iterdir()} == {s: jpeg(s) for s in MARKS}
    record = provenance(prepared, "pc59")
    assert record["choices"]["labels"] == "trainval_merged.json" and record["complete"]
    assert any("4 regions have a category that is none of the 59" in note for note in record["notes"])


def test_pc459(prepared: Path) -> None:
    folder = prepared / "VOCdevkit" / "VOC2010" / "annotations_detectron2_ovs" / "pc459_val"
    assert {path.suffix for path in folder.iterdir()} == {".tif"}
    same(labels_in(folder), {stem: truth_459(stem) for stem in VAL})
    assert provenance(prepared, "pc459")["choices"]["split"] == "ImageSets/Main of VOC 2010"


def test_pc59_without_the_merged_file(downloads: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By name from the 459-class maps, said so, and not mixed with what the merged file gave."""
    sources = ("--from", downloads / "VOCtrainval_03-May-2010.tar", downloads / "trainval.tar.gz")
    assert prepare(tmp_path, "pc59", *sources) == 0
    assert "need not agree in every pixel" in capsys.readouterr().out
    folder = tmp_path / "VOCdevkit" / "VOC2010" / "annotations_detectron2_ovs"
    same(labels_in(folder / "pc59_val"), {stem: truth_59(stem) for stem in VAL})
    assert provenance(tmp_path, "pc59")["choices"]["labels"] == "459-class .mat maps by name"
    assert prepare(tmp_path, "pc59", "--from", downloads) == 2
    assert "not mixed" in capsys.readouterr().err


def test_unpacked_folders_and_one_split(prepared: Path, tmp_path: Path) -> None:
    """From unpacked folders, the kits of both years in one, the same files come out."""
    given = unpack(tmp_path / "given", voc_kit("2012") | voc_kit("2010", labelled=False))
    unpack(given / "context", context_files())
    with zipfile.ZipFile(given / "merged.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("trainval_merged.json", merged_json())
    root = tmp_path / "datasets"
    assert prepare(root, "voc20", "pc59", "pc459", "--from", given, "--split", "val") == 0

    def contents(base: Path) -> dict[str, bytes]:
        found = {str(path.relative_to(base)): path.read_bytes() for path in base.rglob("*.*") if path.is_file()}
        keep = (name for name in found if not name.endswith(".json") and TRAIN[0] not in name)
        return {name: found[name] for name in keep}

    assert contents(root) == contents(prepared)
    assert not list(root.rglob("*train*"))


def test_annotation_files_that_are_no_archives(downloads: Path, tmp_path: Path) -> None:
    """The way that these files come: an archive of images, and a JSON file beside it."""
    sources = (downloads / "VOCtrainval_03-May-2010.tar", downloads / "trainval_merged.json")
    assert prepare(tmp_path, "pc59", "--from", *sources) == 0
    folder = tmp_path / "VOCdevkit" / "VOC2010" / "annotations_detectron2_ovs"
    same(labels_in(folder / "pc59_val"), {stem: truth_merged(stem) for stem in VAL})


def test_the_split_of_the_merged_file(downloads: Path, tmp_path: Path) -> None:
    """PC-459 without the lists of VOC 2010, the images being there already."""
    base = tmp_path / "VOCdevkit" / "VOC2010"
    unpack(base, {f"images/{stem}.jpg": jpeg(stem) for stem in VAL})
    given = unpack(tmp_path / "given", context_files() | {"trainval_merged.json": merged_json()})
    assert prepare(tmp_path, "pc459", "--from", given) == 0
    same(labels_in(base / "annotations_detectron2_ovs" / "pc459_val"), {stem: truth_459(stem) for stem in VAL})
    record = provenance(tmp_path, "pc459")
    assert record["choices"]["split"] == "trainval_merged.json"
    assert any(note.startswith("train: left out") for note in record["notes"])


@pytest.mark.parametrize("where", ["val.txt", "trainval/val.txt", "pascalcontext_val.txt"])
def test_a_list_of_ones_own(where: str, downloads: Path, tmp_path: Path) -> None:
    """Beside the label maps, where VOC 2010 came without its lists for all images."""
    kit = {name: data for name, data in voc_kit("2010", labelled=False).items() if "/Main/" not in name}
    given = unpack(
        tmp_path / "given", kit | context_files() | {where: f"JPEGImages/{VAL[1]}.jpg {VAL[1]}.png".encode()}
    )
    assert prepare(tmp_path, "pc459", "--from", given) == 0
    folder = tmp_path / "VOCdevkit" / "VOC2010" / "annotations_detectron2_ovs"
    same(labels_in(folder / "pc459_val"), {VAL[1]: truth_459(VAL[1])})
    assert "list" in provenance(tmp_path, "pc459")["choices"]["split"]


def test_context_without_any_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kit = {name: data for name, data in voc_kit("2010", labelled=False).items() if "/Main/" not in name}
    assert prepare(tmp_path, "pc459", "--from", unpack(tmp_path / "given", kit | context_files())) == 2
    assert "ImageSets/Main/val.txt" in capsys.readouterr().err


def damaged(change: Mapping[str, bytes | None], files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in {**files, **change}.items() if data is not None}


_KIT = "VOCdevkit/VOC2012"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({f"{_KIT}/SegmentationClass/{VAL[0]}.png": None}, f"1 of 3 label maps are not .* such as {VAL[0]}"),
        ({f"{_KIT}/JPEGImages/{VAL[1]}.jpg": None}, f"1 of 3 images are not .* such as {VAL[1]}"),
        ({f"{_KIT}/SegmentationClass/{VAL[0]}.png": voc_png(VAL[0])[:200]}, f"{VAL[0]}.png.* not readable"),
        ({f"{_KIT}/SegmentationClass/{VAL[0]}.png": jpeg(VAL[0])}, f"{VAL[0]}.png.* one channel"),
        ({f"{_KIT}/ImageSets/Segmentation/val.txt": b"\n"}, "val.txt: empty"),
        ({f"{_KIT}/ImageSets/Segmentation/{split}.txt": None for split in ("train", "val")}, "no image lists"),
    ],
)
def test_damaged_voc(
    change: dict[str, bytes | None], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = pack(tmp_path / "voc.tar", damaged(change, voc_kit("2012")))
    assert prepare(tmp_path / "datasets", "voc20", "--from", archive) == 2
    error = capsys.readouterr().err
    assert re.search(problem, error), error


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"labels.txt": b"1: accordion\n2: teapot\n"}, "teapot"),
        ({"labels.txt": b"1: accordion\n70000: aeroplane\n"}, "70000: aeroplane"),
        ({f"trainval/{VAL[0]}.mat": b"MATLAB 5.0 MAT-file" * 9}, "not readable as a .mat file"),
        ({f"trainval/{VAL[0]}.mat": None}, "1 of 3 label maps"),
        ({f"trainval/{stem}.mat": None for stem in MARKS}, "no label maps"),
    ],
)
def test_damaged_context(
    change: dict[str, bytes | None],
    problem: str,
    downloads: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    archive = pack(tmp_path / "context.tar", damaged(change, context_files()))
    sources = ("--from", archive, downloads / "VOCtrainval_03-May-2010.tar")
    assert prepare(tmp_path / "datasets", "pc459", *sources) == 2
    assert problem in capsys.readouterr().err


def test_merged_file_cut_off(downloads: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = unpack(tmp_path / "given", {"trainval_merged.json": merged_json()[:-300]})
    assert prepare(tmp_path, "pc59", "--from", given, downloads / "VOCtrainval_03-May-2010.tar") == 2
    error = capsys.readouterr().err
    assert "trainval_merged.json: not valid JSON" in error and error.count("\n") == 1


def test_mats_of_pascal_part_are_passed_over(downloads: Path, tmp_path: Path) -> None:
    other = io.BytesIO()
    scipy.io.savemat(other, {"anno": np.ones((2, 2))})
    given = unpack(tmp_path / "given", {f"Annotations_Part/{stem}.mat": other.getvalue() for stem in MARKS})
    assert prepare(tmp_path, "pc459", "--from", given, downloads) == 0


def test_train_net_evaluates_what_was_prepared(train_net: Callable[..., None], prepared: Path, tmp_path: Path) -> None:
    """All three by one command; its pixel accuracy equals that of its predictions against the labels made by hand."""
    truths = {
        "openvocab_pascal20_sem_seg_val": voc_truth,
        "openvocab_pascal_ctx59_sem_seg_val": truth_merged,
        "openvocab_pascal_ctx459_sem_seg_val": truth_459,
    }
    options = {
        "MODEL.META_ARCHITECTURE": "MAFT_Plus",
        "MODEL.DEVICE": "cpu",
        "DATASETS.TEST": str(tuple(truths)),
        "TEST.SAVE_PREDICTIONS": "True",
        "OUTPUT_DIR": str(tmp_path),
    }
    train_net("tests/assets/tiny.yaml", "--eval-only", keys=options, datasets=prepared)
    for name, truth_of in truths.items():
        folder = tmp_path / "inference" / name
        results = json.loads((folder / "results.json").read_text())
        assert results["images"]["total"] == len(VAL)
        hits = pixels = 0
        for stem in VAL:
            truth, predicted = truth_of(stem), np.asarray(Image.open(next((folder / "sem_seg").glob(f"{stem}.*"))))
            kept = truth != np.iinfo(truth.dtype).max
            hits, pixels = hits + int((predicted == truth)[kept].sum()), pixels + int(kept.sum())
        assert results["metrics"]["sem_seg"]["pACC"] == pytest.approx(100 * hits / pixels, abs=1e-6)
