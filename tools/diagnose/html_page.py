"""The diagnosis as one HTML page that needs no other file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maft.files import write_text
from reason.imagefile import ImageFileError, read_rgb
from reason.pages import data_uri, render
from reason.triplets import find_image_file, load_image

from .saved import Truth

_HERE = Path(__file__).resolve().parent
_CONFUSIONS, _ATTRIBUTES, _SIDE = 8, 12, 320
_WRONG = np.array((230, 40, 40), dtype=np.float32)


def write_page(report: Mapping[str, Any], truth: Truth, path: Path, reasons: Path | None) -> None:
    """Write the page.

    Args:
        report: of `tools.diagnose`; the images are those of its last run.
        truth: the data set.
        path: the HTML file.
        reasons: folder of the images' reasons, or None.

    Raises:
        UserError: a prediction cannot be read, or the page cannot be written.
    """
    run = report["runs"][-1]
    shown = run["confusions"][:_CONFUSIONS]
    wanted = {file for entry in shown for file in entry["images"]}
    maps = {
        record["file_name"]: (predicted, label)
        for record, predicted, label in truth.predictions(Path(run["run"]), wanted)
    }
    number = {name: index for index, name in enumerate(truth.classes)}
    confusions = [
        {
            **entry,
            "images": [
                {
                    "name": Path(file).stem,
                    "source": _marked(file, *maps[file], number[entry["predicted"]], number[entry["true"]]),
                    "reasons": _reasons(reasons, file, (entry["true"], entry["predicted"])),
                }
                for file in entry["images"]
            ],
        }
        for entry in shown
    ]
    attributes = report.get("attributes") or []
    page = render(
        "diagnosis.html",
        folder=_HERE,
        title=f"Where mIoU is lost: {truth.name}",
        report=report,
        confusions=confusions,
        helpful=[row for row in attributes[:_ATTRIBUTES] if row["points"] > 0],
        misleading=[row for row in reversed(attributes[-_ATTRIBUTES:]) if row["points"] < 0],
    )
    write_text(path, page)


def _marked(file: str, predicted: NDArray[np.int32], label: NDArray[np.int32], row: int, column: int) -> str:
    """The image in grey with the confused pixels in red, as an address; "" where the image cannot be read."""
    try:
        pixels = read_rgb(file, obey_exif=False)
    except ImageFileError:
        return ""
    grey = pixels.mean(axis=2, keepdims=True).repeat(3, axis=2) * 0.6 + 90
    inside = (predicted == row) & (label == column)
    if inside.shape == grey.shape[:2]:
        grey[inside] = 0.4 * pixels[inside] + 0.6 * _WRONG
    image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    image.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=85)
    return data_uri(stream.getvalue(), "image/jpeg")


def _reasons(folder: Path | None, file: str, classes: tuple[str, str]) -> list[str]:
    """What the image's reasons say of the classes concerned."""
    path = None if folder is None else find_image_file([folder], file)
    if path is None:
        return []
    wanted = [{part.strip() for part in name.split(",")} for name in classes]
    return [
        f"{reason.name}: {', '.join(reason.attributes)}"
        for reason in load_image(path).reasons.values()
        if any(names & {part.strip() for part in reason.name.split(",")} for names in wanted)
    ]
