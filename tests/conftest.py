"""What the tests of several packages share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


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
