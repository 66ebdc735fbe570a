"""The published figures, and the data sets that they are for, in the order of the papers' tables."""

from __future__ import annotations

from collections.abc import Mapping

from maft.data.specs import ALIASES

from ..benchmarks import SUITES, Benchmark

ORDER = ("ade847", "pc459", "ade150", "pc59", "voc20")
SOURCE = (
    "Published: the READMEs of OpenSeg-R (github.com/Hanzy1996/OpenSeg-R) and MAFT+ "
    "(github.com/jiaosiyu1999/MAFT-Plus); their mIoU is mIoU_reference. SED's are of its README (github.com/xb534/SED) "
    "and, on PC-459, of the higher definition; which definition OpenSeg-R's with SED are of is not known. "
    "The README of OpenSeg-R gives no panoptic figures."
)

SEMANTIC: Mapping[tuple[str, bool], tuple[float, ...]] = {
    ("base", False): (13.8, 16.2, 34.6, 57.5, 95.4),
    ("base", True): (15.2, 15.5, 35.5, 59.0, 96.1),
    ("large", False): (15.1, 21.6, 36.1, 59.4, 96.5),
    ("large", True): (16.8, 17.1, 37.1, 60.3, 96.2),
    ("sed-base", False): (11.2, 18.6, 31.8, 57.7, 94.4),
    ("sed-base", True): (11.8, 18.9, 33.6, 59.0, 95.1),
    ("sed-large", False): (13.7, 22.1, 35.3, 60.9, 96.1),
    ("sed-large", True): (14.3, 22.0, 36.1, 61.2, 96.3),
}
"""(suite, with reasons) -> mIoU of the data sets of `ORDER`."""

PANOPTIC: Mapping[tuple[str, bool], tuple[float, ...] | None] = {
    ("pano", False): (27.1, 73.5, 32.9),
    ("pano", True): None,
}
"""(suite, with reasons) -> PQ, SQ, RQ of ADE20K; None: not published in a README."""

QUALITIES = ("PQ", "SQ", "RQ")


def semantic_benchmarks() -> tuple[Benchmark, ...]:
    """The five data sets in the order of `ORDER`."""
    known = {benchmark.name: benchmark for benchmark in SUITES["base"].benchmarks}
    return tuple(known[name] for name in ORDER)


MINI_TITLES = {"mini_val_panoptic": "mini", "mini_closed_panoptic": "mini, seen kinds"}
_UNPUBLISHED = {"openvocab_pascal20b_sem_seg_val": "PAS-20b"}
"""Titles of data sets that no README gives a figure of."""


def title_of(dataset: str) -> str:
    """What a registered data set is called in tables; its own name where it is no benchmark."""
    if title := _UNPUBLISHED.get(ALIASES.get(dataset, dataset)):
        return title
    if dataset.startswith("mini_"):
        return MINI_TITLES.get(dataset, dataset)
    benchmarks = (benchmark for suite in SUITES.values() for benchmark in suite.benchmarks)
    return next((benchmark.title for benchmark in benchmarks if benchmark.dataset == dataset), dataset)


def panoptic_benchmark() -> Benchmark:
    """ADE20K, panoptic."""
    return SUITES["pano"].default[0]


def published(suite: str, reasons: bool) -> dict[tuple[str, str], float]:
    """(registered data set, metric) -> published figure of a method; empty where there is none."""
    key = (suite, reasons)
    if key in SEMANTIC:
        datasets = (benchmark.dataset for benchmark in semantic_benchmarks())
        return {(name, "mIoU_reference"): value for name, value in zip(datasets, SEMANTIC[key], strict=True)}
    values = PANOPTIC.get(key) or ()
    return {(panoptic_benchmark().dataset, metric): value for metric, value in zip(QUALITIES, values, strict=False)}
