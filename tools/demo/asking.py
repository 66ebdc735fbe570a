"""Asking a multimodal model for the reasons of one image, step by step, through an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maft.errors import UserError
from reason.asking.aligner import Aligner, EmbeddingAligner, ExactAligner
from reason.asking.conversation import ImageTask
from reason.asking.messages import TaskOptions
from reason.asking.prompts import load_prompts
from reason.engines.interface import EngineOptions
from reason.engines.opening import open_engine
from reason.errors import ReasonError
from reason.runs.images import encode_image
from reason.triplets import Reason
from reason.vocabulary import Vocabulary

STEPS = {"description": "1. What is in the image", "candidates": "2. Which classes", "reasons": "3. Why"}


@dataclass(frozen=True)
class Asked:
    """How far the model has come.

    text: its answers so far, and what became of the names that it wrote; Markdown.
    reasons: at the end, by class; None before.
    """

    text: str
    reasons: dict[str, Reason] | None = None


@dataclass(frozen=True)
class Model:
    """A model behind an endpoint.

    url: such as "http://127.0.0.1:8000/v1".
    name: as the server calls it; "" for the only one it serves.
    """

    url: str
    name: str = ""

    def ask(self, image: Path, vocabulary: Vocabulary) -> Iterator[Asked]:
        """The three steps on one image, each told when it is there.

        Raises:
            UserError: no server there, or an answer that cannot be used after several attempts.
        """
        try:
            engine = open_engine("server", EngineOptions(model=self.name, url=self.url, concurrency=1))
        except ReasonError as error:
            raise UserError(f"--reason-url {self.url}: {error}") from error
        try:
            task = ImageTask(
                image.name, encode_image(image), vocabulary, load_prompts(), _aligner(vocabulary), TaskOptions()
            )
            parts: list[str] = []
            while (request := task.next_request()) is not None:
                yield Asked("\n\n".join([*parts, f"**{STEPS[request.step]}** …"]))
                engine.submit(request)
                for answer in engine.collect():
                    task.receive(answer)
                    problem = task.attempts[-1]["problem"]
                    unused = f" (not used: {problem})" if problem else ""
                    parts.append(f"**{STEPS[request.step]}**{unused}\n\n```\n{answer.text}\n```")
            if task.outcome != "done":
                raise UserError(f"the model's answers could not be used: {task.failures[-1].problem}")
            triplet = task.triplet()
        except ReasonError as error:
            raise UserError(str(error)) from error
        finally:
            engine.close()
        aligned = [
            f"- {one['written']} → {one['class'] or 'no class'} ({one['how']}, similarity {one['similarity']:.2f})"
            for one in triplet.extra["alignment"]
        ]
        yield Asked("\n\n".join([*parts, "**What became of the names**\n\n" + "\n".join(aligned)]), triplet.reasons)


def _aligner(vocabulary: Vocabulary) -> Aligner:
    """By sentence embedding where that is installed, otherwise by spelling alone."""
    try:
        return EmbeddingAligner(vocabulary)
    except ReasonError:
        return ExactAligner(vocabulary)
