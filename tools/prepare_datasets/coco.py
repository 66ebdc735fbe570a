"""COCO-Stuff (171 classes) and COCO panoptic (133), which the network is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from maft.data.specs import IGNORE_8BIT
from maft.errors import UserError
from maft.files import MAX_SEGMENT_ID, encode_png
from reason.vocabulary import load_vocabulary

from .archives import Member
from .engine import Item, Plan, copies
from .json_stream import list_entries
from .label_codes import code_table, read_identifiers, read_values, recode
from .pairing import image_items, label_items, lacking, not_given, with_those_there
from .pool import Pool

BASE = "coco"
_STUFF = "stuffthingmaps_trainval2017.zip"
_PANOPTIC = "panoptic_annotations_trainval2017.zip"
_NUMBERED = 182
"""COCO-Stuff numbers its things and stuff from 1 to 182; eleven numbers of things were never used."""


def plan_stuff(pool: Pool, root: Path, splits: Sequence[str]) -> Plan:
    """COCO-Stuff, PNG of 8 bit; see `registry.PlanFunction`."""
    labels = _by_split(pool.need(f"label maps of {_STUFF}", r"(?<!_detectron2/)(train|val)2017/([^/]+)\.png"))
    images = _images(pool)
    items: list[Item] = []
    notes = []
    for split in splits:
        folder, stems = f"{split}2017", sorted(labels.get(split, {}))
        given = with_those_there(images.get(split, {}), root / BASE / folder)
        problem = not_given(split, stems, label_maps=stems, images=given)
        if problem:
            notes.append(problem)
            continue
        items += image_items(stems, given, folder, f"{folder}.zip")
        items += label_items(stems, labels[split], f"stuffthingmaps_detectron2/{folder}/{{}}.png", make_stuff, _STUFF)
    return _plan("coco_stuff171", items, notes)


@cache
def stuff_table() -> np.ndarray:
    """Values of stuffthingmaps to the 171 classes: a value is the class's number less one; unused ones become 255."""
    codes = dict.fromkeys((*range(_NUMBERED), IGNORE_8BIT), IGNORE_8BIT)
    for entry in load_vocabulary("coco_stuff171").classes:
        assert entry.dataset_id is not None, entry
        codes[entry.dataset_id - 1] = entry.index
    return code_table(codes, size=256)


def make_stuff(member: Member) -> bytes:
    """The prepared label map of one of stuffthingmaps."""
    return encode_png(recode(read_values(member), stuff_table(), member).astype(np.uint8))


def plan_panoptic(pool: Pool, root: Path, splits: Sequence[str]) -> Plan:
    """COCO panoptic: the official JSON and PNG, which need no change, checked; see `registry.PlanFunction`."""
    nested = r"panoptic_(?:train|val)2017\.zip"
    documents = {split: member for (split,), member in pool.find(r"panoptic_(train|val)2017\.json").items()}
    maps = _by_split(pool.find(r"panoptic_(train|val)2017/([^/]+)\.png", nested=nested))
    images = _images(pool)
    items: list[Item] = []
    notes = []
    for split in splits:
        folder = f"{split}2017"
        given = with_those_there(images.get(split, {}), root / BASE / folder)
        segments, stems = _read_panoptic(documents[split]) if split in documents else ({}, [])
        shown = maps.get(split, {})
        problem = not_given(split, stems, JSON=stems, images=given) or not_given(split, list(segments), PNG=shown)
        if problem:
            notes.append(problem)
            continue
        missing = [stem for stem in segments if stem not in shown]
        if missing:
            raise lacking("panoptic PNG", missing, len(segments), _PANOPTIC)
        items += image_items(stems, given, folder, f"{folder}.zip")
        for stem, identifiers in segments.items():
            member = shown[stem]
            target = f"panoptic_{folder}/{stem}.png"
            items.append(Item(target, check_panoptic, (member, identifiers), space=member.size))
        # Last, since the data set counts as there once its JSON is.
        items += copies({f"annotations/panoptic_{folder}.json": documents[split]})
    return _plan("coco_panoptic", items, notes)


def check_panoptic(member: Member, identifiers: tuple[int, ...]) -> bytes:
    """A panoptic PNG as it is.

    Raises:
        UserError: its segments are not those that the JSON lists.
    """
    found = np.unique(read_identifiers(member))
    differing = set(found[found > 0].tolist()) ^ set(identifiers)
    if differing:
        raise UserError(
            f"{member}: segment {min(differing)} is not in both the PNG and the JSON; they are of different releases: "
            f"give those of one {_PANOPTIC}"
        )
    return member.read()


def _read_panoptic(member: Member) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """The segments of each PNG, by its stem, and the stems of the images.

    Raises:
        UserError: malformed, or with categories that differ from the 133 in number or in being things.
    """
    things = {entry.dataset_id: entry.thing for entry in load_vocabulary("coco_panoptic133").classes}
    segments: dict[str, tuple[int, ...]] = {}
    names: dict[Any, str] = {}
    shown: list[Any] = []
    try:
        for key, entry in list_entries(member.chunks(), member):
            if key == "images":
                names[entry["id"]] = PurePosixPath(entry["file_name"]).stem
            elif key == "categories" and things.get(entry["id"]) is not bool(entry["isthing"]):
                raise UserError(
                    f"{member}: category {entry['id']} is none of the {len(things)} of COCO, or not its kind"
                )
            elif key == "annotations":
                strange = [part["category_id"] for part in entry["segments_info"] if part["category_id"] not in things]
                if strange:
                    raise UserError(f"{member}: image {entry['image_id']}: category {strange[0]} is none of COCO's")
                stem = PurePosixPath(entry["file_name"]).stem
                segments[stem] = tuple(int(part["id"]) for part in entry["segments_info"])
                if strange := [number for number in segments[stem] if not 1 <= number <= MAX_SEGMENT_ID]:
                    raise UserError(
                        f"{member}: image {entry['image_id']}: a segment has id {strange[0]}; ids are 1 to "
                        f"{MAX_SEGMENT_ID}, 0 stands for pixels of no segment"
                    )
                shown.append(entry["image_id"])
        stems = [names[identifier] for identifier in shown]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{member}: an entry lacks or has a wrong field ({error!r}); download it again") from error
    if not segments:
        raise UserError(f"{member}: lists no annotations; this must be the JSON of {_PANOPTIC}")
    return segments, stems


def _images(pool: Pool) -> dict[str, dict[str, Member]]:
    return _by_split(pool.find(r"(train|val)2017/([^/]+)\.jpg"))


def _by_split(found: Mapping[tuple[str, ...], Member]) -> dict[str, dict[str, Member]]:
    members: dict[str, dict[str, Member]] = {}
    for (split, stem), member in found.items():
        members.setdefault(split, {})[stem] = member
    return members


def _plan(name: str, items: list[Item], notes: list[str]) -> Plan:
    if not items:
        raise UserError(f"{name}: nothing to prepare; {'; '.join(notes)}")
    return Plan(name, BASE, items, notes=notes)
