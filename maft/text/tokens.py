"""What CLIP's tokenizer makes of texts: which names are one text to it, and which sentences are cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from textwrap import shorten
from typing import Protocol

from torch import Tensor

_LISTED = 5
_SHOWN = 120
_KEPT = 2**16
_MENDED = 4
"""How many tokens cleaning may add to a text by what it mends across a blank."""


class Tokenizer(Protocol):
    """open_clip's tokenizers: list of texts -> (N, context length) token ids, the end-of-text id being the largest."""

    context_length: int | None

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor:
        """Token ids, cut at `context_length` and filled up with zeros."""


class Tokens:
    """The tokens that a text tower reads of a text.

    Args:
        tokenizer: the tower's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Words repeat from sentence to sentence, and cleaning a text costs a tenth of a millisecond.
        self._pieces = lru_cache(maxsize=_KEPT)(self._count)

    @property
    def most(self) -> int:
        """The longest text that is read whole, in tokens, those of its begin and end included: 77 for CLIP."""
        return self._tokenizer.context_length or 77

    def key(self, text: str) -> tuple[int, ...]:
        """The ids of a text as the tower reads it: case, runs of blanks and HTML escapes make no difference."""
        return tuple(self._tokenizer([text])[0].tolist())

    def cut(self, sentences: Iterable[str]) -> list[str]:
        """Those of `sentences` whose end the tower does not read, in their order."""
        # No token reaches over a blank, so that the counts of the words sum to that of the text; where cleaning mends
        # something across a blank the sum may be off by a few, hence the second look.
        room = self.most - 2
        suspects = [text for text in sentences if sum(map(self._pieces, text.split())) > room - _MENDED]
        return [text for text in suspects if self._count(text) > room]

    def _count(self, text: str) -> int:
        """Tokens between begin and end, counted up to one more than there is room for."""
        return int(self._tokenizer([text], context_length=self.most + 1)[0].argmax()) - 1


@dataclass(frozen=True)
class Doubles:
    """Classes whose names other classes have as well.

    Attributes:
        hidden: (first, second) indices: by names alone the second is never found.
        shared: the same of classes that have further names of their own.
    """

    hidden: tuple[tuple[int, int], ...]
    shared: tuple[tuple[int, int], ...]


def doubles(names: Sequence[Sequence[str]], tokens: Tokens, *, averaged: bool) -> Doubles:
    """The classes of a vocabulary that CLIP's tokenizer does not tell from an earlier one.

    Args:
        names: of every class.
        tokens: the text tower's.
        averaged: the network averages a class's names into one feature, so that only classes with all names alike are
            alike; otherwise the best name counts, and a class is hidden if earlier classes have all its names.
    """
    keys = [[tokens.key(name) for name in own] for own in names]
    first: dict[object, int] = {}
    hidden: list[tuple[int, int]] = []
    shared: list[tuple[int, int]] = []
    for index, own in enumerate(keys):
        units: list[object] = [tuple(sorted(own))] if averaged else list(dict.fromkeys(own))
        earlier = [first[unit] for unit in units if unit in first]
        if earlier:
            (hidden if len(earlier) == len(units) else shared).append((earlier[0], index))
        for unit in units:
            first.setdefault(unit, index)
    return Doubles(tuple(hidden), tuple(shared))


def describe_doubles(names: Sequence[Sequence[str]], found: Doubles) -> list[str]:
    """One line a kind of doubles, with the names of both classes; empty where there are none."""
    lines = []
    if found.hidden:
        lines.append(
            f"one text to CLIP: {_pairs(names, found.hidden)}; by names alone the second is never found; "
            "give it another name, or leave it out"
        )
    if found.shared:
        lines.append(
            f"a name in common, to CLIP: {_pairs(names, found.shared)}; the first class gets what is called "
            "so, the second is found by its other names"
        )
    return lines


def describe_cut(sentences: Sequence[str], of: int, most: int) -> str:
    """That these sentences, of so many, are longer than the tower reads."""
    example = shorten(max(sentences, key=len), _SHOWN, placeholder=" …")
    return (
        f"{len(sentences)} of {of} sentences are cut after {most} CLIP tokens, such as {example!r}; shorten the name "
        "or the attribute"
    )


def _pairs(names: Sequence[Sequence[str]], pairs: Sequence[tuple[int, int]]) -> str:
    listed = [
        f"'{', '.join(names[first])}' (class {first}) and '{', '.join(names[second])}' (class {second})"
        for first, second in pairs[:_LISTED]
    ]
    return "; ".join(listed) + (f"; … ({len(pairs)} in all)" if len(pairs) > _LISTED else "")
