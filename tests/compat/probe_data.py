"""Probes of detectron2.data: catalogs, samplers, data sets and the test loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.config import get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    MapDataset,
    MetadataCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.samplers import InferenceSampler
from probe import outcome


def _items(count: int) -> list[dict[str, Any]]:
    return [{"file_name": f"{index}.jpg", "number": index, "size": (index, 2 * index)} for index in range(count)]


def _double(item: dict[str, Any]) -> dict[str, Any]:
    item["number"] *= 2  # in place: must not reach the data set
    return item


def _none_for_some(item: dict[str, Any]) -> Any:
    return None if item["number"] % 3 == 1 else item["number"]


def probe_dataset_catalog(folder: Path) -> Any:
    DatasetCatalog.register("probe_a", lambda: _items(3))
    DatasetCatalog.register("probe_b", list)
    results = [
        DatasetCatalog.get("probe_a"),
        [name for name in DatasetCatalog.list() if name.startswith("probe_")],
        "probe_a" in DatasetCatalog,
        outcome(lambda: DatasetCatalog.register("probe_a", list)),
        outcome(lambda: DatasetCatalog.register("probe_c", [1, 2])),
        outcome(lambda: DatasetCatalog.get("probe_nothing")),
        outcome(lambda: get_detection_dataset_dicts("probe_b", filter_empty=False)),
        outcome(lambda: get_detection_dataset_dicts("probe_nothing", filter_empty=False)),
        get_detection_dataset_dicts("probe_a", filter_empty=False),
    ]
    DatasetCatalog.remove("probe_a")
    results += ["probe_a" in DatasetCatalog, outcome(lambda: DatasetCatalog.remove("probe_a"))]
    DatasetCatalog.pop("probe_b")
    return results


def probe_metadata_catalog(folder: Path) -> Any:
    meta = MetadataCatalog.get("probe_meta")
    results = [meta.name, meta is MetadataCatalog.get("probe_meta"), outcome(lambda: meta.stuff_classes)]
    returned = meta.set(stuff_classes=["a", "b"], ignore_label=255)
    meta.evaluator_type = "sem_seg"
    meta.stuff_classes = ["a", "b"]  # an equal value may be set again
    results += [
        returned is meta,
        meta.stuff_classes,
        meta.get("ignore_label"),
        meta.get("nothing"),
        meta.get("nothing", 7),
        hasattr(meta, "nothing"),
        outcome(lambda: meta.nothing),
        outcome(lambda: meta.set(ignore_label=254)),
        outcome(lambda: setattr(meta, "stuff_classes", ["a"])),
        outcome(lambda: setattr(meta, "name", "other")),
        meta.as_dict(),
        outcome(lambda: MetadataCatalog.get("")),
        "probe_meta" in MetadataCatalog,
        "probe_meta" in MetadataCatalog.list(),
    ]
    meta.as_dict()["late"] = 1
    results.append(hasattr(meta, "late"))
    MetadataCatalog.remove("probe_meta")
    results.append(hasattr(MetadataCatalog.get("probe_meta"), "ignore_label"))
    MetadataCatalog.remove("probe_meta")
    return results


def probe_metadata_error_names_data_set_and_keys(folder: Path) -> Any:
    meta = MetadataCatalog.get("probe_message").set(thing_classes=["x"])
    try:
        _ = meta.nothing
    except AttributeError as error:
        return [word in str(error) for word in ("nothing", "probe_message", "thing_classes")]
    return "no error"


def probe_sampler_shares(folder: Path) -> Any:
    shares = {
        f"{size} over {world}": [list(InferenceSampler._get_local_indices(size, world, rank)) for rank in range(world)]
        for size in (1, 2, 3, 7, 8, 9, 64, 2000)
        for world in (1, 2, 3, 4, 7, 8, 16)
    }
    return shares, list(InferenceSampler(5)), len(InferenceSampler(5)), outcome(lambda: InferenceSampler(0))


def probe_list_data_set(folder: Path) -> Any:
    results = []
    for options in ({}, {"serialize": False}, {"copy": False, "serialize": False}, {"copy": False}):
        source = _items(4)
        data_set = DatasetFromList(source, **options)
        first = data_set[1]
        first["number"] = 99
        source[2]["number"] = 77
        shared = data_set[0] is source[0]
        results.append([len(data_set), data_set[1]["number"], data_set[2]["number"], data_set[3], shared])
    return results


def probe_mapper_that_fails(folder: Path) -> Any:
    data_set = MapDataset(DatasetFromList(_items(20)), _none_for_some)
    order = [data_set[index] for index in (1, 4, 7, 0, 10, 13, 16, 19, 1, 4)]
    hopeless = MapDataset(DatasetFromList(_items(3)), lambda item: None)
    return order, len(data_set), outcome(lambda: hopeless[0])


def probe_loader(folder: Path) -> Any:
    results = []
    for count, options in (
        (5, {}),
        (5, {"batch_size": 2}),
        (7, {"batch_size": 3, "num_workers": 2}),
        (5, {"sampler": [3, 1]}),
        (4, {"batch_size": 4, "collate_fn": len}),
    ):
        loader = build_detection_test_loader(_items(count), mapper=_double, **options)
        results.append([len(loader), list(loader), list(loader)])
    unmapped = build_detection_test_loader(_items(2), mapper=None)
    mapped_data_set = build_detection_test_loader(DatasetFromList(_items(2)), mapper=_double)
    return results, list(unmapped), list(mapped_data_set), outcome(lambda: build_detection_test_loader(_items(1)))


def probe_loader_from_config(folder: Path) -> Any:
    DatasetCatalog.register("probe_loader", lambda: _items(5))
    cfg = get_cfg()
    cfg.DATALOADER.NUM_WORKERS = 1
    plain = build_detection_test_loader(cfg, "probe_loader", mapper=_double)
    batched = build_detection_test_loader(cfg, "probe_loader", mapper=_double, batch_size=2, num_workers=0)
    results = [
        [plain.num_workers, plain.batch_size, list(plain)],
        [batched.num_workers, batched.batch_size, list(batched)],
        outcome(lambda: build_detection_test_loader(cfg, "probe_unregistered", mapper=_double)),
    ]
    DatasetCatalog.remove("probe_loader")
    return results
