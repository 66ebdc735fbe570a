"""What users hand to the Python interface: images, classes and reasons in the forms that they have them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from maft.errors import UserError
from maft.text.prompts import match_reasons
from reason.imagefile import ImageFileError, read_rgb, to_rgb
from reason.shipped import GENERIC, reasons_for
from reason.triplets import Reason, find_image_file, load_generic, load_image
from reason.vocabulary import Vocabulary, VocabularyClass, VocabularyError, read_vocabulary

ImageLike = str | Path | Image.Image | NDArray[np.uint8] | Tensor
ClassesLike = str | Vocabulary | Sequence[str]


@dataclass(frozen=True)
class GivenReasons:
    """Reasons, and how far they go.

    reasons: by key, as files have it; empty for names alone.
    kind: "names"; "image" covers the classes that the reasons name and no others (the paper's way); "generic" covers
        all; "some" covers some, and the others are asked for by name.
    source: where they come from, for messages.
    note: what the user should know; "" for nothing.
    """

    reasons: Mapping[str, Reason]
    kind: Literal["names", "generic", "image", "some"]
    source: str = ""
    note: str = ""


ReasonsLike = None | str | Path | GivenReasons | Mapping[str, Reason | Mapping[str, Any] | Sequence[str]]


def read_image(image: ImageLike) -> NDArray[np.uint8]:
    """The pixels of an image, turned upright by its EXIF orientation.

    Args:
        image: a path, a PIL image, an (H, W, 3) uint8 RGB array, or an (H, W, 3) or (3, H, W) uint8 RGB tensor.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UserError: the file cannot be read, or the array's shape or dtype is another.
    """
    try:
        if isinstance(image, (str, Path)):
            return read_rgb(Path(image).expanduser())
        if isinstance(image, Image.Image):
            return np.asarray(to_rgb(image, "the image"))
    except ImageFileError as error:
        raise UserError(str(error)) from error
    if isinstance(image, Tensor):
        array = image.detach().cpu().numpy()
        if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
            array = array.transpose(1, 2, 0)
    elif isinstance(image, np.ndarray):
        array = image
    else:
        raise UserError(f"image: a {type(image).__name__}; give a path, a PIL image, or a uint8 array or tensor")
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise UserError(f"image: shape {tuple(array.shape)}; give (height, width, 3), RGB")
    if array.dtype != np.uint8:
        reach = f"{array.min():g} to {array.max():g}"
        raise UserError(f"image: {array.dtype} with values {reach}; give uint8 with values 0 to 255")
    return np.ascontiguousarray(array)


def read_classes(classes: ClassesLike, things: Sequence[str] = ()) -> Vocabulary:
    """The vocabulary of a list of classes.

    Args:
        classes: a `Vocabulary`, names with synonyms after commas ("cat, kitten"), or one text: a benchmark's name, a
            vocabulary file, or a list "cat, dog".
        things: names of the classes that are countable; a vocabulary or file says that itself.

    Raises:
        UserError: no class, an empty name, one that is not text, or a thing that is no class.
    """
    if isinstance(classes, Vocabulary):
        return _with_things(classes, things)
    if isinstance(classes, str):
        try:
            return _with_things(read_vocabulary(classes), things)
        except VocabularyError as error:
            raise UserError(f"classes: {error}") from error
    entries = []
    for index, text in enumerate(classes):
        if not isinstance(text, str):
            raise UserError(f"classes: entry {index} is a {type(text).__name__}; give names, synonyms after commas")
        names = tuple(name.strip() for name in text.split(",") if name.strip())
        if not names:
            raise UserError(f"classes: entry {index} is empty; give it a name")
        # SED splits at comma and space only.
        entries.append(VocabularyClass(index, text.strip(), names, sed=", ".join(names)))
    if not entries:
        raise UserError("classes: none given; name at least one")
    first: dict[str, int] = {}
    for entry in entries:
        for name in dict.fromkeys(entry.synonyms):
            if first.setdefault(name, entry.index) != entry.index:
                raise UserError(f"classes: {name!r} is named by two classes; the second could never be found")
    return _with_things(Vocabulary("custom", "own classes", tuple(entries)), things)


def _with_things(vocabulary: Vocabulary, things: Sequence[str]) -> Vocabulary:
    """The vocabulary with these classes countable as well."""
    known = {name for entry in vocabulary.classes for name in (entry.name, *entry.synonyms)}
    unknown = [name for name in things if name not in known]
    if unknown:
        some = ", ".join(vocabulary.class_names[:8])
        raise UserError(f"things: {unknown[0]!r} is none of the classes ({some})")
    if not things:
        return vocabulary
    classes = tuple(
        replace(entry, thing=entry.thing or not set(things).isdisjoint((entry.name, *entry.synonyms)))
        for entry in vocabulary.classes
    )
    return replace(vocabulary, classes=classes)


Find = Callable[[Mapping[str, Reason]], list[str | None]]
"""From reasons to the key that every class takes, or None."""


def read_reasons(
    reasons: ReasonsLike, vocabulary: Vocabulary, image_name: str | None, find: Find | None = None
) -> GivenReasons:
    """The reasons for one image.

    Args:
        reasons: None; "generic" for the shipped reasons (a file or folder of that name is "./generic"); a mapping from
            class to attributes or a whole reason; a generic file; an image's reason file; a folder of those, in which
            the image's is found by its name; or what this function has returned before.
        vocabulary: the classes.
        image_name: the image's path, or None where it has none.
        find: how the network finds reasons; without, by the vocabulary's synonyms.

    Raises:
        UserError: something else, or a class among the reasons that is none of the vocabulary.
        TripletError: a malformed reason file.
    """
    if reasons is None:
        return GivenReasons({}, "names")
    if isinstance(reasons, GivenReasons):
        return reasons
    if find is None:
        find = partial(match_reasons, vocabulary.synonyms)
    if isinstance(reasons, Mapping):
        given = {str(name): _reason(str(name), value) for name, value in reasons.items()}
        known = {name for names in (*vocabulary.synonyms, *vocabulary.sed_names) for name in names}
        known.update(vocabulary.class_names)
        for name in given:
            if known.isdisjoint({name, *(part.strip() for part in name.split(","))}):
                some = ", ".join(vocabulary.class_names[:8])
                raise UserError(f"reasons: {name!r} is none of the classes ({some})")
        return _shared(given, find(given), vocabulary, "the reasons given")
    if reasons == GENERIC:
        return _shipped(vocabulary, find)
    if not isinstance(reasons, (str, Path)):
        what = type(reasons).__name__
        raise UserError(f"reasons: a {what}; give a mapping, a reason file, a folder of them, or None")
    path = Path(reasons).expanduser()
    if path.is_dir():
        if image_name is None:
            raise UserError(f"reasons: {path} is a folder, but the image has no file name; give its reason file")
        found = find_image_file([path], image_name)
        if found is None:
            note = f"{path} has no reason file for {Path(image_name).name}: segmented by names alone"
            return GivenReasons({}, "names", str(path), note)
        path = found
    if not path.is_file():
        raise UserError(f"reasons: {path}: no such file or folder")
    if not _is_of_image(path):
        generic = load_generic(path)
        return _shared(generic, find(generic), vocabulary, str(path))
    own = load_image(path).reasons
    if not any(key is not None and own[key].attributes for key in find(own)):
        note = f"{path} names no class of the vocabulary: segmented by names alone"
        return GivenReasons({}, "names", str(path), note)
    return GivenReasons(own, "image", str(path))


def _shipped(vocabulary: Vocabulary, find: Find) -> GivenReasons:
    """The generic reasons that come along, for the classes that their table knows."""
    found = reasons_for(vocabulary)
    given = _shared(found.reasons, find(found.reasons), vocabulary, "the shipped generic reasons")
    notes = [f"{name!r} is read as {kind}" for name, kind in found.chosen.items()]
    if Path(GENERIC).exists():
        notes.append(f"'{GENERIC}' means the shipped reasons; write './{GENERIC}' for the file or folder of that name")
    return replace(given, note="; ".join(filter(None, (given.note, *notes))))


def _shared(
    reasons: Mapping[str, Reason], keys: Sequence[str | None], vocabulary: Vocabulary, source: str
) -> GivenReasons:
    without = [vocabulary.class_names[index] for index, key in enumerate(keys) if key is None]
    if not without:
        return GivenReasons(reasons, "generic", source)
    if len(without) == len(vocabulary):
        return GivenReasons({}, "names", source, f"{source} name no class of the vocabulary: segmented by names alone")
    listed = ", ".join(without[:5]) + (f", … ({len(without)})" if len(without) > 5 else "")
    return GivenReasons(reasons, "some", source, f"without a reason, asked for by name: {listed}")


def _is_of_image(path: Path) -> bool:
    """Whether a reason file is of one image; a malformed file is left to its reader."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and "reasoning" in document


def _reason(name: str, value: Any) -> Reason:
    if isinstance(value, Reason):
        return value
    general, sub, attributes = "", "", value
    if isinstance(value, Mapping):
        general, sub = str(value.get("general_category", "")), str(value.get("sub_category", ""))
        attributes = value.get("class_des", value.get("attributes"))
    words = None if isinstance(attributes, str) or not isinstance(attributes, Sequence) else list(attributes)
    if not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise UserError(f"reasons: {name!r}: give its visual attributes as a list of texts, such as ['pointed ears']")
    return Reason(name, general, sub, tuple(words))
