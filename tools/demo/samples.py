"""Images to begin with: drawn ones for the toy models, photographs for the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from maft.errors import UserError
from reason.triplets import load_image

from ..examples.photographs import load_photographs, open_photograph
from ..mini.scenes import render_scene
from ..mini.shipped_reasons import shipped_images
from .table import Row, to_rows

_SCENES = (18, 57, 19)


@dataclass(frozen=True)
class Sample:
    """An image with classes and reasons.

    image: its file.
    classes: one a line.
    rows: of the table.
    """

    image: Path
    classes: str
    rows: list[Row]


def samples(model: str, folder: Path) -> list[Sample]:
    """The samples for a model.

    Args:
        model: its name.
        folder: where the images are written.
    """
    return _drawn(folder) if model.endswith("mini") else _photographs(folder)


def _drawn(folder: Path) -> list[Sample]:
    """Scenes of the drawn world, and what its own model wrote about them."""
    (_, triplets), found = shipped_images(), []
    for number in _SCENES:
        scene = render_scene(number, "val")
        path = folder / f"scene-{number}.png"
        Image.fromarray(scene.image).save(path)
        reasons = triplets[f"val_{number:04d}"].reasons
        found.append(Sample(path, "\n".join(reasons), to_rows(reasons)))
    return found


def _photographs(folder: Path) -> list[Sample]:
    found = []
    for photograph in load_photographs():
        try:
            image = open_photograph(photograph)
        except UserError:  # the packages that ship them are an extra
            continue
        path = folder / f"{photograph.name}.png"
        image.save(path)
        reasons = load_image(photograph.reasons).reasons
        found.append(Sample(path, "\n".join(reasons), to_rows(reasons)))
    return found
