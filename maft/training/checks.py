"""What can be found wrong with a training before anything is built."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from maft.data import dataset_status
from maft.data.mapper import MAPPERS
from maft.data.specs import BUILTIN
from maft.data.train_mapper import TrainingMapper
from maft.errors import UserError
from maft.training.optimizer import OPTIMIZERS, GradientClipper
from maft.training.schedule import Schedule

BUILTIN_NAMES = frozenset(spec.name for spec in BUILTIN)


def check_training(cfg: CfgNode) -> None:
    """Hold the keys of a training against each other and against what is there.

    Raises:
        UserError: no data set is named, one is not there or of the wrong kind, its classes are not NUM_CLASSES, or a
            SOLVER or INPUT key has a value that means nothing.
    """
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN: empty; name a data set, such as openvocab_coco_2017_train_stuff_sem_seg")
    _check_solver(cfg)
    TrainingMapper.from_config(cfg)
    for key in ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key]:
            # Others may be made when they are loaded.
            status = dataset_status(name) if name in BUILTIN_NAMES else None
            if status and not status.present:
                way_out = "" if key == "TRAIN" else "; or pass DATASETS.TEST () to train without evaluation"
                lacking = status.looked_at[0] if status.looked_at else "not there"
                raise UserError(f"DATASETS.{key}: {name}: {lacking}; {status.hint}{way_out}")
    masks, _ = MAPPERS[cfg.INPUT.DATASET_MAPPER_NAME]
    for name in cfg.DATASETS.TRAIN:
        metadata = MetadataCatalog.get(name)
        if masks == "segments" and metadata.evaluator_type == "sem_seg":
            raise UserError(
                f"INPUT.DATASET_MAPPER_NAME {cfg.INPUT.DATASET_MAPPER_NAME} learns panoptic segments, but {name} of "
                "DATASETS.TRAIN has label maps only; name a panoptic data set, or mask_former_semantic"
            )
        if metadata.get("background") is not None:
            raise UserError(
                f"DATASETS.TRAIN: {name} has one label for all classes of its background and is there for evaluation; "
                "train on another data set"
            )
        classes = len(metadata.stuff_classes)
        if classes != cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES: {cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}, but {name} of DATASETS.TRAIN "
                f"has {classes} classes; set it to {classes}"
            )
        if metadata.stuff_classes != MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).stuff_classes:
            raise UserError(f"DATASETS.TRAIN: {cfg.DATASETS.TRAIN[0]} and {name} have different classes; train on one")


def _check_solver(cfg: CfgNode) -> None:
    solver = cfg.SOLVER
    if solver.OPTIMIZER not in OPTIMIZERS:
        raise UserError(f"SOLVER.OPTIMIZER: '{solver.OPTIMIZER}' is not one of {', '.join(OPTIMIZERS)}")
    for key in ("MAX_ITER", "IMS_PER_BATCH", "CHECKPOINT_PERIOD", "LOG_PERIOD", "ACCUMULATE"):
        if solver[key] < 1:
            raise UserError(f"SOLVER.{key}: {solver[key]}; it must be at least 1")
    if not solver.BASE_LR > 0:
        raise UserError(f"SOLVER.BASE_LR: {solver.BASE_LR}; it must be above 0 (0.0001 for the published models)")
    if cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
        raise UserError(f"DATALOADER.SAMPLER_TRAIN: '{cfg.DATALOADER.SAMPLER_TRAIN}'; there is TrainingSampler only")
    Schedule.from_config(cfg)
    GradientClipper.from_config(cfg)
