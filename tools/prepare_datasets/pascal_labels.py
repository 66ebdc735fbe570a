"""The annotations of PASCAL-Context as class indices. Pure functions.

PASCAL-Context numbers its 459 classes from 1 in the order of its `labels.txt`; 0 is unlabelled. Its 59 frequent classes
carry the same names, but for `diningtable`, which the full list calls `table`. `trainval_merged.json` uses the numbers
of the full list.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maft.data.specs import IGNORE_8BIT, IGNORE_16BIT
from maft.errors import UserError
from reason.vocabulary import load_vocabulary

from .label_codes import UNKNOWN, code_table

OTHER_NAMES = {"table": "diningtable", "bedcloth": "bedclothes", "clothes": "cloth"}
"""Names in the full list, and in the release's `59_labels.txt`, that the 59 classes have otherwise."""

LARGEST_SIDE = 1 << 14
"""Of an image, in pixels: a file that declares more is damaged, and would ask for the memory."""

_LABEL_LINE = re.compile(r"\s*(\d+)\s*:\s*(.*\S)\s*")


def plain_name(name: str) -> str:
    """A class name without what its spellings differ in: case, blanks, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name).lower()


@cache
def _indices(vocabulary: str) -> dict[str, int]:
    return {plain_name(entry.name): entry.index for entry in load_vocabulary(vocabulary).classes}


def context459_names() -> dict[int, str]:
    """The class names of the full list by number, 1 to 459."""
    return {entry.index + 1: entry.name for entry in load_vocabulary("pc459").classes}


def parse_labels_txt(text: str, where: object) -> dict[int, str]:
    """The `labels.txt` of PASCAL-Context: lines of "<number>: <name>".

    Raises:
        UserError: a line of another form, or a number twice.
    """
    names: dict[int, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = _LABEL_LINE.fullmatch(line)
        if match is None or int(match[1]) in names:
            raise UserError(f"{where}: line {number} is {line[:60]!r}, expected a new number, a colon and a name")
        names[int(match[1])] = match[2]
    return names


def context459_table(names: Mapping[int, str], where: object) -> NDArray[np.int32]:
    """LabelMap values to the 459 classes, by name; 0 is ignored.

    Args:
        names: class name by number, of `labels.txt` or `context459_names`.
        where: where they come from, for the error.

    Returns:
        (65536,) int32: class index, 65535, or `UNKNOWN` for a number without a name.

    Raises:
        UserError: a name that is none of the 459.
    """
    indices = _indices("pc459")
    strange = [f"{n}: {name}" for n, name in names.items() if n and (n >= 65536 or plain_name(name) not in indices)]
    if strange:
        raise UserError(
            f"{where}: {strange[0]!r} is none of the 459 classes; give the labels.txt of PASCAL-Context, or none"
        )
    codes = {number: indices[plain_name(name)] for number, name in names.items() if number}
    return code_table({0: IGNORE_16BIT, **codes}, size=65536)


def index_of_59(name: str) -> int | None:
    """The index among the 59 classes of a class of the full list or of `trainval_merged.json`; None if it is none."""
    plain = plain_name(name)
    return _indices("pc59").get(OTHER_NAMES.get(plain, plain))


def context59_table(names: Mapping[int, str], where: object) -> NDArray[np.int32]:
    """LabelMap values to the 59 classes, by name; every other class of the 459, and 0, is ignored.

    Returns:
        (65536,) int32: class index, 255, or `UNKNOWN` for a number without a name.

    Raises:
        UserError: a name that is none of the 459, or one of the 59 that no name stands for.
    """
    known = context459_table(names, where)
    indices = {number: index_of_59(name) for number, name in names.items() if number}
    missing = set(range(len(_indices("pc59")))) - set(indices.values())
    if missing:
        lost = load_vocabulary("pc59").class_names[min(missing)]
        raise UserError(f"{where}: has no class {lost!r}; give the labels.txt of PASCAL-Context")
    table = np.where(known == UNKNOWN, UNKNOWN, IGNORE_8BIT).astype(np.int32)
    for number, index in indices.items():
        if index is not None:
            table[number] = index
    return table


def read_label_map(data: bytes, where: object) -> NDArray[np.int32]:
    """The `LabelMap` of a PASCAL-Context .mat file.

    Returns:
        (H, W) int32 with the numbers of the full list.

    Raises:
        UserError: not readable, or without a LabelMap of integers.
    """
    from scipy.io import loadmat, whosmat

    try:
        shapes = {name: shape for name, shape, _ in whosmat(io.BytesIO(data))}
        shape = shapes.get("LabelMap", ())
        if len(shape) != 2 or not all(0 < side <= LARGEST_SIDE for side in shape):
            raise UserError(f"{where}: has no LabelMap of an image's size; give the .mat files of PASCAL-Context")
        values = loadmat(io.BytesIO(data), variable_names=["LabelMap"])["LabelMap"]
    except UserError:
        raise
    except Exception as error:  # scipy raises whatever the damage leads to: struct, zlib, type and value errors
        raise UserError(f"{where}: not readable as a .mat file ({error}); download or unpack it again") from error
    if values.dtype.kind not in "uif" or not np.array_equal(values, np.trunc(values)):
        raise UserError(f"{where}: its LabelMap holds no integers but {values.dtype}; give the files of the release")
    return values.astype(np.int32)


@dataclass(frozen=True)
class Region:
    """One run-length mask of `trainval_merged.json`.

    Attributes:
        label: what its pixels become: category number, or class index.
        height, width: size of the mask.
        counts: compressed run lengths in pycocotools' text form, or plain ones, column-major and beginning with zeros.
    """

    label: int
    height: int
    width: int
    counts: str | tuple[int, ...]


def parse_region(annotation: Any, where: object) -> Region:
    """An entry of `annos_segmentation`; its label is the category number.

    Raises:
        UserError: a field is missing or has another form.
    """
    try:
        mask = annotation["segmentation"]
        height, width = (int(side) for side in mask["size"])
        counts = mask["counts"]
        if not isinstance(counts, str):
            counts = tuple(int(count) for count in counts)
        return Region(int(annotation["category_id"]), height, width, counts)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where}: an entry of annos_segmentation lacks or has a wrong field ({error!r}); it needs image_id, "
            "category_id and segmentation with size and counts"
        ) from error


def paint_regions(height: int, width: int, regions: Sequence[Region], where: object) -> NDArray[np.uint8]:
    """The label map of an image: regions painted one over the other, in the file's order, as the Detail API does.

    Args:
        regions: their labels are class indices, or 255.

    Returns:
        (height, width) uint8, 255 where no region lies.

    Raises:
        UserError: a mask of another size, or one that cannot be decoded.
    """
    from pycocotools import mask as coco_mask

    painted = np.full((height, width), IGNORE_8BIT, dtype=np.uint8)
    for region in regions:
        if (region.height, region.width) != (height, width):
            raise UserError(f"{where}: a mask of {region.height} x {region.width} in an image of {height} x {width}")
        runs = run_lengths_of(region.counts)
        # pycocotools reads beyond its memory where the runs do not add up.
        if runs is None or int(runs.sum()) != height * width:
            raise UserError(f"{where}: a run-length mask does not add up to the image; download the file again")
        encoded: Any = {"size": [height, width], "counts": region.counts}
        if isinstance(region.counts, tuple):
            encoded = coco_mask.frPyObjects(encoded | {"counts": list(region.counts)}, height, width)
        painted[coco_mask.decode(encoded) > 0] = region.label
    return painted


def run_lengths_of(counts: str | Sequence[int]) -> NDArray[np.int64] | None:
    """The run lengths that pycocotools' text form holds, or plain ones; None if it is damaged.

    In the text a number is a row of 5-bit parts, lowest first, in characters from "0"; bit 6 says that it goes on, the
    highest bit of the last part is the sign. From the fourth on it is the difference from the last but one.
    """
    if not isinstance(counts, str):
        plain = np.asarray(counts, dtype=np.int64)
        return plain if plain.size and int(plain.min()) >= 0 else None
    parts = np.frombuffer(counts.encode("utf-8"), dtype=np.uint8).astype(np.int64) - ord("0")
    if not parts.size or parts.min() < 0 or parts.max() >= 64 or parts[-1] & 32:
        return None
    ends = np.flatnonzero(parts & 32 == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if int(lengths.max()) > 6:
        return None
    places = np.arange(parts.size) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((parts & 31) << (5 * places), starts)
    numbers = np.where(parts[ends] & 16, numbers - (1 << (5 * lengths)), numbers)
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers if int(numbers.min()) >= 0 else None


def detail_codes(categories: Mapping[int, str]) -> dict[int, int]:
    """The index among the 59 classes of category numbers of `trainval_merged.json`; the rest is none of them.

    The file's own names decide; a number that it does not name, or names otherwise, is taken as one of the full list.

    Args:
        categories: name by number, as in the file; may be empty.
    """
    codes = {number: index for number, name in categories.items() if (index := index_of_59(name)) is not None}
    taken = set(codes.values())
    for number, name in context459_names().items():
        index = index_of_59(name)
        if index is not None and index not in taken:
            codes.setdefault(number, index)
    return codes
