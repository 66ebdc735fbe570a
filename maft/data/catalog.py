"""Registration with detectron2's catalogs.

Nothing is read at import. `register_all` reads vocabularies; where images and labels lie is found out when a data set
is loaded, so that DETECTRON2_DATASETS may be set until then.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from maft.data.locate import DatasetPaths, DatasetStatus, locate, status_of
from maft.data.records import Record, instance_records, panoptic_records, semantic_records
from maft.data.specs import BUILTIN, IGNORE_8BIT, DatasetSpec, counted_classes
from maft.errors import UserError
from reason.vocabulary import Vocabulary, VocabularyClass, load_vocabulary

logger = logging.getLogger(__name__)

LABEL_DIVISOR = 1000

_specs: dict[str, DatasetSpec] = {spec.name: spec for spec in BUILTIN}
_vocabularies: dict[str, Vocabulary] = {}


def register_all() -> tuple[str, ...]:
    """Register every built-in data set and its metadata; a second call changes nothing.

    Returns:
        the names.

    Raises:
        VocabularyError: a vocabulary file is missing or malformed.
    """
    for spec in BUILTIN:
        if spec.name not in _vocabularies:
            _register(spec, load_vocabulary(spec.vocabulary))
    return tuple(spec.name for spec in BUILTIN)


def register_custom(
    name: str,
    vocabulary: Vocabulary | str | Path,
    image_dir: str | Path,
    label_dir: str | Path,
    *,
    panoptic_json: str | Path | None = None,
    semantic_dir: str | Path | None = None,
    label_extensions: tuple[str, ...] = ("png", "tif", "tiff"),
    ignore_label: int = IGNORE_8BIT,
) -> None:
    """Register a folder of images with labels, under the loaders of the built-in data sets.

    Args:
        name: must not be a built-in one; a name that was registered by this function before is replaced.
        vocabulary: itself, or what `load_vocabulary` takes.
        image_dir: the images.
        label_dir: label maps named after the images; with `panoptic_json`, its PNG.
        panoptic_json: COCO panoptic annotations, with the vocabulary's `dataset_id` (or index) as category.
        semantic_dir: label maps beside panoptic annotations.
        label_extensions: of the label maps; the first one that occurs counts.
        ignore_label: value of pixels that no metric counts (8- or 16-bit).

    Raises:
        UserError: the name belongs to somebody else.
    """
    if any(spec.name == name for spec in BUILTIN) or (name in DatasetCatalog.list() and name not in _specs):
        raise UserError(f"data set {name}: the name is taken by a built-in data set; choose another")
    known = vocabulary if isinstance(vocabulary, Vocabulary) else load_vocabulary(vocabulary)

    def absolute(path: str | Path | None) -> tuple[str, ...]:
        return () if path is None else (str(Path(path).absolute()),)

    spec = DatasetSpec(
        name,
        known.name,
        "semantic" if panoptic_json is None else "panoptic",
        bases=("",),
        images=absolute(image_dir),
        labels=absolute(label_dir),
        json_files=absolute(panoptic_json),
        semantic=absolute(semantic_dir),
        label_extensions=label_extensions,
        ignore_label=ignore_label,
        evaluator_type="sem_seg" if panoptic_json is None else "ade20k_panoptic_seg",
    )
    if name in _specs:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    _specs[name] = spec
    _register(spec, known)


def dataset_names() -> tuple[str, ...]:
    """Every name this module knows, built-in ones first."""
    return tuple(_specs)


def dataset_spec(name: str) -> DatasetSpec:
    """The table's entry of a data set.

    Raises:
        UserError: unknown name.
    """
    if name not in _specs:
        raise UserError(f"data set {name}: unknown; known are {', '.join(_specs)}")
    return _specs[name]


def dataset_status(name: str) -> DatasetStatus:
    """Whether a data set is there, what is missing and where it belongs; reads no image and no annotation."""
    return status_of(dataset_spec(name))


def dataset_paths(name: str) -> DatasetPaths:
    """Where the files of a data set lie.

    Raises:
        UserError: unknown, or not there.
    """
    return locate(dataset_spec(name))


def load_dataset(name: str) -> list[Record]:
    """The records of a registered data set, as `DatasetCatalog.get(name)` returns them; see `maft.data.records`.

    The paths that were found enter the data set's metadata: `image_root`, and `sem_seg_root`, `panoptic_root`,
    `panoptic_json` or `json_file`.

    Raises:
        UserError: files are missing or malformed.
    """
    spec = dataset_spec(name)
    paths = locate(spec)
    if spec.kind == "semantic":
        records = semantic_records(spec, paths)
    elif spec.kind == "panoptic":
        vocabulary = _vocabularies[name]
        records = panoptic_records(spec, paths, _contiguous(vocabulary.classes), vocabulary.thing_indices)
    else:
        records = instance_records(spec, paths)
    _set_paths(spec, paths)
    logger.info("data set %s: %d images in %s, labels in %s", name, len(records), paths.images, _labels_of(paths))
    return records


def _labels_of(paths: DatasetPaths) -> Path | None:
    return paths.json_file or paths.labels


def _register(spec: DatasetSpec, vocabulary: Vocabulary) -> None:
    _vocabularies[spec.name] = vocabulary
    MetadataCatalog.get(spec.name).set(**_metadata(spec, vocabulary))
    DatasetCatalog.register(spec.name, partial(load_dataset, spec.name))


def _metadata(spec: DatasetSpec, vocabulary: Vocabulary) -> dict[str, Any]:
    """What detectron2's evaluators and the model ask of a data set, known without its files."""
    palette = vocabulary.palette
    things = [entry for entry in vocabulary.classes if entry.thing]
    classes = things if spec.kind == "instances" else list(vocabulary.classes)
    counted = counted_classes(vocabulary, spec.background).classes if spec.kind == "semantic" else classes
    metadata: dict[str, Any] = {
        "dataname": spec.name,
        "vocabulary": vocabulary.name,
        # detectron2 silently turns "class_names" into "thing_classes", hence another name.
        "short_names": [entry.name.strip() for entry in counted],
        # A model prompts a class by all its names; detectron2's field holds one text a class.
        "stuff_classes": [",".join(entry.synonyms) for entry in classes],
        # SED has a name list of its own and splits it otherwise.
        "sed_classes": [", ".join(entry.sed_names) for entry in classes],
        "stuff_colors": [list(palette[entry.index]) for entry in classes],
        "thing_dataset_id_to_contiguous_id": {},
        "stuff_dataset_id_to_contiguous_id": _contiguous(classes),
        "ignore_label": spec.ignore_label,
        "ignored_as_well": spec.ignored_as_well,
        "evaluator_type": spec.evaluator_type,
        "background": spec.background,
        "label_divisor": LABEL_DIVISOR,
    }
    if spec.kind != "semantic":
        contiguous = {entry.index: place for place, entry in enumerate(classes)}
        metadata["thing_classes"] = [",".join(entry.synonyms) for entry in things]
        metadata["thing_colors"] = [list(palette[entry.index]) for entry in things]
        metadata["thing_dataset_id_to_contiguous_id"] = {_category(entry): contiguous[entry.index] for entry in things}
    return metadata


def _category(entry: VocabularyClass) -> int:
    return entry.index if entry.dataset_id is None else entry.dataset_id


def _contiguous(classes: Any) -> dict[int, int]:
    """Class index by the data set's own identifier; an instance vocabulary numbers its things anew."""
    return {_category(entry): place for place, entry in enumerate(classes)}


def _set_paths(spec: DatasetSpec, paths: DatasetPaths) -> None:
    values = {"image_root": str(paths.images)}
    if spec.kind == "semantic":
        values["sem_seg_root"] = str(paths.labels)
        values["gt_ext"] = paths.label_extension
    elif spec.kind == "panoptic":
        values["panoptic_root"] = str(paths.labels)
        values["panoptic_json"] = str(paths.json_file)
        if paths.semantic is not None:
            values["sem_seg_root"] = str(paths.semantic)
    else:
        values["json_file"] = str(paths.json_file)
    metadata = MetadataCatalog.get(spec.name)
    for key in values:
        # detectron2's metadata can be set but not changed; the root may have moved since the last loading.
        metadata.__dict__.pop(key, None)
    metadata.set(**values)
