"""The table of data sets: what each is called, which vocabulary it has, and where its files may lie.

Two descriptions of the same data are in circulation, the tree that users are told to make and the folders that
published code reads, and they differ. So a data set lists alternatives; the documented tree (`datasets/README.md`)
comes first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from reason.vocabulary import Vocabulary, VocabularyClass

Kind = Literal["semantic", "panoptic", "instances"]

IGNORE_8BIT = 255
IGNORE_16BIT = 65535


@dataclass(frozen=True)
class DatasetSpec:
    """One data set. Every path is relative to the data-set root, or absolute.

    Attributes:
        name: as in `DATASETS.TEST`.
        vocabulary: name of a vocabulary in `datasets/vocabularies/`, or the path of one.
        kind: "semantic": label maps; "panoptic": COCO panoptic JSON and PNG; "instances": COCO instance JSON.
        bases: folders that the following ones are relative to.
        images: image folders.
        labels: label-map folders (semantic) or panoptic PNG folders; empty for instances.
        json_files: the annotation files; entry i belongs to labels[i] for panoptic data; empty for semantic data.
        semantic: label-map folders beside panoptic annotations, for semantic evaluation on the same images.
        label_extensions: of label maps, without dot; the first one that occurs in the folder counts.
        ignore_label: the value of pixels that no metric counts.
        ignored_as_well: what other preparations of the data write in its place.
        evaluator_type: detectron2's name for how it is evaluated.
        background: the value of label maps that stands for background, which is asked for by the classes of the
            vocabulary from this index on; None where every class of the vocabulary counts as itself.
    """

    name: str
    vocabulary: str
    kind: Kind
    bases: tuple[str, ...]
    images: tuple[str, ...]
    labels: tuple[str, ...] = ()
    json_files: tuple[str, ...] = ()
    semantic: tuple[str, ...] = ()
    label_extensions: tuple[str, ...] = ("png",)
    ignore_label: int = IGNORE_8BIT
    ignored_as_well: tuple[int, ...] = ()
    evaluator_type: str = "sem_seg"
    background: int | None = None


def counted_classes(vocabulary: Vocabulary, background: int | None) -> Vocabulary:
    """The classes that label maps hold and metrics count.

    Args:
        vocabulary: the classes that the network is asked for.
        background: see `DatasetSpec`; None leaves the vocabulary as it is.
    """
    if background is None:
        return vocabulary
    rest = VocabularyClass(background, "background", ("background",), color=(0, 0, 0))
    return replace(vocabulary, classes=(*vocabulary.classes[:background], rest))


_ADE = ("ade/ADEChallengeData2016", "ADEChallengeData2016")
_ADE_FULL = ("ade/ADE20K_2021_17_01", "ADE20K_2021_17_01")
_COCO = ("coco", "coco/coco17", "coco-stuff")
_VOC2012 = ("VOCdevkit/VOC2012", "VOC2012")
_VOC2010 = ("VOCdevkit/VOC2010", "VOC2010")
_LABELS_16BIT = ("tif", "tiff", "png")


def _ade() -> Iterator[DatasetSpec]:
    for split, folder in (("train", "training"), ("val", "validation")):
        images, labels = (f"images/{folder}",), (f"annotations_detectron2/{folder}",)
        yield DatasetSpec(f"openvocab_ade20k_sem_seg_{split}", "ade150", "semantic", _ADE, images, labels)
        panoptic = (f"ade20k_panoptic_{split}", f"panoptic/ade20k_panoptic_{split}")
        yield DatasetSpec(
            f"openvocab_ade20k_panoptic_{split}",
            "ade150",
            "panoptic",
            _ADE,
            images,
            labels=panoptic,
            json_files=tuple(f"{path}.json" for path in panoptic),
            semantic=labels,
            evaluator_type="ade20k_panoptic_seg",
        )
        yield DatasetSpec(
            f"openvocab_ade20k_instance_{split}",
            "ade150",
            "instances",
            _ADE,
            images,
            json_files=(f"ade20k_instance_{split}.json", f"panoptic/ade20k_instance_{split}.json"),
            evaluator_type="coco",
        )
        yield DatasetSpec(
            f"openvocab_ade20k_full_sem_seg_{split}",
            "ade847",
            "semantic",
            _ADE_FULL,
            images=(f"images/{folder}", f"images_detectron2/{folder}"),
            labels=labels,
            label_extensions=_LABELS_16BIT,
            ignore_label=IGNORE_16BIT,
        )


_VOC_IMAGES = ("images_detectron2", "images_detectron2/{}", "JPEGImages", "images")


def _pascal() -> Iterator[DatasetSpec]:
    yield DatasetSpec(
        "openvocab_pascal20b_sem_seg_val",
        "voc20b",
        "semantic",
        _VOC2012,
        images=tuple(folder.format("val") for folder in _VOC_IMAGES),
        labels=("annotations_detectron2_bg/val", "annotations_ovs_bg", "annotations_ovs_bg/val"),
        background=20,
    )
    for split in ("train", "val"):
        # The documented tree keeps the validation maps in annotations_ovs itself.
        flat = ("annotations_ovs",) if split == "val" else ()
        yield DatasetSpec(
            f"openvocab_pascal20_sem_seg_{split}",
            "voc20",
            "semantic",
            _VOC2012,
            images=tuple(folder.format(split) for folder in _VOC_IMAGES),
            labels=(*flat, f"annotations_ovs/{split}", f"annotations_detectron2/{split}"),
        )
        for count, extensions, ignore, others in (
            ("59", ("png",), IGNORE_8BIT, ()),
            ("459", _LABELS_16BIT, IGNORE_16BIT, (459,)),  # 459 in the maps that SED's users have
        ):
            yield DatasetSpec(
                f"openvocab_pascal_ctx{count}_sem_seg_{split}",
                f"pc{count}",
                "semantic",
                _VOC2010,
                images=("images", "JPEGImages", f"images/{split}"),
                labels=(
                    f"annotations_detectron2_ovs/pc{count}_{split}",
                    f"annotations_detectron2/pc{count}_{split}",
                    f"annotations_ovs/pc{count}_{split}",
                ),
                label_extensions=extensions,
                ignore_label=ignore,
                ignored_as_well=others,
            )


def _coco() -> Iterator[DatasetSpec]:
    for split, folder in (("train", "train2017"), ("test", "val2017")):
        yield DatasetSpec(
            f"openvocab_coco_2017_{split}_stuff_sem_seg",
            "coco_stuff171",
            "semantic",
            _COCO,
            images=(folder, f"images/{folder}"),
            labels=(f"stuffthingmaps_detectron2/{folder}", f"annotations_detectron2/{folder}"),
        )
    yield DatasetSpec(
        "openvocab_coco_2017_val_panoptic",
        "coco_panoptic133",
        "panoptic",
        _COCO,
        images=("val2017",),
        labels=("panoptic_val2017", "panoptic/annotations/panoptic_val2017"),
        json_files=("annotations/panoptic_val2017.json", "panoptic/annotations/panoptic_val2017.json"),
        evaluator_type="coco_panoptic_seg",
    )
    # The second name is the one that the panoptic configurations use.
    for name in ("openvocab_coco_2017_train_panoptic", "coco_seg_pan_voab"):
        yield DatasetSpec(
            name,
            "coco_panoptic133",
            "panoptic",
            _COCO,
            images=("train2017",),
            labels=("panoptic_train2017", "panoptic/annotations/panoptic_train2017"),
            json_files=(
                "annotations/panoptic_train2017.json",
                "panoptic/annotations/panoptic_train2017.json",
            ),
            semantic=("stuffthingmaps_detectron2/train2017",),
            evaluator_type="coco_panoptic_seg",
        )


ALIASES = {
    "coco_2017_train_stuff_all_sem_seg": "openvocab_coco_2017_train_stuff_sem_seg",
    "coco_2017_test_stuff_all_sem_seg": "openvocab_coco_2017_test_stuff_sem_seg",
    "ade20k_150_test_sem_seg": "openvocab_ade20k_sem_seg_val",
    "ade20k_full_sem_seg_freq_val_all": "openvocab_ade20k_full_sem_seg_val",
    "voc_2012_test_sem_seg": "openvocab_pascal20_sem_seg_val",
    "voc_2012_test_background_sem_seg": "openvocab_pascal20b_sem_seg_val",
    "context_59_test_sem_seg": "openvocab_pascal_ctx59_sem_seg_val",
    "context_459_test_sem_seg": "openvocab_pascal_ctx459_sem_seg_val",
}
"""What SED's yaml files and scripts call a data set -> its name here."""

_OWN = (*_ade(), *_pascal(), *_coco())

BUILTIN: tuple[DatasetSpec, ...] = (
    *_OWN,
    *(replace(spec, name=alias) for alias, name in ALIASES.items() for spec in _OWN if spec.name == name),
)
"""Every data set that is registered under a fixed name."""
