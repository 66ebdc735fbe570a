"""The annotations of PASCAL VOC and PASCAL-Context as class indices. Pure functions.

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
from tools.prepare_datasets.label_codes import UNKNOWN, code_table, recode

OTHER_NAMES = {"table": "diningtable", "bedcloth": "bedclothes", "clothes": "cloth"}
"""Names in the full list, and in the release's `59_labels.txt`, that the 59 classes have otherwise."""

_LARGEST_SIDE = 1 << 14
_LABEL_LINE = re.compile(r"\s*(\d+)\s*:\s*(.*\S)\s*")


def voc20_table() -> NDArray[np.int32]:
    """SegmentationClass values to the 20 classes: 1 to 20 become 0 to 19; background and the 255 of borders, 255."""
    codes = {entry.dataset_id: entry.index for entry in load_vocabulary("voc20").classes if entry.dataset_id}
    return code_table({0: IGNORE_8BIT, IGNORE_8BIT: IGNORE_8BIT, **codes}, size=256)


def plain_name(name: str) -> str:
    """A class name without what its spellings differ in: case, blanks, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name).lower()


@cache
def _indices(vocabulary: str) -> dict[str, int]:
    return {plain_name(entry.name): entry.index for entry in load_vocabulary(vocabulary).classes}


def context459_names() -> dict[int, str]:
    """The class names of the full list by number, 1 to 459."""
    return {entry.index + 1: entry.name for entry in load_vocabulary("pc459").classes}


def parse_labels_txt(text: str, where: str) -> dict[int, str]:
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


def context459_table(names: Mapping[int, str], where: str) -> NDArray[np.int32]:
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
    strange = [f"{number}: {name}" for number, name in names.items() if number and plain_name(name) not in indices]
    if strange:
        raise UserError(f"{where}: {strange[0]!r} is none of the 459 classes; give the labels.txt of PASCAL-Context")
    codes = {number: indices[plain_name(name)] for number, name in names.items() if number}
    return code_table({0: IGNORE_16BIT, **codes}, size=65536)


def index_of_59(name: str) -> int | None:
    """The index among the 59 classes of a class of the full list or of `trainval_merged.json`; None if it is none."""
    plain = plain_name(name)
    return _indices("pc59").get(OTHER_NAMES.get(plain, plain))


def context59_table(names: Mapping[int, str], where: str) -> NDArray[np.int32]:
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


def read_label_map(data: bytes, where: str) -> NDArray[np.int32]:
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
        if len(shape) != 2 or not all(0 < side <= _LARGEST_SIDE for side in shape):
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
        number: category number.
        height, width: size of the mask.
        counts: compressed run lengths in pycocotools' text form, or plain ones, column-major and beginning with zeros.
    """

    number: int
    height: int
    width: int
    counts: str | tuple[int, ...]


def parse_region(annotation: Any, where: str) -> Region:
    """An entry of `annos_segmentation`.

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


def paint_regions(height: int, width: int, regions: Sequence[Region], where: str) -> NDArray[np.int32]:
    """The category numbers of an image: regions painted one over the other, in the file's order, as the Detail API does.

    Returns:
        (height, width) int32, 0 where no region lies.

    Raises:
        UserError: a mask of another size, or one that cannot be decoded.
    """
    from pycocotools import mask as coco_mask

    painted = np.zeros((height, width), dtype=np.int32)
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
        painted[coco_mask.decode(encoded) > 0] = region.number
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


def detail_table(categories: Mapping[int, str]) -> NDArray[np.int32]:
    """Category numbers of `trainval_merged.json` to the 59 classes.

    The file's own names decide; a number that it does not name, or names otherwise, is taken as one of the full list.

    Args:
        categories: name by number, as in the file; may be empty.

    Returns:
        (65536,) int32: class index, or 255 for what is none of the 59.
    """
    named = {number: index for number, name in categories.items() if (index := index_of_59(name)) is not None}
    taken = set(named.values())
    for number, name in context459_names().items():
        index = index_of_59(name)
        if index is not None and index not in taken:
            named.setdefault(number, index)
    table = np.full(65536, IGNORE_8BIT, dtype=np.int32)
    for number, index in named.items():
        table[number] = index
    return table


def context59_labels(painted: NDArray[np.int32], table: NDArray[np.int32], where: str) -> NDArray[np.int32]:
    """Painted category numbers as class indices; see `paint_regions` and `detail_table`."""
    return recode(painted, table, where)
