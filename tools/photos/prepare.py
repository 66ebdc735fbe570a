"""Writing the photographs, their labels and their triplets to a folder, in the layout that the data sets read.

images/<stem>.png             the photographs, RGB
annotations/<stem>.png        class indices, 255 = not labelled
panoptic/<stem>.png           COCO panoptic segments, described in panoptic.json
vocabulary.json  generic_reason.json
image_reason/photos/<stem>.json   MODEL.REASON_DIR is <root>/image_reason, MODEL.REASON_DATA is photos
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maft.errors import UserError
from reason.triplets import generic_document, image_document
from reason.vocabulary import Vocabulary
from tools.photos.content import (
    CONTENT,
    Labels,
    image_triplet,
    load_generic_reasons,
    load_photo_vocabulary,
    load_photographs,
    open_photograph,
    rasterise,
)

DEFAULT_ROOT = Path("out/photos/data")
ROOT_VARIABLE = "OPENSEG_R_PHOTOS"
"""Environment variable that names another root."""


@dataclass(frozen=True)
class Layout:
    """Where things lie below a root."""

    root: Path

    @property
    def images(self) -> Path:
        """Folder of the photographs."""
        return self.root / "images"

    @property
    def annotations(self) -> Path:
        """Folder of the label maps."""
        return self.root / "annotations"

    @property
    def panoptic(self) -> Path:
        """Folder of the panoptic segment maps."""
        return self.root / "panoptic"

    @property
    def panoptic_json(self) -> Path:
        """Description of the panoptic segments; written last, so that it stands for a complete folder."""
        return self.root / "panoptic.json"

    @property
    def vocabulary(self) -> Path:
        """The classes."""
        return self.root / "vocabulary.json"

    @property
    def generic_reason(self) -> Path:
        """The generic reasons."""
        return self.root / "generic_reason.json"

    @property
    def image_reason(self) -> Path:
        """Folder of the image-specific reasons."""
        return self.root / "image_reason" / "photos"


def default_root() -> Path:
    """The root that is used where none is given: the environment's, else `DEFAULT_ROOT`."""
    return Path(os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT)


def prepare(root: str | Path) -> Layout:
    """Write everything below `root`; files that are as they should be stay untouched.

    Several processes may do so at once: every file is written aside and renamed into place.

    Raises:
        UserError: a photograph is not installed, or the folder cannot be written.
    """
    layout = Layout(Path(root))
    vocabulary = load_photo_vocabulary()
    images, annotations = [], []
    try:
        _write(layout.vocabulary, (CONTENT / "vocabulary.json").read_bytes())
        _write(layout.generic_reason, _json(generic_document(load_generic_reasons())))
        for number, photograph in enumerate(load_photographs(), 1):
            labels = rasterise(photograph, vocabulary)
            name = f"{photograph.stem}.png"
            _write(layout.images / name, _png(open_photograph(photograph)))
            _write(layout.annotations / name, _png(Image.fromarray(labels.classes)))
            _write(layout.panoptic / name, _png(Image.fromarray(_segment_colors(labels))))
            _write(layout.image_reason / f"{photograph.stem}.json", _json(image_document(image_triplet(photograph))))
            width, height = photograph.size
            images.append({"id": number, "file_name": name, "width": width, "height": height})
            annotations.append({"image_id": number, "file_name": name, "segments_info": labels.segments_info})
        categories = _categories(vocabulary)
        _write(layout.panoptic_json, _json({"images": images, "annotations": annotations, "categories": categories}))
    except OSError as error:
        raise UserError(f"{root}: cannot be written ({error.strerror or error}); give another --root") from error
    return layout


def _categories(vocabulary: Vocabulary) -> list[dict[str, Any]]:
    return [
        {"id": entry.index, "name": entry.name, "isthing": int(entry.thing), "color": list(color)}
        for entry, color in zip(vocabulary.classes, vocabulary.palette, strict=True)
    ]


def _segment_colors(labels: Labels) -> np.ndarray:
    """COCO's encoding: id = R + 256 G + 65536 B; (H, W, 3) uint8."""
    return np.stack([(labels.segments >> shift) & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def _json(document: Any) -> bytes:
    return (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode()


def _write(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step, unless it is there already: times of change are part of result fingerprints."""
    if path.is_file() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
