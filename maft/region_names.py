"""The names of classes, written into the regions of an overlay that have room for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from maft.drawing import NONE, Maps

_INK, _EDGE = (255, 255, 255), (20, 20, 20)
_WIDTH_TO_TEXT = 40
_MIN_TEXT, _MAX_TEXT = 11, 36
_SMALLER = (1.0, 0.8, 0.62)
"""The sizes of text that are tried, in parts of the largest."""
_COVERED = 0.92
"""The part of a name's box that lies in the region it names, at least."""
_SMALLEST = 0.002
"""Regions below this part of the image stay without a name: the legend has it."""
_OF_ONE_SEGMENT = 3
"""A segment in many pieces is named in so many of them, the largest ones."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def write_names(image: Image.Image, maps: Maps, names: Sequence[str]) -> None:
    """Write class names into the regions of an overlay, in place; where none fits, none is written.

    Args:
        image: RGB, of the size of `maps`.
        maps: the labelling.
        names: one per class; an empty one is not written.
    """
    draw = ImageDraw.Draw(image)
    largest = min(max(min(image.size[0], 2 * image.size[1]) // _WIDTH_TO_TEXT, _MIN_TEXT), _MAX_TEXT)
    sizes = dict.fromkeys(max(_MIN_TEXT, round(part * largest)) for part in _SMALLER)
    fonts = [(ImageFont.load_default(size), max(1, size // 9)) for size in sizes]
    for name, (left, top), mask in _regions(maps, names):
        for font, edge in fonts:
            box = draw.textbbox((0, 0), name, font=font, anchor="lt", stroke_width=edge)
            width, height = round(box[2] - box[0]), round(box[3] - box[1])
            place = _place(mask, width, height)
            if place is not None:
                # A box may stand out of its region a little, but not out of the image.
                x = min(max(left + place[0] - width // 2, 0), image.width - width) - box[0]
                y = min(max(top + place[1] - height // 2, 0), image.height - height) - box[1]
                draw.text((x, y), name, fill=_INK, font=font, anchor="lt", stroke_width=edge, stroke_fill=_EDGE)
                break


def _regions(maps: Maps, names: Sequence[str]) -> Iterator[tuple[str, tuple[int, int], NDArray[np.uint8]]]:
    """Name, (left, top) and mask of the connected pieces of every segment that are large enough."""
    least = _SMALLEST * maps.segments.size
    for segment in np.unique(maps.segments):
        mask = (maps.segments == segment).astype(np.uint8)
        place = int(mask.argmax())
        index = int(maps.classes.flat[place])
        if index == NONE or not names[index]:
            continue
        _, pieces, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
        areas = stats[1:, cv2.CC_STAT_AREA]
        for piece in 1 + np.argsort(-areas, kind="stable")[:_OF_ONE_SEGMENT]:
            left, top, width, height, area = (int(value) for value in stats[piece])
            if area >= least:
                part = pieces[top : top + height, left : left + width] == piece
                yield names[index], (left, top), part.astype(np.uint8)


def _place(mask: NDArray[np.uint8], width: int, height: int) -> tuple[int, int] | None:
    """The centre (x, y) of a box of this size that lies in the mask, as far from its edge as can be; None if none."""
    if width > mask.shape[1] or height > mask.shape[0]:
        return None
    covered = cv2.boxFilter(mask.astype(np.float32), -1, (width, height), borderType=cv2.BORDER_CONSTANT)
    inside = covered >= _COVERED
    if not inside.any():
        return None
    depth = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(np.where(inside, depth, -1).argmax()), mask.shape)
    return int(x), int(y)
