"""From one image's output to a JSON-able record, and from all records to metrics.

Records hold counts only, so that they can be journalled, gathered from several processes and summed in any order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from numpy.typing import NDArray

from maft.class_maps import ClassMaps
from maft.data.mapper import exif_note
from maft.errors import UserError
from maft.evaluation.metrics import confusion_matrix, semantic_scores
from maft.evaluation.panoptic import CategoryCounts, GroundTruthError, Overlap, add_counts, panoptic_scores
from maft.files import (
    encode_label_map,
    encode_panoptic,
    encode_png,
    prediction_names,
    read_label_map,
    read_panoptic,
    write_bytes,
    write_text,
)

CANDIDATES_GIVEN = "sem_seg_candidates_given"
"""Subfolder of the label maps in which only the classes of the image's ground truth compete; TEST.SAVE_ORACLE."""


class Evaluator(Protocol):
    """What `maft.evaluation.loop.evaluate` asks of an evaluator."""

    @property
    def what(self) -> str:
        """A short description; results of another description are not mixed with these."""

    def process_one(self, input: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
        """One image's JSON-able record; `input` and `output` are detectron2's for one image."""

    def summarise(self, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Task name to metrics, from all records by image. Main rank only; may write files of the whole data set."""


class SemanticEvaluator:
    """Semantic segmentation against label maps; serves every data set whose records name a `sem_seg_file_name`."""

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path,
        save_predictions: bool = False,
        *,
        records: Sequence[Mapping[str, Any]] | None = None,
        save_oracle: bool = False,
    ) -> None:
        """
        Args:
            dataset_name: a registered data set; its metadata gives `stuff_classes`, which the model scores,
                `short_names` of those that count where they are called otherwise, `ignore_label`, and the index of
                `background` where the classes from there on count as one (`maft.data.specs.DatasetSpec`).
            output_dir: the folder of this data set's results; predictions go to its subfolder `sem_seg`.
            save_predictions: write every predicted label map, as a PNG of class indices (8 or 16 bit).
            records: those of the data set, where the caller has loaded them already.
            save_oracle: write predictions, and to the subfolder `CANDIDATES_GIVEN` what they would be if only the
                classes of the image's ground truth competed, by the same scores.

        Raises:
            UserError: the data set is empty, or an image has no label map.
        """
        metadata = MetadataCatalog.get(dataset_name)
        self._dataset_name = dataset_name
        self._class_names: list[str] = list(metadata.get("short_names", metadata.stuff_classes))
        self._asked_for: int = len(metadata.stuff_classes)
        self._background: int | None = metadata.get("background")
        self._ignore_label: int = metadata.ignore_label
        self._ignored_as_well: tuple[int, ...] = metadata.get("ignored_as_well", ())
        by_image = _records_by_image(dataset_name, records, "sem_seg_file_name")
        self._label_files = {image: record["sem_seg_file_name"] for image, record in by_image.items()}
        self._save_to = Path(output_dir) / "sem_seg" if save_predictions or save_oracle else None
        self._oracle_to = Path(output_dir) / CANDIDATES_GIVEN if save_oracle else None
        self._names = prediction_names(list(by_image))

    @property
    def what(self) -> str:
        """See `Evaluator`."""
        saved = " with predictions" if self._save_to else ""
        return f"sem_seg{saved}{' and oracle' if self._oracle_to else ''}"

    def process_one(self, input: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
        """Count one image's pixels.

        Args:
            input: has "file_name", the image as the data set names it.
            output: has "class_maps", a `ClassMaps` at the original size, or "sem_seg", float (C, H, W) scores; the
                largest counts.

        Returns:
            The non-zero cells of the confusion matrix: {"cells": row * C + column, "counts"}.

        Raises:
            UserError: no semantic output, another number of classes or another size than the data set's, or a label
                map that cannot be read.
        """
        image = input["file_name"]
        prediction = self.predicted_classes(image, output)
        if self._background is not None:
            prediction = np.minimum(prediction, self._background)
        label_file = self._label_files[image]
        num_classes = len(self._class_names)
        label = read_label_map(label_file, num_classes, self._ignore_label, self._ignored_as_well)
        _check_size(image, prediction, label_file, label)
        confusion = confusion_matrix(prediction, label, num_classes, self._ignore_label).ravel()
        if self._save_to:
            write_bytes(self._save_to / f"{self._names[image]}.png", encode_label_map(prediction))
        if self._oracle_to:
            given = _among_the_true(output, prediction, label, num_classes)
            write_bytes(self._oracle_to / f"{self._names[image]}.png", encode_label_map(given))
        cells = np.flatnonzero(confusion)
        return {"cells": cells.tolist(), "counts": confusion[cells].tolist()}

    def predicted_classes(self, image: str, output: Mapping[str, Any]) -> NDArray[np.integer]:
        """The class index of each pixel, (H, W), from the output for `image`; see `process_one`."""
        maps: ClassMaps | torch.Tensor | None = output.get("class_maps", output.get("sem_seg"))
        if maps is None:
            raise UserError(f"{image}: the model gives no semantic result; set MODEL.MASK_FORMER.TEST.SEMANTIC_ON True")
        if maps.shape[0] != self._asked_for:
            raise UserError(
                f"{image}: the model scores {maps.shape[0]} classes, {self._dataset_name} has "
                f"{self._asked_for}; evaluate with the data set's own vocabulary"
            )
        labels = maps.labels() if isinstance(maps, ClassMaps) else maps.argmax(dim=0)
        return labels.cpu().numpy()

    def summarise(self, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """{"sem_seg": `SemanticScores.as_dict`} from the records of all images.

        Raises:
            UserError: there is no record, or no annotated pixel in all of them.
        """
        _check_not_empty(self._dataset_name, records)
        size = len(self._class_names)
        total = np.zeros(size * size, dtype=np.int64)
        for record in records.values():
            total[record["cells"]] += np.asarray(record["counts"], dtype=np.int64)
        try:
            scores = semantic_scores(total.reshape(size, size))
        except ValueError as error:
            raise UserError(f"{self._dataset_name}: {error}; check its label maps") from error
        return {"sem_seg": scores.as_dict(self._class_names)}


class PanopticEvaluator:
    """Panoptic segmentation against COCO panoptic ground truth (PNG and list of segments)."""

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path,
        save_predictions: bool = False,
        *,
        records: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """
        Args:
            dataset_name: a registered data set. Its records have "pan_seg_file_name" and "segments_info" with class
                indices as "category_id"; its metadata has `short_names` (or `stuff_classes`), all classes, and the
                mappings `thing_dataset_id_to_contiguous_id`, `stuff_dataset_id_to_contiguous_id`.
            output_dir: the folder of this data set's results; predictions go to its subfolder `panoptic_seg`, and as
                a COCO panoptic JSON beside it.
            save_predictions: write every predicted panoptic map.
            records: those of the data set, where the caller has loaded them already.

        Raises:
            UserError: the data set is empty, or an image has no panoptic ground truth.
        """
        metadata = MetadataCatalog.get(dataset_name)
        self._dataset_name = dataset_name
        self._class_names: list[str] = list(metadata.get("short_names", metadata.stuff_classes))
        thing_ids: Mapping[int, int] = metadata.get("thing_dataset_id_to_contiguous_id", {})
        stuff_ids: Mapping[int, int] = metadata.get("stuff_dataset_id_to_contiguous_id", {})
        self._things = frozenset(thing_ids.values())
        self._dataset_ids = {index: dataset_id for dataset_id, index in {**stuff_ids, **thing_ids}.items()}
        self._records = _records_by_image(dataset_name, records, "pan_seg_file_name")
        self._output_dir = Path(output_dir)
        self._save_predictions = save_predictions
        self._names = prediction_names(list(self._records))

    @property
    def what(self) -> str:
        """See `Evaluator`."""
        return "panoptic_seg with predictions" if self._save_predictions else "panoptic_seg"

    def process_one(self, input: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
        """Match one image's segments.

        Args:
            input: has "file_name", the image as the data set names it.
            output: has "panoptic_seg": segment ids (H, W), 0 for none, and the list of segments ("id",
                "category_id" as class index).

        Returns:
            {"categories": {class index: [iou, matched, wrong, missed]}} as panopticapi counts; "by_pixels", the same by
            the pixels of the ground truth, where it differs (see `Overlap.counts`); and, where predictions are saved,
            "prediction": the image's annotation in COCO's panoptic format.

        Raises:
            UserError: no panoptic output, or ground truth that cannot be read, does not fit its list of segments, or
                has another size than the prediction.
        """
        image = input["file_name"]
        if "panoptic_seg" not in output:
            raise UserError(f"{image}: the model gives no panoptic result; set MODEL.MASK_FORMER.TEST.PANOPTIC_ON True")
        segment_ids, infos = output["panoptic_seg"]
        predicted = segment_ids.cpu().numpy()
        truth = self._records[image]
        truth_file = truth["pan_seg_file_name"]
        true = read_panoptic(truth_file)
        _check_size(image, predicted, truth_file, true)
        try:
            overlap = Overlap.of(predicted, infos, true, truth["segments_info"])
            counts, by_pixels = overlap.counts(), overlap.counts(by_pixels=True)
        except GroundTruthError as error:
            raise UserError(f"{truth_file}: {error}; prepare the data set again") from error
        record: dict[str, Any] = {"categories": _as_json(counts)}
        if by_pixels != counts:
            record["by_pixels"] = _as_json(by_pixels)
        if self._save_predictions:
            record["prediction"] = self._save(image, truth, predicted, infos)
        return record

    def _save(
        self, image: str, truth: Mapping[str, Any], predicted: NDArray[Any], infos: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        name = f"{self._names[image]}.png"
        path = self._output_dir / "panoptic_seg" / name
        write_bytes(path, encode_png(encode_panoptic(predicted)))
        segments = [
            {
                "id": int(info["id"]),
                "category_id": int(self._dataset_ids.get(info["category_id"], info["category_id"])),
                "area": int(np.count_nonzero(predicted == info["id"])),
            }
            for info in infos
        ]
        return {"image_id": truth.get("image_id", image), "file_name": name, "segments_info": segments}

    def summarise(self, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """{"panoptic_seg": `panoptic_scores`} from the records of all images; writes panoptic_seg.json if saving.

        The figures are panopticapi's. "by_pixels" stands beside them where counting pixels gives others: the same
        figures without "per_class", and "images", the number of images that differ.

        Raises:
            UserError: there is no record, or the JSON file cannot be written.
        """
        _check_not_empty(self._dataset_name, records)
        scores = panoptic_scores(_summed(records.values(), "categories"), self._class_names, self._things)
        if images := sum("by_pixels" in record for record in records.values()):
            counts = _summed(records.values(), "by_pixels")
            by_pixels = panoptic_scores(counts, self._class_names, self._things)
            scores["by_pixels"] = {part: by_pixels[part] for part in ("all", "things", "stuff")} | {"images": images}
        if self._save_predictions:
            document = {"annotations": [records[image]["prediction"] for image in sorted(records)]}
            write_text(self._output_dir / "panoptic_seg.json", json.dumps(document))
        return {"panoptic_seg": scores}


def _among_the_true(
    output: Mapping[str, Any], prediction: NDArray[np.integer], label: NDArray[np.integer], num_classes: int
) -> NDArray[np.integer]:
    """The (H, W) prediction if only the classes that occur in `label` competed; as it is where none does."""
    present = [index for index in np.unique(label).tolist() if 0 <= index < num_classes]
    others = ~np.isin(prediction, present)
    if not present or not others.any():
        return prediction
    maps: ClassMaps | torch.Tensor = output.get("class_maps", output.get("sem_seg"))
    scores = maps.scores(present) if isinstance(maps, ClassMaps) else maps[present]
    best = np.asarray(present, dtype=prediction.dtype)[scores.argmax(dim=0).cpu().numpy()]
    return np.where(others, best, prediction)


def _as_json(counts: Mapping[int, CategoryCounts]) -> dict[str, list[float]]:
    return {str(category): list(astuple(of)) for category, of in counts.items()}


def _summed(records: Iterable[Mapping[str, Any]], way: str) -> dict[int, CategoryCounts]:
    """The counts of all images; an image that has none of their own for `way` has those of panopticapi."""
    return add_counts(
        {int(category): CategoryCounts(*of) for category, of in record.get(way, record["categories"]).items()}
        for record in records
    )


class CombinedEvaluator:
    """Several evaluators of one data set fed by one pass of the model."""

    def __init__(self, evaluators: Sequence[Evaluator]) -> None:
        self._evaluators = tuple(evaluators)

    @property
    def what(self) -> str:
        """See `Evaluator`."""
        return ", ".join(evaluator.what for evaluator in self._evaluators)

    def process_one(self, input: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
        """The records of all evaluators, by their place."""
        return {str(place): each.process_one(input, output) for place, each in enumerate(self._evaluators)}

    def summarise(self, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The metrics of all evaluators."""
        metrics: dict[str, Any] = {}
        for place, evaluator in enumerate(self._evaluators):
            metrics |= evaluator.summarise({image: record[str(place)] for image, record in records.items()})
        return metrics


def _records_by_image(
    dataset_name: str, records: Sequence[Mapping[str, Any]] | None, needed: str
) -> dict[str, Mapping[str, Any]]:
    given = DatasetCatalog.get(dataset_name) if records is None else records
    by_image = {record["file_name"]: record for record in given}
    _check_not_empty(dataset_name, by_image)
    for image, record in by_image.items():
        if not record.get(needed):
            raise UserError(f"{image}: {dataset_name} names no ground truth for it ({needed}); prepare the data set")
    return by_image


def _check_not_empty(dataset_name: str, records: Mapping[str, Any]) -> None:
    if not records:
        raise UserError(f"{dataset_name}: there is no image to evaluate; check the data set's folder")


def _check_size(image: str, prediction: NDArray[Any], truth_file: str, truth: NDArray[Any]) -> None:
    if prediction.shape != truth.shape:
        (height, width), (true_height, true_width) = prediction.shape, truth.shape
        raise UserError(
            f"{truth_file}: is {true_width}x{true_height} pixels, its image {image} is {width}x{height}; "
            f"prepare the data set again{exif_note(image)}"
        )
