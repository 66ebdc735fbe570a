"""The vocabulary is computed once for all images, each image once for its questions: by vLLM's own counts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reason.runs.images import encode_image, list_images
from reason.vocabulary import load_vocabulary
from tools.bench.reason_prefix import compare

if TYPE_CHECKING:
    from reason.engines.vllm import VllmEngine


@pytest.mark.slow
def test_ours_against_the_naive_order(vllm_engine: VllmEngine, photos: Path) -> None:
    images = [(path.stem, encode_image(path, max_pixels=128 * 128)) for path in list_images(photos)]
    found = compare(vllm_engine, load_vocabulary("pc59"), images)
    assert len(found.ours.computed) == len(found.naive.computed) == 8
    assert found.ours.requests == found.naive.requests >= 16
    first, *later = found.ours.computed
    constant = 1800  # tokens of the instructions and PC-59
    assert first > constant and max(later) < constant / 2, found.ours.computed
    assert min(found.naive.computed) > constant, "the naive order computes them for every image"
    assert found.ratio < 0.5
