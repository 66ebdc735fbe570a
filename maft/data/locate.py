"""Where a data set's files lie on this machine, and what is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maft.data.specs import DatasetSpec
from maft.errors import UserError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""What counts as an image, preferred first where two have one stem."""

README = "datasets/README.md"


@dataclass(frozen=True)
class DatasetPaths:
    """The files of a data set that was found.

    Attributes:
        images: image folder.
        labels: folder of label maps (semantic) or panoptic PNG; None for instances.
        json_file: annotation file; None for semantic data.
        semantic: folder of label maps of a panoptic data set; it may be missing, but says where they belong.
        label_extension: of the label maps, without dot.
    """

    images: Path
    labels: Path | None = None
    json_file: Path | None = None
    semantic: Path | None = None
    label_extension: str = "png"


@dataclass(frozen=True)
class DatasetStatus:
    """What `dataset_status` found.

    Attributes:
        name: the data set.
        present: it can be evaluated.
        root: the data-set root that was used.
        paths: its files, None where not present.
        images: number of images with a label map; None where that needs the annotation file to be read.
        looked_at: what was found lacking, one "<path>: <problem>" each; empty if present.
        hint: what to do if it is not present.
    """

    name: str
    present: bool
    root: Path
    paths: DatasetPaths | None
    images: int | None
    looked_at: tuple[str, ...]
    hint: str


def datasets_root() -> Path:
    """The folder that holds the data sets: the environment variable DETECTRON2_DATASETS, or "datasets"."""
    return Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser()


def stems(folder: Path, extensions: tuple[str, ...]) -> dict[str, Path]:
    """Files of `folder` (not below it) by stem, sorted by stem.

    Args:
        folder: a missing one counts as empty.
        extensions: with dot, lower case, matched in any case; the earlier one wins where two files have one stem.
    """
    rank = {extension: place for place, extension in enumerate(extensions)}
    found: dict[str, tuple[int, str]] = {}
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):  # left by other systems, or being written
                    continue
                stem, extension = os.path.splitext(entry.name)
                place = rank.get(extension.lower())
                if place is not None and (stem not in found or (place, entry.name) < found[stem]):
                    found[stem] = (place, entry.name)
    return {stem: folder / found[stem][1] for stem in sorted(found)}


def label_files(folder: Path, extensions: tuple[str, ...]) -> tuple[dict[str, Path], str]:
    """The label maps of `folder` by stem, and their extension: the first one given that occurs."""
    for extension in extensions:
        found = stems(folder, (f".{extension}",))
        if found:
            return found, extension
    return {}, extensions[0]


def locate(spec: DatasetSpec, root: Path | None = None) -> DatasetPaths:
    """The files of a data set: the first of its alternatives that is there.

    Raises:
        UserError: none is; names every place that was looked at.
    """
    root = datasets_root() if root is None else root
    paths, looked_at = _search(spec, root)
    if paths is None:
        raise UserError(f"data set {spec.name}: not found. Looked at {'; '.join(looked_at)}. {_hint(spec, root)}")
    return paths


def status_of(spec: DatasetSpec, root: Path | None = None) -> DatasetStatus:
    """Whether a data set is there, without reading an image or an annotation file."""
    root = datasets_root() if root is None else root
    paths, looked_at = _search(spec, root)
    images = None
    if paths is not None and spec.kind == "semantic" and paths.labels is not None:
        labels, _ = label_files(paths.labels, spec.label_extensions)
        images = len(labels.keys() & stems(paths.images, IMAGE_EXTENSIONS).keys())
    problems = () if paths is not None else tuple(looked_at)
    return DatasetStatus(spec.name, paths is not None, root, paths, images, problems, _hint(spec, root))


def _hint(spec: DatasetSpec, root: Path) -> str:
    if _is_absolute(spec):
        return "Check the folders it was registered with."
    parts = (spec.images[0], *spec.labels[:1], *spec.json_files[:1])
    return (
        f"It belongs into {root / spec.bases[0]} ({', '.join(parts)}), as {README} draws it; or set "
        f"DETECTRON2_DATASETS to the folder that holds it (now {root})."
    )


def _is_absolute(spec: DatasetSpec) -> bool:
    """Whether a data set lies where it was registered, wherever the data-set root is."""
    return any(os.path.isabs(folder) for folder in spec.images)


def _search(spec: DatasetSpec, root: Path) -> tuple[DatasetPaths | None, list[str]]:
    looked_at: list[str] = []
    for base in spec.bases:
        folder = root / base
        if not folder.is_dir() and not _is_absolute(spec):
            looked_at.append(f"{folder}: no such folder")
            continue
        for paths, problem in _attempts(spec, folder):
            if paths is not None:
                return paths, []
            looked_at.append(problem)
    return None, looked_at


def _attempts(spec: DatasetSpec, base: Path) -> Iterator[tuple[DatasetPaths | None, str]]:
    """Every alternative below `base`: its paths, or None and what it lacks."""
    if spec.kind == "semantic":
        for labels in spec.labels:
            yield _semantic(spec, base, base / labels)
        return
    images = next((base / folder for folder in spec.images if (base / folder).is_dir()), None)
    semantic = next((base / folder for folder in spec.semantic if (base / folder).is_dir()), None)
    if semantic is None and spec.semantic:
        semantic = base / spec.semantic[0]
    for number, json_file in enumerate(spec.json_files):
        labels_folder = base / spec.labels[number] if spec.kind == "panoptic" else None
        if not (base / json_file).is_file():
            yield None, f"{base / json_file}: no such file"
        elif labels_folder is not None and not labels_folder.is_dir():
            yield None, f"{labels_folder}: no such folder"
        elif images is None:
            yield None, f"{' or '.join(str(base / folder) for folder in spec.images)}: no such folder"
        else:
            yield DatasetPaths(images, labels_folder, base / json_file, semantic, spec.label_extensions[0]), ""


def _semantic(spec: DatasetSpec, base: Path, folder: Path) -> tuple[DatasetPaths | None, str]:
    if not folder.is_dir():
        return None, f"{folder}: no such folder"
    labels, extension = label_files(folder, spec.label_extensions)
    if not labels:
        return None, f"{folder}: no .{' or .'.join(spec.label_extensions)} file in it"
    # Half-filled folders of other projects lie about: the one that has most of the images is meant, the first if equal.
    matches = {images: len(labels.keys() & stems(base / images, IMAGE_EXTENSIONS).keys()) for images in spec.images}
    best = max(matches, key=lambda images: matches[images])
    if not matches[best]:
        tried = ", ".join(str(base / images) for images in spec.images)
        return None, f"{folder}: has {len(labels)} label maps, but none of their images is in {tried}"
    return DatasetPaths(base / best, folder, label_extension=extension), ""
