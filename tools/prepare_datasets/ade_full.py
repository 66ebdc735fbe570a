"""ADE20K-847: the full release 2021_17_01, made smaller and with the 847 most frequent of its 3688 object classes.

A pixel of a `_seg.png` has class R // 10 * 256 + G, which is the `dataset_id` of `datasets/vocabularies/ade847.json`;
0, and every class that is not in the vocabulary, is ignored. As the published figures were measured, an image whose
shorter side exceeds 512 pixels is made smaller so that it has 512 (bilinear, labels nearest), and is saved as JPEG
again; the others stay as they are, but for an EXIF orientation, which is set to upright in both: the label maps lie on
the stored pixels. The release's index is a Python pickle, which is not needed and never opened.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maft.data.specs import IGNORE_16BIT
from maft.errors import UserError
from reason.vocabulary import load_vocabulary

from .ade import FOLDERS
from .archives import Member
from .engine import Item, Plan
from .images import decode, encode_tiff16, open_image
from .pool import Pool

BASE = "ade/ADE20K_2021_17_01"
SHORT_SIDE = 512
JPEG_QUALITY = 75
"""What Pillow takes if it is not told: the published figures were measured on such files."""

_ORIENTATION = 0x0112
_PREPARED = r"/images(_detectron2)?/(training|validation)/|/ADEChallengeData2016/"
_RELEASE = re.compile(r"(^|/)images/ADE/")
_SOURCE = "images with label maps (ADE_*.jpg and ADE_*_seg.png of the full release ADE20K_2021_17_01)"
_LARGEST_IMAGE, _LARGEST_LABEL = 200_000, 30_000
"""Bytes of a prepared file, more than the usual, for the room on the disk."""


def plan(pool: Pool, root: Path, splits: Sequence[str]) -> Plan:
    """See `registry.PlanFunction`."""
    # Every core has a process of its own; and OpenCV's threads, once started, would not survive the fork.
    cv2.setNumThreads(1)
    labels = _release_only(pool.need(_SOURCE, r"(ADE_[^/]+)_seg\.png", exclude=_PREPARED))
    images = pool.find(r"(ADE_[^/]+)\.jpg", exclude=_PREPARED)
    lost = [key[0] for key in labels if key not in images]
    if lost:
        raise UserError(
            f"{len(lost)} of {len(labels)} label maps have no image (such as {lost[0]}); give the whole release"
        )
    of_split = {split: [stem for (stem,) in labels if _split(stem) == split] for split in splits}
    if not any(of_split.values()):
        raise UserError(f"nothing of split {' or '.join(splits)} was given; give the whole release with --from")
    items = []
    for split, stems in of_split.items():
        for stem in stems:
            label, image = f"annotations_detectron2/{FOLDERS[split]}/{stem}.tif", f"images/{FOLDERS[split]}/{stem}.jpg"
            members = (images[stem,], labels[stem,])
            space = min(members[0].size, _LARGEST_IMAGE) + _LARGEST_LABEL
            items.append(Item(label, make_pair, members, also=(image,), space=space))
    notes = [f"nothing of split {split} was given; it is left out" for split, stems in of_split.items() if not stems]
    return Plan("ade847", BASE, items, {"short side": str(SHORT_SIDE)}, notes)


def _release_only(labels: dict[tuple[str, ...], Member]) -> dict[tuple[str, ...], Member]:
    """Those of the annotated images, where the release was given as it is: it may hold further studies."""
    of_release = {key: member for key, member in labels.items() if _RELEASE.search(member.name)}
    return of_release or labels


def _split(stem: str) -> str:
    return "val" if stem.split("_")[1] == "val" else "train"


def make_pair(image: Member, label: Member) -> tuple[bytes, bytes]:
    """The 16-bit TIFF of class indices and the JPEG of an image.

    Returns:
        label map (65535 where ignored) and image; the image's own bytes where it is not made smaller, upright by EXIF.

    Raises:
        UserError: unreadable, or of different sizes.
    """
    opened = open_image(image)
    classes = decode(label)
    if classes.ndim != 3 or classes.shape[2] < 3 or classes.dtype != np.uint8:
        raise UserError(f"{label}: no RGB image; give the _seg.png of the release")
    if classes.shape[:2] != (opened.height, opened.width):
        sizes = f"{classes.shape[1]}x{classes.shape[0]} pixels, but its image has {opened.width}x{opened.height}"
        raise UserError(f"{label}: {sizes}")
    size = smaller_size(opened.height, opened.width)
    if size is None:
        return encode_tiff16(class_indices(classes)), upright_by_exif(image.read())
    height, width = size
    # Nearest takes pixels as they are, so the few that remain are looked up, not all.
    classes = np.asarray(cv2.resize(classes, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
    smaller = cv2.resize(decode(image), (width, height), interpolation=cv2.INTER_LINEAR)
    buffer = io.BytesIO()
    Image.fromarray(smaller).save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return encode_tiff16(class_indices(classes)), buffer.getvalue()


def upright_by_exif(jpeg: bytes) -> bytes:
    """A JPEG file whose EXIF orientation, where it has one, says upright; nothing else changes."""
    start = jpeg.find(b"Exif\0\0") + 6
    order = {b"II": "<", b"MM": ">"}.get(jpeg[start : start + 2])
    if start < 6 or order is None:
        return jpeg
    changed = bytearray(jpeg)
    try:
        directory = start + struct.unpack_from(f"{order}I", jpeg, start + 4)[0]
        for place in range(struct.unpack_from(f"{order}H", jpeg, directory)[0]):
            entry = directory + 2 + 12 * place
            if struct.unpack_from(f"{order}H", jpeg, entry)[0] == _ORIENTATION:
                struct.pack_into(f"{order}H", changed, entry + 8, 1)
    except struct.error:  # a damaged block, which no reader takes an orientation from
        return jpeg
    return bytes(changed)


def smaller_size(height: int, width: int) -> tuple[int, int] | None:
    """Height and width of an image made smaller to a short side of 512, the other rounded; None if it is not."""
    if min(height, width) <= SHORT_SIDE:
        return None
    if width >= height:
        return SHORT_SIDE, round(width / height * SHORT_SIDE)
    return round(height / width * SHORT_SIDE), SHORT_SIDE


def class_indices(image: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """The class of every pixel of a `_seg.png`.

    Args:
        image: (H, W, 3) RGB.

    Returns:
        (H, W), index in the vocabulary, 65535 where ignored.
    """
    return _table()[image[..., 0] // 10 * np.uint16(256) + image[..., 1]]


@cache
def _table() -> NDArray[np.uint16]:
    """(26 * 256,) index by class of the release."""
    table = np.full(26 * 256, IGNORE_16BIT, dtype=np.uint16)
    for entry in load_vocabulary("ade847").classes:
        assert entry.dataset_id, entry
        table[entry.dataset_id] = entry.index
    return table
