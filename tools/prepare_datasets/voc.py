"""PAS-20: PASCAL VOC 2012 without its background, and PAS-20b with it, from VOCtrainval_11-May-2012.tar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from maft.data.specs import IGNORE_8BIT
from maft.errors import UserError
from maft.files import encode_png
from reason.vocabulary import load_vocabulary

from .archives import Member
from .engine import Item, Plan
from .label_codes import code_table, read_values, recode
from .pairing import (
    image_items,
    label_items,
    needed,
    not_given,
    of_year,
    read_stems,
    with_those_there,
)
from .pool import Pool

BASE = "VOCdevkit/VOC2012"
_IMAGES = "images_detectron2"
_RELEASE = "VOCtrainval_11-May-2012.tar"
BACKGROUND = 20
"""The value of background in the label maps of PAS-20b, behind the 20 classes."""


def plan(pool: Pool, root: Path, splits: Sequence[str]) -> Plan:
    """The images and label maps that ImageSets/Segmentation lists; see `registry.PlanFunction`."""
    # The documented tree keeps the validation maps in annotations_ovs itself.
    targets = {"train": "annotations_ovs/train/{}.png", "val": "annotations_ovs/{}.png"}
    return _plan("voc20", targets, IGNORE_8BIT, pool, root, splits)


def plan_background(pool: Pool, root: Path, splits: Sequence[str]) -> Plan:
    """The same validation images with background as a class; see `registry.PlanFunction`."""
    targets = {"val": "annotations_detectron2_bg/val/{}.png"}
    return _plan("voc20b", targets, BACKGROUND, pool, root, splits)


def _plan(
    name: str,
    targets: Mapping[str, str],
    background: int,
    pool: Pool,
    root: Path,
    splits: Sequence[str],
) -> Plan:
    """The plan of a data set.

    Args:
        name: of the data set.
        targets: where the label maps of each split that the data set has belong.
        background: its value in the label maps.
        pool, root, splits: see `registry.PlanFunction`.
    """
    lists = of_year(pool, r"ImageSets/Segmentation/(train|val)\.txt", "2012")
    needed(lists, f"image lists of {_RELEASE}", pool)
    labels = {stem: member for (stem,), member in of_year(pool, r"SegmentationClass/([^/]+)\.png", "2012").items()}
    given = {stem: member for (stem,), member in of_year(pool, r"JPEGImages/([^/]+)\.jpg", "2012").items()}
    images = with_those_there(given, root / BASE / _IMAGES)
    items: list[Item] = []
    notes = []
    for split in splits:
        if split not in targets:
            notes.append(f"{split}: left out, {name} is for evaluation")
            continue
        stems = read_stems(lists[split,]) if (split,) in lists else []
        problem = not_given(split, stems, label_maps=labels, images=images)
        if problem:
            notes.append(problem)
            continue
        items += image_items(stems, images, _IMAGES, f"{_RELEASE}, {split}")
        items += label_items(stems, labels, targets[split], make_labels, f"{_RELEASE}, {split}", background)
    if not items:
        raise UserError(f"{_RELEASE}: nothing to prepare; {'; '.join(notes)}")
    return Plan(name, BASE, items, notes=notes)


@cache
def label_table(background: int = IGNORE_8BIT) -> np.ndarray:
    """SegmentationClass values to the 20 classes: 1 to 20 become 0 to 19, 0 `background`, the 255 of borders 255."""
    codes = {entry.dataset_id: entry.index for entry in load_vocabulary("voc20").classes if entry.dataset_id}
    return code_table({0: background, IGNORE_8BIT: IGNORE_8BIT, **codes}, size=256)


def make_labels(member: Member, background: int) -> bytes:
    """The prepared label map, PNG of 8 bit, of one of SegmentationClass; `background` is the value of its 0."""
    return encode_png(recode(read_values(member), label_table(background), member).astype(np.uint8))
