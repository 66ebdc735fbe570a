"""Label maps: finding them, reading them, and counting what they show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reason.errors import ReasonError
from reason.imagefile import ImageFileError, opened

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LABEL_EXTENSIONS = (".png", ".tif", ".tiff")
"""Of label maps, as the prepared data sets have them (datasets/README.md)."""

IGNORED = (255, 65535)
"""Values of unlabelled pixels in 8- and 16-bit maps, where they are not classes of the vocabulary."""

_LISTED = 8


def label_files(folder: Path) -> list[Path]:
    """The label maps in `folder`, sorted.

    Raises:
        ReasonError: no such folder, none in it, or two of one stem.
    """
    if not folder.is_dir():
        raise ReasonError(f"{folder}: no such folder; give the one that holds the label maps with --labels")
    found = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in LABEL_EXTENSIONS and not path.name.startswith(".")
    )
    if not found:
        raise ReasonError(f"{folder}: no {', '.join(LABEL_EXTENSIONS)} file in it; give the folder of the label maps")
    by_stem: dict[str, Path] = {}
    for path in found:
        other = by_stem.setdefault(path.stem, path)
        if other is not path:
            raise ReasonError(f"{folder}: {other.name} and {path.name} are label maps of one image; keep one of them")
    return found


def read_labels(path: Path) -> NDArray[np.integer]:
    """A label map as (H, W) unsigned integers of 8 or 16 bit (a palette's indices, not its colours).

    Raises:
        ReasonError: unreadable, or no map of integers.
    """
    import numpy as np

    try:
        with opened(path) as image:
            array, mode = np.asarray(image), image.mode
    except ImageFileError as error:
        problem = str(error).removeprefix(f"{path}: ")
        raise ReasonError(f"{path}: not readable as a label map ({problem}); prepare or copy it again") from error
    if array.ndim != 2 or array.dtype.kind not in "uib":
        raise ReasonError(f"{path}: has mode {mode}, a label map has one channel of 8- or 16-bit integers")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > IGNORED[-1]:
        raise ReasonError(f"{path}: holds {low if low < 0 else high}; labels are 0 to {IGNORED[-1]}: prepare it again")
    return array.astype(np.uint8 if array.dtype.itemsize == 1 else np.uint16)


def class_pixels(labels: NDArray[np.integer], classes: int, ignore: int | None, path: Path) -> NDArray[np.int64]:
    """How many pixels each class has.

    Args:
        labels: (H, W) uint8 or uint16.
        classes: size of the vocabulary.
        ignore: value of unlabelled pixels, or None for 255 and 65535 where they are no classes.
        path: what to name in messages.

    Returns:
        (classes + 1,) int64; the last number counts the unlabelled pixels.

    Raises:
        ReasonError: a value that is neither a class nor ignored.
    """
    import numpy as np

    ignored = [value for value in IGNORED if value >= classes] if ignore is None else [ignore]
    counts = np.bincount(labels.ravel(), minlength=IGNORED[-1] + 1)
    unlabelled = int(counts[ignored].sum())
    counts[ignored] = 0
    beyond = np.flatnonzero(counts[classes:]) + classes
    if beyond.size:
        values = ", ".join(map(str, beyond[:_LISTED])) + (", …" if beyond.size > _LISTED else "")
        raise ReasonError(
            f"{path}: holds {values}, outside the vocabulary of {classes} classes (0 to {classes - 1}, ignored "
            f"{' and '.join(map(str, ignored))}); take the label maps of this vocabulary, or say --ignore VALUE"
        )
    return np.append(counts[:classes], unlabelled).astype(np.int64)
