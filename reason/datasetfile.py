"""A data set of one's own as a small yaml file (datasets/README.md, "Your own data set").

images: photos                      # folder; paths are relative to this file
labels: masks                       # label maps, named after the images: a pixel holds the index of its class
vocabulary: [cup, "table, desk"]    # or a file of classes, or a benchmark's name
name: kitchen                       # all from here on may be left out
things: [cup]
ignore: 255
panoptic: panoptic.json             # COCO panoptic annotations; labels is then the folder of its PNG files
semantic: masks                     # label maps beside panoptic annotations
reasons: {generic: reasons.json, images: reasons}    # generic: generic, or reasons: generic, for those that come along
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reason.shipped import GENERIC
from reason.suggest import did_you_mean
from reason.vocabulary import Vocabulary, VocabularyError, load_vocabulary, parse_vocabulary, read_vocabulary

ENDINGS = (".yaml", ".yml")
_KEYS = ("images", "labels", "vocabulary", "name", "things", "ignore", "panoptic", "semantic", "reasons")
_REASONS = ("generic", "images")
_LARGEST = 65535


class DatasetFileError(VocabularyError):
    """A data-set file that cannot be used; one line that names the file and the key."""


@dataclass(frozen=True)
class DatasetFile:
    """What the file says, paths absolute.

    Attributes:
        path: of the file.
        name: what the data set is called, also as a folder of results.
        images: folder of the images.
        labels: folder of label maps, or of the PNG files of `panoptic`.
        vocabulary: the classes.
        ignore: value of pixels that no metric counts.
        panoptic: COCO panoptic annotations, or None.
        semantic: folder of label maps beside these, or None.
        generic_reasons: a file, or None; it may be still to be written.
        shipped_reasons: whether the generic reasons that come along are asked for, by the word in the file's place.
        image_reasons: a folder of files named after the images, or None; the same holds.
    """

    path: Path
    name: str
    images: Path
    labels: Path
    vocabulary: Vocabulary
    ignore: int = 255
    panoptic: Path | None = None
    semantic: Path | None = None
    generic_reasons: Path | None = None
    shipped_reasons: bool = False
    image_reasons: Path | None = None

    @property
    def label_maps(self) -> Path | None:
        """The folder of label maps; None where there are panoptic annotations alone."""
        return self.labels if self.panoptic is None else self.semantic

    @property
    def has_reasons(self) -> bool:
        """Whether it says where reasons are."""
        return self.shipped_reasons or self.generic_reasons is not None or self.image_reasons is not None


def is_dataset_file(name: str) -> bool:
    """Whether a data set's name is the path of such a file: by its ending."""
    return name.lower().endswith(ENDINGS)


def read_dataset_file(path: str | Path) -> DatasetFile:
    """Read and check a data-set file; images and labels themselves are not read.

    Raises:
        DatasetFileError: the file, or a file or folder that it names, is missing; a key is unknown, missing or of the
            wrong kind.
        VocabularyError: its classes cannot be used.
    """
    path = Path(path).expanduser().absolute()
    document = _document(path)
    for key in document:
        if key not in _KEYS:
            raise DatasetFileError(
                f"{path}: key '{key}': unknown{did_you_mean(str(key), _KEYS)}; there are {', '.join(_KEYS)}"
            )
    reasons = document.get("reasons", {})
    if reasons == GENERIC:
        reasons = {"generic": GENERIC}
    if not isinstance(reasons, dict) or not set(reasons) <= set(_REASONS):
        way = "{generic: FILE, images: FOLDER}, or one of the two, or the word generic for the reasons that come along"
        raise DatasetFileError(f"{path}: key 'reasons': write {way}")
    shipped = reasons.get("generic") == GENERIC
    if shipped:
        reasons = {key: value for key, value in reasons.items() if key != "generic"}
    name = document.get("name", path.stem)
    if not isinstance(name, str) or not name.strip() or set(name) & set("/\\,'\"") or name.startswith("."):
        raise DatasetFileError(f"{path}: key 'name': {name!r}; give a name that can be a folder's, such as my_val")
    ignore = document.get("ignore", 255)
    if isinstance(ignore, bool) or not isinstance(ignore, int) or not 0 <= ignore <= _LARGEST:
        raise DatasetFileError(f"{path}: key 'ignore': {ignore!r}; give a pixel value, 0 to {_LARGEST}")
    if "semantic" in document and "panoptic" not in document:
        raise DatasetFileError(f"{path}: key 'semantic': goes with 'panoptic'; label maps alone are 'labels'")
    generic, images = (
        _place(path, reasons, key, "reasons.", folder=key == "images", there=False) if key in reasons else None
        for key in _REASONS
    )
    return DatasetFile(
        path=path,
        name=name.strip(),
        images=_place(path, document, "images", folder=True),
        labels=_place(path, document, "labels", folder=True),
        vocabulary=_classes(path, document, name.strip()),
        ignore=ignore,
        panoptic=_place(path, document, "panoptic") if "panoptic" in document else None,
        semantic=_place(path, document, "semantic", folder=True) if "semantic" in document else None,
        generic_reasons=generic,
        shipped_reasons=shipped,
        image_reasons=images,
    )


def _document(path: Path) -> dict[Any, Any]:
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "not UTF-8 text"
        raise DatasetFileError(f"{path}: cannot be read as a data set ({problem}); check the path") from error
    except yaml.YAMLError as error:
        raise DatasetFileError(f"{path}: not valid yaml ({' '.join(str(error).split())})") from error
    if not isinstance(document, dict):
        raise DatasetFileError(f"{path}: holds no keys; write images: FOLDER, labels: FOLDER, vocabulary: CLASSES")
    return document


def _place(
    path: Path, document: Mapping[Any, Any], key: str, prefix: str = "", *, folder: bool = False, there: bool = True
) -> Path:
    """A file or folder that a key names, relative to the yaml file, and whether it must be there."""
    kind = "folder" if folder else "file"
    value = document.get(key)
    if not isinstance(value, str) or not value.strip():
        problem = "is missing" if value is None else f"is {value!r}"
        raise DatasetFileError(f"{path}: key '{prefix}{key}' {problem}; give the path of a {kind}")
    place = path.parent / Path(value).expanduser()
    if there and not (place.is_dir() if folder else place.is_file()):
        raise DatasetFileError(f"{path}: key '{prefix}{key}': {place}: no such {kind}")
    return place


def _classes(path: Path, document: Mapping[Any, Any], name: str) -> Vocabulary:
    value = document.get("vocabulary")
    try:
        if isinstance(value, list) and value and all(isinstance(entry, str) for entry in value):
            vocabulary = parse_vocabulary("\n".join([*value, ""]), name=name)
        elif isinstance(value, str) and value.strip():
            own = path.parent / Path(value).expanduser()
            vocabulary = load_vocabulary(own) if own.is_file() else read_vocabulary(value)
        else:
            problem = "is missing" if value is None else f"is {value!r}"
            raise DatasetFileError(f"{path}: key 'vocabulary' {problem}; give classes, a file of them, or a known name")
    except DatasetFileError:
        raise
    except VocabularyError as error:
        raise DatasetFileError(f"{path}: key 'vocabulary': {error}") from error
    things = document.get("things", [])
    if not isinstance(things, list) or not all(isinstance(thing, str) for thing in things):
        raise DatasetFileError(f"{path}: key 'things': {things!r}; give a list of classes")
    known = {own for entry in vocabulary.classes for own in (entry.name, *entry.synonyms)}
    for thing in things:
        if thing not in known:
            raise DatasetFileError(f"{path}: key 'things': {thing!r} is no class{did_you_mean(thing, known)}")
    classes = tuple(
        replace(entry, thing=entry.thing or not set(things).isdisjoint((entry.name, *entry.synonyms)))
        for entry in vocabulary.classes
    )
    return replace(vocabulary, classes=classes)
