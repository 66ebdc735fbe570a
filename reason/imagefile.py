"""The one reader of image files: which files are images, and what 8-bit RGB pixels each of them stands for.

Whatever reads a user's photograph or a data set's image goes through `read_rgb`, so that the model that reasons and the
segmentor see the same. The rule, by Pillow's modes:

- 8-bit colour and grey, palettes, CMYK, YCbCr, HSV, one bit: as Pillow converts them to RGB.
- 16-bit grey (I;16): scaled by the type's range, so that 65535 becomes 255; 12-bit TIFF by 4095; PGM by its 65535.
- Floating point (F): 0 to 1 becomes 0 to 255; a file with other values, or none at all, is refused, since nothing says
  which value is white. 32-bit and signed integers (I) are refused for the same reason.
- Transparency (RGBA, LA, PA, palettes and greys with a transparent entry): blended onto white, as vLLM and Qwen do.
- Several frames: the first one.
- EXIF orientation: as the caller says. Photographs obey it; label maps of data sets lie on the stored grid. TIFF files
  are always turned, by Pillow.

Light: Pillow and numpy, both imported when a file is read.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

_NAMES = "jpg jpeg jpe jfif png apng webp gif bmp dib tif tiff avif avifs jp2 j2k j2c jpc jpf jpx ppm pgm pbm pnm tga"
SUFFIXES = tuple(f".{word}" for word in _NAMES.split())
"""What is taken out of a folder; a file that is named is taken whatever it is called."""

_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)
"""EXIF orientations whose upright image has width and height exchanged."""
_BITS_PER_SAMPLE = 0x0102
_TRANSPARENT_MODES = ("RGBA", "RGBa", "LA", "La", "PA")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_NOT_OURS = (KeyboardInterrupt, SystemExit, GeneratorExit)

_BEGINNINGS = (
    (b"<!doctype", "an HTML page, as a failed download leaves it; download it again"),
    (b"<html", "an HTML page, as a failed download leaves it; download it again"),
    (b"<svg", "an SVG drawing; save it as PNG"),
    (b"<?xml", "an XML file (an SVG drawing?); save it as PNG"),
    (b"%pdf", "a PDF document; save its pages as PNG"),
    (b"version https://git-lfs", "a git-lfs pointer; run 'git lfs pull' there"),
    (b"pk\x03\x04", "a ZIP archive; unpack it"),
)
_HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


class ImageFileError(ValueError):
    """An image file that cannot be used: one line that names the file, what is wrong, and the way out."""


@dataclass(frozen=True)
class FoundImages:
    """What `find_images` found.

    Attributes:
        images: the image files, sorted by path.
        left_out: what else there was and why it was left out, in one line; "" where there was nothing else.
    """

    images: tuple[Path, ...]
    left_out: str = ""


def find_images(folder: Path, *, recursive: bool = False) -> FoundImages:
    """The images of a folder by their suffixes; hidden files and folders are passed over.

    One pass: 20,000 images take some 50 ms on a local disk.

    Args:
        folder: where to look.
        recursive: in the folders below, too.

    Raises:
        OSError: the folder cannot be listed.
    """
    found: list[Path] = []
    others: Counter[str] = Counter()
    below = 0
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.name.startswith("."):
                    continue
                if recursive and entry.is_dir(follow_symlinks=False):
                    waiting.append(path)  # a link could lead back up
                elif entry.is_dir():
                    below += 1
                elif entry.name.lower().endswith(SUFFIXES):
                    found.append(path)
                else:
                    others[path.suffix.lower() or "without suffix"] += 1
    parts = []
    if below:
        way = "links, which --recursive does not follow" if recursive else "--recursive looks into them"
        parts.append(f"{below} folder{'s' * (below > 1)} ({way})")
    if others:
        kinds = ", ".join(f"{suffix} {count}" for suffix, count in others.most_common(4))
        are = "files that are no images by their names" if others.total() > 1 else "file that is no image by its name"
        parts.append(f"{others.total()} {are} ({kinds})")
    return FoundImages(tuple(sorted(found)), f"{folder}: left out: {' and '.join(parts)}" if parts else "")


@contextlib.contextmanager
def opened(path: str | Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """An image file, open; whatever goes wrong while it is decoded is an error that names it.

    Args:
        path: of the file.
        content: its bytes, where they have been read already.

    Raises:
        ImageFileError: missing, damaged, no image, too many pixels, or whatever its decoder comes up with.
    """
    try:
        from PIL import Image

        # Given a path, Pillow maps plain TIFF files into memory, and scrambles those that are turned (13.0.0).
        with _stream(path, content) as stream, Image.open(stream) as image:
            yield image
    except (ImageFileError, *_NOT_OURS):
        raise
    except BaseException as error:  # decoders raise errors of all kinds, some of them no Exception
        raise ImageFileError(f"{path}: {_what(error, path, content)}") from error


def _stream(path: str | Path, content: bytes | None) -> BinaryIO:
    """The bytes of a file, for Pillow.

    Raises:
        OSError: it cannot be opened.
        ImageFileError: a pipe or a device, which may keep a reader waiting for ever.
    """
    if content is not None:
        return io.BytesIO(content)
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ImageFileError(f"{path}: a pipe or a device, not a file; save the image to a file")
    return Path(path).open("rb")


def read_rgb(path: str | Path, *, obey_exif: bool = True) -> NDArray[np.uint8]:
    """The pixels of an image file.

    Args:
        path: of the file.
        obey_exif: turn a photograph upright; False for images whose labels lie on the stored grid.

    Returns:
        (H, W, 3) uint8, RGB, writable.

    Raises:
        ImageFileError: it cannot be read, or its values have no known range.
    """
    import numpy as np

    with opened(path) as image:
        return np.array(to_rgb(upright(image) if obey_exif else image, path))


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where there is none, or the tag is damaged.

    Decodes all formats but JPEG: asking some of them for EXIF does so anyway, and would hide the damage that it meets.
    """
    if image.format != "JPEG":
        image.load()
    try:
        value = int(image.getexif().get(_ORIENTATION, 1))
    except _NOT_OURS:
        raise
    except BaseException:  # damaged EXIF blocks raise errors of many kinds, while the pixels are fine
        return 1
    return value if 1 <= value <= 8 else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) once the image stands upright."""
    width, height = image.size
    return (height, width) if orientation(image) in _TURNED else (width, height)


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says, in its own mode; itself where it stands upright."""
    from PIL import Image

    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation(image))
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info, turned.format = image.info, image.format  # the rest of the rule asks for them
    return turned


def is_plain(image: Image.Image) -> bool:
    """Whether the stored pixels are 8-bit RGB without transparency, so that nothing has to be converted."""
    return image.mode == "RGB" and "transparency" not in image.info


def to_rgb(image: Image.Image, path: str | Path) -> Image.Image:
    """The image in mode RGB, by the rule above.

    Args:
        image: of any mode.
        path: what to name in messages.

    Raises:
        ImageFileError: the values have no known range, or the mode no conversion.
    """
    from PIL import Image

    image.load()  # `info` may say something of transparency only now
    if is_plain(image):
        return image
    if image.mode in _SIXTEEN_BIT or image.mode in ("I", "F"):
        return _scaled(image, path)
    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        try:
            pixels = image.convert("RGBA")
        except ValueError:  # some modes go by way of another
            pixels = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, "RGB")).convert("RGBA")
        white = Image.new("RGBA", pixels.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, pixels).convert("RGB")
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ImageFileError(f"{path}: colours of mode {image.mode} are not converted; save it as RGB") from error


def _scaled(image: Image.Image, path: str | Path) -> Image.Image:
    """An image of 16-bit, 32-bit or floating-point greys in 8 bits."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image)
    if image.mode == "F":
        low, high = (float(values.min()), float(values.max())) if np.isfinite(values).all() else (np.nan, np.nan)
        if not 0 <= low <= high <= 1:
            held = f"{low:g} to {high:g}" if np.isfinite(low) else "NaN or infinity"
            raise ImageFileError(
                f"{path}: floating-point pixels of {held}; only 0 (black) to 1 (white) are read: save it as 8 or 16 bit"
            )
        grey = np.rint(values * 255)
    elif image.mode == "I" and image.format != "PPM":
        raise ImageFileError(
            f"{path}: 32-bit or signed integers ({values.min()} to {values.max()}), of which nothing says what is "
            "white; save it as 8 or 16 bit"
        )
    else:
        top = 4095 if _bits(image) == 12 else 65535
        grey = np.rint(np.minimum(values, top).astype(np.float64) * (255 / top))
        key = image.info.get("transparency")
        if isinstance(key, int):
            grey = np.where(values == key, 255, grey)
    return Image.fromarray(grey.astype(np.uint8), "L").convert("RGB")


def _bits(image: Image.Image) -> int:
    """Bits of a sample as a TIFF file tells them; 0 for other formats."""
    tags: Any = getattr(image, "tag_v2", None) or {}
    bits = tags.get(_BITS_PER_SAMPLE, (0,))
    return int(bits[0] if isinstance(bits, tuple) else bits)


def _what(error: BaseException, path: str | Path, content: bytes | None) -> str:
    """What is wrong with a file, and what to do."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, FileNotFoundError):
        return "no such image; check the path"
    if isinstance(error, IsADirectoryError):
        return "a folder, not an image"
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        way_out = "--max-source-pixels N allows more, in Python PIL.Image.MAX_IMAGE_PIXELS = N"
        return f"more than {limit:,} pixels, which is not opened unasked; {way_out}"
    if isinstance(error, MemoryError):
        return "too large for the memory there is; make it smaller"
    if isinstance(error, UnidentifiedImageError):
        kind = _kind(path, content)
        if kind:
            return f"not an image but {kind}"
        problem = "of no known format"
    else:
        problem = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return f"not readable as an image ({problem}); replace or remove the file"


def _kind(path: str | Path, content: bytes | None) -> str:
    """What a file is that is no image, with the way out; "" where its beginning does not tell."""
    if content is None:
        try:
            with Path(path).open("rb") as stream:
                content = stream.read(64)
        except OSError:
            return ""
    if not content:
        return "an empty file; replace or remove it"
    if content[4:8] == b"ftyp" and content[8:12] in _HEIC:
        return "a HEIC photograph, which is not read here; save it as JPEG"
    start = content[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((what for beginning, what in _BEGINNINGS if start.startswith(beginning)), "")


def allow_pixels(count: int) -> None:
    """Let image files have up to `count` pixels in this process; Pillow alone allows 178,956,970."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, count)
