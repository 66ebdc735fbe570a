"""How many prompt tokens vLLM computes for an image, with the project's prompts and in the naive order.

    .venv-reason/bin/python -m tools.bench.reason_prefix
    .venv-reason/bin/python -m tools.bench.reason_prefix --model llm/Qwen2.5-VL-3B-Instruct    with its own tokenizer

Ours: instructions and vocabulary stand before the image, and all questions about an image are one conversation.
Naive: every question is a request of its own, the image first, then instructions and vocabulary, then what the model
said so far and the question. Both orders ask the same questions with the same words about the same photographs, in one
engine with its prefix cache on, which serves the naive order, too: the image and the text behind it are computed once
for the questions about one image. What is counted is what vLLM says of each request: prompt tokens less cached ones.

Every photograph counts, the first one too, for which ours computes the vocabulary. Exit status 1 if ours computes more
than --most of what the naive order does on the last vocabulary.

Without --model a tiny random model is built: its answers mean nothing, and its small tokenizer cuts text into more
tokens than Qwen's, so that another ratio is printed, too: that with half of the text tokens and all of the image's.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from reason.asking.conversation import ImageTask
from reason.asking.messages import Answer, EncodedImage, Request, TaskOptions, Turn
from reason.asking.prompts import load_prompts
from reason.engines.interface import Engine, EngineOptions
from reason.engines.opening import open_engine
from reason.errors import ReasonError, run_command
from reason.files import user_path
from reason.runs.images import encode_image, list_images
from reason.vocabulary import Vocabulary, load_vocabulary

from ..examples.photographs import load_photographs, open_photograph

TINY_MODEL = Path("tests/reason/tiny_qwen.py")
ROOT = Path(__file__).resolve().parents[2]
LEAST_PHOTOGRAPHS = 8
MODEL_LENGTH = 16384


@dataclass
class Count:
    """Tokens of one order, summed over its requests.

    Attributes:
        requests: number of requests.
        prompt: tokens of their prompts.
        cached: those of them that came from the prefix cache.
        computed: of each image, prompt less cached.
    """

    requests: int = 0
    prompt: int = 0
    cached: int = 0
    computed: list[int] = field(default_factory=list)

    def add(self, answers: Sequence[Answer]) -> None:
        """Count the requests of one more image."""
        prompt = sum(answer.prompt_tokens for answer in answers)
        cached = sum(answer.cached_tokens or 0 for answer in answers)
        self.requests += len(answers)
        self.prompt += prompt
        self.cached += cached
        self.computed.append(prompt - cached)

    @property
    def an_image(self) -> float:
        """Computed tokens an image."""
        return sum(self.computed) / len(self.computed)


@dataclass
class Comparison:
    """Both orders on one vocabulary; `images` are the image tokens, which both compute once an image."""

    vocabulary: str
    ours: Count
    naive: Count
    images: int
    unfinished: int

    @property
    def ratio(self) -> float:
        """Ours over naive."""
        return self.ours.an_image / self.naive.an_image

    @property
    def ratio_at_half_text(self) -> float:
        """The same if every computed text token were half a one."""
        images = len(self.ours.computed)
        halves = [(sum(count.computed) + self.images) / (2 * images) for count in (self.ours, self.naive)]
        return halves[0] / halves[1]


def compare(engine: Engine, vocabulary: Vocabulary, images: Sequence[tuple[str, EncodedImage]]) -> Comparison:
    """Ask everything in both orders: about the first image alone, then about all others side by side.

    Raises:
        ReasonError: the engine does not tell how many tokens were cached, or refuses a request.
    """
    prompts = load_prompts()
    # Only names of the vocabulary, so that a random model gets to the last step as well.
    options = TaskOptions(candidates="closed", description_tokens=160, attributes=(2, 3))
    ours, naive, unfinished = Count(), Count(), 0
    for group in (images[:1], images[1:]):
        tasks = [ImageTask(name, image, vocabulary, prompts, None, options) for name, image in group]
        asked = converse(engine, tasks)
        unfinished += sum(task.outcome != "done" for task in tasks)
        again: list[list[Answer]] = [[] for _ in asked]
        for step in range(max(map(len, asked))):
            # The answer to one question about an image is in the cache before the next one is asked, as in ours.
            owners = [number for number, requests in enumerate(asked) if step < len(requests)]
            answers = ask(engine, [naive_request(asked[number][step][0]) for number in owners])
            for number, answer in zip(owners, answers, strict=True):
                again[number].append(answer)
        for exchanges, answers in zip(asked, again, strict=True):
            ours.add([answer for _, answer in exchanges])
            naive.add(answers)
    return Comparison(vocabulary.name, ours, naive, sum(image.tokens for _, image in images), unfinished)


def converse(engine: Engine, tasks: Sequence[ImageTask]) -> list[list[tuple[Request, Answer]]]:
    """Carry requests and answers between tasks and engine until all tasks have ended; what each one asked and got."""
    exchanges: list[list[tuple[Request, Answer]]] = [[] for _ in tasks]
    while True:
        asking = [
            (number, request) for number, task in enumerate(tasks) if (request := task.next_request()) is not None
        ]
        if not asking:
            return exchanges
        answers = ask(engine, [request for _, request in asking])
        for (number, request), answer in zip(asking, answers, strict=True):
            tasks[number].receive(answer)
            exchanges[number].append((request, answer))


def ask(engine: Engine, requests: Sequence[Request]) -> list[Answer]:
    """The answers to requests that are in the engine together, in their order.

    Raises:
        ReasonError: one is refused, or without a count of cached tokens.
    """
    for request in requests:
        engine.submit(request)
    answers: dict[str, Answer] = {}
    while len(answers) < len(requests):
        answers |= {answer.key: answer for answer in engine.collect()}
    for answer in answers.values():
        if answer.error is not None or answer.cached_tokens is None:
            raise ReasonError(f"{answer.key}: {answer.error or 'the engine does not count cached tokens'}")
    return [answers[request.key] for request in requests]


def naive_request(request: Request) -> Request:
    """The same question as a request of its own: image, then instructions and vocabulary, then what was said.

    Its answer is not needed: one token is drawn.
    """
    image = next(turn.image for turn in request.turns if turn.image is not None)
    system = next(turn.text for turn in request.turns if turn.role == "system")
    said = [turn.text for turn in request.turns if turn.role != "system"]
    return Request(
        key=f"naive {request.key}",
        turns=(Turn("user", "\n\n".join([system, *said]), image),),
        schema=None,
        sampling=replace(request.sampling, max_tokens=1),
    )


def photographs(folder: Path | None, max_pixels: int) -> list[tuple[str, EncodedImage]]:
    """(name, image) of the images of a folder, or of the project's eight photographs.

    Raises:
        ReasonError: fewer than eight.
    """
    if folder is not None:
        found = [(path.stem, encode_image(path, max_pixels=max_pixels)) for path in list_images(folder)]
    else:
        with tempfile.TemporaryDirectory() as aside:
            found = []
            for photograph in load_photographs():
                path = Path(aside, f"{photograph.name}.png")
                open_photograph(photograph).save(path)
                found.append((photograph.name, encode_image(path, max_pixels=max_pixels)))
    if len({image.uuid for _, image in found}) < LEAST_PHOTOGRAPHS:
        raise ReasonError(f"--images {folder}: at least {LEAST_PHOTOGRAPHS} different photographs are needed")
    return found


def build_tiny_model(folder: Path) -> Path:
    """Write the tests' tiny random Qwen2.5-VL; returns its folder."""
    target = folder / "tiny"
    command = [sys.executable, str(ROOT / TINY_MODEL), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReasonError(f"{TINY_MODEL}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}; run it by hand")
    return target


def report(comparisons: Sequence[Comparison], images: int, *, tiny: bool) -> str:
    """The table."""
    columns = ("requests", "prompt", "cached", "computed", "an image")
    lines = [f"{images} photographs of {comparisons[0].images / images:.0f} tokens each, on average", ""]
    lines.append(f"{'vocabulary':12}{'order':6}" + "".join(f"{column:>10}" for column in columns) + f"{'ratio':>8}")
    for found in comparisons:
        for order, count in (("naive", found.naive), ("ours", found.ours)):
            numbers = (count.requests, count.prompt, count.cached, sum(count.computed), round(count.an_image))
            ratio = f"{found.ratio:8.1%}" if order == "ours" else ""
            lines.append(f"{found.vocabulary:12}{order:6}" + "".join(f"{number:10}" for number in numbers) + ratio)
    lines.append("")
    for found in comparisons:
        first, *others = found.ours.computed
        later = sum(others) / sum(found.naive.computed[1:])
        text = f"{found.vocabulary}: first image {first} tokens, later ones {sum(others) / len(others):.0f}"
        failed = f"; {found.unfinished} conversations ended in failure" if found.unfinished else ""
        lines.append(f"{text}, {later:.1%} of naive{failed}")
    if tiny:
        halves = ", ".join(f"{found.vocabulary} {found.ratio_at_half_text:.1%}" for found in comparisons)
        lines.append(f"A tiny tokenizer cut the text. With half of the text tokens: {halves}")
    return "\n".join(lines)


def main(arguments: argparse.Namespace) -> int:
    """Measure and print; see the module."""
    # Small models start in seconds this way; all counts are the same.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    with tempfile.TemporaryDirectory() as aside:
        model = arguments.model or build_tiny_model(Path(aside))
        images = photographs(arguments.images, arguments.max_pixels)
        options = EngineOptions(
            model=str(model), max_model_len=MODEL_LENGTH, max_pixels=arguments.max_pixels, concurrency=8
        )
        engine = open_engine("vllm", options)
        try:
            comparisons = [compare(engine, load_vocabulary(name), images) for name in arguments.vocabulary]
        finally:
            engine.close()
    print(report(comparisons, len(images), tiny=arguments.model is None))
    return int(comparisons[-1].ratio > arguments.most)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.reason_prefix",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", type=user_path, help="folder of a model (default: a tiny random one, built on the spot)"
    )
    parser.add_argument("--images", type=user_path, help="folder of photographs (default: the eight of tools.examples)")
    parser.add_argument("--vocabulary", nargs="+", default=["ade150", "ade847"], help="(default: ade150 ade847)")
    parser.add_argument(
        "--max-pixels", type=int, default=640 * 480, help="of an image as the model sees it (default: 640 x 480)"
    )
    parser.add_argument("--most", type=float, default=0.4, help="of the naive order's tokens (default: 0.4)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(parse_arguments()), debug=False))
