"""The checker finds each fault that it looks for, none in a sound data set; table, JSON and exit status tell it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reason.vocabulary import load_vocabulary
from tools.check_datasets.__main__ import check, main
from tools.check_datasets.findings import Findings
from tools.check_datasets.semantic import Options, sampled
from tools.dataset_facts import DATASETS

SIZE = (12, 8)
ADE = Path("ade/ADEChallengeData2016")
PC459 = Path("VOCdevkit/VOC2010")


def write_image(path: Path, size: tuple[int, int] = SIZE, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(3).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, quality=90, **options)


def label_map(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def labels_with(*values: int, dtype: type = np.uint8) -> np.ndarray:
    """A label map of the images' size with these values in turn."""
    return np.resize(np.array(values, dtype), (SIZE[1], SIZE[0]))


def ade150(root: Path, number: int = 3) -> Path:
    base = root / ADE
    for place in range(number):
        write_image(base / f"images/validation/ADE_val_{place:08d}.jpg")
        label_map(base / f"annotations_detectron2/validation/ADE_val_{place:08d}.png", labels_with(place, 149, 255))
    return base


def pc459(root: Path, suffix: str = "tif") -> Path:
    base = root / PC459
    for place in range(3):
        write_image(base / f"images/2008_00000{place}.jpg")
        label_map(
            base / f"annotations_detectron2_ovs/pc459_val/2008_00000{place}.{suffix}",
            labels_with(place, 300 + place, 458, 65535, dtype=np.uint16),
        )
    return base


def panoptic(root: Path) -> Path:
    base = root / ADE
    vocabulary = load_vocabulary("ade150")
    identifiers = [entry.dataset_id for entry in vocabulary.classes]
    images, annotations = [], []
    for place in range(2):
        stem = f"ADE_val_{place:08d}"
        write_image(base / f"images/validation/{stem}.jpg")
        label_map(base / f"annotations_detectron2/validation/{stem}.png", labels_with(place, 149))
        ids = np.zeros((SIZE[1], SIZE[0]), np.int64)
        ids[:, :5], ids[:, 5:9] = 7, 70000
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        label_map(base / f"ade20k_panoptic_val/{stem}.png", rgb)
        images.append({"id": stem, "file_name": f"{stem}.jpg", "width": SIZE[0], "height": SIZE[1]})
        segments = [
            {"id": 7, "category_id": identifiers[place], "area": 40, "iscrowd": 0},
            {"id": 70000, "category_id": identifiers[5], "area": 32, "iscrowd": 0},
        ]
        annotations.append({"image_id": stem, "file_name": f"{stem}.png", "segments_info": segments})
    write_json(base / "ade20k_panoptic_val.json", {"images": images, "annotations": annotations, "categories": []})
    return base


def instances(root: Path) -> Path:
    base = root / ADE
    thing = next(entry for entry in load_vocabulary("ade150").classes if entry.thing)
    write_image(base / "images/validation/ADE_val_00000001.jpg")
    entry = {"id": 1, "file_name": "ADE_val_00000001.jpg", "width": SIZE[0], "height": SIZE[1]}
    annotation = {
        "id": 1,
        "image_id": 1,
        "category_id": thing.dataset_id,
        "bbox": [1, 1, 4, 3],
        "area": 12,
        "iscrowd": 0,
        "segmentation": [[1, 1, 5, 1, 5, 4, 1, 4]],
    }
    write_json(base / "ade20k_instance_val.json", {"images": [entry], "annotations": [annotation]})
    return base


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    write_json(path, document)


def only(root: Path, name: str, **options: Any) -> Findings:
    reports = check([name], Options(root, **{"counts": False, "workers": 1, **options}))
    assert len(reports) == 1
    return reports[0]


def kinds(report: Findings) -> dict[str, int]:
    return {problem.kind: problem.count for problem in report.problems}


def shown(report: Findings) -> str:
    return " ".join(line for problem in report.problems for line in problem.examples)


def test_a_sound_data_set_is_fine(tmp_path: Path) -> None:
    ade150(tmp_path)
    report = only(tmp_path, "ade150")
    names = load_vocabulary("ade150").class_names
    assert (report.state, report.notes) == ("ok", [])
    assert (report.images, report.labels, report.pairs, report.looked_into) == (3, 3, 3, 3)
    assert (report.types, report.lowest, report.highest) == ({"uint8": 3}, 0, 149)
    assert report.per_class == {names[0]: 32, names[1]: 32, names[2]: 32, names[149]: 96}
    assert report.ignored == 96


def test_a_sound_16_bit_data_set_is_fine(tmp_path: Path) -> None:
    pc459(tmp_path)
    report = only(tmp_path, "pc459")
    assert (report.state, report.types, report.highest, report.ignored) == ("ok", {"uint16": 3}, 458, 72)


@pytest.mark.parametrize("suffix", ["tif", "png"])
@pytest.mark.parametrize("written_as", [np.uint8, np.uint16])
@pytest.mark.parametrize("how", ["clipped", "wrapped"])
def test_16_bit_labels_that_went_through_8_bits_are_recognised(
    tmp_path: Path, suffix: str, written_as: type, how: str
) -> None:
    base = pc459(tmp_path, suffix)
    for path in sorted((base / "annotations_detectron2_ovs/pc459_val").iterdir()):
        values = np.asarray(Image.open(path)).astype(np.int64)
        lost = np.minimum(values, 255) if how == "clipped" else values % 256
        label_map(path, lost.astype(written_as))
    report = only(tmp_path, "pc459")
    assert kinds(report) == {"clipped to 8 bits": 3}
    assert "16-bit" in shown(report) and str(base / "annotations_detectron2_ovs/pc459_val") in shown(report)


def test_a_single_clipped_label_map_is_recognised(tmp_path: Path) -> None:
    base = pc459(tmp_path)
    label_map(base / "annotations_detectron2_ovs/pc459_val/2008_000001.tif", labels_with(4, 255))
    report = only(tmp_path, "pc459")
    assert kinds(report) == {"clipped to 8 bits": 1}
    assert any("uint8" in note for note in report.notes)


def test_low_classes_in_8_bits_are_no_fault(tmp_path: Path) -> None:
    base = pc459(tmp_path)
    label_map(base / "annotations_detectron2_ovs/pc459_val/2008_000001.tif", labels_with(4, 254))
    report = only(tmp_path, "pc459")
    assert report.state == "ok" and "1 of uint8" in report.notes[0]


def _remove_image(base: Path) -> None:
    (base / "images/validation/ADE_val_00000001.jpg").unlink()


def _remove_label(base: Path) -> None:
    (base / "annotations_detectron2/validation/ADE_val_00000001.png").unlink()


def _raw_values(base: Path) -> None:
    label_map(base / "annotations_detectron2/validation/ADE_val_00000001.png", labels_with(0, 150))


def _coloured(base: Path) -> None:
    write_image(base / "annotations_detectron2/validation/ADE_val_00000001.png")


def _truncated_label(base: Path) -> None:
    path = base / "annotations_detectron2/validation/ADE_val_00000001.png"
    path.write_bytes(path.read_bytes()[:-25])


def _truncated_image(base: Path) -> None:
    path = base / "images/validation/ADE_val_00000001.jpg"
    path.write_bytes(path.read_bytes()[:-60])


def _empty_image(base: Path) -> None:
    (base / "images/validation/ADE_val_00000001.jpg").write_bytes(b"")


def _other_size(base: Path) -> None:
    write_image(base / "images/validation/ADE_val_00000001.jpg", (SIZE[1], SIZE[0]))


@pytest.mark.parametrize(
    ("spoil", "kind", "says"),
    [
        (_remove_image, "label without image", "ADE_val_00000001.png"),
        (_remove_label, "image without label", "ADE_val_00000001.jpg"),
        (_raw_values, "unknown id", "holds 150; classes are 0 to 149"),
        (_coloured, "no label map", "mode RGB"),
        (_truncated_label, "unreadable label", "ADE_val_00000001.png"),
        (_truncated_image, "unreadable image", "ADE_val_00000001.jpg"),
        (_empty_image, "unreadable image", "ADE_val_00000001.jpg"),
        (_other_size, "size", "8×12, but ADE_val_00000001.png has 12×8"),
    ],
)
def test_each_fault_of_a_semantic_data_set_is_found(
    tmp_path: Path, spoil: Callable[[Path], None], kind: str, says: str
) -> None:
    spoil(ade150(tmp_path))
    report = only(tmp_path, "ade150")
    assert kinds(report) == {kind: 1}
    assert says in shown(report)


def test_exif_orientation_is_reported_and_labels_lie_on_the_stored_pixels(tmp_path: Path) -> None:
    base = ade150(tmp_path)
    exif = Image.Exif()
    for number, exif[274] in ((0, 3), (1, 6)):
        write_image(base / f"images/validation/ADE_val_0000000{number}.jpg", SIZE, exif=exif)
    report = only(tmp_path, "ade150")
    assert report.state == "ok" and "2 images have an EXIF orientation (3: 1, 6: 1)" in report.notes[0]
    write_image(base / "images/validation/ADE_val_00000001.jpg", SIZE[::-1], exif=exif)
    report = only(tmp_path, "ade150")
    assert kinds(report) == {"size": 1} and "EXIF orientation 6" in shown(report)


def test_labels_that_are_all_ignored_are_a_fault(tmp_path: Path) -> None:
    base = ade150(tmp_path, 1)
    label_map(base / "annotations_detectron2/validation/ADE_val_00000000.png", labels_with(255))
    assert kinds(only(tmp_path, "ade150")) == {"empty": 1}


def test_a_shared_image_folder_may_hold_more(tmp_path: Path) -> None:
    base = pc459(tmp_path)
    write_image(base / "images/2010_009999.jpg")
    report = only(tmp_path, "pc459")
    assert report.state == "ok" and report.notes == [
        "1 images without label; the image folder is one of several splits"
    ]


def test_a_sound_panoptic_data_set_is_fine(tmp_path: Path) -> None:
    panoptic(tmp_path)
    report = only(tmp_path, "ade150_panoptic")
    assert (report.state, report.pairs, report.types) == ("ok", 2, {"RGB": 2})
    assert report.ignored == 2 * 24
    assert list(report.per_class.values()) == [1, 1, 2]


def _segment(document: Any) -> dict[str, Any]:
    return document["annotations"][1]["segments_info"][0]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda d: _segment(d).update(id=8), "segment"),
        (lambda d: _segment(d).update(area=39), "segment"),  # more pixels than listed
        (lambda d: _segment(d).update(id=70000), "segment"),
        (lambda d: _segment(d).update(id=0), "segment"),
        (lambda d: _segment(d).update(category_id=9999), "unknown id"),
        (lambda d: _segment(d).pop("id"), "malformed"),
        (lambda d: _segment(d).update(id=str(_segment(d)["id"])), "malformed"),  # the evaluation refuses these two
        (lambda d: _segment(d).update(id=float(_segment(d)["id"])), "malformed"),
        (lambda d: _segment(d).update(iscrowd="0"), "malformed"),
        (lambda d: d["images"][1].update(width=13), "size"),
        (lambda d: d["annotations"][1].update(file_name="ADE_val_00000007.png"), "annotation without PNG"),
        (lambda d: d["annotations"].pop(), "image without label"),
        (lambda d: d["annotations"].append(d["annotations"][1]), "malformed"),
        (lambda d: d.pop("annotations"), "malformed"),
    ],
)
def test_each_fault_of_a_panoptic_file_is_found(tmp_path: Path, change: Callable[[Any], None], kind: str) -> None:
    edit_json(panoptic(tmp_path) / "ade20k_panoptic_val.json", change)
    assert kind in kinds(only(tmp_path, "ade150_panoptic"))


def test_segments_of_ade20k_may_be_covered_by_others(tmp_path: Path) -> None:
    def change(document: Any) -> None:
        _segment(document).update(area=44)
        extra = {"id": 9, "category_id": _segment(document)["category_id"], "area": 4, "iscrowd": 0}
        document["annotations"][0]["segments_info"].append(extra)

    edit_json(panoptic(tmp_path) / "ade20k_panoptic_val.json", change)
    report = only(tmp_path, "ade150_panoptic")
    assert report.state == "ok"
    assert report.notes == ["2 segments have fewer pixels than listed: others were laid over them"]


@pytest.mark.parametrize("area", [39, 41])
def test_areas_of_coco_panoptic_are_exact(tmp_path: Path, area: int) -> None:
    base = tmp_path / "coco"
    write_image(base / "train2017/000000000009.jpg")
    ids = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    ids[:, :5, 0] = 7
    label_map(base / "panoptic_train2017/000000000009.png", ids)
    image = {"id": 9, "file_name": "000000000009.jpg", "width": SIZE[0], "height": SIZE[1]}
    segments = [{"id": 7, "category_id": 1, "area": 40, "iscrowd": 0}]
    annotation = {"image_id": 9, "file_name": "000000000009.png", "segments_info": segments}
    path = base / "annotations/panoptic_train2017.json"
    path.parent.mkdir()
    write_json(path, {"images": [image], "annotations": [annotation]})
    assert only(tmp_path, "coco_panoptic").state == "ok"
    edit_json(path, lambda document: document["annotations"][0]["segments_info"][0].update(area=area))
    assert kinds(only(tmp_path, "coco_panoptic")) == {"segment": 1}
    # One that is listed without a pixel counts as missed, whatever its area.
    empty = {"id": 8, "category_id": 1, "area": 0, "iscrowd": 0}
    edit_json(path, lambda document: document["annotations"][0]["segments_info"][0].update(area=40))
    edit_json(path, lambda document: document["annotations"][0]["segments_info"].append(empty))
    assert kinds(only(tmp_path, "coco_panoptic")) == {"segment": 1}


def test_faults_of_panoptic_files_on_disk_are_found(tmp_path: Path) -> None:
    base = panoptic(tmp_path)
    folder = base / "ade20k_panoptic_val"
    shutil.copy(folder / "ADE_val_00000000.png", folder / "ADE_val_00000009.png")
    label_map(folder / "ADE_val_00000001.png", labels_with(7))
    (base / "images/validation/ADE_val_00000000.jpg").unlink()
    found = kinds(only(tmp_path, "ade150_panoptic"))
    assert found == {"label without image": 1, "PNG that the annotation file does not name": 1, "no panoptic PNG": 1}


def test_a_panoptic_file_cut_off_is_a_problem_not_an_abort(tmp_path: Path) -> None:
    path = panoptic(tmp_path) / "ade20k_panoptic_val.json"
    path.write_text(path.read_text()[:-40])
    assert kinds(only(tmp_path, "ade150_panoptic")) == {"malformed": 1}


def test_a_sound_instance_data_set_is_fine(tmp_path: Path) -> None:
    instances(tmp_path)
    report = only(tmp_path, "ade150_instances")
    assert (report.state, report.classes, list(report.per_class.values())) == ("ok", 100, [1])


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("category_id", 9999, "unknown id"),
        ("image_id", 2, "label without image"),
        ("bbox", [1, 1, 40, 3], "box"),
        ("bbox", [1, 1, 0, 3], "box"),
        ("bbox", None, "malformed"),
        ("segmentation", [[1, 1, 2, 2]], "malformed"),
        ("segmentation", {"size": [12, 8], "counts": [96]}, "size"),
    ],
)
def test_each_fault_of_an_instance_file_is_found(tmp_path: Path, field: str, value: Any, kind: str) -> None:
    path = instances(tmp_path) / "ade20k_instance_val.json"
    edit_json(path, lambda document: document["annotations"][0].update({field: value}))
    assert kinds(only(tmp_path, "ade150_instances")) == {kind: 1}


def test_instance_images_are_compared_with_the_file(tmp_path: Path) -> None:
    base = instances(tmp_path)
    write_image(base / "images/validation/ADE_val_00000001.jpg", (20, 20))
    assert kinds(only(tmp_path, "ade150_instances")) == {"size": 1}


def test_published_numbers_are_compared_unless_that_is_switched_off(tmp_path: Path) -> None:
    pc459(tmp_path)
    report = only(tmp_path, "pc459", counts=True)
    assert kinds(report) == {"number of labelled images": 5101, "number of classes that occur": 338}
    assert "5105 or 5104" in shown(report) and "345" in shown(report)


def test_an_unverified_number_gives_a_note_only(tmp_path: Path) -> None:
    ade150(tmp_path)
    report = only(tmp_path, "ade150", counts=True)
    assert kinds(report) == {"number of labelled images": 1997}
    assert any("150 (unverified)" in note for note in report.notes)


def test_a_sample_is_spread_and_leaves_class_counts_alone(tmp_path: Path) -> None:
    assert sampled(range(10), 4) == [0, 2, 5, 7]
    assert sampled(range(3), 4) == range(3)
    pc459(tmp_path)
    report = only(tmp_path, "pc459", counts=True, sample=2)
    assert report.looked_into == 2 and "looked into 2 of 3 pairs" in report.notes
    assert kinds(report) == {"number of labelled images": 5101}


def test_many_processes_find_the_same_as_one(tmp_path: Path) -> None:
    base = ade150(tmp_path, 40)
    _raw_values(base)
    _truncated_image(base)
    alone, together = only(tmp_path, "ade150"), only(tmp_path, "ade150", workers=2)
    for report in (alone, together):
        report.problems.sort(key=lambda problem: problem.kind)
    assert alone.as_json() == together.as_json()
    assert kinds(alone) == {"unknown id": 1, "unreadable image": 1}


def test_examples_are_few_and_the_rest_is_counted(tmp_path: Path) -> None:
    base = ade150(tmp_path, 9)
    for path in (base / "annotations_detectron2/validation").iterdir():
        label_map(path, labels_with(200))
    (problem,) = only(tmp_path, "ade150").problems
    assert (problem.kind, problem.count, len(problem.examples)) == ("unknown id", 9, 5)


def test_the_command_line_tells_by_its_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ade150(tmp_path)
    words = ["--root", str(tmp_path), "--no-counts", "--workers", "1"]
    assert main(words) == 0  # what is not there and was not named is no fault
    text = capsys.readouterr().out
    assert "openvocab_ade20k_sem_seg_val" in text and "not there" in text and "PROBLEM" not in text
    assert main(["ade150", *words]) == 0
    assert "openvocab_ade20k_sem_seg_train" not in capsys.readouterr().out
    assert main(["openvocab_ade20k_sem_seg_val", "voc20", *words]) == 1
    assert "PROBLEM not there" in capsys.readouterr().out
    _raw_values(base)
    assert main(["ade150", "--json", *words]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    (report,) = answer["reports"]
    assert (report["state"], report["problems"][0]["kind"], report["occurring"]) == ("problems", "unknown id", 3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nonsense"], "nonsense"),
        (["--sample", "0"], "--sample 0"),
        ([], "no data set"),
        (["--root", "/no/such/folder"], "/no/such/folder"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert main(["--root", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err
    assert says in error and error.startswith("error: ") and error.count("\n") == 1


def test_every_name_of_prepare_datasets_can_be_checked(tmp_path: Path) -> None:
    for name in DATASETS:
        report = only(tmp_path, name)
        assert kinds(report) == {"not there": 1} and report.problems[0].examples
