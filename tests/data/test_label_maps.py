"""Label maps: every value survives, and what is no label map is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from maft.data import read_label_map, write_label_map
from maft.errors import UserError

_SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)


@settings(deadline=None)
@given(hnp.arrays(np.int64, _SHAPES, elements=st.integers(0, 846) | st.just(65535)))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("labels") / "deep" / "map.png"
    write_label_map(array, path)
    labels = read_label_map(path, 847, 65535)
    assert labels.dtype == np.int32 and np.array_equal(labels, array)
    assert [entry.name for entry in path.parent.iterdir()] == ["map.png"]


@pytest.mark.parametrize(("high", "mode"), [(255, "L"), (256, "I;16"), (65535, "I;16")])
def test_eight_bit_where_that_suffices(tmp_path: Path, high: int, mode: str) -> None:
    write_label_map(np.array([[0, high]]), tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as image:
        # Older Pillow opens 16-bit PNG as 32-bit integers.
        assert image.mode in {mode, "I"} and image.size == (2, 1)
    assert read_label_map(tmp_path / "map.png", 65536, -1).tolist() == [[0, high]]


@pytest.mark.parametrize("name", ["map.tif", "map.png"])
def test_sixteen_bit_files_are_not_clipped(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 255, 256], [458, 300, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    assert read_label_map(tmp_path / name, 459, 65535).tolist() == values.tolist()


def test_palette_indices_are_read_not_colours(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [19, 255]], np.uint8)).convert("P")
    image.putpalette([200, 100, 50] * 256)
    image.save(tmp_path / "map.png")
    assert read_label_map(tmp_path / "map.png", 20, 255).tolist() == [[0, 1], [19, 255]]


def test_values_outside_the_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    write_label_map(np.array([[0, 58, 59], [60, 60, 255]]), path)
    assert read_label_map(path, 61, 255).max() == 255
    with pytest.raises(UserError) as caught:
        read_label_map(path, 59, 255)
    assert str(path) in str(caught.value) and "holds 59, 60, outside the vocabulary of 59 classes" in str(caught.value)
    with pytest.raises(UserError, match="holds 255, outside the vocabulary of 61 classes"):
        read_label_map(path, 61, 65535)
    write_label_map(np.arange(40).reshape(4, 10), path)
    with pytest.raises(UserError, match="holds 2, 3, 4, 5, 6, 7, 8, 9, …, outside"):
        read_label_map(path, 2, 255)


def test_no_label_maps(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    with pytest.raises(UserError, match=r"map\.png: no such label map"):
        read_label_map(path, 2, 255)
    for image in (Image.new("RGB", (2, 2)), Image.new("LA", (2, 2))):
        image.save(path)
        with pytest.raises(UserError, match="one channel of integers"):
            read_label_map(path, 2, 255)
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "map.tif")
    with pytest.raises(UserError, match="one channel of integers"):
        read_label_map(tmp_path / "map.tif", 2, 255)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_truncated_and_foreign_files(tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 60000, (64, 64)).astype(np.uint16)).save(whole)
    data = whole.read_bytes()
    for size in (0, 7, 30, len(data) // 2):
        path = tmp_path / f"cut.{suffix}"
        path.write_bytes(data[:size])
        with pytest.raises(UserError, match=f"cut.{suffix}: not readable as a label map"):
            read_label_map(path, 65536, -1)


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2, 1), int), np.zeros((2, 2)), np.zeros((0, 2), int), np.array([[-1]]), np.array([[65536]])]
)
def test_what_cannot_be_written(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a label map"):
        write_label_map(array, tmp_path / "map.png")
    assert list(tmp_path.iterdir()) == []
