"""Requests and answers of the reasoning as plain data, and how tasks ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from reason.errors import ReasonError

Role = Literal["system", "user", "assistant"]
Step = Literal["description", "candidates", "reasons", "generic"]
Outcome = Literal["running", "done", "failed"]


@dataclass(frozen=True)
class EncodedImage:
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
    """One turn of a conversation; its image, if it has one, stands before its text."""

    role: Role
    text: str
    image: EncodedImage | None = None


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
        step: which question it asks.
    """

    key: str
    turns: tuple[Turn, ...]
    schema: Mapping[str, Any] | None
    sampling: Sampling
    step: Step = "description"


@dataclass(frozen=True)
class Answer:
    """What an engine made of a request.

    Attributes:
        key: of the request.
        text: the answer.
        finish_reason: "stop" for an answer that is complete; anything else is a failure (docs/findings.md 16).
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
        answer_form: "json": constrained JSON; "text": the form of the published files (docs/design.md section 5).
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

    def __post_init__(self) -> None:
        """Raises ReasonError for a value that no task can work with."""
        least, most = self.attributes
        tokens = (self.description_tokens, self.candidates_tokens, self.reason_tokens, self.generic_tokens)
        checks = {
            f"candidates {self.candidates!r}: must be free or closed": self.candidates in ("free", "closed"),
            f"answer form {self.answer_form!r}: must be json or text": self.answer_form in ("json", "text"),
            f"{self.attempts} attempts: at least 1 is needed": self.attempts >= 1,
            f"temperatures {self.temperatures}: one or more that are not negative": bool(self.temperatures)
            and all(temperature >= 0 for temperature in self.temperatures),
            f"top_p {self.top_p}: must be above 0, at most 1": 0 < self.top_p <= 1,
            f"seed {self.seed}: must not be negative": self.seed >= 0,
            f"answers of {min(tokens)} tokens: at least 16 are needed": min(tokens) >= 16,
            f"{self.classes_per_answer} classes an answer: at least 1 is needed": self.classes_per_answer >= 1,
            f"attributes {least} to {most}: must be rising numbers from 1 to 20": 1 <= least <= most <= 20,
        }
        for problem, holds in checks.items():
            if not holds:
                raise ReasonError(problem)
