"""ADE20K: what is made of miniature releases equals what was worked out by hand, and is evaluated."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maft.errors import UserError
from maft.files import read_panoptic
from reason.vocabulary import load_vocabulary
from tools.prepare_datasets.__main__ import prepare
from tools.prepare_datasets.ade_full import class_indices, smaller_size, upright_by_exif
from tools.prepare_datasets.ade_things import thing_classes

WALL, BED, PERSON, SKY = 1, 8, 13, 3
"""As the challenge's label maps count: from 1. Bed is the first thing class, person the fourth."""


def encoded(array: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format=kind)
    return buffer.getvalue()


def challenge(folder: Path) -> tuple[Path, Path, dict[str, bytes]]:
    """The two archives of the challenge with one image a split: 4 rows of 6."""
    labels = np.array(
        [
            [WALL, WALL, WALL, WALL, SKY, SKY],
            [WALL, BED, BED, PERSON, SKY, SKY],
            [0, BED, BED, PERSON, PERSON, 150],
            [0, 0, BED, WALL, WALL, 150],
        ],
        dtype=np.uint8,
    )
    things = np.zeros((4, 6, 3), dtype=np.uint8)
    things[1:3, 1] = (1, 7, 0)  # a bed
    things[1:3, 2] = (1, 9, 0)  # another one
    things[2, 3:5] = (4, 2, 0)  # a person
    things[3, 3] = (4, 2, 0)  # whose foot covers wall
    images = {}
    for split, stem in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        images[f"ADEChallengeData2016/images/{split}/{stem}.jpg"] = encoded(np.full((4, 6, 3), 90, np.uint8), "JPEG")
    members = dict(images)
    for name in images:
        members[name.replace("images/", "annotations/").replace("jpg", "png")] = encoded(labels)
    with zipfile.ZipFile(folder / "challenge.zip", "w") as archive:
        archive.writestr("ADEChallengeData2016/objectInfo150.txt", "Idx\tRatio\n")
        for name, data in members.items():
            archive.writestr(name, data)
    with tarfile.open(folder / "instances.tar", "w") as tar:
        for name in images:
            data = encoded(things)
            inside = name.replace("ADEChallengeData2016/images", "annotations_instance").replace("jpg", "png")
            information = tarfile.TarInfo(inside)
            information.size = len(data)
            tar.addfile(information, io.BytesIO(data))
    return folder / "challenge.zip", folder / "instances.tar", images


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the three prepared forms of the challenge."""
    folder = tmp_path_factory.mktemp("challenge")
    archives = challenge(folder)[:2]
    names = ("ade150", "ade150_panoptic", "ade150_instances")
    assert prepare(names, archives, folder / "root", ("train", "val"), 2) == 0
    return folder


def test_semantic_labels_count_from_zero_and_images_are_copies(made: Path) -> None:
    base = made / "root" / "ade" / "ADEChallengeData2016"
    for split, stem in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        labels = np.asarray(Image.open(base / "annotations_detectron2" / split / f"{stem}.png"))
        assert labels.dtype == np.uint8
        expected = [
            [0, 0, 0, 0, 2, 2],
            [0, 7, 7, 12, 2, 2],
            [255, 7, 7, 12, 12, 149],
            [255, 255, 7, 0, 0, 149],
        ]
        assert labels.tolist() == expected
        with zipfile.ZipFile(made / "challenge.zip") as archive:
            original = archive.read(f"ADEChallengeData2016/images/{split}/{stem}.jpg")
        assert (base / "images" / split / f"{stem}.jpg").read_bytes() == original


def test_panoptic_segments(made: Path) -> None:
    base = made / "root" / "ade" / "ADEChallengeData2016"
    document = json.loads((base / "ade20k_panoptic_val.json").read_text())
    image = {"id": "ADE_val_00000001", "file_name": "ADE_val_00000001.jpg", "width": 6, "height": 4}
    assert document["images"] == [image]
    (annotation,) = document["annotations"]
    assert annotation["file_name"] == "ADE_val_00000001.png"
    segments = annotation["segments_info"]
    # Stuff by class: wall, sky; the flag, class 149, is a thing without instance, as is the upper part of the person.
    # Then the instances by number: 2, 7, 9. The wall's area lacks the pixel that the person's foot covers.
    found = [(of["category_id"], of["area"], of["bbox"]) for of in segments]
    assert found == [
        (0, 6, [0, 0, 5, 4]),
        (2, 4, [4, 0, 2, 2]),
        (12, 3, [3, 2, 2, 2]),
        (7, 2, [1, 1, 1, 2]),
        (7, 2, [2, 1, 1, 2]),
    ]
    colours = np.asarray(Image.open(base / "ade20k_panoptic_val" / "ADE_val_00000001.png")).astype(int)
    numbers = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
    wall, sky, person, bed, other = (of["id"] for of in segments)
    assert len({wall, sky, person, bed, other}) == 5
    expected = [
        [wall, wall, wall, wall, sky, sky],
        [wall, bed, other, 0, sky, sky],
        [0, bed, other, person, person, 0],
        [0, 0, 0, person, wall, 0],
    ]
    assert numbers.tolist() == expected
    # The colours of the vocabulary: stuff and first instances have their class's, the second bed one like it.
    assert (wall, bed) == (120 + 256 * 120 + 65536 * 120, 204 + 256 * 5 + 65536 * 255)
    assert np.abs(colours[1, 2] - colours[1, 1]).max() <= 30
    things = {of["id"] for of in document["categories"] if of["isthing"]}
    assert len(document["categories"]) == 150 and len(things) == 100 and {7, 12, 149} <= things


def test_classes_of_one_colour_get_ids_of_their_own(tmp_path: Path) -> None:
    """Road (7) and skyscraper (49) are both (140, 140, 140) in the vocabulary."""
    release = tmp_path / "release"
    labels = np.array([[7, 7, 49], [7, 49, 49]], dtype=np.uint8)
    for folder, data, suffix in (
        ("images", np.full((2, 3, 3), 90, np.uint8), "jpg"),
        ("annotations", labels, "png"),
        ("annotations_instance", np.zeros((2, 3, 3), np.uint8), "png"),
    ):
        path = release / folder / "validation" / f"ADE_val_00000001.{suffix}"
        path.parent.mkdir(parents=True)
        path.write_bytes(encoded(data, "JPEG" if suffix == "jpg" else "PNG"))
    prepare(["ade150_panoptic"], [release], tmp_path / "root", ("val",), 1)
    base = tmp_path / "root/ade/ADEChallengeData2016"
    (annotation,) = json.loads((base / "ade20k_panoptic_val.json").read_text())["annotations"]
    road, skyscraper = annotation["segments_info"]
    assert (road["category_id"], road["area"], skyscraper["category_id"], skyscraper["area"]) == (6, 3, 48, 3)
    ids = read_panoptic(base / "ade20k_panoptic_val" / "ADE_val_00000001.png")
    assert ids.tolist() == [[road["id"]] * 2 + [skyscraper["id"]], [road["id"]] + [skyscraper["id"]] * 2]
    assert road["id"] != skyscraper["id"]
    # A folder that an earlier version prepared is not mixed with.
    record = base / "ade150_panoptic.provenance.json"
    record.write_text(record.read_text().replace("version 2", "version 1"))
    with pytest.raises(UserError, match="prepared by version 1"):
        prepare(["ade150_panoptic"], [release], tmp_path / "root", ("val",), 1)


def test_an_exif_orientation_is_set_to_upright_and_nothing_else_changes() -> None:
    for endian in ("<", ">"):
        exif = Image.Exif()
        exif.endian = endian
        exif[274], exif[271] = 6, "maker"
        buffer = io.BytesIO()
        Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(buffer, "JPEG", exif=exif)
        before, after = buffer.getvalue(), upright_by_exif(buffer.getvalue())
        found = Image.open(io.BytesIO(after)).getexif()
        assert (found[274], found[271]) == (1, "maker")
        assert sum(one != two for one, two in zip(before, after, strict=True)) == 1
    plain = encoded(np.zeros((4, 4, 3), np.uint8), "JPEG")
    assert upright_by_exif(plain) == plain and upright_by_exif(before[:40]) == before[:40]


def test_instances(made: Path) -> None:
    document = json.loads((made / "root/ade/ADEChallengeData2016/ade20k_instance_train.json").read_text())
    found = [(of["id"], of["category_id"], of["area"], of["bbox"]) for of in document["annotations"]]
    assert found == [(1, 12, 3, [3, 2, 2, 2]), (2, 7, 2, [1, 1, 1, 2]), (3, 7, 2, [2, 1, 1, 2])]
    mask = pycocotools.mask.decode(document["annotations"][0]["segmentation"])
    assert np.argwhere(mask).tolist() == [[2, 3], [2, 4], [3, 3]]
    assert {"id": 7, "name": "bed"} in document["categories"] and len(document["categories"]) == 100


def test_things_are_counted_as_the_release_counts_them() -> None:
    """Some lines of the table that comes with the instance maps: number there, and class counted from 1."""
    table = {1: 8, 2: 9, 5: 15, 23: 42, 57: 89, 66: 104, 87: 134, 99: 149, 100: 150}
    assert {number: thing_classes()[number - 1] + 1 for number in table} == table


def test_unpacked_in_place_and_made_again(made: Path, tmp_path: Path) -> None:
    """The unpacked archives in the data-set root itself give the same files, and a second run changes nothing."""
    base = tmp_path / "ade" / "ADEChallengeData2016"
    with zipfile.ZipFile(made / "challenge.zip") as archive:
        archive.extractall(tmp_path / "ade")
    with tarfile.open(made / "instances.tar") as tar:
        tar.extractall(base)
    for _ in range(2):
        assert prepare(("ade150_panoptic",), [base], tmp_path, ("train", "val"), 2) == 0
        for name in ("ade20k_panoptic_val.json", "annotations_detectron2/validation/ADE_val_00000001.png"):
            assert (base / name).read_bytes() == (made / "root/ade/ADEChallengeData2016" / name).read_bytes()
    assert not list(tmp_path.rglob(".prepare")) and not list(tmp_path.rglob(".*.aside"))


def test_wrong_instance_maps_and_missing_images_are_named(tmp_path: Path) -> None:
    archive = challenge(tmp_path)[0]
    with pytest.raises(UserError, match=r"ade150_panoptic: .*challenge\.zip: no instance maps"):
        prepare(("ade150_panoptic",), [archive], tmp_path / "root", ("val",), 1)
    folder = tmp_path / "only" / "annotations" / "validation"
    folder.mkdir(parents=True)
    (folder / "ADE_val_1.png").write_bytes(encoded(np.full((4, 6), 151, np.uint8)))
    with pytest.raises(UserError, match=r"1 of 1 label maps have no image \(such as ADE_val_1\)"):
        prepare(("ade150",), [tmp_path / "only"], tmp_path / "root", ("val",), 1)
    images = tmp_path / "only" / "images" / "validation"
    images.mkdir(parents=True)
    (images / "ADE_val_1.jpg").write_bytes(encoded(np.zeros((4, 6, 3), np.uint8), "JPEG"))
    with pytest.raises(UserError, match=r"ADE_val_1\.png: holds 151, which this data set does not have"):
        prepare(("ade150",), [tmp_path / "only"], tmp_path / "root", ("val",), 1)


# The full release


def full_release(folder: Path) -> None:
    """Three images: one made smaller, one that keeps its size, one of the validation split."""
    street = folder / "ADE20K_2021_17_01" / "images" / "ADE" / "training" / "urban" / "street"
    lawn = folder / "ADE20K_2021_17_01" / "images" / "ADE" / "validation" / "nature" / "lawn"
    large = cv2.resize(skimage.data.coffee(), (1030, 771), interpolation=cv2.INTER_CUBIC)
    images = {
        street / "ADE_train_00000001": large,
        street / "ADE_train_00000002": skimage.data.chelsea()[:120, :130],
        lawn / "ADE_val_00000001": skimage.data.astronaut()[:100, :150],
    }
    for path, image in images.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path.with_suffix(".jpg"), quality=95)
        classes = np.zeros(image.shape, dtype=np.uint8)
        classes[: image.shape[0] // 2] = (94, 116, 3)  # sky: 9 * 256 + 116 = 2420
        classes[image.shape[0] // 2 :, ::3] = (10, 56, 9)  # building: 256 + 56 = 312
        classes[-20:, :30] = (250, 3, 1)  # 6403: no class of the vocabulary
        Image.fromarray(classes).save(path.with_name(f"{path.name}_seg.png"))
        inner = path / f"instance_000_{path.name}.png"  # as the release has them beside; not label maps
        inner.parent.mkdir()
        Image.fromarray(classes[..., 0]).save(inner)
    (folder / "ADE20K_2021_17_01" / "index_ade20k.pkl").write_bytes(b"cposix\nsystem\n(S'touch evil'\ntR.")


def expected_labels(stem: str, height: int, width: int) -> np.ndarray:
    """By hand: pixel (y, x) of the smaller map is pixel (floor(y h / H), floor(x w / W)) of the larger one."""
    found = np.full((height, width), 65535)
    full_height, full_width = {"ADE_train_00000001": (771, 1030)}.get(stem, (height, width))
    for y in range(height):
        for x in range(width):
            row, column = y * full_height // height, x * full_width // width
            if row >= full_height - 20 and column < 30:
                continue
            if row < full_height // 2:
                found[y, x] = 2
            elif column % 3 == 0:
                found[y, x] = 1
    return found


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    full_release(folder / "release")
    assert prepare(("ade847",), [folder / "release"], folder / "root", ("train", "val"), 2) == 0
    return folder


@pytest.mark.parametrize(
    ("split", "stem", "size"),
    [
        ("training", "ADE_train_00000001", (512, 684)),  # 1030 / 771 * 512 = 683.99
        ("training", "ADE_train_00000002", (120, 130)),
        ("validation", "ADE_val_00000001", (100, 150)),
    ],
)
def test_full_release_labels_and_images(full: Path, split: str, stem: str, size: tuple[int, int]) -> None:
    base = full / "root" / "ade" / "ADE20K_2021_17_01"
    with Image.open(base / "annotations_detectron2" / split / f"{stem}.tif") as image:
        labels = np.asarray(image)
    assert labels.dtype == np.uint16 and labels.shape == size
    np.testing.assert_array_equal(labels, expected_labels(stem, *size))
    (original,) = (full / "release").rglob(f"{stem}.jpg")
    prepared = base / "images" / split / f"{stem}.jpg"
    if stem != "ADE_train_00000001":
        assert prepared.read_bytes() == original.read_bytes()
        return
    smaller = cv2.resize(np.asarray(Image.open(original)), (684, 512), interpolation=cv2.INTER_LINEAR)
    buffer = io.BytesIO()
    Image.fromarray(smaller).save(buffer, format="JPEG")
    np.testing.assert_array_equal(np.asarray(Image.open(prepared)), np.asarray(Image.open(buffer)))


def test_nothing_else_is_made_and_nothing_is_unpickled(full: Path) -> None:
    files = [path for path in (full / "root").rglob("*") if path.is_file()]
    assert sorted(path.suffix for path in files) == [".jpg"] * 3 + [".json"] + [".tif"] * 3
    assert not Path("evil").exists()


def test_the_classes_of_the_full_release() -> None:
    vocabulary = load_vocabulary("ade847")
    ids = np.array([entry.dataset_id for entry in vocabulary.classes])
    for tens in (0, 9):  # the last digit of R says nothing
        image = np.stack((ids // 256 * 10 + tens, ids % 256, ids % 7), axis=-1).astype(np.uint8)[None]
        assert class_indices(image).tolist() == [list(range(847))]
    assert class_indices(np.array([[[0, 0, 0], [255, 255, 255], [9, 0, 4]]], np.uint8)).tolist() == [[65535] * 3]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000))
def test_sizes(height: int, width: int) -> None:
    size = smaller_size(height, width)
    if min(height, width) <= 512:
        assert size is None
    else:
        assert size is not None and min(size) == 512
        assert abs(size[0] * width / height - size[1]) <= max(0.5 * width / height, 0.5) + 1e-6


def test_a_label_map_of_another_size_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(folder / "ADE_val_00000003.jpg")
    Image.fromarray(np.zeros((50, 40, 3), np.uint8)).save(folder / "ADE_val_00000003_seg.png")
    with pytest.raises(UserError, match=r"ADE_val_00000003_seg\.png: 40x50 pixels, but its image has 50x40"):
        prepare(("ade847",), [folder], tmp_path / "root", ("val",), 1)


# Evaluated


def photograph_release(folder: Path) -> None:
    """The challenge with photographs large enough for the network."""
    for split, stem in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        labels = np.full((110, 150), WALL, dtype=np.uint8)
        labels[40:90, 30:100] = BED
        things = np.zeros((110, 150, 3), dtype=np.uint8)
        things[40:90, 30:100] = (1, 1, 0)
        image = cv2.resize(skimage.data.chelsea(), (150, 110))
        kinds = (("images", image, "jpg"), ("annotations", labels, "png"), ("annotations_instance", things, "png"))
        for kind, array, extension in kinds:
            (folder / kind / split).mkdir(parents=True)
            Image.fromarray(array).save(folder / kind / split / f"{stem}.{extension}")


PANOPTIC = {
    "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": True,
    "MODEL.MASK_FORMER.TEST.SEMANTIC_ON": False,
    "INPUT.DATASET_MAPPER_NAME": "coco_panoptic_lsj",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dataset", "switches"),
    [
        ("ade150", "openvocab_ade20k_sem_seg_val", {}),
        ("ade847", "openvocab_ade20k_full_sem_seg_val", {}),
        ("ade150_panoptic", "openvocab_ade20k_panoptic_val", PANOPTIC),
    ],
)
def test_prepared_data_is_evaluated(
    train_net: Callable[..., None], tmp_path: Path, name: str, dataset: str, switches: dict[str, object]
) -> None:
    release = tmp_path / "release"
    (full_release if name == "ade847" else photograph_release)(release)
    root, output = tmp_path / "root", tmp_path / "out"
    assert prepare((name,), [release], root, ("train", "val"), 2) == 0
    options = {
        "MODEL.DEVICE": "cpu",
        "MODEL.META_ARCHITECTURE": "MAFT_Plus",
        "DATASETS.TEST": f"('{dataset}',)",
        "OUTPUT_DIR": output,
        **switches,
    }
    train_net("tests/assets/tiny.yaml", "--eval-only", keys=options, datasets=root)
    results = json.loads((output / "inference" / dataset / "results.json").read_text())
    assert results["images"]["total"] == 1
    if name == "ade150_panoptic":
        assert set(results["metrics"]["panoptic_seg"]["all"]) >= {"PQ", "SQ", "RQ"}
        return
    truth = {
        of: counts["pixels"] for of, counts in results["metrics"]["sem_seg"]["per_class"].items() if counts["pixels"]
    }
    if name == "ade150":
        assert truth == {"wall": 110 * 150 - 50 * 70, "bed": 50 * 70}
    else:  # sky above; building in every third column below, but for the corner
        assert truth == {"sky": 50 * 150, "building, edifice": 50 * 50 - 20 * 10}
