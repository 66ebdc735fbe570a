"""What the lists of classes in image-specific reasons cost: a class that a list lacks cannot be found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maft.errors import UserError
from maft.text.prompts import match_reasons
from reason.triplets import Reason, find_image_file, load_image


@dataclass(frozen=True)
class ImageList:
    """The list of one image against its ground truth.

    listed: indices of the classes that have a reason; None where the image has no file or its file names no class.
    reasons: of these, by class index.
    present: indices of the classes in the ground truth.
    """

    listed: frozenset[int] | None
    reasons: Mapping[int, Reason]
    present: frozenset[int]

    @property
    def recall(self) -> float | None:
        """Part of the present classes that is listed; None where there is nothing to compare."""
        if self.listed is None or not self.present:
            return None
        return len(self.listed & self.present) / len(self.present)


def read_list(folder: Path, file: str, synonyms: Sequence[Sequence[str]], present: frozenset[int]) -> ImageList:
    """The list of one image.

    Args:
        folder: of reason files, `<stem>.json` each.
        file: the image.
        synonyms: names of each class.
        present: indices of the classes in the ground truth.

    Raises:
        UserError: there is no such folder.
        TripletError: a malformed reason file.
    """
    if not folder.is_dir():
        raise UserError(f"--image-reasons {folder}: no such folder")
    path = find_image_file([folder], file)
    reasons = {} if path is None else load_image(path).reasons
    keys = match_reasons(synonyms, reasons)
    found = {index: reasons[key] for index, key in enumerate(keys) if key is not None}
    return ImageList(frozenset(found) or None, found, present)


def with_whole_list(
    prediction: NDArray[np.integer], label: NDArray[np.integer], listed: frozenset[int] | None, ignore: int
) -> NDArray[np.integer]:
    """The oracle "lists complete": pixels of classes that the list lacks are right, all others stay as they are.

    Args:
        prediction, label: (H, W) class indices.
        listed: indices of the listed classes; None leaves everything.
        ignore: the value of `label` that does not count.

    Returns:
        (H, W) class indices.
    """
    if listed is None:
        return prediction
    missed = (label != ignore) & ~np.isin(label, list(listed))
    return np.where(missed, label, prediction)


def figures(lists: Sequence[ImageList]) -> dict[str, Any]:
    """Counts over all images: recall and precision of the lists by class, and images without one."""
    with_list = [one for one in lists if one.listed is not None]
    listed = sum(len(one.listed or ()) for one in with_list)
    present = sum(len(one.present) for one in with_list)
    right = sum(len((one.listed or frozenset()) & one.present) for one in with_list)
    return {
        "images": len(lists),
        "without_list": len(lists) - len(with_list),
        "recall": right / present if present else None,
        "precision": right / listed if listed else None,
    }


def gain_by_recall(lists: Sequence[ImageList], gains: Sequence[float]) -> list[dict[str, Any]]:
    """The mean gain of images by the recall of their lists: all classes listed, at least half, fewer.

    Args:
        lists: of the images.
        gains: points of pixel accuracy by which each image is better in the second run.
    """
    bands = (("all classes listed", 1.0, 2.0), ("at least half", 0.5, 1.0), ("fewer than half", 0.0, 0.5))
    rows = []
    for name, low, high in bands:
        inside = [
            gain for one, gain in zip(lists, gains, strict=True) if one.recall is not None and low <= one.recall < high
        ]
        if inside:
            rows.append({"lists": name, "images": len(inside), "gain": sum(inside) / len(inside)})
    return rows
