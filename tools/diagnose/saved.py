"""Saved predictions of a run beside the ground truth of its data set."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from numpy.typing import NDArray

from maft.errors import UserError
from maft.evaluation.evaluators import CANDIDATES_GIVEN
from maft.evaluation.metrics import unique_names
from maft.evaluation.results import results_folder
from maft.files import prediction_names, read_label_map

Labels = NDArray[np.int32]


@dataclass(frozen=True)
class Truth:
    """A data set's label maps.

    name: as it is registered.
    classes: one distinct name per class.
    ignore: the value of its label maps that does not count.
    records: in detectron2's form.
    """

    name: str
    classes: list[str]
    ignore: int
    records: list[Mapping[str, Any]]

    @classmethod
    def of(cls, dataset: str) -> Truth:
        """The label maps of a registered data set.

        Raises:
            UserError: it has none.
        """
        metadata = MetadataCatalog.get(dataset)
        records: list[Mapping[str, Any]] = DatasetCatalog.get(dataset)
        if not all(record.get("sem_seg_file_name") for record in records):
            raise UserError(f"--dataset {dataset}: has no label maps; diagnose compares label maps")
        classes = unique_names(metadata.get("short_names", metadata.stuff_classes))
        return cls(dataset, classes, metadata.ignore_label, records)

    def labels(self, record: Mapping[str, Any]) -> Labels:
        """(H, W) class indices of an image, `ignore` where nothing counts."""
        others = MetadataCatalog.get(self.name).get("ignored_as_well", ())
        return read_label_map(record["sem_seg_file_name"], len(self.classes), self.ignore, others)

    def predictions(
        self, run: Path, only: Collection[str] | None = None
    ) -> Iterator[tuple[Mapping[str, Any], Labels, Labels]]:
        """Record, prediction and ground truth of every image, each map (H, W).

        Args:
            run: OUTPUT_DIR of the evaluation that saved its predictions.
            only: the files of the images that are wanted; None for all.

        Raises:
            UserError: predictions are missing, or have another size or other classes.
        """
        folder = results_folder(run, self.name) / "sem_seg"
        if not folder.is_dir():
            raise UserError(f"{folder}: no saved predictions; evaluate with TEST.SAVE_PREDICTIONS True")
        names = prediction_names([record["file_name"] for record in self.records])
        for record in self.records:
            if only is not None and record["file_name"] not in only:
                continue
            path = folder / f"{names[record['file_name']]}.png"
            predicted, label = read_label_map(path, len(self.classes), -1), self.labels(record)
            if predicted.shape != label.shape:
                raise UserError(f"{path}: has another size than {record['sem_seg_file_name']}; predict at that size")
            yield record, predicted, label

    def candidates_given(self, run: Path) -> list[Path] | None:
        """The label maps in which only the true classes of each image compete, in the order of the records.

        Args:
            run: OUTPUT_DIR of the evaluation.

        Returns:
            None where the run has saved none.
        """
        folder = results_folder(run, self.name) / CANDIDATES_GIVEN
        names = prediction_names([record["file_name"] for record in self.records])
        return [folder / f"{names[record['file_name']]}.png" for record in self.records] if folder.is_dir() else None

    def read_given(self, path: Path, label: Labels) -> Labels:
        """(H, W) class indices of such a map.

        Raises:
            UserError: it is missing, or has another size or other classes.
        """
        given = read_label_map(path, len(self.classes), -1)
        if given.shape != label.shape:
            raise UserError(
                f"{path}: has another size than its ground truth; evaluate again with TEST.SAVE_ORACLE True"
            )
        return given
