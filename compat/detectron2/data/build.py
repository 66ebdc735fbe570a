"""The loader that evaluation reads a data set with."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any

from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Sampler

from detectron2.config import CfgNode, configurable

from .catalog import DatasetCatalog, MetadataCatalog
from .common import DatasetFromList, MapDataset
from .samplers import InferenceSampler

__all__ = ["build_detection_test_loader", "get_detection_dataset_dicts"]

_logger = logging.getLogger(__name__)


def get_detection_dataset_dicts(names: str | list[str], filter_empty: bool) -> Any:
    """The items of registered data sets, one data set after the other.

    Args:
        names: one name or several.
        filter_empty: must be False. (True, detectron2's default, leaves out images without annotations: training.)

    Returns:
        list of dicts; or a torch Dataset where the data set's function returned one.

    Raises:
        KeyError: a name is not registered.
        AssertionError: no names, or a data set without items.
        ValueError: `filter_empty` is True, or annotated data sets that disagree in their thing_classes.
    """
    if filter_empty:
        raise ValueError("filter_empty=True is for training and not in this subset: pass filter_empty=False")
    names = [names] if isinstance(names, str) else names
    assert len(names), "no data set named"
    parts = [DatasetCatalog.get(name) for name in names]
    if isinstance(parts[0], Dataset):
        return ConcatDataset(parts) if len(parts) > 1 else parts[0]
    for name, part in zip(names, parts, strict=True):
        assert len(part), f"Dataset '{name}' is empty!"
    if "annotations" in parts[0][0]:
        classes = [MetadataCatalog.get(name).get("thing_classes") for name in names]
        if classes[0] is not None and any(other != classes[0] for other in classes):
            raise ValueError(f"Datasets {names} have different metadata 'thing_classes'!")
    return list(itertools.chain.from_iterable(parts))


def _loader_arguments(cfg: CfgNode, dataset_name: str | list[str], mapper: Callable[[Any], Any]) -> dict[str, Any]:
    """What the configuration says for build_detection_test_loader."""
    if cfg.MODEL.LOAD_PROPOSALS:
        raise ValueError("MODEL.LOAD_PROPOSALS is not in this subset: set it to False")
    dataset = get_detection_dataset_dicts(dataset_name, filter_empty=False)
    return {
        "dataset": dataset,
        "mapper": mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "sampler": None if isinstance(dataset, IterableDataset) else InferenceSampler(len(dataset)),
    }


@configurable(from_config=_loader_arguments)
def build_detection_test_loader(
    dataset: list[Any] | Dataset,
    *,
    mapper: Callable[[Any], Any] | None,
    sampler: Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> DataLoader:
    """A loader over a data set in its own order, each process its share.

    Also to be called as `build_detection_test_loader(cfg, dataset_name, mapper=..., batch_size=...)`, which takes
    the items from the catalog and the number of workers from DATALOADER.NUM_WORKERS.

    Args:
        dataset: a list of dicts, or a torch data set.
        mapper: dict -> what the model takes; None: the dicts themselves.
        sampler: default InferenceSampler; must be None for an iterable data set.
        batch_size: elements in a batch; the last one may be smaller.
        num_workers: loader processes.
        collate_fn: list of elements -> batch; default: the list.
    """
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    if mapper is not None:
        dataset = MapDataset(dataset, mapper)
    if isinstance(dataset, IterableDataset):
        assert sampler is None, "an iterable data set takes no sampler"
    elif sampler is None:
        sampler = InferenceSampler(len(dataset))  # type: ignore[arg-type]
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=_as_list if collate_fn is None else collate_fn,
    )


def _as_list(batch: list[Any]) -> list[Any]:
    return batch
