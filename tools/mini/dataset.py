"""The mini world as files, and as data sets of detectron2: `mini_{train,val,closed}_{sem_seg,panoptic}`.

Below a split's folder, such as `<root>/val`:
images/<stem>.png             images, RGB
annotations/<stem>.png        class indices of the split's vocabulary, 255 = none
panoptic/<stem>.png           COCO panoptic segments, described in panoptic.json
vocabulary.json               the classes
prepared.json                 what made the folder
and for "val", the reasons that the world's own model wrote, as they ship (`shipped_reasons`):
generic_reason/lmm.json                  MODEL.TEST_CLASS_REASON_JSON
image_reason/lmm/mini/<stem>.json        MODEL.REASON_DIR is image_reason/lmm, MODEL.REASON_DATA is mini
to tell what the mere list of an image's classes is worth:
image_reason/list-only/mini/<stem>.json  the classes that the model named, each with its generic reason
and what-if, those of simulated observers, in place of "lmm" every one of `observer.LEVELS`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from maft.data import datasets_root, load_dataset, register_custom
from maft.data.records import Record
from maft.errors import UserError
from reason.bars import Bar
from reason.jsonfile import JsonError, read_json
from reason.triplets import ImageTriplet, dump_generic, dump_image
from reason.vocabulary import dump_vocabulary

from . import observer, shipped_reasons
from .scenes import IGNORE_LABEL, Scene, render_scene
from .world import Split, class_groups, classes_of, vocabulary

logger = logging.getLogger(__name__)

PREFIX = "mini_"
"""How the names of these data sets begin."""

SPLITS: tuple[Split, ...] = ("train", "val", "closed")
COUNTS: Mapping[Split, int] = {"train": 2000, "val": shipped_reasons.VAL_IMAGES, "closed": 60}
REASON_DATA = "mini"
MODEL = "lmm"
"""Whose reasons are evaluated: those of the model that was trained to look at this world."""
LIST_ONLY = "list-only"
"""In place of a name: the classes that the model named in an image, each with its generic reason."""

_SOURCES = (
    *("world.py", "drawing.py", "scenes.py", "observer.py", "dataset.py", "shipped_reasons.py"),
    *("reasons/image.json", "reasons/generic.json"),
)


@dataclass(frozen=True)
class Layout:
    """Where things of one split lie.

    Attributes:
        root: the world's folder.
        split: which one.
        made: a folder with reasons that the model has just written (`ask_model`); None: those that ship.
    """

    root: Path
    split: Split
    made: Path | None = None

    @property
    def folder(self) -> Path:
        """The split's folder."""
        return self.root / self.split

    @property
    def images(self) -> Path:
        """Folder of the images."""
        return self.folder / "images"

    @property
    def annotations(self) -> Path:
        """Folder of the label maps."""
        return self.folder / "annotations"

    @property
    def panoptic(self) -> Path:
        """Folder of the panoptic segment maps."""
        return self.folder / "panoptic"

    @property
    def panoptic_json(self) -> Path:
        """Description of the panoptic segments."""
        return self.folder / "panoptic.json"

    @property
    def vocabulary(self) -> Path:
        """The classes."""
        return self.folder / "vocabulary.json"

    @property
    def marker(self) -> Path:
        """What made the folder."""
        return self.folder / "prepared.json"

    def generic_reason(self, level: str = MODEL) -> Path:
        """The generic reasons of the model, or of an observer."""
        if level == MODEL and self.made is not None:
            return self.made / "generic.json"
        return self.folder / "generic_reason" / f"{level}.json"

    def reason_dir(self, level: str = MODEL) -> Path:
        """MODEL.REASON_DIR of the model, or of an observer; its files lie one level below, in `REASON_DATA`."""
        if level == MODEL and self.made is not None:
            return self.made / "image"
        return self.folder / "image_reason" / level


def default_root() -> Path:
    """Where the mini world lies: "mini" below the data-set root."""
    return datasets_root() / "mini"


def prepare(
    root: str | Path | None = None, splits: Iterable[Split] = SPLITS, counts: Mapping[Split, int] | None = None
) -> dict[Split, Layout]:
    """Draw and write splits; one that is there as it should be stays untouched.

    A split appears as a whole or not at all; several processes may prepare it at once.

    Args:
        root: `default_root()` if None.
        splits: which ones.
        counts: how many images a split has; `COUNTS` if None.

    Raises:
        UserError: the folder cannot be written.
    """
    layouts = {split: Layout(default_root() if root is None else Path(root), split) for split in splits}
    counts = COUNTS if counts is None else counts
    for split, layout in layouts.items():
        marker = {"sources": _source_hash(), "numpy": np.__version__, "images": counts[split]}
        if not _is_prepared(layout, marker):
            try:
                _make(layout, marker)
            except OSError as error:
                raise UserError(
                    f"{layout.folder}: cannot be written ({error.strerror or error}); make room, or set "
                    "DETECTRON2_DATASETS to a folder that can"
                ) from error
    return layouts


def register(root: str | Path | None = None) -> tuple[str, ...]:
    """Register the data sets and prepare the validation split; other images are drawn when they are first loaded.

    Their metadata also has `class_groups`, a tuple of "seen", "synonym" or "new" per class. A second call, with another
    root for example, replaces the first.

    Args:
        root: `default_root()` if None.

    Returns:
        the names.

    Raises:
        UserError: the folder cannot be written.
    """
    base = default_root() if root is None else Path(root)
    prepare(base, ("val",))
    names = []
    for split in SPLITS:
        layout = Layout(base, split)
        semantic, panoptic = f"{PREFIX}{split}_sem_seg", f"{PREFIX}{split}_panoptic"
        classes = vocabulary(split)
        register_custom(semantic, classes, layout.images, layout.annotations, ignore_label=IGNORE_LABEL)
        register_custom(
            panoptic,
            classes,
            layout.images,
            layout.panoptic,
            panoptic_json=layout.panoptic_json,
            semantic_dir=layout.annotations,
            ignore_label=IGNORE_LABEL,
        )
        for name in (semantic, panoptic):
            MetadataCatalog.get(name).set(class_groups=class_groups(split))
            DatasetCatalog.remove(name)
            DatasetCatalog.register(name, partial(_load, name, base, split))
            names.append(name)
    return tuple(names)


def _load(name: str, root: Path, split: Split) -> list[Record]:
    prepare(root, (split,))
    return load_dataset(name)


def _source_hash() -> str:
    """Changes with the code that draws and observes, and with the shipped reasons."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:16]


def _is_prepared(layout: Layout, marker: Mapping[str, Any]) -> bool:
    try:
        return bool(read_json(layout.marker) == marker)
    except JsonError:
        return False


def _make(layout: Layout, marker: Mapping[str, Any]) -> None:
    """Write the split into a folder beside its place, then put it there."""
    layout.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=layout.root, prefix=f".{layout.split}-", ignore_cleanup_errors=True) as aside:
        made = Layout(Path(aside), layout.split)
        _write_split(made, int(marker["images"]))
        made.marker.write_text(json.dumps(marker) + "\n", encoding="utf-8")
        if layout.folder.exists():
            layout.folder.rename(Path(aside) / "old")
        try:
            made.folder.rename(layout.folder)
        except OSError:
            if not _is_prepared(layout, marker):  # another process was quicker with the same
                raise


def _write_split(layout: Layout, count: int) -> None:
    split, classes = layout.split, classes_of(layout.split)
    for folder in (layout.images, layout.annotations, layout.panoptic):
        folder.mkdir(parents=True)
    dump_vocabulary(vocabulary(split), layout.vocabulary)
    images, annotations = [], []
    shipped = shipped_reasons.shipped_images()[1] if split == "val" else {}
    for number in Bar(range(count), desc=f"mini world, {split}", unit="image", disable=count < 200):
        scene, name = render_scene(number, split), f"{split}_{number:04d}.png"
        for folder, pixels in (
            (layout.images, scene.image),
            (layout.annotations, scene.semantic),
            (layout.panoptic, _segment_colors(scene)),
        ):
            Image.fromarray(pixels).save(folder / name, compress_level=3)
        height, width = scene.panoptic.shape
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        annotations.append({"image_id": number, "file_name": name, "segments_info": _segments_info(scene)})
        if split == "val":
            stem = Path(name).stem
            _write_reasons(layout, stem, shipped_reasons.check_scene(stem, scene, shipped.get(stem)))
            _observe(layout, scene, number, f"{stem}.json")
    if split == "val":
        dump_generic(shipped_reasons.shipped_generic(), layout.generic_reason())
        for level, rates in observer.LEVELS.items():
            dump_generic(observer.observe_classes(classes, rates), layout.generic_reason(level))
    categories = [
        {"id": index, "name": entry.name, "isthing": int(entry.kind.thing)} for index, entry in enumerate(classes)
    ]
    document = {"images": images, "annotations": annotations, "categories": categories}
    layout.panoptic_json.write_text(json.dumps(document) + "\n", encoding="utf-8")


def _write_reasons(layout: Layout, stem: str, triplet: ImageTriplet) -> None:
    """Write the model's reasons for one image, and the classes it named with their generic ones."""
    generic = shipped_reasons.shipped_generic()
    listed = replace(triplet, reasons={name: generic[name] for name in triplet.reasons})
    dump_image(triplet, layout.reason_dir() / REASON_DATA / f"{stem}.json")
    dump_image(listed, layout.reason_dir(LIST_ONLY) / REASON_DATA / f"{stem}.json")


def _observe(layout: Layout, scene: Scene, number: int, name: str) -> None:
    """Write every observer's reasons for one image."""
    for level, rates in observer.LEVELS.items():
        triplet = observer.observe_scene(scene, classes_of("val"), rates, number)
        dump_image(triplet, layout.reason_dir(level) / REASON_DATA / name)


def _segments_info(scene: Scene) -> list[dict[str, Any]]:
    return [
        {
            "id": segment.id,
            "category_id": segment.class_index,
            "area": segment.area,
            "bbox": list(segment.box),
            "iscrowd": 0,
        }
        for segment in scene.segments
    ]


def _segment_colors(scene: Scene) -> np.ndarray:
    """COCO's encoding, id = R + 256 G + 65536 B; (H, W, 3) uint8. No scene has more than 255 segments."""
    return np.stack([scene.panoptic, *[np.zeros_like(scene.panoptic)] * 2], axis=-1).astype(np.uint8)
