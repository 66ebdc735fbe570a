"""From a record to the model's input in training: image, augmentation, one mask a class or a segment.

Four mappers, by the names of INPUT.DATASET_MAPPER_NAME: what the masks are (classes of a label map, or segments of
panoptic annotations) times how the image is changed (resize, crop, colour, flip; or large-scale jitter).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from numpy.typing import NDArray

from maft.data import augment
from maft.data.augment import Sample
from maft.data.mapper import MAPPERS, InferenceMapper, Masks, exif_note
from maft.errors import UserError
from maft.files import read_label_map, read_panoptic

Record = Mapping[str, Any]

NO_SEGMENT = 0
"""What panoptic PNG files hold where there is no segment."""


@dataclass(frozen=True)
class EdgeCropColour:
    """The augmentation of the mask_former mappers.

    Attributes:
        lengths: of the shorter side in pixels (INPUT.MIN_SIZE_TRAIN).
        longest: of the longer side in pixels (INPUT.MAX_SIZE_TRAIN).
        style: "choice" or "range" (INPUT.MIN_SIZE_TRAIN_SAMPLING).
        crop: type and amount (INPUT.CROP), or None.
        largest_share: INPUT.CROP.SINGLE_CATEGORY_MAX_AREA.
        colour: INPUT.COLOR_AUG_SSD.
        flip: INPUT.RANDOM_FLIP.
        divisibility: sides are padded to a multiple of this many pixels (INPUT.SIZE_DIVISIBILITY); not, if < 1.
    """

    lengths: tuple[int, ...]
    longest: int
    style: Literal["choice", "range"]
    crop: tuple[augment.CropType, tuple[float, float]] | None
    largest_share: float
    colour: bool
    flip: augment.Flip
    divisibility: int

    @property
    def one_size(self) -> bool:
        """Whether all images come out alike in size."""
        return self.crop is not None and self.crop[0] == "absolute" and self.divisibility > 0

    def __call__(self, sample: Sample, rng: np.random.Generator, class_of: Callable[[Sample], Any]) -> Sample:
        """Change an image; `class_of` gives the (H, W) class map of a sample, with -1 where there is none."""
        sample = augment.random_shortest_edge(sample, rng, self.lengths, self.longest, self.style)
        if self.crop is not None:
            classes = class_of(sample) if self.largest_share < 1.0 else None
            sample = augment.random_crop(sample, rng, *self.crop, largest_share=self.largest_share, classes=classes)
        if self.colour:
            sample = augment.random_colour(sample, rng)
        sample = augment.random_flip(sample, rng, self.flip)
        if self.divisibility > 0:
            height, width = (-(-side // self.divisibility) * self.divisibility for side in sample.size)
            sample = augment.pad(sample, height, width)
        return sample


@dataclass(frozen=True)
class Jitter:
    """The augmentation of the large-scale-jitter mappers: INPUT.IMAGE_SIZE, MIN_SCALE, MAX_SCALE, RANDOM_FLIP."""

    side: int
    lowest: float
    highest: float
    flip: augment.Flip
    one_size = True

    def __call__(self, sample: Sample, rng: np.random.Generator, class_of: Callable[[Sample], Any]) -> Sample:
        """Change an image."""
        sample = augment.random_flip(sample, rng, self.flip)
        return augment.large_scale_jitter(sample, rng, self.side, self.lowest, self.highest)


class TrainingMapper:
    """Read image and annotation of a record, change both alike, and make masks of the annotation.

    Args:
        masks: "classes": one mask a class of the label map; "segments": one a segment that is no crowd.
        augmentation: what happens to the image.
        image_format: channel order (INPUT.FORMAT).
    """

    def __init__(self, *, masks: Masks, augmentation: EdgeCropColour | Jitter, image_format: str = "RGB") -> None:
        self.masks, self.augmentation = masks, augmentation
        self.reader = InferenceMapper(short_edge=0, image_format=image_format)

    @classmethod
    def from_config(cls, cfg: Any) -> TrainingMapper:
        """The mapper that a configuration's INPUT section describes.

        Raises:
            UserError: no such mapper, or values that do not fit it.
        """
        given = cfg.INPUT
        if given.DATASET_MAPPER_NAME not in MAPPERS:
            raise UserError(
                f"INPUT.DATASET_MAPPER_NAME: '{given.DATASET_MAPPER_NAME}' is not one of {', '.join(MAPPERS)}"
            )
        for key, value, choices in (
            ("RANDOM_FLIP", given.RANDOM_FLIP, ("none", "horizontal", "vertical")),
            ("MIN_SIZE_TRAIN_SAMPLING", given.MIN_SIZE_TRAIN_SAMPLING, ("choice", "range")),
            ("CROP.TYPE", given.CROP.TYPE, ("relative", "relative_range", "absolute", "absolute_range")),
        ):
            if value not in choices:
                raise UserError(f"INPUT.{key}: '{value}' is not one of {', '.join(choices)}")
        masks, jitter = MAPPERS[given.DATASET_MAPPER_NAME]
        augmentation = _jitter(given) if jitter else _edge_crop_colour(given)
        return cls(masks=masks, augmentation=augmentation, image_format=given.FORMAT)

    @property
    def one_size(self) -> bool:
        """Whether all images come out alike in size, so that any of them go into one batch without padding."""
        return self.augmentation.one_size

    def __call__(self, record: Record, rng: np.random.Generator) -> dict[str, Any]:
        """The model's input for one record.

        Args:
            record: with `file_name`, `meta`, and `sem_seg_file_name` or `pan_seg_file_name` and `segments_info`. It is
                not changed.
            rng: all randomness comes from here.

        Returns:
            `image` uint8 (3, H, W); `height` and `width` of the image as it lies on disk; `file_name`; `meta`;
            `instances` with `gt_classes` int64 (N,) and `gt_masks` bool (N, H, W), none of them empty. N may be 0.

        Raises:
            UserError: a file is missing, cut off or no image, or image and annotation differ in size.
        """
        image = self.reader.read(record["file_name"])
        if self.masks == "classes":
            labels, void = _class_map(record)
            class_of = partial(_plain_classes, void=void)
        else:
            labels, void = _segment_map(record), NO_SEGMENT
            class_of = partial(_segment_classes, segments=record["segments_info"])
        if image.shape[:2] != labels.shape:
            raise UserError(
                f"{record['file_name']}: has {image.shape[0]} x {image.shape[1]} pixels, its annotation "
                f"{labels.shape[0]} x {labels.shape[1]}; image and annotation do not belong together"
                + exif_note(record["file_name"])
            )
        sample = self.augmentation(Sample(image, labels, void), rng, class_of)
        values, classes = _present(sample, None if self.masks == "classes" else record["segments_info"])
        instances = Instances(sample.size)
        instances.gt_classes = torch.from_numpy(classes)
        # A mirrored array lies backwards in memory, and so would the masks.
        instances.gt_masks = torch.from_numpy(np.ascontiguousarray(sample.labels) == values[:, None, None])
        return {
            "image": torch.from_numpy(np.array(sample.image.transpose(2, 0, 1), order="C")),
            "height": image.shape[0],
            "width": image.shape[1],
            "file_name": record["file_name"],
            "meta": record["meta"],
            "instances": instances,
        }


def _jitter(given: Any) -> Jitter:
    if given.IMAGE_SIZE < 1 or not 0 < given.MIN_SCALE <= given.MAX_SCALE:
        raise UserError(
            f"INPUT.IMAGE_SIZE {given.IMAGE_SIZE}, MIN_SCALE {given.MIN_SCALE}, MAX_SCALE {given.MAX_SCALE}: a side in "
            "pixels and a range of scales above 0; the published ones are 1024, 0.1 and 2.0"
        )
    return Jitter(given.IMAGE_SIZE, given.MIN_SCALE, given.MAX_SCALE, given.RANDOM_FLIP)


def _edge_crop_colour(given: Any) -> EdgeCropColour:
    lengths = given.MIN_SIZE_TRAIN
    lengths = (lengths,) * 2 if isinstance(lengths, int) else tuple(lengths)
    if given.MIN_SIZE_TRAIN_SAMPLING == "range" and len(lengths) != 2:
        raise UserError(
            f"INPUT.MIN_SIZE_TRAIN: {lengths}; with MIN_SIZE_TRAIN_SAMPLING 'range' it is (lowest, highest)"
        )
    if not lengths or min(lengths) < 0:
        raise UserError(f"INPUT.MIN_SIZE_TRAIN: {lengths}; lengths of the shorter side in pixels, such as (640, 800)")
    crop = (given.CROP.TYPE, (given.CROP.SIZE[0], given.CROP.SIZE[1])) if given.CROP.ENABLED else None
    return EdgeCropColour(
        lengths,
        given.MAX_SIZE_TRAIN,
        given.MIN_SIZE_TRAIN_SAMPLING,
        crop,
        given.CROP.SINGLE_CATEGORY_MAX_AREA,
        given.COLOR_AUG_SSD,
        given.RANDOM_FLIP,
        given.SIZE_DIVISIBILITY,
    )


def _class_map(record: Record) -> tuple[augment.Labels, int]:
    metadata = MetadataCatalog.get(record["meta"]["dataname"])
    if "sem_seg_file_name" not in record:
        raise UserError(
            f"data set {record['meta']['dataname']}: has no label maps; name another in DATASETS.TRAIN, or a panoptic "
            "mapper in INPUT.DATASET_MAPPER_NAME"
        )
    void = metadata.ignore_label
    others = metadata.get("ignored_as_well", ())
    return read_label_map(record["sem_seg_file_name"], len(metadata.stuff_classes), void, others), void


def _segment_map(record: Record) -> augment.Labels:
    if "pan_seg_file_name" not in record:
        raise UserError(
            f"data set {record['meta']['dataname']}: has no panoptic annotations; name another in DATASETS.TRAIN, or "
            "mask_former_semantic in INPUT.DATASET_MAPPER_NAME"
        )
    return read_panoptic(record["pan_seg_file_name"])


def _plain_classes(sample: Sample, void: int) -> augment.Labels:
    return np.where(sample.labels == void, -1, sample.labels)


def _segment_classes(sample: Sample, segments: Sequence[Mapping[str, Any]]) -> augment.Labels:
    classes = np.full(sample.size, -1, dtype=np.int32)
    for segment in segments:
        classes[sample.labels == segment["id"]] = segment["category_id"]
    return classes


def _present(
    sample: Sample, segments: Sequence[Mapping[str, Any]] | None
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The values of the masks that have a pixel left, and their classes.

    The published code keeps segments that a crop has lost, as empty masks; there is nothing to learn from them. Nor is
    there from an id that two classes share (`maft.data.records.SHARED_IDS`).
    """
    if segments is None:
        found = np.flatnonzero(np.bincount(sample.labels.ravel()))
        values = found[found != sample.void]
        return values.astype(np.int32), values.astype(np.int64)
    there = set(np.unique(sample.labels).tolist())
    kept = [
        (segment["id"], segment["category_id"])
        for segment in segments
        if segment["id"] in there and segment.get("iscrowd", 0) != 1 and not segment.get("shared")
    ]
    pairs = np.array(kept, dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0].astype(np.int32), pairs[:, 1]
