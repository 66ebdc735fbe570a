"""Published facts about the data sets: what to download, its size, licence and terms, and how much there has to be.

Used by `python -m tools.prepare_datasets --list` and `--download`, and by `python -m tools.check_datasets`. Every count
says where it is from. What was not found in a publication is marked as unverified: a check then reports a difference as
a note, not as a problem.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from maft.errors import UserError


@dataclass(frozen=True)
class Fact:
    """A published number.

    Attributes:
        values: the number; several where several are in circulation.
        source: where it is from, or on what it rests.
        verified: found in a publication or in the code that made the published figures.
    """

    values: tuple[int, ...]
    source: str
    verified: bool = True

    def __str__(self) -> str:
        return " or ".join(map(str, self.values)) + ("" if self.verified else " (unverified)")


@dataclass(frozen=True)
class Archive:
    """One file to bring.

    Attributes:
        key: short name.
        file_name: as it is published.
        content: what is in it.
        licence: in a few words.
        urls: where it may be fetched freely, tried in this order; empty where that is not possible.
        page: the page that describes it, or hands it out.
        size: bytes; None where no exact figure was found.
        size_text: a published rounded size, "" if none was found.
        digest: algorithm and hexadecimal digest, as `hashlib` names it.
        registration: what has to be done before it can be had; "" if nothing.
        note: what else a user should know.
    """

    key: str
    file_name: str
    content: str
    licence: str
    page: str
    urls: tuple[str, ...] = ()
    size: int | None = None
    size_text: str = ""
    digest: tuple[str, str] | None = None
    registration: str = ""
    note: str = ""

    @property
    def size_shown(self) -> str:
        """For people; "unknown" where nothing was published."""
        if self.size is None:
            return f"about {self.size_text}" if self.size_text else "unknown"
        return f"{self.size / 1e9:.2f} GB" if self.size >= 1e9 else f"{self.size / 1e6:.1f} MB"


@dataclass(frozen=True)
class Split:
    """What is known about one registered data set.

    Attributes:
        dataset: the registered name.
        images: number of labelled images.
        occurring: number of classes with at least one pixel in the labels; None where nothing is known.
        shared_images: the image folder is one of several splits, so images without label are expected.
        overlaid: panoptic segments lie over each other, and their listed areas are those before, as in the published
            recipe for ADE20K.
    """

    dataset: str
    images: Fact
    occurring: Fact | None = None
    shared_images: bool = False
    overlaid: bool = False


@dataclass(frozen=True)
class DatasetFacts:
    """One name of `prepare_datasets`.

    Attributes:
        name: as on the command line.
        title: for people.
        archives: keys of what it is made from.
        instead: keys of what can stand in, with what that means; {} if nothing can.
        splits: the registered data sets that come out.
    """

    name: str
    title: str
    archives: tuple[str, ...]
    splits: tuple[Split, ...]
    instead: Mapping[str, str]


_ADE_TERMS = "images: non-commercial research and education only (ADE20K terms); annotations: BSD 3-Clause"
_ADE_PAGE = "http://sceneparsing.csail.mit.edu/"
_VOC_TERMS = "images: flickr's terms of use; no other licence is stated"
_COCO_TERMS = "images: flickr's terms of use; annotations: CC BY 4.0"
_COCO_PAGE = "https://cocodataset.org/#download"
_CONTEXT_PAGE = "https://www.cs.stanford.edu/~roozbeh/pascal-context/"

ARCHIVES: Mapping[str, Archive] = {
    archive.key: archive
    for archive in (
        Archive(
            "ade_challenge",
            "ADEChallengeData2016.zip",
            "SceneParse150: images and 150-class label maps",
            _ADE_TERMS,
            _ADE_PAGE,
            ("http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",),
            size_text="922 MB",
        ),
        Archive(
            "ade_instances",
            "annotations_instance.tar",
            "ADE20K instance label maps of the same images",
            _ADE_TERMS,
            _ADE_PAGE,
            ("http://sceneparsing.csail.mit.edu/data/ChallengeData2017/annotations_instance.tar",),
            size=90398720,
            digest=("sha256", "5eb0db23c64779bc646ca535a3d495db0a75700b9467f8a79eecaf728b266acd"),
        ),
        Archive(
            "ade_full",
            "<name>_<hash>.zip (folder ADE20K_2021_17_01)",
            "ADE20K full release of 2021-01-17: images, _seg.png, JSON",
            _ADE_TERMS,
            "https://groups.csail.mit.edu/vision/datasets/ADE20K/",
            registration="register on the page; a personal link comes by mail",
            note="the registration page has been out of order at times (github.com/CSAILVision/ADE20K issues 47, 55)",
        ),
        Archive(
            "voc2012",
            "VOCtrainval_11-May-2012.tar",
            "PASCAL VOC 2012 images and segmentations",
            _VOC_TERMS,
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
            (
                "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
            ),
            size=1999639040,
            digest=("md5", "6cd6e144f989b92b3379bac3b3de84fd"),
        ),
        Archive(
            "voc2010",
            "VOCtrainval_03-May-2010.tar",
            "PASCAL VOC 2010 images",
            _VOC_TERMS,
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/",
            (
                "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
                "https://thor.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
            ),
            size_text="1.35 GB",
            digest=("md5", "da459979d0c395079b5c75ee67908abb"),
        ),
        Archive(
            "context_mats",
            "trainval.tar.gz",
            "PASCAL-Context: 459-class .mat label maps of 10,103 images",
            "not stated",
            _CONTEXT_PAGE,
            (
                "https://www.cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz",
                "https://roozbehm.info/pascal-context/trainval.tar.gz",
            ),
            note="the first address has been dead at times (github.com/cvlab-kaist/CAT-Seg issue 9), hence the second",
        ),
        Archive(
            "context_merged",
            "trainval_merged.json",
            "PASCAL-Context as run-length masks with the train/val split, of the PASCAL in Detail challenge",
            "not stated",
            "https://github.com/zhanghang1989/detail-api",
            ("https://codalabuser.blob.core.windows.net/public/trainval_merged.json",),
        ),
        Archive(
            "coco_train",
            "train2017.zip",
            "COCO 2017 training images",
            _COCO_TERMS,
            _COCO_PAGE,
            ("http://images.cocodataset.org/zips/train2017.zip",),
            size=19336861798,
            digest=("sha256", "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929"),
        ),
        Archive(
            "coco_val",
            "val2017.zip",
            "COCO 2017 validation images",
            _COCO_TERMS,
            _COCO_PAGE,
            ("http://images.cocodataset.org/zips/val2017.zip",),
            size=815585330,
            digest=("sha256", "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"),
        ),
        Archive(
            "coco_stuff",
            "stuffthingmaps_trainval2017.zip",
            "COCO-Stuff label maps",
            "annotations: CC BY 4.0",
            "https://github.com/nightrome/cocostuff",
            ("http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",),
            size_text="659 MB",
        ),
        Archive(
            "coco_panoptic",
            "panoptic_annotations_trainval2017.zip",
            "COCO 2017 panoptic JSON and PNG",
            _COCO_TERMS,
            _COCO_PAGE,
            ("http://images.cocodataset.org/annotations/panoptic_annotations_trainval2017.zip",),
            size=860725834,
            digest=("sha256", "c05f76d2129b6b561eb70efe16e7006df62f73fb92889132d373b9d90e31a370"),
        ),
    )
}
"""Sizes and digests: url_checksums of tensorflow/datasets (COCO, ADE20K instances, VOC 2012 size) and torchvision's
datasets/voc.py (VOC digests and second addresses); rounded sizes: sceneparsing.csail.mit.edu, README of
nightrome/cocostuff, and for VOC 2010 a mention in third-party code."""

_SCENE = Fact((2000,), "sceneparsing.csail.mit.edu: 20,210 training and 2,000 validation images")
_SCENE_TRAIN = Fact((20210,), _SCENE.source)
_FULL_SOURCE = "README of CSAILVision/ADE20K: 27,574 images, 25,574 for training"
_VOC_SOURCE = "VOC2012 development kit, segmentation image sets: 1,464 and 1,449"
_COCO_SOURCE = "COCO 2017: 118,287 training and 5,000 validation images, all in COCO-Stuff (Caesar et al. 2018)"
_CONTEXT_SOURCE = (
    "Mottaghi et al. 2014: 4,998 and 5,105 of 10,103; trainval_merged.json lists 4,996 and 5,104 of them "
    "(github.com/zhanghang1989/PyTorch-Encoding issue 155)"
)
_CONTEXT_VAL, _CONTEXT_TRAIN = Fact((5105, 5104), _CONTEXT_SOURCE), Fact((4998, 4996), _CONTEXT_SOURCE)
_OCCURRING_459 = (
    "class count behind the two published mIoU of FC-CLIP, 18.2 over occurring and 13.7 over all 459 classes "
    "(github.com/bytedance/fc-clip issue 27, github.com/cvlab-kaist/CAT-Seg issue 24)"
)


def _assumed(count: int) -> Fact:
    return Fact((count,), "published mIoU is a mean over all classes; that each occurs was not verified", False)


DATASETS: Mapping[str, DatasetFacts] = {
    facts.name: facts
    for facts in (
        DatasetFacts(
            "ade150",
            "A-150: ADE20K, 150 classes, semantic",
            ("ade_challenge",),
            (
                Split("openvocab_ade20k_sem_seg_val", _SCENE, _assumed(150)),
                Split("openvocab_ade20k_sem_seg_train", _SCENE_TRAIN, _assumed(150)),
            ),
            {},
        ),
        DatasetFacts(
            "ade150_panoptic",
            "ADE20K panoptic, 150 classes",
            ("ade_challenge", "ade_instances"),
            (
                Split("openvocab_ade20k_panoptic_val", _SCENE, overlaid=True),
                Split("openvocab_ade20k_panoptic_train", _SCENE_TRAIN, overlaid=True),
            ),
            {},
        ),
        DatasetFacts(
            "ade150_instances",
            "ADE20K instances, 100 classes",
            ("ade_challenge", "ade_instances"),
            (
                Split("openvocab_ade20k_instance_val", _SCENE),
                Split("openvocab_ade20k_instance_train", _SCENE_TRAIN),
            ),
            {},
        ),
        DatasetFacts(
            "ade847",
            "A-847: ADE20K full, 847 classes",
            ("ade_full",),
            (
                Split("openvocab_ade20k_full_sem_seg_val", Fact((2000,), _FULL_SOURCE)),
                Split("openvocab_ade20k_full_sem_seg_train", Fact((25574,), _FULL_SOURCE)),
            ),
            {},
        ),
        DatasetFacts(
            "voc20",
            "PAS-20: PASCAL VOC 2012, 20 classes",
            ("voc2012",),
            (
                Split("openvocab_pascal20_sem_seg_val", Fact((1449,), _VOC_SOURCE), Fact((20,), _VOC_SOURCE), True),
                Split(
                    "openvocab_pascal20_sem_seg_train",
                    Fact((1464, 10582), f"{_VOC_SOURCE}; 10,582 with the SBD annotations (Hariharan et al. 2011)"),
                    Fact((20,), _VOC_SOURCE),
                    True,
                ),
            ),
            {},
        ),
        DatasetFacts(
            "voc20b",
            "PAS-20b: PASCAL VOC 2012, 20 classes and background",
            ("voc2012",),
            (Split("openvocab_pascal20b_sem_seg_val", Fact((1449,), _VOC_SOURCE), Fact((21,), _VOC_SOURCE), True),),
            {},
        ),
        DatasetFacts(
            "pc59",
            "PC-59: PASCAL-Context, 59 classes",
            ("voc2010", "context_merged"),
            (
                Split("openvocab_pascal_ctx59_sem_seg_val", _CONTEXT_VAL, _assumed(59), True),
                Split("openvocab_pascal_ctx59_sem_seg_train", _CONTEXT_TRAIN, _assumed(59), True),
            ),
            {"context_mats": "labels then come from the 459-class maps by name; published figures used the other file"},
        ),
        DatasetFacts(
            "pc459",
            "PC-459: PASCAL-Context, 459 classes",
            ("voc2010", "context_mats"),
            (
                Split("openvocab_pascal_ctx459_sem_seg_val", _CONTEXT_VAL, Fact((345,), _OCCURRING_459), True),
                Split("openvocab_pascal_ctx459_sem_seg_train", _CONTEXT_TRAIN, None, True),
            ),
            {},
        ),
        DatasetFacts(
            "coco_stuff171",
            "COCO-Stuff, 171 classes (training)",
            ("coco_train", "coco_val", "coco_stuff"),
            (
                Split(
                    "openvocab_coco_2017_train_stuff_sem_seg",
                    Fact((118287,), _COCO_SOURCE),
                    Fact((171,), "github.com/kazuto1011/deeplab-pytorch issue 45: 171 classes are supervised"),
                ),
                Split("openvocab_coco_2017_test_stuff_sem_seg", Fact((5000,), _COCO_SOURCE), _assumed(171)),
            ),
            {},
        ),
        DatasetFacts(
            "coco_panoptic",
            "COCO panoptic, 133 classes (training, and validation)",
            ("coco_train", "coco_val", "coco_panoptic"),
            (
                Split("openvocab_coco_2017_train_panoptic", Fact((118287,), _COCO_SOURCE)),
                Split("openvocab_coco_2017_val_panoptic", Fact((5000,), _COCO_SOURCE)),
            ),
            {},
        ),
    )
}


def chosen(names: Iterable[str]) -> tuple[DatasetFacts, ...]:
    """The facts of the data sets named, in the table's order; all if none is named.

    Raises:
        UserError: an unknown name.
    """
    wanted = set(names)
    unknown = sorted(wanted - DATASETS.keys())
    if unknown:
        raise UserError(f"data set {unknown[0]!r}: unknown; choose from {', '.join(DATASETS)}")
    return tuple(facts for facts in DATASETS.values() if not wanted or facts.name in wanted)


def archives_of(datasets: Iterable[DatasetFacts]) -> tuple[Archive, ...]:
    """What these data sets are made from, each archive once; stand-ins are left out."""
    keys = dict.fromkeys(key for facts in datasets for key in facts.archives)
    return tuple(ARCHIVES[key] for key in keys)


def split_facts(dataset: str) -> Split | None:
    """The facts about one registered data set; None if nothing is known."""
    return next((split for facts in DATASETS.values() for split in facts.splits if split.dataset == dataset), None)
