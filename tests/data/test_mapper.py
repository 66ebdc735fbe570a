"""The test-time mapper: sizes by hand, pixels by PIL, and images that are none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maft.data import InferenceMapper
from maft.errors import UserError


def noise(path: Path, width: int, height: int, mode: str = "RGB") -> Image.Image:
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode]
    values = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, channels), np.uint8)
    image = Image.fromarray(values[..., 0] if channels == 1 else values)
    image.save(path)
    return image


# (width, height) -> (width, height): the short side to 800; where the long one would pass 1333, that one to 1333.
SIZES = [
    ((640, 427), (1199, 800)),  # 640 * 800 / 427 = 1199.06
    ((97, 61), (1272, 800)),  # 97 * 800 / 61 = 1272.13
    ((61, 97), (800, 1272)),
    ((300, 100), (1333, 444)),  # 2400 would be too long: 800 * 1333 / 2400 = 444.33
    ((321, 320), (803, 800)),  # 802.5 rounds up
    ((500, 333), (1201, 800)),  # 1201.2
    ((800, 800), (800, 800)),
    ((2000, 1), (1333, 1)),  # 0.67 rounds up
]


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_sizes_and_pixels(tmp_path: Path, before: tuple[int, int], after: tuple[int, int]) -> None:
    image = noise(tmp_path / "a.png", *before)
    record = {"file_name": str(tmp_path / "a.png"), "meta": {"dataname": "x"}, "image_id": 3}
    result = InferenceMapper()(record)
    assert (result["width"], result["height"]) == before
    assert result["image"].dtype == torch.uint8 and result["image"].shape == (3, after[1], after[0])
    expected = np.asarray(image.resize(after, Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(result["image"].numpy(), expected)
    assert result["meta"] == {"dataname": "x"} and result["image_id"] == 3
    assert set(record) == {"file_name", "meta", "image_id"}


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 60), st.integers(60, 90))
def test_size_rule(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, short_edge: int, max_size: int
) -> None:
    path = tmp_path_factory.mktemp("image") / "a.png"
    noise(path, width, height)
    mapper = InferenceMapper(short_edge=short_edge, max_size=max_size)
    _, new_height, new_width = mapper({"file_name": str(path)})["image"].shape
    scale = min(short_edge / min(width, height), max_size / max(width, height))
    assert abs(new_height - height * scale) <= 0.5 + 1e-6 and abs(new_width - width * scale) <= 0.5 + 1e-6
    assert min(new_height, new_width) <= short_edge and max(new_height, new_width) <= max_size


def test_no_resize_and_configuration(tmp_path: Path) -> None:
    image = noise(tmp_path / "a.png", 31, 17)
    inputs = SimpleNamespace(MIN_SIZE_TEST=0, MAX_SIZE_TEST=1333, FORMAT="BGR")
    result = InferenceMapper.from_config(SimpleNamespace(INPUT=inputs))({"file_name": str(tmp_path / "a.png")})
    assert np.array_equal(result["image"].numpy(), np.asarray(image)[..., ::-1].transpose(2, 0, 1))
    with pytest.raises(UserError, match="MIN_SIZE_TEST -1"):
        InferenceMapper(short_edge=-1)


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16", "LA"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    """By the one rule, which the model that reasons reads by as well (reason.imagefile)."""
    path = tmp_path / "a.png"
    if mode == "I;16":
        values = np.arange(400, dtype=np.uint16).reshape(20, 20) * 163
        Image.fromarray(values).save(path)
        expected = np.repeat(np.rint(values / 257.0)[..., None], 3, axis=-1)
    else:
        image = noise(path, 20, 20, mode).convert("RGBA")
        expected = np.asarray(Image.alpha_composite(Image.new("RGBA", (20, 20), "white"), image).convert("RGB"))
    for order, name in ((1, "RGB"), (-1, "BGR")):
        result = InferenceMapper(short_edge=0, image_format=name)({"file_name": str(path)})
        assert np.array_equal(result["image"].numpy(), expected[..., ::order].transpose(2, 0, 1))


def test_a_decoder_that_invents_errors_costs_its_image(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "a.avif")
    data = bytearray((tmp_path / "a.avif").read_bytes())
    data[-40:] = bytes(40)  # Pillow raises a RuntimeError
    (tmp_path / "a.avif").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.avif: not readable as an image"):
        InferenceMapper()({"file_name": str(tmp_path / "a.avif")})


def test_exif_rotation(tmp_path: Path) -> None:
    image = noise(tmp_path / "a.png", 40, 24)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    record = {"file_name": str(tmp_path / "turned.png")}
    photograph = InferenceMapper(short_edge=0, obey_exif=True)(record)
    upright = np.asarray(image.transpose(Image.Transpose.ROTATE_270))
    assert (photograph["height"], photograph["width"]) == (40, 24)
    assert np.array_equal(photograph["image"].numpy(), upright.transpose(2, 0, 1))
    of_a_data_set = InferenceMapper(short_edge=0)(record)
    assert np.array_equal(of_a_data_set["image"].numpy(), np.asarray(image).transpose(2, 0, 1))
    with pytest.raises(UserError, match="annotations say 40.*EXIF orientation is 6"):
        InferenceMapper()({**record, "height": 40, "width": 24})


def test_unreadable_images(tmp_path: Path) -> None:
    mapper = InferenceMapper()
    with pytest.raises(UserError, match=r"gone\.jpg: no such image"):
        mapper({"file_name": str(tmp_path / "gone.jpg")})
    for suffix in ("jpg", "png"):
        noise(tmp_path / f"whole.{suffix}", 64, 64)
        data = (tmp_path / f"whole.{suffix}").read_bytes()
        path = tmp_path / f"cut.{suffix}"
        for size in (0, 10, 60, len(data) // 2):
            path.write_bytes(data[:size])
            with pytest.raises(UserError, match=f"cut.{suffix}: not (readable as|an image but an empty)"):
                mapper({"file_name": str(path)})
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"text\.jpg: not readable as an image"):
        mapper({"file_name": str(tmp_path / "text.jpg")})


def test_a_record_of_another_image(tmp_path: Path) -> None:
    noise(tmp_path / "a.png", 20, 30)
    with pytest.raises(UserError, match="its height is 30, the annotations say 20"):
        InferenceMapper()({"file_name": str(tmp_path / "a.png"), "height": 20, "width": 30})
