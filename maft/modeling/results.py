"""Which results a network makes of an image, and what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from torch import Tensor

from maft import inference
from maft.class_maps import ClassMaps


@dataclass(frozen=True)
class ResultOptions:
    """Which results to make, and how.

    semantic, panoptic, instances: which ones.
    resize_masks_first: resize masks to the result's size, not class maps (panoptic and instances always do).
    object_mask_threshold, overlap_threshold: see `inference.panoptic_segments`.
    detections: instances looked at, at most.
    """

    semantic: bool = True
    panoptic: bool = False
    instances: bool = False
    resize_masks_first: bool = False
    object_mask_threshold: float = 0.2
    overlap_threshold: float = 0.7
    detections: int = 100


class Results(TypedDict, total=False):
    """Results of one image, those that `ResultOptions` asks for.

    class_maps: the scores of all classes at all pixels, computed as far as asked for.
    panoptic_seg: (height, width) int32 segment ids, and the segments.
    instances: arrays, best first.
    """

    class_maps: ClassMaps
    panoptic_seg: tuple[Tensor, list[inference.Segment]]
    instances: inference.InstanceArrays
