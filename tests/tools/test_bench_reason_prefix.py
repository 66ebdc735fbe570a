"""What the benchmark of the prefix asks and counts; with vLLM it runs in tests/reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reason.asking.conversation import ImageTask
from reason.asking.messages import Answer, EncodedImage, Request, TaskOptions
from reason.asking.prompts import load_prompts
from reason.engines.interface import EngineInfo
from reason.errors import ReasonError
from reason.vocabulary import parse_vocabulary
from tools.bench.reason_prefix import Comparison, Count, ask, naive_request, photographs, report

IMAGE = EncodedImage(b"jpeg", "image/jpeg", 28, 28, "u", 1)
VOCABULARY = parse_vocabulary("cat, dog, sofa")


def answer(key: str, prompt: int, cached: int | None) -> Answer:
    return Answer(key, "", "stop", prompt, cached, 1)


def test_the_naive_request_says_the_same_with_the_image_first() -> None:
    options = TaskOptions(candidates="closed")
    task = ImageTask("a.jpg", IMAGE, VOCABULARY, load_prompts(), None, options)
    first = task.next_request()
    assert first is not None
    task.receive(replace(answer(first.key, 9, 0), text='{"description": "A cat that sleeps on a sofa."}'))
    second = task.next_request()
    assert second is not None and first.turns[0].image is None and first.turns[1].image is IMAGE
    for request in (first, second):
        (turn,) = naive_request(request).turns
        assert turn.role == "user" and turn.image is IMAGE
        assert turn.text == "\n\n".join(one.text for one in request.turns)
        assert "sofa" in turn.text and naive_request(request).sampling.max_tokens == 1


def test_counts() -> None:
    ours, naive = Count(), Count()
    ours.add([answer("a/1", 1000, 0), answer("a/2", 1100, 1000)])
    ours.add([answer("b/1", 1000, 800), answer("b/2", 1100, 1000)])
    naive.add([answer("a/1", 1000, 0), answer("a/2", 1100, 100)])
    naive.add([answer("b/1", 1000, 0), answer("b/2", 1100, 100)])
    assert (ours.computed, ours.an_image) == ([1100, 300], 700)
    assert (naive.computed, naive.an_image) == ([2000, 2000], 2000)
    found = Comparison("x", ours, naive, images=200, unfinished=1)
    assert found.ratio == 0.35
    assert found.ratio_at_half_text == (700 - 300) / (2000 - 950), (
        "half of 600 and 1,900 text tokens, and 100 of an image"
    )
    text = report([found], 2, tiny=True)
    assert "35.0%" in text and "first image 1100 tokens, later ones 300, 15.0% of naive" in text
    assert "1 conversations ended in failure" in text


class Silent:
    """An engine that answers, but does not tell what it cached."""

    info = EngineInfo("silent", "", "", "")
    capacity = 1

    def submit(self, request: Request) -> None:
        self.key = request.key

    def collect(self, timeout: float | None = None) -> list[Answer]:
        return [answer(self.key, 10, None)]

    def close(self) -> None: ...


def test_an_engine_that_does_not_count_is_an_error() -> None:
    task = ImageTask("a.jpg", IMAGE, VOCABULARY, load_prompts(), None, TaskOptions(candidates="closed"))
    request = task.next_request()
    assert request is not None
    with pytest.raises(ReasonError, match="does not count"):
        ask(Silent(), [request])


def test_eight_different_photographs() -> None:
    found = photographs(None, 200 * 200)
    assert len({image.uuid for _, image in found}) == 8
    assert all(image.width * image.height <= 200 * 200 for _, image in found)
