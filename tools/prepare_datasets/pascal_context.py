"""PC-59 and PC-459: PASCAL-Context on the images of PASCAL VOC 2010.

The 59 classes are read from `trainval_merged.json`, which published figures used, or, without it, derived by name from
the 459-class .mat maps. The two need not agree in every pixel, so the provenance file says which it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from maft.errors import UserError
from maft.files import encode_png

from . import pascal_labels
from .archives import Member
from .engine import Item, Plan
from .images import encode_tiff16
from .label_codes import recode
from .merged import MergedImage, read_merged
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

BASE = "VOCdevkit/VOC2010"
_IMAGES = "images"
_VOC = "VOCtrainval_03-May-2010.tar"
_MERGED = r"(trainval_merged[^/]*\.json)"
_LISTS = (
    # In the order of trust; the lists of VOC 2010 are those of PASCAL-Context: 4,998 and 5,105 images.
    (r"(?:pascal_?context_|SegmentationContext/)(train|val)\.txt", "a list for PASCAL-Context"),
    (r"ImageSets/Main/(train|val)\.txt", "ImageSets/Main of VOC 2010"),
    # Beside the label maps; the lists of VOC 2010 for other tasks have a part of the images only.
    (r"(?<!Segmentation/)(?<!Layout/)(?<!Action/)(train|val)\.txt", "a list beside the label maps"),
)
NAMES_OF_OURS = "the vocabulary pc459"


def plan_pc59(pool: Pool, root: Path, splits: Sequence[str]) -> Plan:
    """59 classes, PNG of 8 bit; see `registry.PlanFunction`."""
    merged = pool.find(_MERGED)
    if not merged:
        return _plan_mats(pool, root, splits, "pc59")
    member = next(iter(merged.values()))
    read = read_merged(member, splits)
    notes = [f"labels from {Path(member.name).name}, as in published figures"]
    if read.strange:
        notes.append(f"{read.strange} regions have a category that is none of the 59: ignored")
    images = _images(pool, root)
    items: list[Item] = []
    for split in splits:
        entries = read.images.get(split, [])
        stems = [entry.stem for entry in entries]
        problem = not_given(split, stems, images=images)
        if problem:
            notes.append(problem)
            continue
        items += image_items(stems, images, _IMAGES, f"{_VOC}, {split}")
        items += [
            Item(f"{_folder('pc59', split)}/{entry.stem}.png", make_merged_59, (entry, str(member)), space=16384)
            for entry in entries
        ]
    return _plan("pc59", items, {"labels": "trainval_merged.json", "split": "trainval_merged.json"}, notes)


def plan_pc459(pool: Pool, root: Path, splits: Sequence[str]) -> Plan:
    """459 classes, TIFF of 16 bit; see `registry.PlanFunction`."""
    return _plan_mats(pool, root, splits, "pc459")


def _plan_mats(pool: Pool, root: Path, splits: Sequence[str], name: str) -> Plan:
    what = "label maps (.mat files of PASCAL-Context's trainval.tar.gz)"
    if name == "pc59":
        what = f"trainval_merged.json, and no {what}"
    # PASCAL-Part has .mat files of the same names; those of PASCAL-Context lie in a folder trainval.
    found = pool.find(r"(?<=trainval/)([^/]+)\.mat") or needed(pool.find(r"([^/]+)\.mat"), what, pool)
    mats = {stem: member for (stem,), member in found.items()}
    labels_txt = _labels_txt(pool)
    names = _names(labels_txt)
    _table(name, labels_txt)  # a list that does not fit is found now, and not by every worker
    stems_of, split_source = _splits(pool, splits)
    notes = [f"class names from {labels_txt.name if labels_txt else NAMES_OF_OURS}: {len(names)}"]
    notes.append(f"split from {split_source}")
    if name == "pc59":
        notes.append(
            "labels derived from the 459-class maps by name, since trainval_merged.json was not given; published "
            "figures used that file, and the two need not agree in every pixel"
        )
    images = _images(pool, root)
    make, extension = (make_mat_59, "png") if name == "pc59" else (make_mat_459, "tif")
    items: list[Item] = []
    for split in splits:
        stems, where = stems_of.get(split, []), f"PASCAL-Context, {split}"
        problem = not_given(split, stems, label_maps=mats, images=images)
        if problem:
            notes.append(problem)
            continue
        items += image_items(stems, images, _IMAGES, f"{_VOC}, {split}")
        items += label_items(stems, mats, f"{_folder(name, split)}/{{}}.{extension}", make, where, labels_txt)
    choices = {"labels": "459-class .mat maps by name", "split": split_source}
    return _plan(name, items, choices, notes)


def _plan(name: str, items: list[Item], choices: Mapping[str, str], notes: list[str]) -> Plan:
    if not items:
        raise UserError(f"{name}: nothing to prepare; {'; '.join(notes)}")
    return Plan(name, BASE, items, choices, notes)


def _folder(name: str, split: str) -> str:
    return f"annotations_detectron2_ovs/{name}_{split}"


def _images(pool: Pool, root: Path) -> dict[str, Member | None]:
    given = {stem: member for (stem,), member in of_year(pool, r"JPEGImages/([^/]+)\.jpg", "2010").items()}
    return with_those_there(given, root / BASE / _IMAGES)


def _splits(pool: Pool, splits: Sequence[str]) -> tuple[dict[str, list[str]], str]:
    """The images of each split, and where that is from."""
    for pattern, source in _LISTS:
        lists = of_year(pool, pattern, "2010")
        found = {split: read_stems(lists[split,]) for split in splits if (split,) in lists}
        if found:
            return found, source
    for member in pool.find(_MERGED).values():
        read = read_merged(member, splits, with_regions=False)
        return {split: [entry.stem for entry in read.images[split]] for split in read.images}, "trainval_merged.json"
    raise UserError(
        f"{', '.join(map(str, pool.given))}: no list of the {' and '.join(splits)} images in it; give {_VOC} (it has "
        "ImageSets/Main/val.txt) or trainval_merged.json with --from"
    )


def _labels_txt(pool: Pool) -> Member | None:
    return next(iter(pool.find(r"(?:trainval/)?(labels)\.txt").values()), None)


@cache
def _names(labels_txt: Member | None) -> Mapping[int, str]:
    if labels_txt is None:
        return pascal_labels.context459_names()
    try:
        return pascal_labels.parse_labels_txt(labels_txt.read().decode("utf-8"), labels_txt)
    except UnicodeDecodeError as error:
        raise UserError(f"{labels_txt}: no text ({error}); give the labels.txt of PASCAL-Context") from error


@cache
def _table(name: str, labels_txt: Member | None) -> np.ndarray:
    table = pascal_labels.context59_table if name == "pc59" else pascal_labels.context459_table
    return table(_names(labels_txt), labels_txt or NAMES_OF_OURS)


def make_merged_59(image: MergedImage, where: str) -> bytes:
    """The prepared label map of an image of trainval_merged.json."""
    place = f"{where}: {image.stem}"
    return encode_png(pascal_labels.paint_regions(image.height, image.width, image.regions, place))


def make_mat_59(member: Member, labels_txt: Member | None) -> bytes:
    """The prepared label map of 59 classes of a .mat map."""
    return encode_png(_mat(member, "pc59", labels_txt).astype(np.uint8))


def make_mat_459(member: Member, labels_txt: Member | None) -> bytes:
    """The prepared label map of 459 classes of a .mat map."""
    return encode_tiff16(_mat(member, "pc459", labels_txt).astype(np.uint16))


def _mat(member: Member, name: str, labels_txt: Member | None) -> np.ndarray:
    return recode(pascal_labels.read_label_map(member.read(), member), _table(name, labels_txt), member)
