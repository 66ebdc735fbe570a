"""Predictions of any origin through the evaluators of `maft.evaluation`, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from numpy.typing import NDArray

from maft.errors import UserError
from maft.evaluation.evaluators import PanopticEvaluator, SemanticEvaluator
from maft.evaluation.instances import InstanceEvaluator
from maft.files import prediction_names, read_panoptic
from reason.bars import Bar
from reason.imagefile import ImageFileError, opened

from .kinds import InstanceResults, LabelMaps, PanopticJson, Predictions

LABEL_SUFFIXES = (".png", ".tif", ".tiff")
_SHOWN = 3

Records = Sequence[Mapping[str, Any]]


def score(
    predictions: Predictions, dataset: str, records: Records, output_dir: Path, *, first_class: int = 0
) -> dict[str, Any]:
    """Score predictions against a data set, and save them as an evaluation of this project would.

    Args:
        predictions: what `find_predictions` found.
        dataset: a registered data set.
        records: of its images.
        output_dir: the folder of this data set's results.
        first_class: the value that stands for the first class in label maps.

    Returns:
        Task to metrics; see the evaluators.

    Raises:
        UserError: an image has no prediction, one of another size or one outside the vocabulary; the data set has no
            ground truth of this kind; or a file cannot be read or written.
    """
    if isinstance(predictions, LabelMaps):
        return _label_maps(predictions, dataset, records, output_dir, first_class)
    if isinstance(predictions, PanopticJson):
        return _panoptic(predictions, dataset, records, output_dir)
    return _instances(predictions, dataset, records, output_dir)


class _LabelMapEvaluator(SemanticEvaluator):
    """Takes class indices instead of scores: "classes", integers (H, W)."""

    def predicted_classes(self, image: str, output: Mapping[str, Any]) -> NDArray[np.integer]:
        """See `SemanticEvaluator`."""
        classes: NDArray[np.integer] = output["classes"]
        return classes


def _label_maps(
    predictions: LabelMaps, dataset: str, records: Records, output_dir: Path, first_class: int
) -> dict[str, Any]:
    evaluator = _LabelMapEvaluator(dataset, output_dir, True, records=records)
    files = _label_files(predictions.folder, [record["file_name"] for record in records])
    size = len(MetadataCatalog.get(dataset).stuff_classes)
    found = {}
    for record in Bar(records, desc="images", unit="image"):
        image = record["file_name"]
        classes = _read_classes(files[image], size, first_class)
        found[image] = evaluator.process_one({"file_name": image}, {"classes": classes})
    return evaluator.summarise(found)


def _label_files(folder: Path, images: Sequence[str]) -> dict[str, Path]:
    """Image to its label map: the same path below the folder but for the suffix, or the same bare file name.

    Raises:
        UserError: an image has none, or two that it could be.
    """
    by_path: dict[str, list[Path]] = {}
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in LABEL_SUFFIXES:
            by_path.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
            by_stem.setdefault(path.stem, []).append(path)
    names = prediction_names(images)
    candidates = {image: by_path.get(names[image]) or by_stem.get(Path(image).stem, []) for image in images}
    missing = [image for image, paths in candidates.items() if not paths]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {len(images)} images have no label map, such as "
            f"{', '.join(names[image] + '.png' for image in missing[:_SHOWN])}"
        )
    for image, paths in candidates.items():
        if len(paths) > 1:
            raise UserError(f"{folder}: {paths[0]} and {paths[1]} could both be of {image}; keep one")
    chosen = {image: paths[0] for image, paths in candidates.items()}
    owners: dict[Path, str] = {}
    for image, path in chosen.items():
        if path in owners:
            raise UserError(f"{path}: could be of {owners[path]} or {image}; give it the path of its image")
        owners[path] = image
    return chosen


def _read_classes(path: Path, num_classes: int, first_class: int) -> NDArray[np.int64]:
    try:
        with opened(path) as image:
            values, mode = np.asarray(image), image.mode
    except ImageFileError as error:
        raise UserError(f"{path}: not readable as a label map ({str(error).removeprefix(f'{path}: ')})") from error
    if values.ndim != 2 or values.dtype.kind not in "uib":
        raise UserError(f"{path}: has mode {mode}; a label map has one channel of integers, the class of each pixel")
    classes = values.astype(np.int64) - first_class
    outside = (classes < 0) | (classes >= num_classes)
    if outside.any():
        hint = "; --first-class 1 counts classes from 1" if first_class == 0 else ""
        raise UserError(
            f"{path}: holds {int(values[outside][0])}, the classes are {first_class} to "
            f"{num_classes - 1 + first_class}; every pixel needs a class{hint}"
        )
    return classes


def _panoptic(predictions: PanopticJson, dataset: str, records: Records, output_dir: Path) -> dict[str, Any]:
    evaluator = PanopticEvaluator(dataset, output_dir, True, records=records)
    metadata = MetadataCatalog.get(dataset)
    index_of = {
        **metadata.get("stuff_dataset_id_to_contiguous_id", {}),
        **metadata.get("thing_dataset_id_to_contiguous_id", {}),
    }
    by_id = _by_image(predictions, records)
    found = {}
    for record in Bar(records, desc="images", unit="image"):
        entry = by_id[str(record.get("image_id", record["file_name"]))]
        path = predictions.folder / entry["file_name"]
        segment_ids = read_panoptic(path)
        infos = []
        for info in entry["segments_info"]:
            if info["category_id"] not in index_of:
                raise UserError(f"{predictions.path}: {path.name}: {dataset} has no category {info['category_id']}")
            infos.append({**info, "category_id": index_of[info["category_id"]]})
        _check_segments(path, segment_ids, infos)
        output = {"panoptic_seg": (torch.from_numpy(segment_ids), infos)}
        found[record["file_name"]] = evaluator.process_one({"file_name": record["file_name"]}, output)
    return evaluator.summarise(found)


def _by_image(predictions: PanopticJson, records: Records) -> dict[str, Mapping[str, Any]]:
    """Image id, as text, to its annotation: programs write ids now as numbers, now as texts."""
    by_id: dict[str, Mapping[str, Any]] = {}
    for entry in predictions.annotations:
        if str(entry["image_id"]) in by_id:
            raise UserError(f"{predictions.path}: lists image {entry['image_id']} twice")
        by_id[str(entry["image_id"])] = entry
    missing = [key for record in records if (key := str(record.get("image_id", record["file_name"]))) not in by_id]
    if missing:
        raise UserError(
            f"{predictions.path}: {len(missing)} of {len(records)} images of the data set are missing, such as image "
            f"{', '.join(missing[:_SHOWN])}"
        )
    return by_id


def _check_segments(path: Path, segment_ids: NDArray[np.int32], infos: Sequence[Mapping[str, Any]]) -> None:
    """What panopticapi refuses, too: segments of the map and of the list that are not the same."""
    drawn, listed = set(np.unique(segment_ids).tolist()) - {0}, {info["id"] for info in infos}
    if 0 in listed:
        raise UserError(f"{path}: segment 0 is listed; 0 stands for pixels of no segment")
    if drawn != listed:
        one = min(drawn ^ listed)
        where = "drawn but not listed" if one in drawn else "listed but has no pixel"
        raise UserError(f"{path}: segment {one} is {where}; map and segments_info do not belong together")


def _instances(predictions: InstanceResults, dataset: str, records: Records, output_dir: Path) -> dict[str, Any]:
    metadata = MetadataCatalog.get(dataset)
    if not metadata.get("json_file") or not all("image_id" in record for record in records):
        raise UserError(f"--dataset {dataset}: has no COCO instance annotations to score {predictions.path} against")
    evaluator = InstanceEvaluator(dataset, output_dir, True, records=records)
    of_image: dict[Any, list[Mapping[str, Any]]] = {record["image_id"]: [] for record in records}
    categories = set(metadata.thing_dataset_id_to_contiguous_id)
    for number, detection in enumerate(predictions.detections):
        if detection["image_id"] not in of_image:
            raise UserError(f"{predictions.path}: entry {number}: {dataset} has no image {detection['image_id']}")
        if detection["category_id"] not in categories:
            raise UserError(f"{predictions.path}: entry {number}: {dataset} has no category {detection['category_id']}")
        of_image[detection["image_id"]].append(detection)
    return evaluator.summarise(
        {record["file_name"]: {"detections": of_image[record["image_id"]]} for record in records}
    )
