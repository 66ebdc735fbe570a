"""The reasons that the mini world's own model wrote, as they lie in the repository: packed into two files, unpacked.

`reasons/image.json` holds, of every validation image, what `python -m reason image` wrote about it, less the record of
the attempts, and once for all where it comes from; `reasons/generic.json` is a generic file as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maft.errors import UserError
from reason.files import write_text
from reason.jsonfile import JsonError, read_json
from reason.triplets import ImageTriplet, Reason, dump_generic, image_document, load_generic, load_image, parse_image

from .scenes import Scene, render_scene
from .world import VAL_CLASSES

FOLDER = Path(__file__).resolve().parent / "reasons"
WEIGHTS = Path(__file__).resolve().parent / "weights" / "lmm"
"""The model's folder."""
VAL_IMAGES = 120
"""How many images validation has."""
IMAGE_FILE, GENERIC_FILE = "image.json", "generic.json"

_BLOCK = 64
"""Pixels along a side of the squares whose mean colours an image is recognised by."""
_ROUNDING = 2
"""By how much of 255 these may differ where another processor or version has drawn it."""
_KEPT = ("reasoning", "image", "vocabulary", "description", "candidates")
_ANEW = "make them anew: bash eval_reason_base.sh mini --reason, then python -m tools.mini ship-reasons"


def pack(folder: Path, generic: Path, target: Path = FOLDER) -> Path:
    """Write what was made into the two files.

    Args:
        folder: of `python -m reason image`, all validation images.
        generic: of `python -m reason generic`.
        target: where the files go.

    Raises:
        UserError: an image or a class is missing, or images come from different runs.
    """
    images: dict[str, Any] = {}
    origins: list[dict[str, Any]] = []
    paths = sorted(folder.glob("val_*.json"))
    for path in paths:
        document = image_document(load_image(path))
        origins.append(document.get("provenance", {}))
        number = int(path.stem.removeprefix("val_"))
        scene = render_scene(number, "val")
        images[path.stem] = {
            "digest": scene_digest(scene),
            "colors": mean_colors(scene).tolist(),
            **{key: document[key] for key in _KEPT if key in document},
        }
    if list(images) != [f"val_{number:04d}" for number in range(VAL_IMAGES)]:
        raise UserError(
            f"{folder}: not every validation image has its file there; run bash eval_reason_base.sh mini --reason"
        )
    if len({origin.get("hash") for origin in origins}) != 1:
        raise UserError(f"{folder}: files of different runs; remove it and run bash eval_reason_base.sh mini --reason")
    reasons = load_generic(generic)
    missing = [entry.name for entry in VAL_CLASSES if entry.name not in reasons]
    if missing:
        raise UserError(f"{generic}: has no {missing[0]!r}; it must hold all {len(VAL_CLASSES)} classes of mini")
    provenance = {key: value for key, value in origins[0].items() if key != "time"} | {"weights": weights_digest()}
    rows = ",\n".join(f"{json.dumps(stem)}: {json.dumps(entry, ensure_ascii=False)}" for stem, entry in images.items())
    text = f'{{\n"provenance": {json.dumps(provenance, ensure_ascii=False)},\n"images": {{\n{rows}\n}}\n}}\n'
    write_text(target / IMAGE_FILE, text)
    dump_generic(reasons, target / GENERIC_FILE)
    return target


def shipped_images(path: Path = FOLDER / IMAGE_FILE) -> tuple[dict[str, Any], dict[str, ImageTriplet]]:
    """Where the shipped reasons come from, and the triplets by the stem of the image.

    Raises:
        UserError: missing or malformed.
    """
    try:
        document = read_json(path)
        entries = document["images"]
        triplets = {stem: parse_image(entry, where=f"{path}, {stem}") for stem, entry in entries.items()}
        return dict(document["provenance"]), triplets
    except (JsonError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); restore it, or {_ANEW}") from error


@cache
def shipped_generic() -> dict[str, Reason]:
    """The shipped generic reasons."""
    return load_generic(FOLDER / GENERIC_FILE)


def check_scene(stem: str, scene: Scene, triplet: ImageTriplet | None) -> ImageTriplet:
    """The shipped triplet of a scene, if it was written about this very scene.

    Raises:
        UserError: there is none, or it was written about another one.
    """
    if triplet is None:
        raise UserError(f"{FOLDER / IMAGE_FILE}: has no reasons for {stem}; {_ANEW}")
    colors, drawn = np.asarray(triplet.extra.get("colors", ())), mean_colors(scene)
    alike = colors.shape == drawn.shape and np.abs(colors - drawn).max() <= _ROUNDING
    if triplet.extra.get("digest") != scene_digest(scene) or not alike:
        raise UserError(f"{FOLDER / IMAGE_FILE}: {stem} was written about another image than is drawn now; {_ANEW}")
    return triplet


def weights_digest() -> str:
    """SHA-256 of the shipped model's weights."""
    return hashlib.sha256((WEIGHTS / "model.safetensors").read_bytes()).hexdigest()


def scene_digest(scene: Scene) -> str:
    """Hash of what is in a scene: its segments' classes and attributes, which no rounding changes."""
    content = [[segment.class_index, sorted(segment.attributes.items())] for segment in scene.segments]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def mean_colors(scene: Scene) -> NDArray[np.int64]:
    """(4 * 4 * 3,) int64 in [0, 255]: of squares of the image, the mean. Other drawing shows in it, rounding hardly."""
    side = scene.image.shape[0] // _BLOCK
    blocks = scene.image.reshape(side, _BLOCK, side, _BLOCK, 3).mean(axis=(1, 3))
    return np.rint(blocks).astype(np.int64).reshape(-1)


def differing(one: Mapping[str, ImageTriplet], other: Mapping[str, ImageTriplet]) -> list[str]:
    """The images whose description, candidates or reasons are not the same in both, by name."""

    def content(triplet: ImageTriplet | None) -> Any:
        return triplet and (triplet.reasons, triplet.extra.get("description"), triplet.extra.get("candidates"))

    return [stem for stem in sorted({*one, *other}) if content(one.get(stem)) != content(other.get(stem))]
