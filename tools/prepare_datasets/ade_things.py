"""ADE20K panoptic and instance annotations, from the semantic label maps and the instance maps of the release.

An instance map is an RGB image: R is the thing class (1 to 100, the things of the 150 classes in their order), G the
instance within the image; both are 0 where there is none. Stuff is taken from the semantic
label maps and instances are laid over it, as in the files behind published panoptic figures. Thing pixels that belong
to no instance stay void. In two points these files are right where those are not (datasets/README.md): road and
skyscraper share a colour, but no two segments of an image share an id; and areas and boxes are those of the pixels that
a segment has in the end. A segment that is covered altogether is not listed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
from numpy.typing import NDArray

from maft.errors import UserError
from maft.files import encode_panoptic, encode_png, replacing
from reason.vocabulary import Vocabulary, load_vocabulary

from .ade import (
    BASE,
    CLASSES,
    FOLDERS,
    Challenge,
    Key,
    find_challenge,
    image_target,
    of_splits,
    semantic_items,
)
from .archives import Member
from .engine import WORK_FOLDER, Item, Plan, copies
from .images import decode, image_size
from .label_codes import read_values
from .pool import Pool

_SOURCE = "instance maps (annotations_instance/ of annotations_instance.tar)"
_NEAR = 30
"""Segments of one class get colours that differ by at most this in each channel."""

Color = tuple[int, int, int]


@cache
def _classes() -> Vocabulary:
    return load_vocabulary("ade150")


def thing_classes() -> tuple[int, ...]:
    """Class index of the things in the order in which the instance maps count them, from 1."""
    return tuple(sorted(_classes().thing_indices))


def plan_panoptic(pool: Pool, root: Path, splits: Sequence[str]) -> Plan:
    """See `registry.PlanFunction`. Semantic label maps are made too: the data set is evaluated with them as well."""
    challenge, instances = _find(pool, root, splits)
    items = semantic_items(challenge)
    for key, semantic in challenge.labels.items():
        split, stem = key
        target, joined = f"ade20k_panoptic_{split}/{stem}.png", root / BASE / f"ade20k_panoptic_{split}.json"
        part = () if joined.is_file() else (_part("panoptic", key),)
        args = (semantic, instances[key], _image(challenge, root, key), stem, bool(part))
        items.append(Item(target, make_panoptic, args, also=part, space=2 * instances[key].size + 2000))
    things = _classes().thing_indices
    categories = [
        {"id": entry.index, "name": entry.name, "isthing": int(entry.index in things), "color": list(color)}
        for entry, color in zip(_classes().classes, _classes().palette, strict=True)
    ]
    return _plan("panoptic", challenge, items, categories)


def plan_instances(pool: Pool, root: Path, splits: Sequence[str]) -> Plan:
    """See `registry.PlanFunction`."""
    challenge, instances = _find(pool, root, splits)
    items = copies({image_target(key): member for key, member in challenge.images.items()})
    for key in challenge.labels:
        if not (root / BASE / f"ade20k_instance_{key[0]}.json").is_file():
            args = (instances[key], _image(challenge, root, key), key[1])
            # The part, and then the whole that it is copied into.
            items.append(Item(_part("instance", key), make_instances, args, space=4 * instances[key].size))
    categories = [{"id": index, "name": _classes().class_names[index]} for index in thing_classes()]
    return _plan("instance", challenge, items, categories)


def _find(pool: Pool, root: Path, splits: Sequence[str]) -> tuple[Challenge, dict[Key, Member]]:
    challenge = find_challenge(pool, root, splits)
    pattern = r"annotations_instance/(training|validation)/([^/]+)\.png"
    instances, _ = of_splits(pool.need(_SOURCE, pattern), splits)
    lost = [stem for split, stem in challenge.labels if (split, stem) not in instances]
    if lost:
        raise UserError(
            f"{len(lost)} of {len(challenge.labels)} label maps have no instance map (such as {lost[0]}); give "
            "annotations_instance.tar, or its unpacked folder, with --from as well"
        )
    return challenge, instances


def _image(challenge: Challenge, root: Path, key: Key) -> Member:
    """The image, from where it was prepared to before if it was not given."""
    if key in challenge.images:
        return challenge.images[key]
    path = root / BASE / image_target(key)
    return Member(str(path), path.name, path.stat().st_size)


def _part(kind: str, key: Key) -> str:
    return f"{WORK_FOLDER}/{kind}_{key[0]}/{key[1]}.json"


def _plan(kind: str, challenge: Challenge, items: list[Item], categories: list[dict[str, Any]]) -> Plan:
    stems = {split: sorted(stem for of, stem in challenge.labels if of == split) for split in FOLDERS}
    # In the choices, so that an annotation file of some of the images is not taken for the one of all of them.
    choices = {f"images of {split}": str(len(of)) for split, of in stems.items() if of}
    finish = partial(_join, kind=kind, stems={split: of for split, of in stems.items() if of}, categories=categories)
    name = {"panoptic": "ade150_panoptic", "instance": "ade150_instances"}[kind]
    return Plan(name, BASE, items, choices, challenge.notes, finish, version=2 if kind == "panoptic" else 1)


def make_panoptic(
    semantic: Member, instances: Member, image: Member, stem: str, with_part: bool
) -> bytes | tuple[bytes, ...]:
    """The panoptic PNG of an image, and its part of the annotation file.

    Args:
        semantic: label map.
        instances: instance map.
        image: whose size both have.
        stem: of the image's name, its identifier.
        with_part: also return the part, JSON of {"image": …, "annotations": […]}.

    Raises:
        UserError: sizes differ, an unknown class, or an instance of several classes.
    """
    size = image_size(image)
    labels = read_values(semantic)
    _check_size(labels.shape, size, semantic)
    if labels.max(initial=0) > CLASSES:
        raise UserError(f"{semantic}: holds class {labels.max()}, there are {CLASSES}; give the maps of the release")
    things, colors = _classes().thing_indices, _classes().palette
    taken: set[Color] = {(0, 0, 0), *(color for index, color in enumerate(colors) if index not in things)}
    ids, class_of = np.zeros(size, dtype=np.int32), dict[int, int]()
    stuff = [int(value) - 1 for value in np.unique(labels) if value and int(value) - 1 not in things]
    masks = [(index, labels == index + 1, colors[index]) for index in stuff]
    masks += [(index, mask, _free_color(colors[index], taken)) for index, mask in instance_masks(instances, size)]
    for index, mask, (red, green, blue) in masks:
        identifier = red + 256 * green + 65536 * blue
        ids[mask], class_of[identifier] = identifier, index
    there = [(identifier, ids == identifier) for identifier in class_of]
    segments = [
        {"id": identifier, "category_id": class_of[identifier], **_extent(mask), "iscrowd": 0}
        for identifier, mask in there
        if mask.any()
    ]
    png = encode_png(encode_panoptic(ids))
    if not with_part:
        return png
    annotation = {"image_id": stem, "file_name": f"{stem}.png", "segments_info": segments}
    return png, _part_bytes(stem, size, [annotation])


def make_instances(instances: Member, image: Member, stem: str) -> bytes:
    """An image's part of the instance annotation file: run-length masks, identifiers given when parts are joined.

    Raises:
        UserError: as `make_panoptic`.
    """
    size = image_size(image)
    annotations = []
    for index, mask in instance_masks(instances, size):
        runs = pycocotools.mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        encoded = {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode("ascii")}
        extent = _extent(mask)
        annotations.append({"image_id": stem, "category_id": index, "iscrowd": 0, **extent, "segmentation": encoded})
    return _part_bytes(stem, size, annotations)


def instance_masks(member: Member, size: tuple[int, int]) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Class index and (H, W) mask of every instance of an instance map, in the order of their numbers.

    Raises:
        UserError: not of that size, no RGB, an unknown class, or an instance of several classes.
    """
    values = decode(member)
    if values.ndim != 3 or values.shape[2] < 2:
        raise UserError(f"{member}: no RGB image; give the maps of annotations_instance")
    _check_size(values.shape[:2], size, member)
    classes = thing_classes()
    for number in np.unique(values[..., 1]):
        if number == 0:
            continue
        mask = values[..., 1] == number
        kinds = np.unique(values[..., 0][mask])
        if len(kinds) != 1 or not 1 <= kinds[0] <= len(classes):
            raise UserError(
                f"{member}: instance {number} has classes {kinds.tolist()} instead of one of 1 to {len(classes)}; "
                "download it again"
            )
        yield classes[int(kinds[0]) - 1], mask


def _check_size(shape: tuple[int, ...], size: tuple[int, int], member: Member) -> None:
    if shape != size:
        raise UserError(f"{member}: {shape[1]}x{shape[0]} pixels, but its image has {size[1]}x{size[0]}")


def _extent(mask: NDArray[np.bool_]) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return {
        "area": int(np.count_nonzero(mask)),
        "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
    }


def _free_color(base: Color, taken: set[Color]) -> Color:
    """A colour like `base` that no other segment has, the same one in every run; it is `taken` then."""
    color = base
    for step in count():
        if step:
            # Multiples of primes, modulo the odd number of steps: spread over the cube around the class's colour.
            offsets = ((17 * step) % 61 - _NEAR, (29 * step) % 61 - _NEAR, (43 * step + step // 61) % 61 - _NEAR)
            red, green, blue = (min(255, max(0, part + by)) for part, by in zip(base, offsets, strict=True))
            color = (red, green, blue)
        if color not in taken:
            break
    taken.add(color)
    return color


def _part_bytes(stem: str, size: tuple[int, int], annotations: list[dict[str, Any]]) -> bytes:
    image = {"id": stem, "file_name": f"{stem}.jpg", "width": size[1], "height": size[0]}
    return json.dumps({"image": image, "annotations": annotations}).encode()


def _join(
    folder: Path, *, kind: str, stems: Mapping[str, Sequence[str]], categories: Sequence[Mapping[str, Any]]
) -> None:
    """Write the annotation file of each split from its parts, one annotation a line; one that is there stays."""
    for split, of_split in stems.items():
        target = folder / f"ade20k_{kind}_{split}.json"
        if target.is_file():
            continue
        images: list[dict[str, Any]] = []

        def annotations(
            split: str = split, of_split: Sequence[str] = of_split, images: list = images
        ) -> Iterator[dict]:
            identifiers = count(1)
            for stem in of_split:
                part = json.loads((folder / _part(kind, (split, stem))).read_bytes())
                images.append(part["image"])
                for annotation in part["annotations"]:
                    yield {"id": next(identifiers), **annotation} if kind == "instance" else annotation

        with replacing(target) as file:
            _write_list(file.write, '{"annotations": [', annotations())
            _write_list(file.write, '],\n"images": [', images)
            _write_list(file.write, '],\n"categories": [', categories)
            file.write(b"]}\n")


def _write_list(write: Callable[[bytes], Any], opening: str, entries: Iterable[Mapping[str, Any]]) -> None:
    write(opening.encode())
    for number, entry in enumerate(entries):
        write(b",\n" if number else b"\n")
        write(json.dumps(entry).encode())
