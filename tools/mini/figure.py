"""The README's image: one drawn image, segmented by names only and with its reasons, and the reason that counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from maft import Result, load_segmentor
from maft.drawing import Maps, agreement, overlay
from maft.errors import UserError
from maft.files import read_label_map, replacing
from reason.vocabulary import Vocabulary, load_vocabulary

from .dataset import Layout

_SIDE, _GAP, _TEXT = 288, 16, 13
_PAPER, _INK, _QUIET = (255, 255, 255), (25, 30, 35), (95, 105, 112)
_SHOWN_CLASSES = 4


def draw_figure(layout: Layout, number: int, path: Path) -> Path:
    """Draw the comparison for one validation image.

    Args:
        layout: the prepared validation split.
        number: of the image, counted from 0.
        path: where the PNG goes.

    Raises:
        UserError: there is no such image.
    """
    name = f"val_{number:04d}"
    file = layout.images / f"{name}.png"
    if not file.is_file():
        raise UserError(f"{file}: no such image; the validation split is numbered from 0")
    segmentor = load_segmentor("mini")
    vocabulary = load_vocabulary(layout.vocabulary)
    seen = segmentor.look(file)
    plain = seen.segment(vocabulary)
    reasoned = seen.segment(vocabulary, reasons=layout.reason_dir() / "mini" / f"{name}.json")
    truth = read_label_map(layout.annotations / f"{name}.png", len(vocabulary), 255)
    panels = [
        (Image.fromarray(seen.image), "image", ""),
        (_tinted(seen.image, truth, vocabulary), "ground truth", ""),
        (plain.overlay(with_legend=False), "names only", _right(plain, truth)),
        (reasoned.overlay(with_legend=False), "with reasons", _right(reasoned, truth)),
    ]
    with replacing(path) as stream:
        _compose(panels, _reason_lines(plain, reasoned, truth)).save(stream, format="PNG", optimize=True)
    return path


def _tinted(image: np.ndarray, labels: np.ndarray, vocabulary: Vocabulary) -> Image.Image:
    return Image.fromarray(overlay(image, Maps(labels, labels), vocabulary.palette))


def _right(result: Result, truth: np.ndarray) -> str:
    return f"{agreement(result.maps, Maps(truth, truth)):.0%} of the pixels right"


def _reason_lines(plain: Result, reasoned: Result, truth: np.ndarray) -> list[str]:
    """The reasons of the classes that gained most pixels, most first."""
    gains = []
    for index, entry in enumerate(reasoned.vocabulary.classes):
        inside = truth == index
        gain = int((reasoned.label_map[inside] == index).sum()) - int((plain.label_map[inside] == index).sum())
        reason = reasoned.reasons.get(entry.synonyms[0])
        if gain > 0 and reason is not None:
            gains.append((gain, f"{entry.synonyms[0]}: {', '.join(reason.attributes[:3])}"))
    return [text for _, text in sorted(gains, reverse=True)[:_SHOWN_CLASSES]]


def _compose(panels: list[tuple[Image.Image, str, str]], lines: list[str]) -> Image.Image:
    font = ImageFont.load_default(_TEXT)
    width = len(panels) * _SIDE + (len(panels) + 1) * _GAP
    top = _GAP + _SIDE
    height = top + 3 * _TEXT + 2 * _GAP + (len(lines) + 1) * round(1.7 * _TEXT)
    canvas = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for place, (panel, title, note) in enumerate(panels):
        left = _GAP + place * (_SIDE + _GAP)
        canvas.paste(panel.resize((_SIDE, _SIDE), Image.Resampling.NEAREST), (left, _GAP))
        draw.text((left, top + 6), title, fill=_INK, font=font)
        if note:
            draw.text((left + _SIDE, top + 6), note, fill=_QUIET, font=font, anchor="ra")
    y = top + 2 * _TEXT + _GAP
    draw.text((_GAP, y), "the reasons that made the difference", fill=_QUIET, font=font)
    for line in lines:
        y += round(1.7 * _TEXT)
        draw.text((_GAP, y), line, fill=_INK, font=font)
    return canvas
