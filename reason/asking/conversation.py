"""What is asked of the model for one image or one class, step by step.

A task knows what to ask next and what to make of the answer; who carries requests and answers to and fro is not its
business. It does no input or output, and it never fills in what the model did not write.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reason.asking.aligner import Aligner, Alignment, ExactAligner
from reason.asking.messages import Answer, EncodedImage, Failure, Outcome, Request, Sampling, Step, TaskOptions, Turn
from reason.asking.parsing import (
    AnswerError,
    ParsedReason,
    parse_candidates,
    parse_description,
    parse_generic,
    parse_reasons,
)
from reason.asking.prompts import PromptSet
from reason.asking.schemas import candidates_schema, description_schema, generic_schema, reasons_schema
from reason.errors import ReasonError
from reason.names import VocabularyNames
from reason.triplets import ImageTriplet, Reason
from reason.vocabulary import Vocabulary


class _Task:
    """Asks one question after the other; a question whose answer cannot be used is asked again, warmer.

    Attributes:
        name: what is worked on.
        outcome: "running" until the last answer was used ("done") or a question had no usable answer ("failed").
        failures: answers that could not be used, in order.
        attempts: one JSON object for every answer, used or not.
    """

    def __init__(self, name: str, options: TaskOptions) -> None:
        self.name = name
        self.outcome: Outcome = "running"
        self.failures: list[Failure] = []
        self.attempts: list[dict[str, Any]] = []
        self._options = options
        self._attempt = 1
        self._open: tuple[_Question, Request] | None = None

    @property
    def tokens(self) -> dict[str, int | None]:
        """Tokens over all attempts: "prompt", "cached" (None where an engine did not tell), "completion"."""
        cached = [attempt["cached_tokens"] for attempt in self.attempts]
        return {
            "prompt": sum(attempt["prompt_tokens"] for attempt in self.attempts),
            "cached": None if None in cached else sum(cached),
            "completion": sum(attempt["completion_tokens"] for attempt in self.attempts),
        }

    def next_request(self) -> Request | None:
        """What to ask now; None when the task is done or failed.

        Raises:
            RuntimeError: the answer to the last request was not received yet.
        """
        if self.outcome != "running":
            return None
        if self._open is not None:
            raise RuntimeError(f"{self.name}: request {self._open[1].key} has no answer yet")
        question, options = self._question(), self._options
        temperature = options.temperatures[min(self._attempt, len(options.temperatures)) - 1]
        sampling = Sampling(temperature, options.top_p, question.max_tokens, options.seed + self._attempt - 1)
        part = f"{question.step}{question.part or ''}"
        request = Request(
            f"{self.name}/{part}/{self._attempt}", question.turns, question.schema, sampling, question.step
        )
        self._open = question, request
        return request

    def receive(self, answer: Answer) -> None:
        """Take the answer to the last request.

        Raises:
            ValueError: it answers no open request of this task.
        """
        if self._open is None or answer.key != self._open[1].key:
            raise ValueError(f"{self.name}: an answer to {answer.key}, which is not asked")
        (question, request), self._open = self._open, None
        problem = self._problem(question, answer)
        self.attempts.append(
            {
                "step": question.step,
                "part": question.part,
                "attempt": self._attempt,
                "temperature": request.sampling.temperature,
                "seed": request.sampling.seed,
                "finish_reason": answer.finish_reason,
                "prompt_tokens": answer.prompt_tokens,
                "cached_tokens": answer.cached_tokens,
                "completion_tokens": answer.completion_tokens,
                "problem": problem,
                "answer": _storable(answer.text),
            }
        )
        if problem is None:
            self._attempt = 1
            return
        self.failures.append(Failure(question.step, self._attempt, problem, _storable(answer.text)))
        self._attempt += 1
        if answer.error is not None or self._attempt > self._options.attempts:
            self.outcome = "failed"

    def _problem(self, question: _Question, answer: Answer) -> str | None:
        """Use the answer, or say why that is not possible."""
        if answer.error is not None:
            return f"the engine refused the request: {answer.error}"
        if answer.finish_reason != "stop":
            return f"the answer is not complete (finish reason {answer.finish_reason!r})"
        try:
            question.use(answer.text)
        except AnswerError as error:
            return str(error)
        return None

    def _question(self) -> _Question:
        raise NotImplementedError


class ImageTask(_Task):
    """The three steps of one image as one conversation; the aligner stands between the second and the third.

    Where the candidates are many, the third step is asked in parts, each following on the second step's answer, so that
    the conversation up to there is shared and none of the parts grows long.
    """

    def __init__(
        self,
        name: str,
        image: EncodedImage,
        vocabulary: Vocabulary,
        prompts: PromptSet,
        aligner: Aligner | None,
        options: TaskOptions,
    ) -> None:
        """Nothing is asked yet.

        Args:
            name: the image's file name.
            image: the image as it is sent.
            vocabulary: its classes.
            prompts: how to ask.
            aligner: of the same vocabulary; not used with closed candidates.
            options: see `TaskOptions`.

        Raises:
            ReasonError: free candidates without an aligner.
        """
        if options.candidates == "free" and aligner is None:
            raise ReasonError("free candidates need a class aligner; name one, or ask with --candidates closed")
        super().__init__(name, options)
        self._script = _script(_Same(vocabulary), _Same(prompts), options)
        self._aligner: Aligner = aligner if options.candidates == "free" and aligner else self._script.spellings
        first = Turn("user", prompts.image_look(), image)
        self._image = image
        self._turns: list[Turn] = [Turn("system", self._script.image_system), first]
        self._description: str | None = None
        self._candidates: list[str] | None = None
        self._alignment: list[Alignment] = []
        self._parts: list[list[int]] = []
        self._reasons: dict[int, ParsedReason] = {}
        self._part = 0

    def triplet(self) -> ImageTriplet:
        """The image's triplet; it has no class where the model saw none of the vocabulary.

        `extra` holds what was asked and answered on the way (docs/design.md section 4).

        Raises:
            RuntimeError: the task is not done.
        """
        if self.outcome != "done":
            raise RuntimeError(f"{self.name}: not done")
        reasons = {index: _as_reason(self._script.names.keys[index], found) for index, found in self._reasons.items()}
        extra = {
            "reasoning": {},
            "image": {
                "name": self.name,
                "width": self._image.width,
                "height": self._image.height,
                "tokens": self._image.tokens,
            },
            "vocabulary": self._script.vocabulary.name,
            "description": self._description,
            "candidates": self._candidates,
            "alignment": [
                {"written": one.written, "class": one.class_name, "similarity": one.similarity, "how": one.how}
                for one in self._alignment
            ],
            "attempts": self.attempts,
            "tokens": self.tokens,
        }
        return ImageTriplet(_in_file_order(reasons, self._script.names), extra)

    def _question(self) -> _Question:
        options, script = self._options, self._script
        if self._description is None:
            schema = description_schema() if options.answer_form == "json" else None
            tokens, use = options.description_tokens, self._use_description
            return _Question("description", tuple(self._turns), schema, tokens, use)
        if self._candidates is None:
            tokens, use = options.candidates_tokens, self._use_candidates
            return _Question("candidates", tuple(self._turns), script.candidates_schema, tokens, use)
        part = self._parts[self._part]
        labels = [script.names.labels[index] for index in part]
        turns = (*self._turns, Turn("user", script.prompts.image_reason(labels)))
        schema = reasons_schema(labels, options.attributes) if options.answer_form == "json" else None
        tokens = options.reason_tokens * len(labels)
        number = self._part + 1 if len(self._parts) > 1 else None
        return _Question("reasons", turns, schema, tokens, self._use_reasons, number)

    def _use_description(self, text: str) -> None:
        self._description = parse_description(text, self._options.answer_form)
        self._turns += [Turn("assistant", text), Turn("user", self._script.prompts.image_name())]

    def _use_candidates(self, text: str) -> None:
        written = parse_candidates(text, self._options.answer_form)
        alignment = self._aligner.align(written)
        if self._options.candidates == "closed":
            strange = [one.written for one in alignment if one.class_name is None]
            if strange:
                raise AnswerError(f"{strange[0]!a} is no class of the vocabulary")
        self._candidates, self._alignment = written, alignment
        self._turns.append(Turn("assistant", text))
        # Several names of one class are one candidate; which names they were stays in the alignment.
        named = dict.fromkeys(one.class_name for one in alignment if one.class_name is not None)
        indices = [self._script.index[name] for name in named]
        self._parts = _even_parts(indices, self._options.classes_per_answer)
        if not self._parts:
            self.outcome = "done"

    def _use_reasons(self, text: str) -> None:
        part = self._parts[self._part]
        labels = [self._script.names.labels[index] for index in part]
        found = parse_reasons(text, labels, self._options.answer_form, attributes=self._options.attributes)
        self._reasons.update(zip(part, found.values(), strict=True))
        self._part += 1
        if self._part == len(self._parts):
            self.outcome = "done"


class GenericTask(_Task):
    """The generic reason of one class, in one question without an image."""

    def __init__(self, index: int, vocabulary: Vocabulary, prompts: PromptSet, options: TaskOptions) -> None:
        """Nothing is asked yet.

        Args:
            index: of the class in the vocabulary.
            vocabulary: all classes, since a reason tells a class from the others.
            prompts: how to ask.
            options: see `TaskOptions`; there are no candidates.
        """
        self._script = _script(_Same(vocabulary), _Same(prompts), options)
        super().__init__(f"{index} {self._script.names.labels[index]}", options)
        self.index = index
        self._found: tuple[ParsedReason, str] | None = None

    def reason(self) -> Reason:
        """The class's entry of the generic file, with the model's answer as `raw_response`.

        Raises:
            RuntimeError: the task is not done.
        """
        if self._found is None:
            raise RuntimeError(f"{self.name}: not done")
        return _as_reason(self._script.names.keys[self.index], *self._found)

    def _question(self) -> _Question:
        script, options = self._script, self._options
        ask = script.prompts.generic_reason(script.names.lines[self.index])
        schema = generic_schema(options.attributes) if options.answer_form == "json" else None
        turns = (Turn("system", script.generic_system), Turn("user", ask))
        return _Question("generic", turns, schema, options.generic_tokens, self._use)

    def _use(self, text: str) -> None:
        entry = self._script.vocabulary.classes[self.index]
        known = (self._script.names.labels[self.index], entry.name, *entry.synonyms)
        found = parse_generic(text, known, self._options.answer_form, attributes=self._options.attributes)
        self._found = found, text.strip()
        self.outcome = "done"


def generic_reasons(reasons: Mapping[int, Reason], vocabulary: Vocabulary) -> dict[str, Reason]:
    """The content of a generic file from the reasons of class indices, in the order that a file needs."""
    return _in_file_order(reasons, VocabularyNames.of(vocabulary))


@dataclass(frozen=True)
class _Question:
    """What a step asks; `use` takes its answer or raises AnswerError, and then nothing has changed."""

    step: Step
    turns: tuple[Turn, ...]
    schema: Mapping[str, Any] | None
    max_tokens: int
    use: Callable[[str], None]
    part: int | None = None


class _Script:
    """What all tasks of a run share: made once, since a vocabulary may be long."""

    def __init__(self, vocabulary: Vocabulary, prompts: PromptSet, options: TaskOptions) -> None:
        form, attributes = options.answer_form, options.attributes
        self.vocabulary, self.prompts = vocabulary, prompts
        self.names = VocabularyNames.of(vocabulary)
        self.index = {name: index for index, name in enumerate(vocabulary.class_names)}
        self.spellings = ExactAligner(vocabulary)
        self.image_system = prompts.image_system(self.names.lines, form, attributes)
        self.generic_system = prompts.generic_system(self.names.lines, form, attributes)
        closed = self.names.labels if options.candidates == "closed" else None
        letters = "".join(self.names.lines)
        self.candidates_schema = candidates_schema(closed, letters) if form == "json" else None


class _Same:
    """A key that equals another of the same object, not of an equal one: to compare vocabularies is slow."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


@functools.lru_cache(maxsize=8)
def _script(vocabulary: _Same, prompts: _Same, options: TaskOptions) -> _Script:
    return _Script(vocabulary.value, prompts.value, options)


def _even_parts(indices: list[int], largest: int) -> list[list[int]]:
    """`indices` in as few parts of at most `largest` as can be, which differ in length by one at most."""
    count = -(-len(indices) // largest)
    return [indices[len(indices) * part // count : len(indices) * (part + 1) // count] for part in range(count)]


def _as_reason(key: str, found: ParsedReason, raw: str | None = None) -> Reason:
    return Reason(key, found.general_category, found.sub_category, found.attributes, raw)


def _in_file_order(reasons: Mapping[int, Reason], names: VocabularyNames) -> dict[str, Reason]:
    return {reasons[index].name: reasons[index] for index in names.file_order if index in reasons}


def _storable(text: str) -> str:
    """`text` with an escape in place of half a surrogate pair, which no file can hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
