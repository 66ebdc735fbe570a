"""Triplet files: what a multimodal model said about classes, in general and for one image (docs/design.md section 4).

A reader validates what it reads, keeps the order of the file, and keeps every field it does not know, so that writing
what was read gives the same JSON value.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from reason.files import write_text
from reason.jsonfile import JsonError, read_json

_GENERIC_FIELDS = ("general_category", "sub_category", "class_des")
_IMAGE_FIELDS = ("reason1", "reason2", "reason3")


class TripletError(ValueError):
    """A triplet file that cannot be used; one line that names the file, the class and the field."""


@dataclass(frozen=True)
class Reason:
    """The coarse-to-fine reason for one class.

    Attributes:
        name: the key of the file, exactly as written there.
        general_category: such as "vehicle"; "" where the file has none.
        sub_category: such as "aircraft"; "" where the file has none.
        attributes: visual attributes in the order of the file, at least one.
        raw_response: the model's answer, or None where the file has none.
        source: the entry as read, unknown fields included; it plays no part in comparisons.
    """

    name: str
    general_category: str
    sub_category: str
    attributes: tuple[str, ...]
    raw_response: str | None = None
    source: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class ImageTriplet:
    """The reasons of one image.

    Attributes:
        reasons: one per class that the model saw, in the order of the file; may be empty.
        extra: the rest of the file: the whole document without `reasoning.map_class_reason`.
    """

    reasons: dict[str, Reason]
    extra: dict[str, Any] = field(default_factory=dict)


def load_generic(path: str | Path) -> dict[str, Reason]:
    """Read a vocabulary's generic reasons, in the order of the file.

    Raises:
        TripletError: missing, truncated or malformed; names the file, the class and the field.
    """
    return parse_generic(_read(path), where=str(path))


def load_image(path: str | Path) -> ImageTriplet:
    """Read the image-specific reasons of one image.

    Raises:
        TripletError: missing, truncated or malformed; names the file, the class and the field.
    """
    return parse_image(_read(path), where=str(path))


def parse_generic(document: Any, *, where: str) -> dict[str, Reason]:
    """`load_generic` on the value of a file; `where` is its name in messages."""
    if not isinstance(document, dict) or not document:
        shape = '{class: {"class_des": [attribute, …]}, …}'
        raise TripletError(f"{where}: must be an object with at least one class, such as {shape}")
    return {name: _reason(name, entry, _GENERIC_FIELDS, where) for name, entry in document.items()}


def parse_image(document: Any, *, where: str) -> ImageTriplet:
    """`load_image` on the value of a file; `where` is its name in messages."""
    shape = '{"reasoning": {"map_class_reason": {class: {"reason3": [attribute, …]}}}}'
    if not isinstance(document, dict) or not isinstance(document.get("reasoning"), dict):
        raise TripletError(f'{where}: field "reasoning" is missing or no object; the file must look like {shape}')
    reasoning = dict(document["reasoning"])
    entries = reasoning.pop("map_class_reason", None)
    if not isinstance(entries, dict):
        raise TripletError(
            f'{where}: field "reasoning.map_class_reason" is missing or no object; the file must look like {shape}'
        )
    reasons = {name: _reason(name, entry, _IMAGE_FIELDS, where) for name, entry in entries.items()}
    return ImageTriplet(reasons, {**document, "reasoning": reasoning})


def generic_document(reasons: Mapping[str, Reason]) -> dict[str, Any]:
    """The JSON value of a generic file, the inverse of `parse_generic`."""
    return {name: _entry(reason, _GENERIC_FIELDS) for name, reason in reasons.items()}


def image_document(triplet: ImageTriplet) -> dict[str, Any]:
    """The JSON value of an image's file, the inverse of `parse_image`."""
    entries = {name: _entry(reason, _IMAGE_FIELDS) for name, reason in triplet.reasons.items()}
    reasoning = {**triplet.extra.get("reasoning", {}), "map_class_reason": entries}
    return {**triplet.extra, "reasoning": reasoning}


def dump_generic(reasons: Mapping[str, Reason], path: str | Path) -> None:
    """Write a generic file, aside and renamed into place.

    Raises:
        TripletError: what would be written could not be read back.
    """
    document = generic_document(reasons)
    parse_generic(document, where=str(path))
    _write(document, path)


def dump_image(triplet: ImageTriplet, path: str | Path) -> None:
    """Write an image's file, aside and renamed into place.

    Raises:
        TripletError: what would be written could not be read back.
    """
    document = image_document(triplet)
    parse_image(document, where=str(path))
    _write(document, path)


def _read(path: str | Path) -> Any:
    try:
        return read_json(Path(path))
    except JsonError as error:
        raise TripletError(f"{path}: {error}") from error


def _write(document: Any, path: str | Path) -> None:
    try:
        text = json.dumps(document, ensure_ascii=False, indent=4, allow_nan=False)
        text.encode("utf-8")
    except (TypeError, ValueError) as error:
        raise TripletError(f"{path}: holds a value that JSON cannot ({error}); nothing was written") from error
    write_text(Path(path), text + "\n")


def _reason(name: str, entry: Any, fields: tuple[str, str, str], where: str) -> Reason:
    def fail(key: str, problem: str) -> TripletError:
        return TripletError(f"{where}: class {name!r}, field {key!r}: {problem}")

    def text(key: str) -> str:
        value = entry.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise fail(key, f"must be a text, not {_kind(value)}")
        _check_unicode(value, lambda problem: fail(key, problem))
        return value

    if not name.strip():
        raise TripletError(f"{where}: class {name!r}: an empty class name; name it or remove the entry")
    _check_unicode(name, lambda problem: TripletError(f"{where}: class {name!r}: {problem}"))
    if not isinstance(entry, dict):
        raise TripletError(f"{where}: class {name!r}: must be an object with {fields[2]!r}, not {_kind(entry)}")
    general, sub, attributes_key = fields
    if attributes_key not in entry:
        raise fail(attributes_key, "is missing; add the list of visual attributes or remove the class")
    attributes = entry[attributes_key]
    if not isinstance(attributes, list):
        raise fail(attributes_key, f"must be a list of attributes, not {_kind(attributes)}")
    if not attributes:
        raise fail(attributes_key, "the list is empty; add an attribute or remove the class")
    for number, attribute in enumerate(attributes, 1):
        if not isinstance(attribute, str) or not attribute.strip():
            problem = "is an empty text" if isinstance(attribute, str) else f"is {_kind(attribute)}, not a text"
            raise fail(attributes_key, f"attribute {number} {problem}; write it out or remove it")
        _check_unicode(attribute, lambda problem: fail(attributes_key, problem))
    raw = text("raw_response") if entry.get("raw_response") is not None else None
    return Reason(name, text(general), text(sub), tuple(attributes), raw, dict(entry))


def _entry(reason: Reason, fields: tuple[str, str, str]) -> dict[str, Any]:
    """The JSON value of one class: the fields as read, updated by the reason's own values."""
    general, sub, attributes = fields
    values: dict[str, Any] = {} if reason.raw_response is None else {"raw_response": reason.raw_response}
    values |= {general: reason.general_category, sub: reason.sub_category, attributes: list(reason.attributes)}
    # A category that neither the file nor the reason has stays as it was read: absent (minimal files), "" or null.
    changed = {key: value for key, value in values.items() if value or reason.source.get(key)}
    return {**reason.source, **changed}


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _check_unicode(value: str, fail: Any) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise fail("holds half of a surrogate pair, which is no character; write the character out") from error


def find_image_file(folders: Sequence[Path], image_file: str) -> Path | None:
    """The triplet file of an image, or None.

    It is named after the image's whole stem; only where no folder has that, after the name up to its first dot, as in
    the reference (docs/numerics.md, "Sentences"). `a.v2.png` has `a.v2.json`, else `a.json`.

    Args:
        folders: where to look, in order.
        image_file: the image's path or name.
    """
    name = PurePath(image_file).name
    stems = dict.fromkeys((PurePath(name).stem, name.split(".", 1)[0]))
    for stem in stems:
        for folder in folders:
            path = Path(folder) / f"{stem}.json"
            if stem and path.is_file():
                return path
    return None


def image_reason_candidates(reason_dir: str | Path, reason_data: str, datasets_root: str | Path) -> list[Path]:
    """Every folder that may hold a vocabulary's image-specific files, first choice first.

    `REASON_DIR/REASON_DATA`, the same without the model level, and both below the data-set root, where the reference
    looks (docs/design.md section 3, docs/findings.md 11).

    Args:
        reason_dir: MODEL.REASON_DIR, such as "reason_data/image_reason/<model>"; empty: there are none.
        reason_data: MODEL.REASON_DATA, the vocabulary's folder, such as "pc59".
        datasets_root: the value of DETECTRON2_DATASETS, or "datasets".
    """
    if not os.fspath(reason_dir):
        return []
    given = Path(reason_dir)
    folders = [given / reason_data]
    if reason_data:
        folders.append(given.parent / reason_data)
    return list(dict.fromkeys(folders + [Path(datasets_root) / folder for folder in folders]))


def image_reason_folders(reason_dir: str | Path, reason_data: str, datasets_root: str | Path) -> list[Path]:
    """Those of `image_reason_candidates` that exist, in the same order; may be empty."""
    return [folder for folder in image_reason_candidates(reason_dir, reason_data, datasets_root) if folder.is_dir()]


def describe_image_reason_folders(reason_dir: str | Path, reason_data: str, datasets_root: str | Path) -> str:
    """What was looked at, for messages: "<folder> (missing), <folder> (12 files), …"."""
    parts = []
    for folder in image_reason_candidates(reason_dir, reason_data, datasets_root):
        state = f"{sum(1 for _ in folder.glob('*.json'))} files" if folder.is_dir() else "missing"
        parts.append(f"{folder} ({state})")
    return ", ".join(parts) or "none, MODEL.REASON_DIR is empty"
