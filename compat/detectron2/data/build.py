"""The loader that evaluation reads a data set with."""

from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from detectron2.config import CfgNode, configurable

from .catalog import DatasetCatalog
from .common import DatasetFromList, MapDataset
from .samplers import InferenceSampler


def get_detection_dataset_dicts(names: str, filter_empty: bool) -> list[dict[str, Any]]:
    """The items of a registered data set.

    `filter_empty` must be False: True, detectron2's default, leaves out images without annotations, for training.
    KeyError for an unknown name; AssertionError for a data set without items.
    """
    if filter_empty:
        raise ValueError("filter_empty=True is for training and not in this subset: pass filter_empty=False")
    items = DatasetCatalog.get(names)
    assert len(items), f"Dataset '{names}' is empty!"
    return items


def _loader_arguments(cfg: CfgNode, dataset_name: str, mapper: Callable[[Any], Any]) -> dict[str, Any]:
    """What the configuration says for build_detection_test_loader."""
    if cfg.MODEL.LOAD_PROPOSALS:
        raise ValueError("MODEL.LOAD_PROPOSALS is not in this subset: set it to False")
    items = get_detection_dataset_dicts(dataset_name, filter_empty=False)
    return {"dataset": items, "mapper": mapper, "num_workers": cfg.DATALOADER.NUM_WORKERS}


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
    """A loader over a list of dicts, or a data set with indices: in its own order, each process its share.

    Also to be called as `build_detection_test_loader(cfg, dataset_name, mapper=..., batch_size=...)`, which takes
    the items from the catalog and the number of workers from DATALOADER.NUM_WORKERS. `mapper` makes of an item what
    the model takes (None: the item). A batch is a list, unless `collate_fn` makes something of it.
    """
    if isinstance(dataset, IterableDataset):
        raise TypeError("iterable data sets are not in this subset: give a list, or a data set with indices")
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    if mapper is not None:
        dataset = MapDataset(dataset, mapper)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=InferenceSampler(len(dataset)) if sampler is None else sampler,  # type: ignore[arg-type]
        num_workers=num_workers,
        collate_fn=_as_list if collate_fn is None else collate_fn,
    )


def _as_list(batch: list[Any]) -> list[Any]:
    return batch
