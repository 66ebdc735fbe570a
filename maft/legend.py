"""An overlay with a legend below it, and a banner above it where something must not be missed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
Entry = tuple[str, Color]

_PAPER, _INK, _ALARM = (255, 255, 255), (20, 20, 20), (190, 0, 0)
_MIN_WIDTH = 360
_MIN_TEXT, _MAX_TEXT = 14, 40
_WIDTH_TO_TEXT = 42
_ELLIPSIS = "…"


def compose(overlay: NDArray[np.uint8], legend: Sequence[Entry], alarm: str = "") -> Image.Image:
    """Put the alarm above an image and the legend below it.

    Args:
        overlay: (H, W, 3) uint8 RGB.
        legend: text and RGB colour of every entry, in order.
        alarm: a sentence that nobody may miss; "" for none.

    Returns:
        An RGB image of at least 360 pixels width, the image in it in its own size.
    """
    height, width = overlay.shape[:2]
    canvas_width = max(width, _MIN_WIDTH)
    size = min(max(canvas_width // _WIDTH_TO_TEXT, _MIN_TEXT), _MAX_TEXT)
    font = ImageFont.load_default(size)
    head = _alarm(alarm, canvas_width, font, size)
    foot = _legend(legend, canvas_width, font, size)
    canvas = Image.new("RGB", (canvas_width, head.height + height + foot.height), _PAPER)
    canvas.paste(head, (0, 0))
    canvas.paste(Image.fromarray(overlay), ((canvas_width - width) // 2, head.height))
    canvas.paste(foot, (0, head.height + height))
    return canvas


def _alarm(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, size: int) -> Image.Image:
    if not text:
        return Image.new("RGB", (width, 0))
    lines = _wrap(text, width - size, font)
    banner = Image.new("RGB", (width, round(1.4 * size * len(lines) + 0.6 * size)), _ALARM)
    draw = ImageDraw.Draw(banner)
    for number, line in enumerate(lines):
        draw.text((size // 2, round(size * (0.35 + 1.4 * number))), line, fill=_PAPER, font=font)
    return banner


def _legend(
    entries: Sequence[Entry], width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, size: int
) -> Image.Image:
    """Swatches with their texts in columns of equal width, read row by row."""
    box, row = size, round(1.6 * size)
    margin = size // 2
    widest = max((font.getlength(text) for text, _ in entries), default=0)
    columns = max(1, min(len(entries), int(width // (box + widest + 4 * margin))))
    step = width // columns
    rows = -(-len(entries) // columns)
    foot = Image.new("RGB", (width, rows * row + 2 * margin if entries else 0), _PAPER)
    draw = ImageDraw.Draw(foot)
    for number, (text, color) in enumerate(entries):
        x, y = margin + number % columns * step, margin + number // columns * row
        draw.rectangle((x, y, x + box, y + box), fill=color, outline=_INK)
        room = step - box - 3 * margin
        draw.text((x + box + margin, y), _fit(text, room, font), fill=_INK, font=font)
    return foot


def _wrap(text: str, room: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _fit(text: str, room: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, its middle left out where it is too long: the share at its end stays."""
    if font.getlength(text) <= room:
        return text
    kept = len(text) - 1
    while kept > 2 and font.getlength(_shorten(text, kept)) > room:
        kept -= 1
    return _shorten(text, kept)


def _shorten(text: str, kept: int) -> str:
    """`kept` characters of the text, at most eight of them from its end."""
    tail = min(8, kept // 2)
    return text[: kept - tail] + _ELLIPSIS + text[len(text) - tail :]
