"""Drawing: signed distances in pixels, turned into coverages. NumPy alone, so that pixels are the same everywhere.

Lengths inside a thing are in units of its radius; u points right, v down, both turned with the thing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating]

REACH = 1.62
"""No part of a thing lies farther from its centre than this many radii."""

_PALETTE = {
    "red": (205, 42, 45),
    "orange": (240, 135, 25),
    "yellow": (245, 220, 50),
    "green": (40, 150, 60),
    "blue": (35, 80, 205),
    "purple": (135, 50, 165),
    "white": (245, 245, 245),
}
_GROUND = {
    "green": (128, 158, 112),
    "blue": (122, 150, 180),
    "brown": (160, 124, 92),
    "grey": (142, 142, 142),
    "pink": (198, 152, 166),
}
_PART_COLOR = (52, 44, 40)
_TEXTURE_DARKNESS = 0.62
_TONE = {"dark": (0.5, 0.0), "pale": (0.45, 0.55)}
"""Factor on the ground's colour, and weight of white, of a pattern's marks."""


def coverage(distance: Field) -> Field:
    """How much of every pixel lies inside, in [0, 1], from signed distances in pixels (negative inside)."""
    return np.clip(0.5 - distance, 0, 1)


def body(shape: str, u: Field, v: Field) -> Field:
    """Signed distance to the outline of a body of radius 1, in radii; exact near the outline but for corners."""
    if shape == "round":
        return np.hypot(u, v) - np.float32(0.86)
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - np.float32(0.76)
    if shape == "triangular":
        return np.maximum(v, 0.866 * np.abs(u) - 0.5 * v) - np.float32(0.56)
    if shape == "star-shaped":
        return _star(u, v)
    if shape == "cross-shaped":
        a, b = np.abs(u), np.abs(v)
        return np.minimum(np.maximum(a - 0.95, b - 0.32), np.maximum(a - 0.32, b - 0.95))
    if shape == "ring-shaped":
        return np.abs(np.hypot(u, v) - np.float32(0.68)) - np.float32(0.25)
    if shape == "crescent-shaped":
        return np.maximum(np.hypot(u, v) - np.float32(0.95), np.float32(0.72) - np.hypot(u - np.float32(0.5), v))
    raise ValueError(f"no shape {shape!r}")


def _star(u: Field, v: Field) -> Field:
    outer, inner = 1.08, 0.52
    sector = 2 * np.pi / 5
    angle = np.abs((np.arctan2(u, -v) + sector / 2) % sector - sector / 2)
    radius = np.hypot(u, v)
    # The straight edge from an outer tip, on the axis of the sector, to the inner corner on its border.
    edge = np.array([inner * np.cos(sector / 2) - outer, inner * np.sin(sector / 2)])
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return ((radius * np.cos(angle) - outer) * normal[0] + radius * np.sin(angle) * normal[1]).astype(np.float32)


def parts(part: str, shape: str, u: Field, v: Field) -> Field:
    """Signed distance to what is attached to a body, in radii; far away everywhere for "none"."""
    if part == "none":
        return np.full_like(u, REACH)
    if part == "stalk":
        leaf = np.hypot((u - 0.22) * 0.75, (v + 1.36) * 1.3) - 0.2
        return np.minimum(_line(u, v, (0.0, -0.35), (0.0, -1.45), 0.09), leaf)
    if part == "horns":
        return _line(np.abs(u), v, (0.22, -0.35), (0.72, -1.3), 0.1)
    if part == "legs":
        feet = _line(np.abs(u), v, (0.36, 1.38), (0.56, 1.38), 0.1)
        return np.minimum(_line(np.abs(u), v, (0.36, 0.35), (0.36, 1.38), 0.1), feet)
    if part == "tail":
        middle = _line(u, v, (0.9, 0.98), (1.06, 0.62), 0.09)
        first = _line(u, v, (0.3, 0.4), (0.9, 0.98), 0.09)
        return np.minimum(np.minimum(first, middle), _line(u, v, (1.06, 0.62), (1.42, 0.72), 0.09))
    if part == "core":
        # A crescent is open where its centre would be.
        return np.hypot(u + (0.58 if shape == "crescent-shaped" else 0.0), v) - np.float32(0.28)
    raise ValueError(f"no part {part!r}")


def _line(u: Field, v: Field, start: tuple[float, float], end: tuple[float, float], half_width: float) -> Field:
    across, down = end[0] - start[0], end[1] - start[1]
    place = np.clip(((u - start[0]) * across + (v - start[1]) * down) / (across**2 + down**2), 0, 1)
    return np.hypot(u - start[0] - place * across, v - start[1] - place * down) - np.float32(half_width)


def texture(name: str, u: Field, v: Field, softness: float) -> Field:
    """How dark the texture makes a body, in [0, 1]; `softness` is the width of a pixel in radii."""
    if name == "plain":
        return np.zeros_like(u)
    if name == "striped":
        return coverage((np.abs(_repeat(v, 0.4)) - 0.104) / softness)
    if name == "dotted":
        return coverage((np.hypot(_repeat(u, 0.42), _repeat(v, 0.42)) - 0.126) / softness)
    if name == "checked":
        sign = np.sin(u * (np.pi / 0.34)) * np.sin(v * (np.pi / 0.34))
        return coverage(-sign * 0.11 / softness)
    if name == "two-toned":
        return coverage(-v / softness)
    raise ValueError(f"no texture {name!r}")


def body_color(color: str, dark: Field, shift: NDArray[np.floating]) -> Field:
    """(…, 3) RGB of a body of a colour, darkened by a texture; `shift` is added to the three channels."""
    base = np.asarray(_PALETTE[color], dtype=np.float32) + shift.astype(np.float32)
    return base * (1 - _TEXTURE_DARKNESS * dark[..., None])


def part_color() -> Field:
    """(3,) RGB of everything that is attached."""
    return np.asarray(_PART_COLOR, dtype=np.float32)


def ground(color: str, pattern: str, tone: str, x: Field, y: Field, shift: NDArray[np.floating]) -> Field:
    """(…, 3) RGB of stuff at points in pixels (of a turned and shifted frame)."""
    base = np.asarray(_GROUND[color], dtype=np.float32) + shift.astype(np.float32)
    factor, white = _TONE[tone]
    marks = base * factor + 255 * white
    inside = coverage(_marks(pattern, x, y))[..., None]
    return base + inside * (marks - base)


def _marks(pattern: str, x: Field, y: Field) -> Field:
    """Signed distance, in pixels, to the marks of a pattern."""
    if pattern == "waves":
        return np.abs(_repeat(y + np.float32(4.5) * np.sin(x * np.float32(2 * np.pi / 40)), 18)) - 2.5
    if pattern == "bricks":
        shifted = x + 18 * (np.floor(y / 20) % 2)
        return np.minimum(10 - np.abs(_repeat(y - 10, 20)), np.abs(_repeat(shifted, 36))) - 1.6
    if pattern == "tiles":
        return np.minimum(np.abs(_repeat(x, 26)), np.abs(_repeat(y, 26))) - 1.6
    if pattern == "blades":
        column = np.floor(x / 9 + np.float32(0.5))
        return np.maximum(np.abs(x - 9 * column) - 1.5, np.abs(_repeat(y + 11 * (column % 3), 30)) - 8.5)
    if pattern == "pebbles":
        row = np.floor(y / 19 + np.float32(0.5))
        return np.hypot(_repeat(x + 11 * (row % 2), 22), y - 19 * row) - 5.5
    raise ValueError(f"no pattern {pattern!r}")


def _repeat(values: Field, period: float) -> Field:
    """Values moved by whole periods into [-period / 2, period / 2]; faster than a remainder."""
    return values - np.float32(period) * np.floor(values / np.float32(period) + np.float32(0.5))
