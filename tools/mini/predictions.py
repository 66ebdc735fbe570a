"""The maps that an evaluation saved, for the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maft.errors import UserError
from reason.jsonfile import JsonError, read_json
from tools.pictures import Maps, panoptic_maps


def read_prediction(folder: Path, task: str, stem: str, num_classes: int) -> Maps | str:
    """What an evaluation predicted for one image, or why there is nothing to show, as a sentence.

    Args:
        folder: of the data set's results, `OUTPUT_DIR/inference/<data set>`.
        task: "sem_seg": a map of class indices; "panoptic_seg": a COCO panoptic map, described in panoptic_seg.json.
        stem: the image's file name without suffix.
        num_classes: size of the vocabulary.
    """
    path = folder / task / f"{stem}.png"
    if not path.is_file():
        return "No prediction was saved: the evaluation did not reach this image, or did not save predictions."
    try:
        pixels = read_pixels(path)
        if task == "panoptic_seg":
            document = read_json(folder / "panoptic_seg.json")
            return panoptic_maps(decode_segments(pixels), segment_categories(document, path.name))
        if pixels.ndim != 2 or pixels.max() >= num_classes:
            return f"The prediction is no map of {num_classes} classes: {path.name}."
        return Maps(pixels, pixels)
    except (UserError, JsonError, OSError, ValueError) as error:
        return f"The prediction cannot be shown: {error}."


def read_pixels(path: Path) -> NDArray[np.int32]:
    """The pixels of an image file, as stored: (H, W) or (H, W, channels)."""
    with Image.open(path) as image:
        return np.asarray(image).astype(np.int32)


def decode_segments(pixels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Segment ids (H, W) from a COCO panoptic image (H, W, 3).

    Raises:
        ValueError: another shape.
    """
    if pixels.ndim != 3:
        raise ValueError("it is no colour image, as a panoptic map is")
    return pixels[..., :3] @ np.array([1, 256, 65536], dtype=np.int32)


def segment_categories(document: Any, file_name: str) -> dict[int, int]:
    """Segment id to category, of one image of a COCO panoptic document.

    Raises:
        ValueError: the document has no such image, or is no such document.
    """
    try:
        for annotation in document["annotations"]:
            if annotation["file_name"] == file_name:
                return {int(info["id"]): int(info["category_id"]) for info in annotation["segments_info"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"the list of segments is damaged ({error})") from error
    raise ValueError(f"the list of segments has no {file_name}")
