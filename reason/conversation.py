"""What is asked of the model for one image or one class, step by step, as data.

A task knows what to ask next and what to make of the answer; who carries requests and answers to and fro is not its
business. It does no input or output, and it never fills in what the model did not write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]
Step = Literal["description", "candidates", "reasons", "generic"]
Outcome = Literal["running", "done", "failed"]


@dataclass(frozen=True)
class Picture:
    """An image as it is sent.

    Attributes:
        data: the encoded file, already at the size the model is to see.
        mime: such as "image/jpeg".
        width, height: pixels, as sent.
        uuid: hash of `data`; the key of an engine's image cache.
        tokens: image tokens of the model's prompt.
    """

    data: bytes
    mime: str
    width: int
    height: int
    uuid: str
    tokens: int


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation; its picture, if it has one, stands before its text."""

    role: Role
    text: str
    picture: Picture | None = None


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn.

    Attributes:
        temperature: 0 is greedy.
        top_p: mass of the nucleus, in (0, 1].
        max_tokens: an answer that needs more is cut off, and so a failure.
        seed: of this one request; None leaves it to the engine.
    """

    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None


@dataclass(frozen=True)
class Request:
    """One question to an engine.

    Attributes:
        key: names the request; its answer carries the same one.
        turns: the conversation so far, which ends with a user's turn.
        schema: JSON schema that the answer is constrained to; None: free text.
        sampling: how the answer is drawn.
    """

    key: str
    turns: tuple[Turn, ...]
    schema: Mapping[str, Any] | None
    sampling: Sampling


@dataclass(frozen=True)
class Answer:
    """What an engine made of a request.

    Attributes:
        key: of the request.
        text: the answer.
        finish_reason: "stop" for an answer that is complete; anything else is a failure (FINDINGS.md 16).
        prompt_tokens: tokens of the conversation, image included.
        cached_tokens: those of them that came from the engine's prefix cache; None where it does not tell.
        completion_tokens: tokens of the answer.
        error: why this one request has no answer and never will (refused, too long); `text` is then "".
    """

    key: str
    text: str
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int | None
    completion_tokens: int
    error: str | None = None


@dataclass(frozen=True)
class Failure:
    """An answer that could not be used.

    Attributes:
        step: which question it answered.
        attempt: number of the attempt at this step, from 1.
        problem: why it could not be used.
        answer_text: the answer as it came.
    """

    step: Step
    attempt: int
    problem: str
    answer_text: str


@dataclass(frozen=True)
class TaskOptions:
    """How tasks ask.

    Attributes:
        candidates: "free": the model writes class names, the aligner maps them (the paper's way); "closed": the engine
            lets it write names of the vocabulary only.
        answer_form: "json": constrained JSON; "text": the form of the published files (DESIGN.md section 5).
        attempts: answers drawn for a step at most, before the task counts as failed.
        temperatures: of attempt 1, 2, …; the last one serves all later attempts.
        top_p: mass of the nucleus.
        seed: of the first attempt; later ones add their number.
        description_tokens, candidates_tokens, generic_tokens: longest answer of these steps.
        reason_tokens: longest answer of the reasons step for each class it asks about.
        classes_per_answer: the reasons of more classes than this are asked for in several requests.
        attributes: least and largest number of visual attributes of a class.
    """

    candidates: Literal["free", "closed"] = "free"
    answer_form: Literal["json", "text"] = "json"
    attempts: int = 4
    temperatures: tuple[float, ...] = (0.0, 0.3, 0.6, 0.9)
    top_p: float = 0.9
    seed: int = 0
    description_tokens: int = 512
    candidates_tokens: int = 512
    reason_tokens: int = 256
    generic_tokens: int = 384
    classes_per_answer: int = 8
    attributes: tuple[int, int] = (5, 8)
