"""`mini_partial_sem_seg`: the training images with a quarter of their segments unlabelled.

No pixel of the mini world is without a label, as many of COCO-Stuff are. This data set is for measuring what
SED.IGNORED_AS_NEGATIVES does; DATASETS.REGISTER names this module (docs/mini.md).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog
from numpy.typing import NDArray

from maft.data import load_dataset, register_custom
from maft.data.records import Record
from maft.files import encode_label_map, read_label_map, read_panoptic, write_bytes

from .dataset import Layout, default_root, prepare
from .scenes import IGNORE_LABEL
from .world import vocabulary

NAME = "mini_partial_sem_seg"
SHARE = 0.25
"""Of the segments that lose their label."""


def register(root: str | Path | None = None) -> tuple[str, ...]:
    """Register the data set; its label maps are written when it is first loaded.

    Args:
        root: of the mini world; `default_root()` if None.

    Returns:
        the name.
    """
    layout = Layout(default_root() if root is None else Path(root), "train")
    labels = layout.folder / "annotations_partial"
    register_custom(NAME, vocabulary("train"), layout.images, labels, ignore_label=IGNORE_LABEL)
    DatasetCatalog.remove(NAME)
    DatasetCatalog.register(NAME, partial(_load, layout, labels))
    return (NAME,)


def _load(layout: Layout, folder: Path) -> list[Record]:
    prepare(layout.root, ("train",))
    for path in sorted(layout.annotations.glob("*.png")):
        target = folder / path.name
        if not target.is_file():
            labels = np.array(read_label_map(path, len(vocabulary("train")), IGNORE_LABEL))
            segments = read_panoptic(layout.panoptic / path.name)
            write_bytes(target, encode_label_map(without_some(labels, segments, path.stem)))
    return load_dataset(NAME)


def without_some(labels: NDArray[np.integer], segments: NDArray[np.integer], stem: str) -> NDArray[np.integer]:
    """A label map, some of whose segments have become `IGNORE_LABEL`; the same ones for the same `stem`.

    Args:
        labels: (H, W) class indices.
        segments: (H, W) segment ids.
        stem: the image's name.
    """
    rng = np.random.default_rng(list(stem.encode()))
    ids = np.unique(segments)
    lost = ids[rng.random(len(ids)) < SHARE]
    return np.where(np.isin(segments, lost), IGNORE_LABEL, labels).astype(labels.dtype)
