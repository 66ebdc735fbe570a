"""One reader of images: every mode and format stands for the same pixels to whoever reads it, or is refused by name."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from reason.imagefile import ImageFileError, allow_pixels, find_images, read_rgb
from reason.runs.images import encode_image

pytest.importorskip("cv2", reason="resizing needs cv2, which is part of the reasoning environment")

SIDE = 280
RAMP = np.tile(np.linspace(0, 65535, SIDE), (SIDE, 1))
"""From black to white, left to right, in 16-bit units."""


def sent(path: Path) -> NDArray[np.uint8]:
    """The pixels that the model gets, the size being one that it keeps."""
    with Image.open(io.BytesIO(encode_image(path).data)) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


READERS: tuple[Callable[[Path], NDArray[np.uint8]], ...] = (read_rgb, sent)


def is_the_ramp(pixels: NDArray[np.uint8], off: float = 1.5) -> bool:
    return pixels.shape == (SIDE, SIDE, 3) and bool(np.abs(pixels - RAMP[..., None] / 257).mean() < off)


def ramp(mode: str) -> Image.Image:
    """The ramp as an image of a mode, its full range used."""
    if mode in ("I;16", "I;16B"):
        return Image.fromarray(RAMP.astype(np.uint16 if mode == "I;16" else ">u2"))
    if mode == "I":
        return Image.fromarray(RAMP.astype(np.int32))
    if mode == "F":
        return Image.fromarray((RAMP / 65535).astype(np.float32))
    return Image.fromarray((RAMP / 257).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("I;16", suffix) for suffix in (".png", ".tif", ".jp2", ".pgm")]
    + [("I;16B", ".png"), ("I;16B", ".tif")]
    + [("I", ".pgm"), ("F", ".tif"), ("F", ".pfm")]
    + [("L", suffix) for suffix in (".png", ".tif", ".webp", ".gif", ".avif", ".jp2", ".bmp", ".jfif", ".pgm", ".tga")]
    + [("RGBA", suffix) for suffix in (".png", ".tif", ".webp", ".avif", ".jp2", ".tga")]
    + [("LA", ".png"), ("LA", ".tif"), ("P", ".png"), ("P", ".gif"), ("CMYK", ".jpg"), ("CMYK", ".tif")]
    + [("YCbCr", ".tif"), ("RGB", ".jpg"), ("RGB", ".png"), ("RGB", ".jp2"), ("RGB", ".avif")],
)
def test_every_mode_and_format_is_the_same_ramp(
    tmp_path: Path, mode: str, suffix: str, reader: Callable[[Path], NDArray[np.uint8]]
) -> None:
    path = tmp_path / f"ramp{suffix}"
    ramp(mode).save(path, **({"format": "JPEG"} if suffix == ".jfif" else {}))
    assert is_the_ramp(reader(path), 4 if mode in ("P", "CMYK") or suffix == ".gif" else 1.5)


def test_twelve_bits_are_scaled_by_their_own_range(tmp_path: Path) -> None:
    """Pillow writes no such file: two rows of 12-bit samples by hand, black, half and white."""
    samples = [0, 2048, 4095, 4095] * 2
    packed = b"".join(((a << 12) | b).to_bytes(3, "big") for a, b in zip(samples[::2], samples[1::2], strict=True))
    entries = [(256, 4), (257, 2), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 2), (279, len(packed))]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    content = b"II*\x00" + struct.pack("<I", 8 + len(packed)) + packed
    (tmp_path / "a.tif").write_bytes(content + struct.pack("<H", len(entries)) + directory + bytes(4))
    assert read_rgb(tmp_path / "a.tif")[..., 0].tolist() == [[0, 128, 255, 255]] * 2


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (RAMP.astype(np.float32), "floating-point pixels of 0 to 65535"),
        (np.full((56, 56), np.nan, np.float32), "floating-point pixels of NaN"),
        (np.full((56, 56), -0.5, np.float32), "floating-point pixels of -0.5 to -0.5"),
        (RAMP.astype(np.int32), r"32-bit or signed integers \(0 to 65535\)"),
    ],
)
def test_values_without_a_known_range_are_refused_by_name(
    tmp_path: Path, values: NDArray[np.generic], problem: str, reader: Callable[[Path], NDArray[np.uint8]]
) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ImageFileError, match=rf"a\.tif: {problem}.*save it as 8 or 16 bit"):
        reader(tmp_path / "a.tif")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "one grey", "one colour", "webp", "16 bit"])
def test_transparency_lies_on_white(tmp_path: Path, kind: str, reader: Callable[[Path], NDArray[np.uint8]]) -> None:
    """A black square on a transparent ground whose hidden colour is black, too."""
    alpha = np.zeros((SIDE, SIDE), np.uint8)
    alpha[:140, :140] = 255
    black = np.zeros_like(alpha)
    path = tmp_path / ("a.webp" if kind == "webp" else "a.png")
    if kind in ("RGBA", "webp"):
        Image.fromarray(np.stack([black] * 3 + [alpha], -1), "RGBA").save(
            path, **({"lossless": True} if kind == "webp" else {})
        )
    elif kind == "LA":
        Image.fromarray(np.stack([black, alpha], -1), "LA").save(path)
    elif kind == "palette":
        image = Image.fromarray(alpha // 255, "P")
        image.putpalette([0, 0, 0] * 256)
        image.save(path, transparency=bytes([0, 255]))
    elif kind == "one grey":
        Image.fromarray(np.where(alpha, 0, 7).astype(np.uint8)).save(path, transparency=7)
    elif kind == "one colour":
        Image.fromarray(np.stack([np.where(alpha, 0, 7)] * 3, -1).astype(np.uint8)).save(path, transparency=(7, 7, 7))
    else:
        Image.fromarray(np.where(alpha, 0, 7).astype(np.uint16)).save(path, transparency=7)
    pixels = reader(path)
    assert pixels[:130, :130].max() <= 3 and min(pixels[150:].min(), pixels[:, 150:].min()) >= 252


def test_half_transparent_is_half_way_to_white(tmp_path: Path) -> None:
    Image.new("RGBA", (56, 56), (200, 100, 0, 128)).save(tmp_path / "a.png")
    expected = [round((value * 128 + 255 * 127) / 255) for value in (200, 100, 0)]
    assert np.abs(read_rgb(tmp_path / "a.png")[0, 0].astype(int) - expected).max() <= 1


def test_orientation_is_obeyed_or_not(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    for suffix in (".jpg", ".png", ".tif", ".webp"):
        ramp("L").convert("RGB").save(tmp_path / f"a{suffix}", exif=exif)
        if suffix != ".tif":  # which Pillow turns by itself
            assert is_the_ramp(read_rgb(tmp_path / f"a{suffix}", obey_exif=False))
        assert is_the_ramp(read_rgb(tmp_path / f"a{suffix}")[::-1, ::-1])
    sixteen = Image.fromarray(RAMP.astype(np.uint16))
    sixteen.save(tmp_path / "b.png", exif=exif)
    assert is_the_ramp(read_rgb(tmp_path / "b.png")[::-1, ::-1])


FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "BMP", "JPEG2000", "PPM", "TGA")


@pytest.fixture(scope="module")
def whole() -> dict[str, bytes]:
    """A small image of every format."""
    files = {}
    for name in FORMATS:
        stream = io.BytesIO()
        ramp("L").convert("RGB").resize((56, 56)).save(stream, name)
        files[name] = stream.getvalue()
    return files


@pytest.mark.filterwarnings("ignore")
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(name=st.sampled_from(FORMATS), data=st.data())
def test_a_damaged_file_is_an_error_of_that_file_or_an_image(
    whole: dict[str, bytes], tmp_path: Path, name: str, data: st.DataObject
) -> None:
    content = bytearray(whole[name])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(8, len(content))) :]
    path = tmp_path / "damaged.bin"
    path.write_bytes(content)
    for reader in READERS:
        try:
            pixels = reader(path)
        except ImageFileError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("invented", [RuntimeError("Failed to decode"), MemoryError(), KeyError("x"), BaseException()])
def test_whatever_a_decoder_invents_costs_that_file(
    tmp_path: Path, invented: BaseException, reader: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import PngImagePlugin

    def load(self: object) -> None:
        raise invented

    Image.new("RGB", (56, 56)).save(tmp_path / "a.png")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(ImageFileError, match=r"a\.png"):
        reader(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_turns_it(tmp_path: Path, orientation: int, suffix: str) -> None:
    """The mirrored ones (2, 4, 5, 7), too."""
    path = tmp_path / f"photo{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8) * 5).convert("RGB").save(path, exif=exif)
    with Image.open(path) as image:
        expected, stored = np.asarray(ImageOps.exif_transpose(image)), np.asarray(image)
    assert np.array_equal(read_rgb(path), expected)
    assert np.array_equal(read_rgb(path, obey_exif=False), stored)
    assert orientation == 1 or not np.array_equal(expected, stored)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_plain_grey_tiff_is_turned_whole(tmp_path: Path, orientation: int) -> None:
    """Pillow maps such a file into memory at its turned size, which scrambles it, where it is given a path."""
    path = tmp_path / "grey.tif"
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(path, tiffinfo={0x0112: orientation})
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(read_rgb(path), expected)
    assert expected.shape[:2] == ((8, 6) if orientation > 4 else (6, 8))


@pytest.mark.timeout(20)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageFileError, match=r"pipe\.jpg: a pipe or a device, not a file; save"):
        read_rgb(tmp_path / "pipe.jpg")


def test_an_interrupt_is_none_of_a_files_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import PngImagePlugin

    def load(self: object) -> None:
        raise KeyboardInterrupt

    Image.new("RGB", (56, 56)).save(tmp_path / "a.png")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(KeyboardInterrupt):
        read_rgb(tmp_path / "a.png")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "an empty file"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "a HEIC photograph.*save it as JPEG"),
        (b"\n<!DOCTYPE html><html>", "an HTML page.*download it again"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"%PDF-1.7", "a PDF document"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer"),
        (b"hello", "not readable as an image"),
    ],
)
def test_what_is_no_image_is_called_what_it_is(
    tmp_path: Path, content: bytes, problem: str, reader: Callable[[Path], object]
) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageFileError, match=rf"a\.jpg: .*{problem}"):
        reader(tmp_path / "a.jpg")


def test_too_many_pixels_are_refused_with_the_flag_that_allows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.new("L", (56, 56)).save(tmp_path / "a.png")
    for reader in READERS:
        with pytest.raises(ImageFileError, match=r"more than 2,000 pixels.*--max-source-pixels"):
            reader(tmp_path / "a.png")
    allow_pixels(56 * 56)
    assert read_rgb(tmp_path / "a.png").shape == (56, 56, 3)


def test_a_folder_says_what_it_leaves_out(tmp_path: Path) -> None:
    for name in (
        "b.JPG",
        "a.jfif",
        "c.avif",
        "d.jp2",
        "notes.txt",
        "e.heic",
        ".hidden.png",
        "sub/f.png",
        "sub/deep/g.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_images(tmp_path)
    assert [path.name for path in found.images] == ["a.jfif", "b.JPG", "c.avif", "d.jp2"]
    assert "1 folder (--recursive looks into them)" in found.left_out
    assert "2 files that are no images by their names" in found.left_out and ".heic 1" in found.left_out
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    everything = find_images(tmp_path, recursive=True)
    names = [path.relative_to(tmp_path).as_posix() for path in everything.images]
    assert names == ["a.jfif", "b.JPG", "c.avif", "d.jp2", "sub/deep/g.png", "sub/f.png"]
    assert "1 folder (links" in everything.left_out
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.png").touch()
    assert find_images(tmp_path / "plain").left_out == ""
