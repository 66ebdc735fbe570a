"""What kind of predictions a path holds: label maps, COCO panoptic JSON, or COCO instance results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maft.errors import UserError
from reason.jsonfile import JsonError, read_json


@dataclass(frozen=True)
class LabelMaps:
    """A folder of label maps, one per image."""

    folder: Path


@dataclass(frozen=True)
class PanopticJson:
    """COCO's panoptic format.

    Attributes:
        path: the JSON file.
        folder: where its PNG files are.
        annotations: one per image: "image_id", "file_name", "segments_info".
    """

    path: Path
    folder: Path
    annotations: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class InstanceResults:
    """COCO's format of instance results.

    Attributes:
        path: the JSON file.
        detections: "image_id", "category_id", "score", "segmentation" each.
    """

    path: Path
    detections: Sequence[Mapping[str, Any]]


Predictions = LabelMaps | PanopticJson | InstanceResults


def find_predictions(path: Path, folder: Path | None = None) -> Predictions:
    """Find out what `path` holds.

    Args:
        path: a folder of label maps, a panoptic JSON, or a JSON list of instance results.
        folder: of a panoptic JSON's PNG files; by default the folder beside it that is called like it, as COCO has it
            (panoptic_val2017.json, panoptic_val2017/).

    Raises:
        UserError: nothing is there, or the file is none of these.
    """
    if path.is_dir():
        return LabelMaps(path)
    if not path.is_file():
        raise UserError(f"--predictions {path}: no such file or folder")
    try:
        document = read_json(path)
    except JsonError as error:
        raise UserError(f"{path}: {error}; pass a folder of label maps, or COCO's panoptic or results JSON") from error
    if isinstance(document, list):
        _check_fields(path, document, ("image_id", "category_id", "score", "segmentation"))
        return InstanceResults(path, document)
    annotations = document.get("annotations") if isinstance(document, dict) else None
    if not isinstance(annotations, list):
        raise UserError(
            f"{path}: neither COCO panoptic JSON (an object with 'annotations') nor COCO results (a list of detections)"
        )
    _check_fields(path, annotations, ("image_id", "file_name", "segments_info"))
    for entry in annotations:
        if not isinstance(entry["segments_info"], list):
            raise UserError(f"{path}: image {entry['image_id']}: 'segments_info' is no list")
        _check_fields(path, entry["segments_info"], ("id", "category_id"))
    place = folder or path.with_suffix("")
    if not place.is_dir():
        raise UserError(f"{path}: its PNG files are not in {place}; name their folder with --folder")
    return PanopticJson(path, place, annotations)


def _check_fields(path: Path, entries: Sequence[Any], fields: Sequence[str]) -> None:
    for number, entry in enumerate(entries):
        lacking = [field for field in fields if not isinstance(entry, dict) or field not in entry]
        if lacking:
            raise UserError(f"{path}: entry {number} has no '{lacking[0]}'; it needs {', '.join(fields)}")
