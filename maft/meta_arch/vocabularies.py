"""The vocabularies of registered data sets: looking them up is the adapters' work, the networks get a `Vocabulary`."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from maft.errors import UserError
from reason.vocabulary import Vocabulary, VocabularyClass, split_synonyms


def registered_vocabulary(dataset: str, key: str = "DATASETS.TEST") -> Vocabulary:
    """The classes of a registered data set.

    Args:
        dataset: its name.
        key: the config key that named it, for the error.

    Raises:
        UserError: the data set is not registered or names no classes.
    """
    metadata = MetadataCatalog.get(dataset)
    strings = metadata.get("stuff_classes") or metadata.get("thing_classes")
    if not strings:
        raise UserError(f"{key}: '{dataset}' is not a registered data set with classes; see datasets/README.md")
    things = frozenset((metadata.get("thing_dataset_id_to_contiguous_id") or {}).values())
    classes = tuple(
        VocabularyClass(index, names, split_synonyms(names), thing=index in things)
        for index, names in enumerate(strings)
    )
    return Vocabulary(dataset, dataset, classes)


def check_training_vocabulary(cfg: CfgNode) -> None:
    """Hold MODEL.SEM_SEG_HEAD.NUM_CLASSES against the data sets of DATASETS.TRAIN.

    Raises:
        UserError: there is none, one is not registered, or the numbers differ.
    """
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN: empty; name a data set, such as openvocab_coco_2017_train_stuff_sem_seg")
    for dataset in cfg.DATASETS.TRAIN:
        classes = len(registered_vocabulary(dataset, "DATASETS.TRAIN"))
        configured = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        if classes != configured:
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES: {configured}, but {dataset} of DATASETS.TRAIN has {classes} classes; "
                f"set it to {classes}"
            )


def common_vocabulary(vocabularies: Sequence[Vocabulary]) -> Vocabulary:
    """The one vocabulary that a training batch is labelled with.

    Args:
        vocabularies: of the batch's images.

    Raises:
        UserError: they differ, so that the images cannot share a batch.
    """
    first, *others = sorted(vocabularies, key=lambda vocabulary: vocabulary.name)
    for other in others:
        if other.class_names != first.class_names:
            raise UserError(
                f"DATASETS.TRAIN: {first.name} and {other.name} have different classes; train on one of them"
            )
    return first
