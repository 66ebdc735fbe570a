"""PAS-20: PASCAL VOC 2012 without its background, from VOCtrainval_11-May-2012.tar."""

from __future__ import annotations

from collections.abc import Sequence
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


def plan(pool: Pool, root: Path, splits: Sequence[str]) -> Plan:
    """The images and label maps that ImageSets/Segmentation lists; see `registry.PlanFunction`."""
    lists = of_year(pool, r"ImageSets/Segmentation/(train|val)\.txt", "2012")
    needed(lists, f"image lists of {_RELEASE}", pool)
    labels = {stem: member for (stem,), member in of_year(pool, r"SegmentationClass/([^/]+)\.png", "2012").items()}
    given = {stem: member for (stem,), member in of_year(pool, r"JPEGImages/([^/]+)\.jpg", "2012").items()}
    images = with_those_there(given, root / BASE / _IMAGES)
    items: list[Item] = []
    notes = []
    for split in splits:
        stems = read_stems(lists[split,]) if (split,) in lists else []
        problem = not_given(split, stems, label_maps=labels, images=images)
        if problem:
            notes.append(problem)
            continue
        # The documented tree keeps the validation maps in annotations_ovs itself.
        target = "annotations_ovs/{}.png" if split == "val" else f"annotations_ovs/{split}/{{}}.png"
        items += image_items(stems, images, _IMAGES, f"{_RELEASE}, {split}")
        items += label_items(stems, labels, target, make_labels, f"{_RELEASE}, {split}")
    if not items:
        raise UserError(f"{_RELEASE}: nothing to prepare; {'; '.join(notes)}")
    return Plan("voc20", BASE, items, notes=notes)


@cache
def label_table() -> np.ndarray:
    """SegmentationClass values to the 20 classes: 1 to 20 become 0 to 19; background and the 255 of borders, 255."""
    codes = {entry.dataset_id: entry.index for entry in load_vocabulary("voc20").classes if entry.dataset_id}
    return code_table({0: IGNORE_8BIT, IGNORE_8BIT: IGNORE_8BIT, **codes}, size=256)


def make_labels(member: Member) -> bytes:
    """The prepared label map, PNG of 8 bit, of one of SegmentationClass."""
    return encode_png(recode(read_values(member), label_table(), member).astype(np.uint8))
