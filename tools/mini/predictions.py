"""The maps of the drawn world and those that an evaluation saved, for the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maft.drawing import Maps, panoptic_maps
from maft.errors import UserError
from maft.files import read_label_map, read_panoptic
from reason.jsonfile import JsonError, read_json

from .scenes import IGNORE_LABEL


def read_classes(folder: Path, stem: str, num_classes: int) -> Maps:
    """The class map that an evaluation saved of one image, `<folder>/sem_seg/<stem>.png`.

    Args:
        folder: of the data set's results, `OUTPUT_DIR/inference/<data set>`.
        stem: the image's file name without suffix.
        num_classes: size of the vocabulary.

    Raises:
        UserError: none was saved, or it is no map of these classes.
    """
    path = folder / "sem_seg" / f"{stem}.png"
    if not path.is_file():
        raise UserError(f"{path}: no prediction was saved; run bash eval_reason_base.sh mini again")
    classes = read_label_map(path, num_classes, IGNORE_LABEL)
    return Maps(classes, classes)


def read_segments(png: Path, document: Any) -> Maps:
    """The segments of one image: a COCO panoptic PNG, described in the document.

    Raises:
        UserError: the file is missing or damaged, or the document does not describe it.
    """
    try:
        infos = next(entry["segments_info"] for entry in document["annotations"] if entry["file_name"] == png.name)
        categories = {int(info["id"]): int(info["category_id"]) for info in infos}
    except (KeyError, TypeError, StopIteration) as error:
        raise UserError(f"{png}: the list of segments is damaged or has no {png.name}; evaluate again") from error
    return panoptic_maps(read_panoptic(png), categories)


def read_predicted_segments(folder: Path, stem: str) -> Maps:
    """The segments that an evaluation saved of one image, `<folder>/panoptic_seg/<stem>.png`.

    Raises:
        UserError: none were saved, or the files are damaged.
    """
    description = folder / "panoptic_seg.json"
    try:
        document = read_json(description)
    except JsonError as error:
        raise UserError(f"{description}: {error}") from error
    return read_segments(folder / "panoptic_seg" / f"{stem}.png", document)
