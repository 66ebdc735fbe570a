"""From an image file to the image as the model sees it: upright, at the model's own size, encoded once.

Qwen2.5-VL cuts images into patches of 14 pixels and merges 2 x 2 of them into a token, so sides are multiples of 28.
An engine left to resize by itself has ignored its limits before (docs/findings.md 14); here the size is settled before
it sees the image, recorded with the result, and such that the engine's own rule changes nothing.

`reason.imagefile` reads, as for the segmentor; cv2 resizes and encodes, which takes a quarter of Pillow's time and
leaves the interpreter's lock to other threads.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from reason.asking.messages import EncodedImage
from reason.errors import ReasonError
from reason.imagefile import (
    SUFFIXES,
    ImageFileError,
    find_images,
    is_plain,
    opened,
    orientation,
    to_rgb,
    upright,
    upright_size,
)

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)

TOKEN_SIDE = 28
"""Pixels along one image token: patches of 14, merged 2 x 2."""

MIN_PIXELS = 4 * TOKEN_SIDE**2
MAX_PIXELS = 1280 * TOKEN_SIDE**2
"""What an image has after resizing, by default: 4 to 1,280 tokens."""

MAX_ASPECT = 200
"""Long over short side, at most; the model's processor refuses more."""

_JPEG_QUALITY = 95
_SHRINKS = 0.7
"""Below this ratio pixels are averaged over areas; above, cubic interpolation skips none."""


def list_images(path: Path, *, recursive: bool = False) -> list[Path]:
    """The images of a folder by name, or the one file that `path` is; says what it leaves out.

    Args:
        path: a folder, or a file of any name.
        recursive: in the folders below, too.

    Raises:
        ReasonError: nothing there, or no image in it.
    """
    if path.is_file():
        return [path]
    try:
        found = find_images(path, recursive=recursive)
    except OSError as error:
        raise ReasonError(f"--images {path}: {error.strerror}; give a folder of images or an image") from error
    if not found.images:
        left_out = found.left_out.removeprefix(f"{path}: ") or "it is empty"
        raise ReasonError(f"--images {path}: no image in it ({', '.join(SUFFIXES[:8])}, …); {left_out}")
    if found.left_out:
        logger.warning("%s", found.left_out)
    return list(found.images)


def check_stems(images: Iterable[Path]) -> None:
    """Make sure that every image has a result file of its own: results are named by the stem.

    Raises:
        ReasonError: two images of one stem (names both), or a name that is not UTF-8.
    """
    first: dict[str, Path] = {}
    for image in images:
        try:
            image.name.encode()
        except UnicodeEncodeError as error:
            raise ReasonError(f"{str(image)!a}: its name is not UTF-8; rename it") from error
        other = first.setdefault(image.stem, image)
        if other is not image:
            raise ReasonError(
                f"{other} and {image}: both would have the result {image.stem}.json; rename one, or put it elsewhere"
            )


def fitted_size(
    width: int, height: int, *, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """The size at which Qwen2.5-VL sees an image: sides that are multiples of 28, aspect about kept.

    Sides are rounded to the nearest multiple; an area beyond the limits is scaled into them. Applied to its own result
    it changes nothing, and neither does the model's processor with the same limits.

    Args:
        width, height: pixels, upright.
        min_pixels, max_pixels: limits of the area; at least 28 x 28 and four times that of each other.

    Returns:
        (width, height) in pixels.

    Raises:
        ValueError: a side is more than 200 times the other.
    """
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"{width} x {height} pixels: one side is more than {MAX_ASPECT} times the other")
    columns, rows = round(width / TOKEN_SIDE), round(height / TOKEN_SIDE)
    least, most = min_pixels / TOKEN_SIDE**2, max_pixels // TOKEN_SIDE**2
    if columns * rows > most:
        # Divided in the processor's own order: where a side comes out whole, another order can fall a row short.
        shrink = math.sqrt(width * height / max_pixels)
        columns, rows = (max(1, math.floor(side / shrink / TOKEN_SIDE)) for side in (width, height))
        # A strip of one row cannot get any lower: its length alone has to give.
        columns, rows = min(columns, most // rows), min(rows, most // columns)
    elif columns * rows < least:
        growth = math.sqrt(min_pixels / (width * height))
        columns, rows = (math.ceil(side * growth / TOKEN_SIDE) for side in (width, height))
    # Rounding must not push a long strip over the limit that it has just kept.
    columns, rows = min(columns, MAX_ASPECT * rows), min(rows, MAX_ASPECT * columns)
    return columns * TOKEN_SIDE, rows * TOKEN_SIDE


def encode_image(path: Path, *, min_pixels: int = MIN_PIXELS, max_pixels: int = MAX_PIXELS) -> EncodedImage:
    """Read an image as the model is to see it.

    Upright by its EXIF orientation and in RGB, by the rule of `reason.imagefile`; resized by `fitted_size`; JPEG. A
    JPEG or PNG file that needs none of this is sent as it is. A large JPEG is decoded at a half, quarter or eighth
    where that is enough.

    Raises:
        ImageFileError: missing, cut off, no image, or with sides that the model cannot take.
    """
    try:
        original = path.read_bytes()
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be read ({error.strerror}); replace or remove the file") from error
    with opened(path, original) as image:
        try:
            size = fitted_size(*upright_size(image), min_pixels=min_pixels, max_pixels=max_pixels)
        except ValueError as error:
            raise ImageFileError(f"{path}: {error}; cut it or remove it") from error
        data, mime = _encode(image, size, original, path)
    uuid = hashlib.blake2b(data, digest_size=16).hexdigest()
    return EncodedImage(data, mime, *size, uuid, tokens=size[0] * size[1] // TOKEN_SIDE**2)


def _encode(image: Image.Image, size: tuple[int, int], original: bytes, path: Path) -> tuple[bytes, str]:
    """The file to send, and its type; decoding is part of it even where the file stays as it is, to find damage."""
    stands = orientation(image) == 1
    fits = stands and image.size == size and is_plain(image) and image.format in ("JPEG", "PNG")
    full_colour = image.format != "JPEG"
    if not full_colour and not fits:
        image.draft(None, size if upright_size(image) == image.size else size[::-1])
    image.load()
    if fits and is_plain(image):
        return original, f"image/{str(image.format).lower()}"
    return _resized_jpeg(to_rgb(upright(image), path), size, full_colour=full_colour), "image/jpeg"


def _resized_jpeg(image: Image.Image, size: tuple[int, int], *, full_colour: bool) -> bytes:
    """A JPEG file; colour in half resolution, as in most JPEG files that come in, or in full."""
    import cv2
    import numpy as np

    pixels = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2BGR)
    if image.size != size:
        smallest = min(size[0] / image.width, size[1] / image.height)
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if smallest < _SHRINKS else cv2.INTER_CUBIC)
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444 if full_colour else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    options = (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling)
    _, data = cv2.imencode(".jpg", pixels, options)
    return bytes(data)
