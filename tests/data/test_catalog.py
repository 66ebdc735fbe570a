"""Data sets: names, metadata, the trees they are found in, and what is said when they are not."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from maft.data import (
    dataset_names,
    dataset_paths,
    dataset_spec,
    dataset_status,
    datasets_root,
    register_all,
    register_custom,
    write_label_map,
)
from maft.data.specs import BUILTIN, DatasetSpec
from maft.errors import UserError
from reason.vocabulary import load_vocabulary, parse_vocabulary, split_synonyms

ROOT = Path(__file__).resolve().parents[2]
NAMES = {
    "openvocab_pascal20_sem_seg_val": ("voc20", 20, 255),
    "openvocab_ade20k_full_sem_seg_val": ("ade847", 847, 65535),
    "openvocab_pascal_ctx459_sem_seg_val": ("pc459", 459, 65535),
    "openvocab_pascal_ctx59_sem_seg_val": ("pc59", 59, 255),
    "openvocab_ade20k_sem_seg_val": ("ade150", 150, 255),
    "openvocab_ade20k_panoptic_val": ("ade150", 150, 255),
    "openvocab_coco_2017_train_stuff_sem_seg": ("coco_stuff171", 171, 255),
    "coco_seg_pan_voab": ("coco_panoptic133", 133, 255),
}
SEMANTIC = [spec for spec in BUILTIN if spec.kind == "semantic"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty data-set root, with everything registered."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "sets"))
    register_all()
    yield tmp_path / "sets"


def image(path: Path, size: tuple[int, int] = (6, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 200, 30)).save(path)
    return path


def label(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        write_label_map(np.full((4, 6), value), path)
    else:
        Image.fromarray(np.full((4, 6), value, np.uint16)).save(path)
    return path


def test_importing_registers_and_reads_nothing() -> None:
    code = (
        "import builtins, io\n"
        "import detectron2.data\n"
        "def refuse(path, *a, **k):\n"
        "    assert 'vocabularies' not in str(path), path\n"
        "    return real(path, *a, **k)\n"
        "real, io.open = io.open, refuse\n"
        "import maft.data\n"
        "print([n for n in detectron2.data.DatasetCatalog.list() if n in maft.data.dataset_names()])\n"
    )
    answer = forked.run(["-c", code])
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip().splitlines()[-1] == "[]"


def test_names_are_registered_once(root: Path) -> None:
    assert register_all() == register_all() == tuple(spec.name for spec in BUILTIN)
    assert set(NAMES) <= set(DatasetCatalog.list()) and set(NAMES) <= set(dataset_names())


@pytest.mark.parametrize("name", NAMES)
def test_metadata_needs_no_file(root: Path, name: str) -> None:
    vocabulary_name, count, ignore = NAMES[name]
    metadata = MetadataCatalog.get(name)
    vocabulary = load_vocabulary(vocabulary_name)
    assert metadata.vocabulary == vocabulary_name and metadata.dataname == name
    assert len(metadata.stuff_classes) == len(metadata.short_names) == len(metadata.stuff_colors) == count
    assert tuple(split_synonyms(text) for text in metadata.stuff_classes) == vocabulary.synonyms
    assert metadata.ignore_label == ignore and metadata.label_divisor == 1000
    assert sorted(metadata.stuff_dataset_id_to_contiguous_id.values()) == list(range(count))


def test_metadata_of_known_data_sets(root: Path) -> None:
    pc59 = MetadataCatalog.get("openvocab_pascal_ctx59_sem_seg_val")
    assert pc59.stuff_classes[0] == "aeroplane,aeroplanes,airplanes,airplane" and pc59.short_names[0] == "aeroplane"
    assert pc59.evaluator_type == "sem_seg" and pc59.thing_dataset_id_to_contiguous_id == {}
    panoptic = MetadataCatalog.get("openvocab_ade20k_panoptic_val")
    assert panoptic.evaluator_type == "ade20k_panoptic_seg"
    assert len(panoptic.thing_classes) == 100 == len(panoptic.thing_dataset_id_to_contiguous_id)
    # wall, building, sky, floor, tree, ceiling and road are stuff; bed is the first thing.
    assert min(panoptic.thing_dataset_id_to_contiguous_id.items()) == (7, 7)
    assert MetadataCatalog.get("openvocab_pascal20_sem_seg_val").stuff_dataset_id_to_contiguous_id[20] == 19
    coco = MetadataCatalog.get("coco_seg_pan_voab")
    assert coco.stuff_dataset_id_to_contiguous_id[200] == 132 and len(coco.thing_dataset_id_to_contiguous_id) == 80
    instances = MetadataCatalog.get("openvocab_ade20k_instance_val")
    assert instances.stuff_classes == instances.thing_classes and instances.short_names[0] == "bed"
    assert instances.thing_dataset_id_to_contiguous_id[7] == 0


def alternatives() -> Iterator[Any]:
    for spec in SEMANTIC:
        for base in spec.bases:
            for images in spec.images:
                for labels in spec.labels:
                    yield pytest.param(spec, base, images, labels, id=f"{spec.name}-{base}-{images}-{labels}")


@pytest.mark.parametrize(("spec", "base", "images", "labels"), list(alternatives()))
def test_every_tree_is_found(root: Path, spec: DatasetSpec, base: str, images: str, labels: str) -> None:
    extension = spec.label_extensions[0]
    image(root / base / images / "b.jpg")
    image(root / base / images / "a.v2.JPG")
    image(root / base / images / "unlabelled.jpg")
    label(root / base / labels / f"b.{extension}", spec.ignore_label)
    label(root / base / labels / f"a.v2.{extension}")
    records = DatasetCatalog.get(spec.name)
    assert records == [
        {
            "file_name": str(root / base / images / f"{stem}.{suffix}"),
            "sem_seg_file_name": str(root / base / labels / f"{stem}.{extension}"),
            "meta": {"dataname": spec.name},
        }
        for stem, suffix in (("a.v2", "JPG"), ("b", "jpg"))
    ]
    status = dataset_status(spec.name)
    assert status.present and status.images == 2 and status.looked_at == () and status.paths == dataset_paths(spec.name)


def test_the_documented_tree_comes_first(root: Path) -> None:
    readme = (ROOT / "datasets" / "README.md").read_text(encoding="utf-8")
    for spec in BUILTIN:
        *_, last = spec.bases[0].split("/")
        assert f"{last}/" in readme, spec.name
        folder = spec.images[0].split("/")[0]
        assert f"{folder}/" in readme, spec.name
        if spec.labels:
            assert spec.labels[0].split("/")[0].removesuffix("_val").removesuffix("_train") in readme, spec.name
    base = root / "VOCdevkit" / "VOC2010"
    for labels in ("annotations_detectron2/pc59_val", "annotations_detectron2_ovs/pc59_val"):
        label(base / labels / "a.png")
    image(base / "JPEGImages" / "a.jpg")
    image(base / "images" / "a.jpg")
    paths = dataset_paths("openvocab_pascal_ctx59_sem_seg_val")
    assert paths.images == base / "images" and paths.labels == base / "annotations_detectron2_ovs/pc59_val"


def test_the_fullest_image_folder_is_meant(root: Path) -> None:
    base = root / "VOCdevkit" / "VOC2010"
    image(base / "images" / "a.jpg")
    for stem in ("a", "b"):
        image(base / "JPEGImages" / f"{stem}.jpg")
        label(base / "annotations_detectron2_ovs" / "pc59_val" / f"{stem}.png")
    assert dataset_paths("openvocab_pascal_ctx59_sem_seg_val").images == base / "JPEGImages"


def test_missing_data_set_names_every_place(root: Path) -> None:
    name = "openvocab_pascal_ctx459_sem_seg_val"
    with pytest.raises(UserError) as caught:
        DatasetCatalog.get(name)
    message = str(caught.value)
    for place in ("VOCdevkit/VOC2010: no such folder", "annotations_detectron2_ovs/pc459_val", "datasets/README.md"):
        assert place in message
    (root / "VOCdevkit" / "VOC2010" / "annotations_detectron2" / "pc459_val").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        DatasetCatalog.get(name)
    message = str(caught.value)
    for labels in dataset_spec(name).labels:
        assert str(root / "VOCdevkit" / "VOC2010" / labels) in message
    assert "no .tif or .tiff or .png file in it" in message and "DETECTRON2_DATASETS" in message
    status = dataset_status(name)
    assert not status.present and len(status.looked_at) == 4 and status.paths is None and "VOC2010" in status.hint


def test_unknown_name() -> None:
    with pytest.raises(UserError, match=r"openvocab_none: unknown; known are .*openvocab_ade20k_panoptic_val"):
        dataset_status("openvocab_none")


def test_labels_without_image_are_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = root / "ade" / "ADEChallengeData2016"
    image(base / "images" / "validation" / "a.jpg")
    for stem in ("a", "b", "c"):
        label(base / "annotations_detectron2" / "validation" / f"{stem}.png")
    with caplog.at_level(logging.WARNING):
        assert len(DatasetCatalog.get("openvocab_ade20k_sem_seg_val")) == 1
    assert "2 of 3 label maps left out" in caplog.text and "b.png, c.png" in caplog.text


def test_labels_without_any_image(root: Path) -> None:
    base = root / "ade" / "ADEChallengeData2016"
    image(base / "images" / "validation" / "x.jpg")
    label(base / "annotations_detectron2" / "validation" / "a.png")
    with pytest.raises(UserError, match=r"has 1 label maps, but none of their images is in .*images/validation"):
        DatasetCatalog.get("openvocab_ade20k_sem_seg_val")


def test_the_root_may_move(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "openvocab_ade20k_sem_seg_val"
    for place in (root, tmp_path / "other"):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(place))
        image(place / "ADEChallengeData2016" / "images" / "validation" / "a.jpg")
        label(place / "ADEChallengeData2016" / "annotations_detectron2" / "validation" / "a.png")
        (record,) = DatasetCatalog.get(name)
        assert record["file_name"].startswith(str(place))
        assert MetadataCatalog.get(name).image_root == str(place / "ADEChallengeData2016" / "images" / "validation")


def panoptic_document(**changes: Any) -> dict[str, Any]:
    """Two images of three segments, in the form of the COCO panoptic format."""
    segments = [
        {"id": 1, "category_id": 0, "iscrowd": 0, "area": 10},
        {"id": 2, "category_id": 7, "iscrowd": 0, "area": 4},
    ]
    document = {
        "images": [{"id": stem, "file_name": f"{stem}.jpg"} for stem in ("b", "a")],
        "annotations": [
            {"image_id": "b", "file_name": "b.png", "segments_info": segments},
            {"image_id": "a", "file_name": "a.png", "segments_info": [{"id": 9, "category_id": 149, "iscrowd": 1}]},
        ],
    }
    return {**document, **changes}


def panoptic_tree(base: Path, folder: str, document: Any) -> None:
    for stem in ("a", "b"):
        image(base / "images" / "validation" / f"{stem}.jpg")
        image(base / folder / f"{stem}.png")
    text = document if isinstance(document, str) else json.dumps(document)
    (base / f"{folder}.json").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("folder", ["ade20k_panoptic_val", "panoptic/ade20k_panoptic_val"])
def test_panoptic_records(root: Path, folder: str) -> None:
    name, base = "openvocab_ade20k_panoptic_val", root / "ade" / "ADEChallengeData2016"
    panoptic_tree(base, folder, panoptic_document())
    first, second = DatasetCatalog.get(name)
    assert first == {
        "file_name": str(base / "images" / "validation" / "a.jpg"),
        "image_id": "a",
        "pan_seg_file_name": str(base / folder / "a.png"),
        "sem_seg_file_name": str(base / "annotations_detectron2" / "validation" / "a.png"),
        "segments_info": [{"id": 9, "category_id": 149, "iscrowd": 1, "isthing": True}],
        "meta": {"dataname": name},
    }
    assert [(s["category_id"], s["isthing"]) for s in second["segments_info"]] == [(0, False), (7, True)]
    metadata = MetadataCatalog.get(name)
    assert metadata.panoptic_json == str(base / f"{folder}.json") and metadata.panoptic_root == str(base / folder)
    assert dataset_status(name).present


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ('{"annotations": [', "not valid JSON"),
        ([], "no JSON object"),
        ({"images": []}, "no list 'annotations'"),
        (panoptic_document(annotations=[{"image_id": "a"}]), "file_name"),
        (panoptic_document(annotations=["a"]), "wrong field"),
        (
            panoptic_document(
                annotations=[{"image_id": "a", "file_name": "a.png", "segments_info": [{"id": 1, "category_id": 150}]}]
            ),
            "image 'a': segment 1 has category 150, which is not in the vocabulary of 150 classes",
        ),
        (
            panoptic_document(
                annotations=[{"image_id": "a", "file_name": "a.png", "segments_info": [{"id": 0, "category_id": 1}]}]
            ),
            r"ade20k_panoptic_val\.json: image 'a': a segment has id 0; .*0 stands for pixels of no segment",
        ),
        (panoptic_document(annotations=[]), "lists no annotations, so there is nothing to evaluate"),
    ],
)
def test_bad_panoptic_files(root: Path, document: Any, words: str) -> None:
    panoptic_tree(root / "ade" / "ADEChallengeData2016", "ade20k_panoptic_val", document)
    with pytest.raises(UserError, match=words):
        DatasetCatalog.get("openvocab_ade20k_panoptic_val")


def test_an_id_of_two_classes_is_read_as_panopticapi_reads_it(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The usual preparation of ADE20K gives road (6) and skyscraper (48) one id, since they share a colour."""
    infos = [{"id": 7, "category_id": 6}, {"id": 9, "category_id": 0}, {"id": 7, "category_id": 48}]
    document = panoptic_document(annotations=[{"image_id": "a", "file_name": "a.png", "segments_info": infos}])
    panoptic_tree(root / "ade" / "ADEChallengeData2016", "ade20k_panoptic_val", document)
    with caplog.at_level(logging.WARNING):
        (record,) = DatasetCatalog.get("openvocab_ade20k_panoptic_val")
    found = [(info["id"], info["category_id"], info.get("shared", False)) for info in record["segments_info"]]
    assert found == [(7, 48, True), (9, 0, False)]
    assert "lists 1 segment ids for two classes; as in panopticapi the entry that is listed last" in caplog.text


def test_missing_panoptic_parts(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    name, base = "openvocab_ade20k_panoptic_val", root / "ade" / "ADEChallengeData2016"
    panoptic_tree(base, "ade20k_panoptic_val", panoptic_document())
    (base / "ade20k_panoptic_val" / "a.png").unlink()
    with caplog.at_level(logging.WARNING):
        assert [record["image_id"] for record in DatasetCatalog.get(name)] == ["b"]
    assert "1 of 2 annotations left out" in caplog.text
    (base / "ade20k_panoptic_val.json").unlink()
    with pytest.raises(UserError, match=r"ade20k_panoptic_val\.json: no such file"):
        DatasetCatalog.get(name)


def test_instance_records(root: Path) -> None:
    name, base = "openvocab_ade20k_instance_val", root / "ade" / "ADEChallengeData2016"
    image(base / "images" / "validation" / "a.jpg")
    file = base / "ade20k_instance_val.json"
    entry = {"id": 5, "file_name": "a.jpg", "height": 4, "width": 6}
    file.write_text(json.dumps({"images": [entry], "annotations": []}))
    (record,) = DatasetCatalog.get(name)
    assert (record["image_id"], record["height"], record["width"]) == (5, 4, 6)
    assert MetadataCatalog.get(name).json_file == str(file)
    file.write_text(json.dumps({"images": [{"id": 5, "file_name": "a.jpg"}], "annotations": []}))
    with pytest.raises(UserError, match="height"):
        DatasetCatalog.get(name)


@pytest.mark.parametrize(
    ("document", "words"), [({"annotations": []}, "no list 'images'"), ({"images": [], "annotations": []}, "no images")]
)
def test_an_instance_file_without_images_says_so(root: Path, document: Any, words: str) -> None:
    base = root / "ade" / "ADEChallengeData2016"
    image(base / "images" / "validation" / "a.jpg")
    (base / "ade20k_instance_val.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=rf"ade20k_instance_val\.json: (lists )?{words}"):
        DatasetCatalog.get("openvocab_ade20k_instance_val")


def test_the_home_folder_in_the_environment_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/sets")
    assert datasets_root() == tmp_path / "sets"


def test_custom_semantic_data_set(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    label(tmp_path / "maps" / "a.tif", 300)
    for vocabulary in (parse_vocabulary("cat; dog, hound"), "pc459"):
        # The second call replaces what the first one registered.
        register_custom("of_mine", vocabulary, tmp_path / "images", tmp_path / "maps", ignore_label=65535)
    (record,) = DatasetCatalog.get("of_mine")
    assert record["sem_seg_file_name"] == str(tmp_path / "maps" / "a.tif") and record["meta"] == {"dataname": "of_mine"}
    metadata = MetadataCatalog.get("of_mine")
    assert len(metadata.stuff_classes) == 459 and metadata.gt_ext == "tif" and metadata.ignore_label == 65535
    assert dataset_status("of_mine").images == 1
    with pytest.raises(UserError, match="taken"):
        register_custom("openvocab_ade20k_sem_seg_val", "ade150", tmp_path, tmp_path)


def test_custom_panoptic_data_set(tmp_path: Path) -> None:
    panoptic_tree(tmp_path, "png", panoptic_document())
    register_custom(
        "panoptic_of_mine",
        "ade150",
        tmp_path / "images" / "validation",
        tmp_path / "png",
        panoptic_json=tmp_path / "png.json",
    )
    records = DatasetCatalog.get("panoptic_of_mine")
    assert [record["image_id"] for record in records] == ["a", "b"] and "sem_seg_file_name" not in records[0]
    assert MetadataCatalog.get("panoptic_of_mine").evaluator_type == "ade20k_panoptic_seg"
    register_custom("gone_of_mine", "ade150", tmp_path / "nowhere", tmp_path / "png")
    with pytest.raises(UserError, match="Check the folders it was registered with"):
        DatasetCatalog.get("gone_of_mine")
