"""Conversations of training: token by token, with what each answer's tokens weigh in the loss.

What an image looks like is learnt in front of images, what things are called from words: in a conversation about a real
image the names have no weight, and where they have, the description is that of another world, so that nothing but its
words can tell them. New kinds occur in words alone (set-up B, docs/mini_lmm.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reason.asking.prompts import load_prompts

from ..world import KINDS, SEEN, VAL_CLASSES, Kind
from .looks import GRID, UNKNOWN, VAL_NAMES, Look, candidates, compact, description, reason_of, reasons
from .tokens import ATTRIBUTES

_EVALUATED, _TRAINED = 0.5, 0.1
_LEFT_OUT = 0.2
_CALLED, _NAMED, _REASONED = 5.0, 10.0, 0.5
"""Weights of a token: of a name in a description, of the answers to NAME (ten tokens a conversation) and to REASON (two
hundred, which copy from the description)."""


_MISHEARD = 0.5
_ALIKE = (
    " plain striped dotted checked",
    " red orange yellow green blue purple white brown grey pink",
    " round square triangular",
    " star cross ring crescent",
    " dark pale",
    "".join(f" {name}" for kind in KINDS for name in (kind.name, kind.synonym) if name) + f" {UNKNOWN}",
)
"""Values, or their first tokens, and names, that may be read in place of each other: the number of tokens stays."""


@dataclass(frozen=True)
class Example:
    """A sequence.

    Attributes:
        ids: its tokens.
        weights: what each weighs as something to be said, 0 for all that is given.
        heard: the tokens as they are read, where they are others than those to be said.
    """

    ids: list[int]
    weights: list[float]
    heard: list[int] | None = None


@dataclass(frozen=True)
class ClassList:
    """A vocabulary: the names as listed, and what each kind is called where it is used."""

    listed: list[str]
    names: Mapping[str, str]


def evaluated_list() -> ClassList:
    """The validation vocabulary."""
    return ClassList([entry.name for entry in VAL_CLASSES], VAL_NAMES)


def draw_list(rng: np.random.Generator) -> ClassList:
    """A vocabulary: the validation's, the training's, or names and synonyms at random, some left out, in any order."""
    draw = rng.random()
    if draw < _EVALUATED:
        return evaluated_list()
    if draw < _EVALUATED + _TRAINED:
        return ClassList([kind.name for kind in SEEN], {})
    kept = [kind for kind in KINDS if rng.random() >= _LEFT_OUT]
    names = {kind.name: kind.synonym if kind.synonym and rng.random() < 0.5 else kind.name for kind in kept}
    return ClassList([names[kept[place].name] for place in rng.permutation(len(kept))], names)


class Scribe:
    """Writes conversations as token ids."""

    def __init__(self, tokenizer: Any) -> None:
        """Prompts are those of `reason`.

        Args:
            tokenizer: as `build_tokenizer` gives it.
        """
        self._tokens = tokenizer.backend_tokenizer
        self._prompts = load_prompts()
        number = tokenizer.convert_tokens_to_ids
        self._image, self._end = number("<|image_pad|>"), number("<|im_end|>")
        self._opening = self._ids("<|im_start|>user\n<|vision_start|>")
        look = f"<|vision_end|>{self._prompts.image_look()}"
        self._alike = {one: ids for words in _ALIKE for ids in [self._ids(words)] for one in ids}
        self._look = [
            *self._opening,
            *[self._image] * GRID**2,
            *self._ids(f"{look}<|im_end|>\n<|im_start|>assistant\n"),
        ]

    @property
    def image_at(self) -> int:
        """Where the image begins in `looking` and `talking`."""
        return len(self._opening)

    def system(self, listed: Sequence[str], *, whole: bool, image: bool = True) -> list[int]:
        """The system turn.

        Args:
            listed: the classes.
            whole: as at run time; else the list alone, a fraction as long.
            image: for images, or for generic reasons.
        """
        if whole:
            write = self._prompts.image_system if image else self._prompts.generic_system
            text = write(listed, "json", ATTRIBUTES)
        else:
            text = "\n".join(listed)
        return self._ids(f"<|im_start|>system\n{text}<|im_end|>\n")

    def asking(self) -> list[int]:
        """A conversation up to the answer of LOOK."""
        return list(self._look)

    def looking(self, looks: Sequence[Look], rng: np.random.Generator) -> Example:
        """LOOK in front of the image that shows this; names weigh nothing.

        Half of the values and names are read as other ones than those that were said. Else the words before would tell
        the next, and a combination that no image shows would never be said of one that does; and behind the name of a
        new kind, which no image shows, the network would not know how to go on (of 108 things of new kinds in 80 images
        for choices it described 33, of 126 others 96; with "unknown" in place of such names all 108, and 125).
        """
        ids, weights = self._description(looks, 1.0, 0.0)
        heard = [
            self._alike[one][int(rng.integers(len(self._alike[one])))]
            if one in self._alike and rng.random() < _MISHEARD
            else one
            for one in ids
        ]
        given = len(self._look)
        return Example([*self._look, *ids], [*[0.0] * given, *weights], [*self._look, *heard])

    def talking(self, looks: Sequence[Look], listed: Sequence[str]) -> Example:
        """A whole conversation in front of an image that has nothing to do with it; what can be seen weighs nothing."""
        ids, weights = self._description(looks, 0.0, _CALLED)
        ids, weights = [*self._look, *ids], [*[0.0] * len(self._look), *weights]
        named = candidates(looks, listed)
        self._ask(ids, weights, self._prompts.image_name())
        self._answer(ids, weights, compact({"classes": named}), _NAMED)
        if named:
            self._ask(ids, weights, self._prompts.image_reason(named))
            self._answer(ids, weights, compact(reasons(looks, named)), _REASONED)
        return Example(ids, weights)

    def defining(self, kind: Kind, name: str) -> Example:
        """The generic question about a class."""
        ids = self._ids(f"<|im_start|>user\n{self._prompts.generic_reason(name)}<|im_end|>\n<|im_start|>assistant\n")
        weights = [0.0] * len(ids)
        self._answer(ids, weights, compact(reason_of(kind.thing, kind.attributes)), 1.0)
        return Example(ids, weights)

    def _ids(self, text: str) -> list[int]:
        return list(self._tokens.encode(text, add_special_tokens=False).ids)

    def _ask(self, ids: list[int], weights: list[float], text: str) -> None:
        asked = self._ids(f"\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")
        ids += asked
        weights += [0.0] * len(asked)

    def _answer(self, ids: list[int], weights: list[float], text: str, weight: float) -> None:
        answer = self._ids(text)
        ids += [*answer, self._end]
        weights += [weight] * (len(answer) + 1)

    def _description(self, looks: Sequence[Look], sight: float, names: float) -> tuple[list[int], list[float]]:
        """The answer of LOOK; of its tokens, names weigh one thing and all others another."""
        text = compact({"description": description(looks)})
        spans, at = [], 0
        for look in looks:
            at = text.index(look.sentence, at) + len(look.sentence)
            spans.append((at - 1 - len(look.name), at - 1))
        encoded = self._tokens.encode(text, add_special_tokens=False)
        weights = [
            names if any(first < stop and start < last for start, stop in spans) else sight
            for first, last in encoded.offsets
        ]
        return [*encoded.ids, self._end], [*weights, sight]
