"""What the tests of the tiny model share."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The tiny model's tokenizer."""
    from tools.mini.lmm.tokens import build_tokenizer

    return build_tokenizer()
