"""The images of a training, read and changed in the order that `maft.training.order` says."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from maft.data.train_mapper import TrainingMapper
from maft.errors import USER_ERRORS, UserError, one_line
from maft.training.order import BatchOrder, RankBatches, Stream, generator, portraits

logger = logging.getLogger(__name__)

Record = Mapping[str, Any]
Mapper = Callable[[Record, np.random.Generator], dict[str, Any]]


class TrainingSet(Dataset[dict[str, Any] | UserError]):
    """Records as model inputs, by (number of the image in the run, index of its record).

    Args:
        records: of all training data sets.
        mapper: makes a model input of a record and random numbers.
        seed: the run's.
    """

    def __init__(self, records: Sequence[Record], mapper: Mapper, seed: int) -> None:
        self.records, self.mapper, self.seed = records, mapper, seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any] | UserError:
        number, index = item
        try:
            return self.mapper(self.records[index], generator(self.seed, Stream.IMAGE, number))
        except USER_ERRORS as error:
            # Raised by who reads the batch: a loader process would wrap it into a traceback.
            return UserError(one_line(error))


def load_batches(
    records: Sequence[Record], mapper: Mapper, batches: RankBatches, seed: int, workers: int
) -> Iterator[list[dict[str, Any]]]:
    """One micro-batch after another.

    Args:
        records: of all training data sets.
        mapper: makes a model input of a record and random numbers; it must be importable by loader processes.
        batches: which images.
        seed: the run's.
        workers: loader processes; 0 loads in this one. What is loaded does not depend on it.

    Raises:
        UserError: of the mapper.
    """
    loader: Any = DataLoader(
        TrainingSet(records, mapper, seed), batch_sampler=batches, num_workers=workers, collate_fn=_as_list
    )
    for batch in loader:
        for item in batch:
            if isinstance(item, UserError):
                raise item
        yield batch


def _as_list(batch: list[Any]) -> list[Any]:
    return batch


def batch_size(cfg: CfgNode, processes: int) -> int:
    """Images that one process sends through the network at once.

    Raises:
        UserError: SOLVER.IMS_PER_BATCH does not divide by processes and SOLVER.ACCUMULATE.
    """
    total, accumulate = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE
    if accumulate < 1 or total < 1 or total % (processes * accumulate):
        raise UserError(
            f"SOLVER.IMS_PER_BATCH: {total} does not divide by {processes} process(es) times SOLVER.ACCUMULATE "
            f"{accumulate}; set it to a multiple of {processes * max(accumulate, 1)}"
        )
    return int(total // (processes * accumulate))


def training_records(cfg: CfgNode) -> list[Record]:
    """The records of DATASETS.TRAIN; with DATALOADER.FILTER_EMPTY_ANNOTATIONS without images that have no segment.

    Raises:
        UserError: files are missing or malformed, or nothing is left.
    """
    records = [record for name in cfg.DATASETS.TRAIN for record in DatasetCatalog.get(name)]
    kept = records
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        kept = [record for record in records if record.get("segments_info", True)]
        if len(kept) < len(records):
            logger.info("%d images without a segment are left out", len(records) - len(kept))
    if not kept:
        raise UserError(f"DATASETS.TRAIN {', '.join(cfg.DATASETS.TRAIN)}: no image with annotations")
    return kept


def training_batches(cfg: CfgNode, *, first: int) -> Iterator[list[dict[str, Any]]]:
    """This process's micro-batches from step `first` to the end of the training.

    Raises:
        UserError: files are missing or malformed, or keys do not fit together.
    """
    mapper = TrainingMapper.from_config(cfg)
    records = training_records(cfg)
    size = batch_size(cfg, comm.get_world_size())
    grouped = cfg.DATALOADER.ASPECT_RATIO_GROUPING and size > 1 and not mapper.one_size
    order = BatchOrder(len(records), size, cfg.SEED, portraits(records) if grouped else None)
    batches = RankBatches(
        order,
        first=first,
        last=cfg.SOLVER.MAX_ITER,
        accumulate=cfg.SOLVER.ACCUMULATE,
        rank=comm.get_rank(),
        world=comm.get_world_size(),
    )
    logger.info("%d images of %s", len(records), ", ".join(cfg.DATASETS.TRAIN))
    workers = min(cfg.DATALOADER.NUM_WORKERS, os.cpu_count() or 1)
    return load_batches(records, mapper, batches, cfg.SEED, workers)
