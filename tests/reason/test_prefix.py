"""The vocabulary is computed once for all images, each image once for its questions: by vLLM's own counts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reason.asking.conversation import ImageTask
from reason.asking.messages import TaskOptions
from reason.asking.prompts import load_prompts
from reason.runs.images import encode_image, list_images
from reason.vocabulary import parse_vocabulary
from tools.bench.reason_prefix import compare
from tools.mini.world import VAL_CLASSES

if TYPE_CHECKING:
    from reason.engines.vllm import VllmEngine


@pytest.mark.slow
def test_ours_against_the_naive_order(vllm_engine: VllmEngine, drawn: Path, mini_model: Path) -> None:
    """With the trained model, which finds something in every image: so all three questions are asked of each."""
    from transformers import AutoTokenizer

    images = [(path.stem, encode_image(path)) for path in list_images(drawn)]
    # A class less than in other tests: their conversations with this engine begin alike, up to the number of classes.
    vocabulary = parse_vocabulary("; ".join(entry.name for entry in VAL_CLASSES[:-1]), name="most of mini")
    task = ImageTask(*images[0], vocabulary, load_prompts(), None, TaskOptions(candidates="closed", attributes=(2, 3)))
    request = task.next_request()
    assert request is not None
    constant = len(AutoTokenizer.from_pretrained(mini_model)(request.turns[0].text).input_ids)
    found = compare(vllm_engine, vocabulary, images)
    assert len(found.ours.computed) == len(found.naive.computed) == 12 and not found.unfinished
    assert found.ours.requests == found.naive.requests == 36
    first, *later = found.ours.computed
    assert first > 0.8 * constant and max(later) < constant / 2, (constant, found.ours.computed)
    assert min(found.naive.computed) > constant, "the naive order computes them for every image"
    assert found.ratio < 0.5
