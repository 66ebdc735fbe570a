"""Records in detectron2's form, from the files of a data set. No image and no label map is read here."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from maft.data.locate import IMAGE_EXTENSIONS, DatasetPaths, label_files, stems
from maft.data.specs import DatasetSpec, Kind
from maft.errors import UserError
from maft.files import MAX_SEGMENT_ID

logger = logging.getLogger(__name__)

SHARED_IDS = (
    "as in panopticapi the entry that is listed last counts, for all pixels of that id; training learns neither class "
    "from them. The usual preparation of ADE20K does so for road and skyscraper, which share a colour; "
    "python -m tools.prepare_datasets gives every segment an id of its own"
)
"""How an annotation file is read that lists one segment id of an image for two classes."""

Record = dict[str, Any]


def semantic_records(spec: DatasetSpec, paths: DatasetPaths) -> list[Record]:
    """One record per label map that has an image, sorted by stem.

    Returns:
        records with `file_name`, `sem_seg_file_name` and `meta` = {"dataname": name}.

    Raises:
        UserError: no label map has its image.
    """
    assert paths.labels is not None, paths
    labels, _ = label_files(paths.labels, spec.label_extensions)
    images = stems(paths.images, IMAGE_EXTENSIONS)
    records = [
        {"file_name": str(images[stem]), "sem_seg_file_name": str(label), "meta": {"dataname": spec.name}}
        for stem, label in labels.items()
        if stem in images
    ]
    lost = [label.name for stem, label in labels.items() if stem not in images]
    return _checked(records, lost, spec, paths, what="label maps")


def panoptic_records(
    spec: DatasetSpec, paths: DatasetPaths, contiguous: Mapping[int, int], things: frozenset[int]
) -> list[Record]:
    """One record per annotation of a COCO panoptic file, sorted by image name.

    Args:
        contiguous: class index by the category identifier of the file.
        things: indices of the countable classes.

    Returns:
        records with `file_name`, `image_id`, `pan_seg_file_name`, `segments_info` (with `category_id` as class index,
        `isthing`, and `shared` where several entries had this id: see `SHARED_IDS`), `meta`, and `sem_seg_file_name`
        where the data set has label maps (they may be missing on disk).

    Raises:
        UserError: malformed file, unknown category, or no annotation has its image and PNG.
    """
    assert paths.labels is not None and paths.json_file is not None, paths
    where = paths.json_file
    document = _document(where, spec.kind)
    names = {str(image.get("id")): image.get("file_name") for image in document["images"] if isinstance(image, dict)}
    images = stems(paths.images, IMAGE_EXTENSIONS)
    records, lost, shared = [], [], 0
    for annotation in document["annotations"]:
        try:
            image_id, label_name = annotation["image_id"], annotation["file_name"]
            segments = _segments(annotation["segments_info"], contiguous, things, f"{where}: image {image_id!r}")
            shared += sum("shared" in segment for segment in segments)
            image_stem = PurePath(names.get(str(image_id)) or label_name).stem
            label = paths.labels / label_name
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{where}: an annotation lacks or has a wrong field ({error!r}); it needs image_id, file_name and "
                "segments_info with id and category_id"
            ) from error
        image = images.get(image_stem)
        if image is None or not label.is_file():
            lost.append(label_name)
            continue
        record = {
            "file_name": str(image),
            "image_id": image_id,
            "pan_seg_file_name": str(label),
            "segments_info": segments,
            "meta": {"dataname": spec.name},
        }
        if paths.semantic is not None:
            record["sem_seg_file_name"] = str(paths.semantic / f"{label.stem}.{paths.label_extension}")
        records.append(record)
    records.sort(key=lambda record: PurePath(record["file_name"]).stem)
    if shared:
        logger.warning("data set %s: %s lists %d segment ids for two classes; %s", spec.name, where, shared, SHARED_IDS)
    return _checked(records, lost, spec, paths, what="annotations")


def instance_records(spec: DatasetSpec, paths: DatasetPaths) -> list[Record]:
    """One record per image of a COCO instance file, sorted by image name; what is in it the evaluator reads itself.

    Returns:
        records with `file_name`, `image_id`, `height`, `width` and `meta`.

    Raises:
        UserError: malformed file, or none of its images is there.
    """
    assert paths.json_file is not None, paths
    document = _document(paths.json_file, spec.kind)
    images = stems(paths.images, IMAGE_EXTENSIONS)
    records, lost = [], []
    for entry in document["images"]:
        try:
            size = {"height": int(entry["height"]), "width": int(entry["width"])}
            image_id, image = entry["id"], images.get(PurePath(entry["file_name"]).stem)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{paths.json_file}: an image lacks or has a wrong field ({error!r}); it needs id, file_name, height "
                "and width"
            ) from error
        if image is None:
            lost.append(entry["file_name"])
        else:
            meta = {"dataname": spec.name}
            records.append({"file_name": str(image), "image_id": image_id, **size, "meta": meta})
    records.sort(key=lambda record: PurePath(record["file_name"]).stem)
    return _checked(records, lost, spec, paths, what="entries")


def _segments(
    infos: Sequence[Mapping[str, Any]], contiguous: Mapping[int, int], things: frozenset[int], where: str
) -> list[Record]:
    """The segments of one image, one per id; see `SHARED_IDS`."""
    by_id: dict[int, Record] = {}
    for info in infos:
        segment = _segment(info, contiguous, things, where)
        by_id[segment["id"]] = {**segment, "shared": True} if segment["id"] in by_id else segment
    return list(by_id.values())


def _segment(segment: Mapping[str, Any], contiguous: Mapping[int, int], things: frozenset[int], where: str) -> Record:
    category, identifier = segment["category_id"], segment["id"]
    if isinstance(identifier, bool) or not isinstance(identifier, int) or not 1 <= identifier <= MAX_SEGMENT_ID:
        meaning = " (0 stands for pixels of no segment)" if identifier == 0 else ""
        raise UserError(
            f"{where}: a segment has id {identifier!r}; ids are whole numbers from 1 to {MAX_SEGMENT_ID}{meaning}: "
            "number the segments anew, in the JSON and in the PNG"
        )
    if category not in contiguous:
        raise UserError(
            f"{where}: segment {segment['id']!r} has category {category!r}, which is not in the vocabulary of "
            f"{len(contiguous)} classes; use the annotation file that belongs to this data set"
        )
    index = contiguous[category]
    return {**segment, "category_id": index, "isthing": index in things}


def _document(path: Path, kind: Kind) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); it may be cut off: prepare or copy it again") from error
    if not isinstance(document, dict):
        raise UserError(f"{path}: holds no JSON object; this must be a COCO annotation file")
    if kind == "panoptic":
        document.setdefault("images", [])  # its annotations name their images
    for field in ("images", "annotations"):
        if not isinstance(document.get(field), list):
            raise UserError(f"{path}: no list {field!r}; this must be a COCO annotation file")
    what = "annotations" if kind == "panoptic" else "images"
    if not document[what]:
        raise UserError(
            f"{path}: lists no {what}, so there is nothing to evaluate; bring the annotation file of a split that has "
            "labels, or prepare the data set again"
        )
    return document


def _checked(records: list[Record], lost: list[str], spec: DatasetSpec, paths: DatasetPaths, what: str) -> list[Record]:
    if not records:
        raise UserError(
            f"data set {spec.name}: none of its {len(lost)} {what} has its files in {paths.images}"
            f"{f' and {paths.labels}' if paths.labels else ''}; see datasets/README.md"
        )
    if lost:
        logger.warning(
            "data set %s: %d of %d %s left out, since an image or label file of theirs is missing in %s (such as %s)",
            spec.name,
            len(lost),
            len(lost) + len(records),
            what,
            paths.images,
            ", ".join(lost[:3]),
        )
    return records
