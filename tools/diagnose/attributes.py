"""Which attributes earn and which mislead: each is left out in turn, on what the network made of the image before.

The effect of an attribute in one image is the change of right pixels when it is there against when it is not; all other
attributes and classes stay. It is exact, not an estimate: the image is looked at once, and asked again without the
attribute. Effects do not add up, since two attributes may say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maft import Seen, Segmentor
from reason.bars import Bar
from reason.triplets import ImageTriplet, Reason, dump_image
from reason.vocabulary import Vocabulary

from .counts import confusion, count
from .lists import ImageList
from .saved import Truth
from .scores import whole


@dataclass(frozen=True)
class Effect:
    """What one attribute of one class does in one image.

    image: its file.
    class_name: the class.
    attribute: as the reason has it.
    pixels: right pixels with it minus right pixels without it.
    of: pixels that count.
    """

    image: str
    class_name: str
    attribute: str
    pixels: int
    of: int


def effects(
    segmentor: Segmentor, truth: Truth, vocabulary: Vocabulary, lists: Sequence[ImageList], used: int
) -> Iterator[Effect]:
    """The effect of every attribute that the segmentor reads, image by image.

    Args:
        segmentor: reads the first `used` attributes of each reason.
        truth: the data set, of whose records there are as many as lists.
        vocabulary: its classes.
        lists: the images' reasons.
        used: attributes of each reason that the segmentor reads. One that stands alone is not left out: without it, its
            class would not be asked for.
    """
    for number, ask in _looked_at(segmentor, truth, vocabulary, lists, "attributes"):
        file, own = truth.records[number]["file_name"], lists[number].reasons
        with_all = ask.right(own)
        for index, reason in own.items():
            for place, attribute in enumerate(reason.attributes[:used]):
                rest = reason.attributes[:used][:place] + reason.attributes[:used][place + 1 :]
                if rest:
                    without = ask.right({**own, index: replace(reason, attributes=rest, source={})})
                    yield Effect(file, truth.classes[index], attribute, with_all - without, ask.counted)


def _looked_at(
    segmentor: Segmentor, truth: Truth, vocabulary: Vocabulary, lists: Sequence[ImageList], purpose: str
) -> Iterator[tuple[int, _Asked]]:
    """Every image that has reasons, by its number, looked at and ready to be asked."""
    with TemporaryDirectory() as folder:
        for number, record in enumerate(Bar(truth.records, unit="image", desc=purpose)):
            if lists[number].listed is not None:
                seen, label = segmentor.look(record["file_name"]), truth.labels(record)
                yield number, _Asked(seen, vocabulary, label, truth.ignore, Path(folder, "image.json"))


@dataclass(frozen=True)
class _Asked:
    """An image that was looked at, and is asked again and again with image-specific reasons."""

    seen: Seen
    vocabulary: Vocabulary
    label: NDArray[np.int32]
    ignore: int
    file: Path

    @property
    def counted(self) -> int:
        """Pixels of the ground truth that count."""
        return int((self.label != self.ignore).sum())

    def labels(self, reasons: Mapping[int, Reason]) -> NDArray[np.integer]:
        """The label map by the reasons of these classes, (H, W) class indices."""
        # A file, since reasons given as a mapping are those of a vocabulary, and not of an image.
        dump_image(ImageTriplet({reason.name: reason for reason in reasons.values()}), self.file)
        return self.seen.segment(self.vocabulary, self.file).label_map

    def right(self, reasons: Mapping[int, Reason]) -> int:
        """How many of them get their class by these reasons."""
        return int(((self.labels(reasons) == self.label) & (self.label != self.ignore)).sum())


def attributes_given(
    segmentor: Segmentor,
    truth: Truth,
    vocabulary: Vocabulary,
    lists: Sequence[ImageList],
    true_lists: Sequence[ImageList],
) -> dict[str, Any]:
    """The oracle "attributes given": the same lists of classes, with true reasons in place of the image's own.

    Args:
        segmentor, truth, vocabulary, lists: as in `effects`.
        true_lists: of the same images. A class without a true reason keeps its own; those that only a true list has
            stay away.

    Returns:
        "images" that have reasons; "replaced", reasons that differ; and "adds": by how much mIoU grows, by definition.
    """
    size, replaced = len(truth.classes), 0
    parts: tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]] = ([], [])
    for number, ask in _looked_at(segmentor, truth, vocabulary, lists, "true attributes"):
        own, true = lists[number].reasons, true_lists[number].reasons
        better = {index: true.get(index, reason) for index, reason in own.items()}
        replaced += sum(better[index].attributes != reason.attributes for index, reason in own.items())
        for part, reasons in zip(parts, (own, better), strict=True):
            labels = ask.labels(reasons).clip(min=0)  # what no class claims: class 0, as in an evaluation's arg-max
            part.append(confusion(labels, ask.label, size, truth.ignore))
    now, then = (whole(count(part)) for part in parts)
    return {"images": len(parts[0]), "replaced": replaced, "adds": {name: then[name] - now[name] for name in now}}


def ranked(found: Sequence[Effect]) -> list[dict[str, Any]]:
    """Effects summed over images, per class and attribute, the most helpful first.

    Returns:
        "class", "attribute", "images" and "points": the change of pixel accuracy over the images it was read in.
    """
    sums: dict[tuple[str, str], list[int]] = {}
    for effect in found:
        row = sums.setdefault((effect.class_name, effect.attribute), [0, 0, 0])
        row[0] += 1
        row[1] += effect.pixels
        row[2] += effect.of
    rows = [
        {"class": name, "attribute": attribute, "images": images, "points": 100 * pixels / of if of else 0.0}
        for (name, attribute), (images, pixels, of) in sums.items()
    ]
    return sorted(rows, key=lambda row: -float(row["points"]))
