"""Instance segmentation against COCO ground truth: average precision of masks, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
from detectron2.data import MetadataCatalog
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maft.errors import UserError
from maft.evaluation.metrics import APS, unique_names
from maft.files import write_text


class InstanceEvaluator:
    """COCO AP of masks; see `maft.evaluation.evaluators.Evaluator`."""

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path,
        save_predictions: bool = False,
        *,
        records: Sequence[Mapping[str, Any]],
    ) -> None:
        """
        Args:
            dataset_name: a registered and loaded data set of instances: its metadata has `json_file`, `short_names` and
                `thing_dataset_id_to_contiguous_id`.
            output_dir: the folder of this data set's results; predictions go to `instances.json` in it.
            save_predictions: write every detection, in COCO's format of results.
            records: of the data set, with "image_id".
        """
        metadata = MetadataCatalog.get(dataset_name)
        self._dataset_name, self._json_file = dataset_name, Path(metadata.json_file)
        self._class_names: list[str] = list(metadata.short_names)
        self._dataset_ids = {index: id_ for id_, index in metadata.thing_dataset_id_to_contiguous_id.items()}
        self._image_ids = {record["file_name"]: record["image_id"] for record in records}
        self._save_to = Path(output_dir) / "instances.json" if save_predictions else None

    @property
    def what(self) -> str:
        """A short description; results of another description are not mixed with these."""
        return "instances with predictions" if self._save_to else "instances"

    def process_one(self, input: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
        """One image's detections.

        Args:
            input: has "file_name", the image as the data set names it.
            output: has "instances" with `pred_masks` bool (N, H, W), `scores` (N,) and `pred_classes` (N,).

        Returns:
            {"detections": in COCO's format of results}.

        Raises:
            UserError: no instances in the output.
        """
        if "instances" not in output:
            raise UserError(
                f"{input['file_name']}: the model gives no instances; set MODEL.MASK_FORMER.TEST.INSTANCE_ON True"
            )
        found = output["instances"]
        masks = found.pred_masks.cpu().numpy().astype(np.uint8)
        columns = zip(masks, found.scores.tolist(), found.pred_classes.tolist(), strict=True)
        return {
            "detections": [
                {"category_id": self._dataset_ids[index], "score": score, "segmentation": _run_lengths(mask)}
                for mask, score, index in columns
            ]
        }

    def summarise(self, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """{"instances": AP in percent of all classes and per class, None where a class has no object}.

        Raises:
            UserError: the annotation file cannot be used, or the predictions not be written.
        """
        detections = [
            {"image_id": self._image_ids[image], **detection}
            for image, record in records.items()
            for detection in record["detections"]
        ]
        if self._save_to:
            write_text(self._save_to, json.dumps(detections))
        kept = {self._image_ids[image] for image in records}
        truth = _ground_truth(self._json_file, kept, sorted(self._dataset_ids.values()))
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
            found = truth.loadRes(detections) if detections else _coco([], [], [])
            evaluation = COCOeval(truth, found, "segm")
            evaluation.params.imgIds = sorted(kept)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return {"instances": self._scores(evaluation, truth)}

    def _scores(self, evaluation: COCOeval, truth: COCO) -> dict[str, Any]:
        """The figures of an accumulated evaluation; its precision is (IoU, recall, class, size of mask, detections)."""
        precision = evaluation.eval["precision"][:, :, :, 0, -1]
        place = {category: number for number, category in enumerate(evaluation.params.catIds)}
        per_class, occurring = {}, 0
        for index, name in enumerate(unique_names(self._class_names)):
            category = self._dataset_ids[index]
            values = precision[:, :, place[category]]
            objects = sum(not entry["iscrowd"] for entry in truth.loadAnns(truth.getAnnIds(catIds=[category])))
            per_class[name] = {"AP": _percent(values.mean() if (values > -1).all() else -1), "objects": objects}
            occurring += objects > 0
        scores = {name: _percent(value) for name, value in zip(APS, evaluation.stats[:6], strict=True)}
        return {**scores, "classes": occurring, "per_class": per_class}


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    runs = pycocotools.mask.encode(np.asfortranarray(mask))
    return {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode("ascii")}


def _percent(value: float) -> float | None:
    return None if value < 0 else float(100 * value)


def _ground_truth(path: Path, image_ids: set[Any], categories: Sequence[int]) -> COCO:
    """The annotations of these images; numbered anew, since pycocotools takes a match with number 0 for none.

    Raises:
        UserError: the file cannot be read, or an annotation lacks a field.
    """
    try:
        document = json.loads(path.read_bytes())
        images = [entry for entry in document["images"] if entry["id"] in image_ids]
        sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in images}
        annotations: list[dict[str, Any]] = []
        for entry in document["annotations"]:
            if entry["image_id"] in image_ids and entry["category_id"] in categories:
                annotations.append({"iscrowd": 0, **entry, "id": len(annotations) + 1})
                if "area" not in entry:
                    annotations[-1]["area"] = _area(entry["segmentation"], sizes[entry["image_id"]])
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a COCO file of instances ({error!r}); prepare or copy it again") from error
    return _coco(images, annotations, categories)


def _coco(images: list[Any], annotations: list[Any], categories: Sequence[int]) -> COCO:
    coco = COCO()
    coco.dataset = {"images": images, "annotations": annotations, "categories": [{"id": id_} for id_ in categories]}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _area(segmentation: Any, size: tuple[int, int]) -> float:
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        return float(pycocotools.mask.area(segmentation))
    runs = pycocotools.mask.frPyObjects(segmentation, *size)
    return float(pycocotools.mask.area(pycocotools.mask.merge(runs) if isinstance(runs, list) else runs))
