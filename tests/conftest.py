"""What the tests of several packages share."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

import forked
import pytest

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture
def in_repository() -> Iterator[None]:
    """Run the test from the root of the checkout, as a user would."""
    before = Path.cwd()
    os.chdir(REPOSITORY)
    yield
    os.chdir(before)


@pytest.fixture(scope="session")
def train_net() -> Callable[..., None]:
    """train_net.py as a user runs it; the test fails, with what it said, unless it succeeds."""

    def run(config: str, *words: str, keys: Mapping[str, object] | None = None, datasets: Path | None = None) -> None:
        """Args: --config-file; further words; KEY VALUE pairs; the root of the data sets."""
        pairs = [str(word) for pair in (keys or {}).items() for word in pair]
        places = {} if datasets is None else {"DETECTRON2_DATASETS": str(datasets)}
        done = forked.run(["train_net.py", "--config-file", config, *words, *pairs], env=os.environ | places)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


FAST = frozenset(
    """
    test_citations test_config test_inference test_repository
    text/test_source text/test_planes text/test_prefixes text/test_prompts text/test_templates
    data/test_label_maps data/test_mapper data/test_register
    evaluation/test_evaluation_results evaluation/test_evaluators evaluation/test_instances
    evaluation/test_panoptic_quality evaluation/test_panopticapi evaluation/test_semantic_metrics
    evaluation/test_sources
    modeling/test_losses modeling/test_network_parts
    tools/test_dataset_facts tools/test_examples tools/test_mini_observer tools/test_prepare_labels
    tools/test_results_table
    training/test_augment training/test_order training/test_schedule
    reason/test_classlists reason/test_files reason/test_imagefile reason/test_names reason/test_score
    reason/test_triplets reason/test_vocabulary
    reason/asking/test_conversation reason/asking/test_parsing reason/asking/test_prompts reason/asking/test_schemas
    """.split()
)
"""Test modules marked `fast`, without what is marked `slow` in them: seconds each, on a core."""

LONGEST = tuple(
    """
    modeling/test_deformable_build tools/test_parity test_train_net test_reason_to_segmentor test_wheel
    tools/test_mini_train training/test_loop tools/test_extract_text_features tools/test_mini_run tools/test_demo
    test_own_dataset evaluation/test_evaluation_loop tools/test_segment tools/test_written_benchmark
    tools/test_interrupts tools/test_prepare_ade test_sed_commands tools/test_prepare_engine test_quickstart
    compat/test_subset_limits test_own_training training/test_sed tools/test_bench_prepare test_sed_background
    modeling/test_sed
    """.split()
)
"""Modules that begin first, the longest of all before the others: two workers then end at nearly the same time."""


CONFIGURED = ("", "detectron2", "fvcore", "maft", "reason", "tools")
"""Loggers that our commands set up; "" is the root."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Undo what a command set up in this process: its handlers write to streams that pytest closes after the test."""
    loggers = [logging.getLogger(name) for name in CONFIGURED]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    try:
        return (yield)
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)


def _module(path: Path) -> str:
    """As `FAST` and `LONGEST` name it."""
    return path.relative_to(TESTS).with_suffix("").as_posix() if path.is_relative_to(TESTS) else ""


def _is_fast(path: Path) -> bool:
    return _module(path) in FAST


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m fast`, other modules are not even imported."""
    others = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    return True if config.option.markexpr == "fast" and others and not _is_fast(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the modules of `FAST`; put the modules of `LONGEST` first."""
    for item in items:
        if _is_fast(item.path) and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.fast)
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(_module(item.path), len(place)))
