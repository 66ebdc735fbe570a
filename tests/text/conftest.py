"""The small CLIP of `tiny_tower.py` as fixtures."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import forked
import pytest

_HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module `tiny_tower`."""
    spec = importlib.util.spec_from_file_location("tiny_tower", _HERE / "tiny_tower.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def counting(tiny: ModuleType):
    """An encoder with a record of what it was asked."""
    return tiny.CountingEncoder(tiny.tiny_encoder())


@pytest.fixture(scope="session")
def direct(tiny: ModuleType):
    """The encoder alone, for what a feature should be."""
    return tiny.tiny_encoder()


@pytest.fixture(scope="session")
def start_python() -> Callable[..., forked.Forked]:
    """Start a program of this project's Python with the tests' modules at hand."""

    def start(code: str, *arguments: str) -> forked.Forked:
        path = os.pathsep.join([str(_HERE), *[entry for entry in sys.path if entry], str(_HERE.parent.parent)])
        return forked.start(["-c", code, *arguments], env={**os.environ, "PYTHONPATH": path})

    return start
