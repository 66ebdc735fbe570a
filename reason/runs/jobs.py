"""What a run is to do, as plain values that travel between processes: images with triplets, classes with reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reason.asking.aligner import Aligner, EmbeddingAligner, ExactAligner
from reason.asking.conversation import GenericTask, ImageTask, generic_reasons
from reason.asking.messages import TaskOptions
from reason.asking.prompts import PromptSet
from reason.engines.interface import EngineInfo
from reason.errors import ReasonError
from reason.jsonfile import read_json
from reason.names import VocabularyNames
from reason.runs.images import MAX_PIXELS, MIN_PIXELS, encode_image
from reason.runs.pipeline import Task, Work
from reason.runs.provenance import Provenance, model_name, task_parts, vocabulary_part
from reason.runs.store import ResultStore
from reason.triplets import Reason, dump_generic, generic_document, image_document, parse_generic, parse_image
from reason.vocabulary import Vocabulary

NO_ALIGNER = "none"
"""In place of an aligner's model: compare spellings only."""

_QUESTION_TOKENS = 128
"""Room for the user's turn of a step and for the marks between turns."""


@dataclass(frozen=True)
class ImageJob:
    """Image-specific reasons.

    Attributes:
        images: result name -> file, in order.
        vocabulary, prompts, options: what is asked, and how.
        aligner_model: folder or name of a sentence-transformers model, or "none".
        threshold: least similarity that makes a written name a class.
        min_pixels, max_pixels: bounds of an image's area as it is sent.
    """

    images: Mapping[str, Path]
    vocabulary: Vocabulary
    prompts: PromptSet
    options: TaskOptions
    aligner_model: str
    threshold: float
    min_pixels: int = MIN_PIXELS
    max_pixels: int = MAX_PIXELS

    def open_aligner(self) -> Aligner:
        """Load the aligner.

        Raises:
            ReasonError: its model cannot be loaded.
        """
        if self.options.candidates == "closed" or self.aligner_model == NO_ALIGNER:
            return ExactAligner(self.vocabulary)
        return EmbeddingAligner(self.vocabulary, self.aligner_model, self.threshold)

    def provenance(self, info: EngineInfo, aligner: Aligner) -> Provenance:
        """What the results depend on."""
        parts = _parts(info, self.vocabulary, self.prompts) | task_parts(self.options, images=True)
        parts |= {"aligner": aligner.fingerprint, "pixels": f"{self.min_pixels} to {self.max_pixels}"}
        return Provenance(parts, _record(info))

    def constant_text(self) -> str:
        """What every conversation begins with."""
        lines = VocabularyNames.of(self.vocabulary).lines
        return self.prompts.image_system(lines, self.options.answer_form, self.options.attributes)

    def answer_tokens(self) -> int:
        """Tokens of the longest questions and answers of one conversation."""
        options = self.options
        classes = min(options.classes_per_answer, len(self.vocabulary))
        answers = options.description_tokens + options.candidates_tokens + options.reason_tokens * classes
        return answers + 3 * _QUESTION_TOKENS

    def work(self, aligner: Aligner) -> Work:
        """How the pipeline does it."""

        def prepare(name: str) -> Task:
            path = self.images[name]
            image = encode_image(path, min_pixels=self.min_pixels, max_pixels=self.max_pixels)
            return ImageTask(path.name, image, self.vocabulary, self.prompts, aligner, self.options)

        def document(task: Task) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
            if not isinstance(task, ImageTask):
                raise TypeError(f"{task!r} is no task of an image")
            triplet = image_document(task.triplet())
            parse_image(triplet, where=task.name)  # what could not be read back is not written
            return triplet, {"attempts_allowed": self.options.attempts}

        return Work(tuple(self.images), prepare, document)


@dataclass(frozen=True)
class GenericJob:
    """Generic reasons of every class of a vocabulary; a result's name is the class's index.

    Attributes:
        vocabulary, prompts, options: what is asked, and how.
    """

    vocabulary: Vocabulary
    prompts: PromptSet
    options: TaskOptions

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the results, in label order."""
        return tuple(f"{entry.index:04d}" for entry in self.vocabulary.classes)

    def provenance(self, info: EngineInfo) -> Provenance:
        """What the results depend on."""
        parts = _parts(info, self.vocabulary, self.prompts) | task_parts(self.options, images=False)
        return Provenance(parts, _record(info))

    def constant_text(self) -> str:
        """What every conversation begins with."""
        lines = VocabularyNames.of(self.vocabulary).lines
        return self.prompts.generic_system(lines, self.options.answer_form, self.options.attributes)

    def answer_tokens(self) -> int:
        """Tokens of the longest question and answer."""
        return self.options.generic_tokens + _QUESTION_TOKENS

    def work(self) -> Work:
        """How the pipeline does it."""

        def prepare(name: str) -> Task:
            return GenericTask(int(name), self.vocabulary, self.prompts, self.options)

        def document(task: Task) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
            if not isinstance(task, GenericTask):
                raise TypeError(f"{task!r} is no task of a class")
            reason = task.reason()
            entry = generic_document({reason.name: reason})
            parse_generic(entry, where=task.name)
            return {"index": task.index, "reason": entry, "attempts": task.attempts}, {}

        return Work(self.names, prepare, document, unit="class")

    def assemble(self, store: ResultStore, target: Path) -> None:
        """Write the generic file from the results of all classes.

        Raises:
            ReasonError: a class has no result, or the file cannot be written.
        """
        found: dict[int, Reason] = {}
        for name in self.names:
            file = store.result_file(name)
            try:
                entry = read_json(file)["reason"]
                found[int(name)] = next(iter(parse_generic(entry, where=str(file)).values()))
            except (ValueError, KeyError, TypeError) as error:
                raise ReasonError(f"{file}: no reason of a class in it ({error}); remove it and run again") from error
        try:
            dump_generic(generic_reasons(found, self.vocabulary), target)
        except OSError as error:
            raise ReasonError(f"{target}: cannot be written ({error.strerror}); name another --output") from error


def _parts(info: EngineInfo, vocabulary: Vocabulary, prompts: PromptSet) -> dict[str, str]:
    return {
        "model": f"{model_name(info.model)} ({info.model_hash[:12]})",
        "vocabulary": vocabulary_part(vocabulary),
        "prompts": f"{prompts.version} ({prompts.hash[:12]})",
    }


def _record(info: EngineInfo) -> dict[str, str]:
    return {"engine": info.engine, "engine_version": info.engine_version}
