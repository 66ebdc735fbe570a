"""`trainval_merged.json` of PASCAL in Detail: images with their split, and one run-length mask a region."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from maft.data.specs import IGNORE_8BIT
from maft.errors import UserError

from .archives import Member
from .json_stream import list_entries
from .pascal_labels import LARGEST_SIDE, Region, detail_codes, parse_region


@dataclass(frozen=True)
class MergedImage:
    """An image of the file.

    Attributes:
        stem: of its file name.
        height, width: pixels.
        regions: in the file's order; labels are class indices of the 59, or 255.
    """

    stem: str
    height: int
    width: int
    regions: tuple[Region, ...] = ()


@dataclass
class Merged:
    """What of the file is used.

    Attributes:
        images: by split ("train", "val"), in the file's order.
        strange: number of regions whose category is none of the 59; they are ignored.
    """

    images: dict[str, list[MergedImage]] = field(default_factory=lambda: defaultdict(list))
    strange: int = 0


def read_merged(member: Member, splits: Collection[str], *, with_regions: bool = True) -> Merged:
    """Read the file front to back, entry by entry; parts, boundaries and key points are passed over.

    Args:
        splits: of "train" and "val", those that are wanted.
        with_regions: False if only the lists of images are.

    Raises:
        UserError: malformed, cut off, or without images.
    """
    names: dict[int, str] = {}
    images: dict[Any, tuple[str, MergedImage]] = {}
    others: set[Any] = set()
    regions: dict[Any, list[Region]] = defaultdict(list)
    for key, entry in list_entries(member.chunks(), member):
        if key == "images":
            identifier, phase, image = _image(entry, member)
            if phase in splits:
                images[identifier] = (phase, image)
            else:
                others.add(identifier)
        elif key == "annos_segmentation" and with_regions:
            region = parse_region(entry, member)
            identifier = entry.get("image_id")
            if identifier not in others:
                regions[identifier].append(region)
        elif key == "categories":
            names.update(_category(entry, member))
    if not images and not others:
        raise UserError(f"{member}: lists no images; this must be trainval_merged.json of PASCAL in Detail")
    codes, merged = detail_codes(names), Merged()
    for identifier, (phase, image) in images.items():
        known = tuple(replace(region, label=codes.get(region.label, IGNORE_8BIT)) for region in regions[identifier])
        merged.strange += sum(region.label == IGNORE_8BIT for region in known)
        merged.images[phase].append(replace(image, regions=known))
    return merged


def _image(entry: Any, where: Member) -> tuple[Any, str, MergedImage]:
    try:
        image = MergedImage(PurePosixPath(entry["file_name"]).stem, int(entry["height"]), int(entry["width"]))
        if not (0 < image.height <= LARGEST_SIDE and 0 < image.width <= LARGEST_SIDE):
            raise ValueError(f"size {image.width} x {image.height}")
        return entry["image_id"], entry["phase"], image
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where}: an image lacks or has a wrong field ({error!r}); it needs image_id, file_name, phase, height "
            "and width"
        ) from error


def _category(entry: Any, where: Member) -> dict[int, str]:
    try:
        return {int(entry["category_id"]): str(entry["name"])}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: a category lacks or has a wrong field ({error!r})") from error
