"""ADE20K-150: the label maps of ADEChallengeData2016 with classes counted from 0, and the images as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maft.errors import UserError
from maft.files import encode_png

from .archives import Member
from .engine import Item, Plan, copies
from .label_codes import code_table, read_values, recode
from .pool import Pool

BASE = "ade/ADEChallengeData2016"
FOLDERS = {"train": "training", "val": "validation"}
CLASSES = 150

_FULL_RELEASE = r"/ADE20K_20\d\d_\d\d_\d\d/|/images_detectron2/"
"""The full release has images of the same names that show something else."""
_SOURCE = "ADEChallengeData2016.zip"

Key = tuple[str, str]
"""Split ("train", "val") and stem."""


@dataclass(frozen=True)
class Challenge:
    """The semantic part of the release, as far as it was given.

    Attributes:
        labels: label maps, classes counted from 1, 0 where nothing is labelled.
        images: of each of them that was given; the others are prepared already.
        notes: for the user.
    """

    labels: dict[Key, Member]
    images: dict[Key, Member]
    notes: tuple[str, ...]


def find_challenge(pool: Pool, root: Path, splits: Sequence[str]) -> Challenge:
    """Label maps and images of the wanted splits.

    Raises:
        UserError: no label maps, or some without image.
    """
    labels, notes = of_splits(
        pool.need(f"label maps (annotations/ of {_SOURCE})", r"annotations/(training|validation)/([^/]+)\.png"),
        splits,
    )
    found, _ = of_splits(
        pool.find(r"images/(training|validation)/([^/]+)\.jpg", exclude=_FULL_RELEASE),
        splits,
    )
    images = {key: found[key] for key in labels if key in found}
    lost = [key for key in labels if key not in images and not (root / BASE / image_target(key)).is_file()]
    if lost:
        raise UserError(
            f"{len(lost)} of {len(labels)} label maps have no image (such as {lost[0][1]}); give images/ of {_SOURCE} "
            "with --from as well"
        )
    return Challenge(labels, images, notes)


def of_splits(found: dict[tuple[str, ...], Member], splits: Sequence[str]) -> tuple[dict[Key, Member], tuple[str, ...]]:
    """What belongs to the wanted splits, by split and stem, and a note on each split that nothing was given of.

    Args:
        found: by folder ("training", "validation") and stem.

    Raises:
        UserError: nothing of any of them.
    """
    chosen = {
        (split, stem): found[FOLDERS[split], stem]
        for split in splits
        for folder, stem in found
        if folder == FOLDERS[split]
    }
    missing = [split for split in splits if not any(key[0] == split for key in chosen)]
    if found and len(missing) == len(splits):
        raise UserError(f"nothing of split {' or '.join(splits)} was given; give the whole release with --from")
    return chosen, tuple(f"nothing of split {split} was given; it is left out" for split in missing)


def image_target(key: Key) -> str:
    """Where an image goes, relative to `BASE`."""
    return f"images/{FOLDERS[key[0]]}/{key[1]}.jpg"


def label_target(key: Key) -> str:
    """Where a label map goes, relative to `BASE`."""
    return f"annotations_detectron2/{FOLDERS[key[0]]}/{key[1]}.png"


def semantic_items(challenge: Challenge) -> list[Item]:
    """Images and label maps."""
    images = copies({image_target(key): member for key, member in challenge.images.items()})
    labels = [
        Item(label_target(key), make_label, (member,), space=member.size) for key, member in challenge.labels.items()
    ]
    return images + labels


def plan_semantic(pool: Pool, root: Path, splits: Sequence[str]) -> Plan:
    """See `registry.PlanFunction`."""
    challenge = find_challenge(pool, root, splits)
    return Plan("ade150", BASE, semantic_items(challenge), notes=challenge.notes)


def make_label(member: Member) -> bytes:
    """An 8-bit PNG: value - 1, and 255 where nothing is labelled; UserError for values above 150."""
    table = code_table({0: 255, **{value: value - 1 for value in range(1, CLASSES + 1)}}, 256)
    return encode_png(recode(read_values(member), table, member).astype(np.uint8))
