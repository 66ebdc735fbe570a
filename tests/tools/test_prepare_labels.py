"""tools.prepare_datasets: the values of VOC, PASCAL-Context and COCO annotations as class indices, computed by hand."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from pycocotools import mask as coco_mask

from maft.errors import UserError
from reason.vocabulary import load_vocabulary
from tools.prepare_datasets import label_codes, pascal_labels, voc
from tools.prepare_datasets.archives import Member
from tools.prepare_datasets.json_stream import list_entries


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def member(tmp_path: Path) -> Callable[[bytes], Member]:
    """A file as a member of an unpacked archive."""

    def write(data: bytes) -> Member:
        (tmp_path / "a.png").write_bytes(data)
        return Member(str(tmp_path / "a.png"), "a.png", len(data))

    return write


def test_palette_indices_count_and_not_colours(member: Callable[[bytes], Member]) -> None:
    values = np.array([[0, 1, 20], [255, 15, 8]], dtype=np.uint8)
    image = Image.fromarray(values).convert("P")
    image.putdata(values.ravel().tolist())
    image.putpalette([(7 * entry) % 256 for entry in range(768)])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    decoded = label_codes.read_values(member(buffer.getvalue()))
    assert decoded.tolist() == values.tolist()
    coded = label_codes.recode(decoded, voc.label_table(), "a.png")
    assert coded.tolist() == [[255, 0, 19], [255, 14, 7]]


@pytest.mark.parametrize("value", [21, 254])
def test_values_that_voc_does_not_have(value: int) -> None:
    with pytest.raises(UserError, match=rf"a\.png: holds {value}"):
        label_codes.recode(np.full((2, 2), value, dtype=np.uint8), voc.label_table(), "a.png")


@pytest.mark.parametrize("data", [b"", b"not an image", png(np.zeros((4, 4), np.uint8))[:40]])
def test_damaged_label_map(data: bytes, member: Callable[[bytes], Member]) -> None:
    with pytest.raises(UserError, match=r"a\.png: not readable"):
        label_codes.read_values(member(data))


def test_coloured_image_is_no_label_map(member: Callable[[bytes], Member]) -> None:
    with pytest.raises(UserError, match="coloured image"):
        label_codes.read_values(member(png(np.zeros((4, 4, 3), np.uint8))))


def test_panoptic_identifiers(member: Callable[[bytes], Member]) -> None:
    image = np.array([[[1, 2, 3], [255, 0, 0]], [[0, 0, 0], [0, 1, 0]]], dtype=np.uint8)
    assert label_codes.read_identifiers(member(png(image))).tolist() == [[1 + 512 + 3 * 65536, 255], [0, 256]]
    with pytest.raises(UserError, match="RGB"):
        label_codes.read_identifiers(member(png(image[..., 0])))


def test_the_59_names_are_found_in_the_459() -> None:
    """The numbers are those that published conversions list, sorted; the vocabularies hold the names."""
    numbers = (
        "2 9 18 19 22 23 25 31 33 34 44 45 46 59 65 68 72 80 85 98 104 105 113 115 144 158 159 162 187 189 207 220 232 "
        "258 259 260 284 295 296 308 324 326 347 349 354 355 360 366 368 397 415 416 420 424 427 440 445 454 458"
    )
    table = pascal_labels.context59_table(pascal_labels.context459_names(), "vocabulary")
    for index, number in enumerate(map(int, numbers.split())):
        assert table[number] == index, (number, load_vocabulary("pc59").class_names[index])
    assert (table[:460] != 255).sum() == 59 and (table[460:] == label_codes.UNKNOWN).all()
    expected = dict(zip(map(int, numbers.split()), range(59), strict=True))
    assert pascal_labels.detail_codes({}) == pascal_labels.detail_codes(pascal_labels.context459_names()) == expected
    table = pascal_labels.context459_table(pascal_labels.context459_names(), "vocabulary")
    assert table[[0, 1, 459]].tolist() == [65535, 0, 458]


def test_names_decide_and_not_numbers() -> None:
    names = pascal_labels.context459_names()
    names[2], names[459] = names[459], names[2]  # aeroplane and wool
    assert pascal_labels.context459_table(names, "labels.txt")[[2, 459]].tolist() == [458, 1]
    table = pascal_labels.context59_table(names, "labels.txt")
    assert table[[2, 459]].tolist() == [255, 0]
    detail = pascal_labels.detail_codes({5: "aeroplane", 7: "Dining Table", 2: "wool"})
    assert [detail.get(number) for number in (5, 7, 2, 397, 18)] == [0, 49, None, None, 2]


def test_labels_txt() -> None:
    assert pascal_labels.parse_labels_txt("1: accordion\r\n2: aeroplane \n\n", "l") == {1: "accordion", 2: "aeroplane"}
    for text in ("accordion", "1: a\n1: b"):
        with pytest.raises(UserError, match="labels.txt: line"):
            pascal_labels.parse_labels_txt(text, "labels.txt")
    with pytest.raises(UserError, match="'3: teapot'"):
        pascal_labels.context459_table({1: "accordion", 3: "teapot"}, "labels.txt")


def mat(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, arrays, do_compression=True)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [np.uint16, np.float64, np.int32])
def test_mat_label_map(kind: type) -> None:
    values = np.array([[0, 1, 459], [397, 2, 284]])
    read = pascal_labels.read_label_map(mat(LabelMap=values.astype(kind), other=np.ones((9, 9))), "a.mat")
    assert read.tolist() == values.tolist()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (mat(other=np.ones((2, 2))), "no LabelMap"),
        (mat(LabelMap=np.ones((2, 2, 2))), "no LabelMap"),
        (mat(LabelMap=np.full((2, 2), 0.5)), "no integers"),
        (mat(LabelMap=np.ones((50, 50)))[:150], "not readable"),
        (b"", "not readable"),
        (b"<!DOCTYPE html><html>" * 20, "not readable"),
    ],
)
def test_damaged_mat(data: bytes, problem: str) -> None:
    with pytest.raises(UserError, match=rf"a\.mat: .*{problem}"):
        pascal_labels.read_label_map(data, "a.mat")


def region(number: int, mask: np.ndarray, *, plain: bool = False) -> dict:
    """An annotation as trainval_merged.json has it."""
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = encoded["counts"].decode()
    if plain:
        flat = mask.T.ravel().astype(int)
        edges = np.flatnonzero(np.diff(np.concatenate(([0], flat)))).tolist()
        counts = np.diff([0, *edges, flat.size]).tolist()
    return {"category_id": number, "segmentation": {"size": list(mask.shape), "counts": counts}}


@pytest.mark.parametrize("plain", [False, True])
def test_regions_lie_over_each_other_in_the_order_of_the_file(plain: bool) -> None:
    sky, plane, unknown = np.zeros((4, 5)), np.zeros((4, 5)), np.zeros((4, 5))
    sky[:2], plane[1:3, 1:4], unknown[3, 4] = 1, 1, 1
    parts = [region(360, sky, plain=plain), region(2, plane, plain=plain), region(430, unknown, plain=plain)]
    codes = pascal_labels.detail_codes({})
    regions = [pascal_labels.parse_region(part, "m.json") for part in parts]
    regions = [replace(region, label=codes.get(region.label, 255)) for region in regions]
    labels = pascal_labels.paint_regions(4, 5, regions, "m.json: 2008_000001")
    assert labels.tolist() == [
        [46, 46, 46, 46, 46],
        [46, 0, 0, 0, 46],
        [255, 0, 0, 0, 255],
        [255, 255, 255, 255, 255],
    ]
    turned = pascal_labels.paint_regions(4, 5, regions[::-1], "m.json")
    assert (turned == 0).sum() == 3, "the sky hides a part of the aeroplane where it comes later"


@pytest.mark.parametrize("seed", range(6))
def test_run_lengths_of_random_masks(seed: int) -> None:
    generator = np.random.default_rng(seed)
    mask = np.kron(generator.random((17, 23)) < 0.4, np.ones((1 + seed * 9, 1 + seed))).astype(np.uint8)
    runs = pascal_labels.run_lengths_of(coco_mask.encode(np.asfortranarray(mask))["counts"].decode())
    assert runs is not None
    assert np.array_equal(np.repeat(np.arange(runs.size) % 2, runs), mask.T.ravel())


@pytest.mark.parametrize("counts", ["", "0", "zzz", "PPPP", "é", [3, -1, 18], [], [19]])
def test_damaged_run_lengths(counts: object) -> None:
    """Without the check, pycocotools answers some of these with memory that is not its own."""
    entry = {"category_id": 2, "segmentation": {"size": [4, 5], "counts": counts}}
    parsed = pascal_labels.parse_region(entry, "m.json")
    with pytest.raises(UserError, match="add up"):
        pascal_labels.paint_regions(4, 5, [parsed], "m.json: 2008_000001")


def test_masks_of_another_size_and_missing_fields() -> None:
    parsed = pascal_labels.parse_region(region(2, np.ones((4, 6))), "m.json")
    with pytest.raises(UserError, match="4 x 6 in an image of 4 x 5"):
        pascal_labels.paint_regions(4, 5, [parsed], "m.json: 2008_000001")
    for broken in ({"category_id": 2}, {"category_id": 2, "segmentation": [[1, 2, 3]]}, 7):
        with pytest.raises(UserError, match=r"m\.json: an entry of annos_segmentation"):
            pascal_labels.parse_region(broken, "m.json")


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_json_lists_are_read_entry_by_entry(step: int, indent: int | None) -> None:
    """In pieces so small that every value is cut somewhere, and in one."""
    document = {
        "info": {"year": 2017, "list": [1, 2]},
        "images": [{"id": 12, "name": "ü,]}"}, {"id": 345, "x": -1.5e-3}],
        "empty": [],
        "numbers": [1234567, 8],
        "last": None,
    }
    text = json.dumps(document, indent=indent, ensure_ascii=False).encode()
    read = list(list_entries((text[at : at + step] for at in range(0, len(text), step)), "m.json"))
    assert read == [(key, entry) for key in ("images", "numbers") for entry in document[key]]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"a": [1, 2', '{"a": [1 2]}', '{"a": [1,]}', "{3: 1}", "<html>", "{", "\xff"]
)
def test_json_that_is_none(text: str) -> None:
    with pytest.raises(UserError, match=r"m\.json: not valid JSON"):
        list(list_entries(iter([text.encode("latin-1")]), "m.json"))
