"""Images as the model sees them: sizes by Qwen2.5-VL's rule, orientation, encoding, damage."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from reason.errors import ReasonError
from reason.imagefile import ImageFileError
from reason.runs.images import check_stems, encode_image, fitted_size, list_images

pytest.importorskip("cv2", reason="resizing needs cv2, which is part of the reasoning environment")

side = st.integers(1, 6000)
limit = st.integers(1, 2000).map(lambda tokens: tokens * 28 * 28 + 5)


def write_gradient(path: Path, width: int, height: int, **options: object) -> Path:
    """An image that is red on the left and blue at the bottom, so that turning it shows."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([255 - x, np.full_like(x, 40), y], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


@given(side, side, limit)
def test_a_fitted_size_keeps_its_limits_and_stays(width: int, height: int, max_pixels: int) -> None:
    max_pixels = max(max_pixels, 28 * 28 * 200)
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(ValueError, match="200 times"):
            fitted_size(width, height, max_pixels=max_pixels)
        return
    fitted = fitted_size(width, height, max_pixels=max_pixels)
    assert all(pixels % 28 == 0 and pixels >= 28 for pixels in fitted)
    assert 4 * 28 * 28 <= fitted[0] * fitted[1] <= max_pixels
    assert max(fitted) <= 200 * min(fitted)
    assert fitted_size(*fitted, max_pixels=max_pixels) == fitted


@settings(deadline=None)
@given(side, side, st.integers(200, 2000).map(lambda tokens: tokens * 28 * 28))
@example(539, 539, 448 * 448)  # shrinks to whole rows
def test_the_models_own_processor_leaves_a_fitted_size_alone(width: int, height: int, max_pixels: int) -> None:
    processing = pytest.importorskip("transformers.models.qwen2_vl.image_processing_qwen2_vl")
    if max(width, height) > 200 * min(width, height):
        return
    columns, rows = fitted_size(width, height, max_pixels=max_pixels)
    assert processing.smart_resize(rows, columns, 28, 3136, max_pixels) == (rows, columns)
    if max(width, height) < 20 * min(width, height):  # strips apart, it is the processor's own choice
        assert processing.smart_resize(height, width, 28, 3136, max_pixels) == (rows, columns)


@pytest.mark.parametrize(
    ("given_size", "expected"),
    [((640, 480), (644, 476)), ((4000, 3000), (1148, 840)), ((28, 28), (56, 56)), ((1000, 5), (812, 28))],
)
def test_sizes_by_hand(given_size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fitted_size(*given_size) == expected


def test_an_image_is_resized_encoded_and_named_by_its_content(tmp_path: Path) -> None:
    image = encode_image(write_gradient(tmp_path / "a.png", 640, 480))
    again = encode_image(write_gradient(tmp_path / "b.png", 640, 480))
    other = encode_image(write_gradient(tmp_path / "c.png", 600, 480))
    with Image.open(io.BytesIO(image.data)) as sent:
        assert (sent.size, sent.format, sent.mode) == ((644, 476), "JPEG", "RGB")
        red, _, blue = sent.getpixel((20, 456))
        assert red > 230 and blue > 230
    assert (image.width, image.height, image.tokens, image.mime) == (644, 476, 23 * 17, "image/jpeg")
    assert image.uuid == again.uuid != other.uuid


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright_as_the_segmentor_reads_them(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write_gradient(tmp_path / "a.jpg", 280, 140, exif=exif, quality=95)
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored), dtype=float)
    image = encode_image(path)
    with Image.open(io.BytesIO(image.data)) as sent:
        pixels = np.asarray(sent, dtype=float)
    assert pixels.shape == expected.shape == ((280, 140, 3) if orientation >= 5 else (140, 280, 3))
    assert np.abs(pixels - expected).mean() < 2


def test_files_that_fit_are_sent_as_they_are(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png"):
        path = write_gradient(tmp_path / name, 280, 140)
        assert encode_image(path).data == path.read_bytes()
    path = write_gradient(tmp_path / "c.bmp", 280, 140)
    assert encode_image(path).mime == "image/jpeg"


def test_large_jpegs_look_the_same_decoded_small(tmp_path: Path) -> None:
    path = write_gradient(tmp_path / "large.jpg", 4032, 3024)
    image = encode_image(path)
    with Image.open(io.BytesIO(image.data)) as sent, Image.open(path) as stored:
        expected = np.asarray(stored.resize(sent.size, Image.Resampling.BICUBIC), dtype=float)
        assert np.abs(np.asarray(sent, dtype=float) - expected).mean() < 2


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "LA", "1", "I;16"])
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (280, 140)).save(path)
    with Image.open(io.BytesIO(encode_image(path).data)) as sent:
        assert (sent.mode, sent.size) == ("RGB", (280, 140))


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    whole = write_gradient(tmp_path / "a.jpg", 640, 480).read_bytes()
    wrong = {
        "missing.jpg": None,
        "empty.jpg": b"",
        "text.png": b"hello",
        "cut.jpg": whole[: len(whole) // 2],
        "zeros.jpg": whole[:200] + bytes(500),
    }
    for name, content in wrong.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageFileError, match=name):
            encode_image(tmp_path / name)
    Image.new("RGB", (3, 900)).save(tmp_path / "strip.png")
    with pytest.raises(ImageFileError, match=r"strip.png.*200 times"):
        encode_image(tmp_path / "strip.png")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_costs_nothing(tmp_path: Path) -> None:
    path = write_gradient(tmp_path / "a.jpg", 280, 140, exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x01\x12")
    assert encode_image(path).width == 280


def test_a_folder_is_listed_by_name_without_what_is_no_image(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.jpg", "c.v2.jpeg"):
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "b.JPG", "c.v2.jpeg"]
    assert list_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        with pytest.raises(ReasonError, match=name):
            list_images(tmp_path / name)


def test_what_is_left_out_of_a_folder_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.avif", "notes.txt", "sub/b.jfif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["a.avif"]
    assert "left out: 1 folder (--recursive looks into them) and 1 file" in caplog.text
    caplog.clear()
    assert [path.name for path in list_images(tmp_path, recursive=True)] == ["a.avif", "b.jfif"]
    assert "folder (" not in caplog.text
    (tmp_path / "a.avif").unlink()
    with pytest.raises(ReasonError, match=r"no image in it.*1 folder \(--recursive"):
        list_images(tmp_path)


def test_two_images_of_one_result_are_both_named(tmp_path: Path) -> None:
    check_stems([Path("a.jpg"), Path("b.jpg"), Path("a.v2.jpg"), Path("at 9.00\u202fAM.png")])
    with pytest.raises(ReasonError, match=r"x/a\.jpg and x/a\.png"):
        check_stems([Path("x/a.jpg"), Path("x/a.png")])
    with pytest.raises(ReasonError, match=r"x/\\udcff\.jpg.*rename"):
        check_stems([Path("x/\udcff.jpg")])
