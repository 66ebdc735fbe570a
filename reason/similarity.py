"""How near a vocabulary's classes lie to one another in a sentence embedding, by names and with their reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reason.check import FIRST, key_of_classes
from reason.names import VocabularyNames
from reason.triplets import Reason
from reason.vocabulary import Vocabulary

if TYPE_CHECKING:
    import numpy as np

Embed = Callable[[Sequence[str]], "np.ndarray"]
"""From texts to float32 rows of unit length."""


@dataclass(frozen=True)
class Nearness:
    """How alike the classes with an entry are.

    Attributes:
        classes: how many there are, at least two.
        names: mean cosine similarity of a class's name to its nearest other name.
        reasons: the same with reasons: a class is the mean of "<name> that has <attribute>" over its first attributes.
        pairs: (class, nearest other class, similarity by names, with reasons), the nearest with reasons first.
    """

    classes: int
    names: float
    reasons: float
    pairs: tuple[tuple[str, str, float, float], ...]


def nearness(vocabulary: Vocabulary, reasons: Mapping[str, Reason], embed: Embed) -> Nearness | None:
    """Compare a file of generic reasons with bare names; None where fewer than two classes have an entry.

    Args:
        vocabulary: the classes.
        reasons: of the file.
        embed: the sentence embedding.
    """
    import numpy as np

    keys = key_of_classes(reasons, vocabulary)
    labels = VocabularyNames.of(vocabulary).labels
    covered = [index for index, key in enumerate(keys) if key is not None]
    if len(covered) < 2:
        return None
    texts: list[str] = []
    owners: list[int] = []
    for place, index in enumerate(covered):
        key = keys[index]
        assert key is not None
        attributes = reasons[key].attributes[:FIRST]
        texts += [f"{labels[index]} that has {attribute}" for attribute in attributes]
        owners += [place] * len(attributes)
    bare = embed([labels[index] for index in covered])
    rows = np.zeros_like(bare)
    np.add.at(rows, owners, embed(texts))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    by_names, with_reasons = (_without_itself(each @ each.T) for each in (bare, rows))
    nearest = with_reasons.argmax(axis=1)
    order = np.argsort(-with_reasons.max(axis=1), kind="stable")
    pairs = tuple(
        (
            labels[covered[place]],
            labels[covered[nearest[place]]],
            float(by_names[place, nearest[place]]),
            float(with_reasons[place, nearest[place]]),
        )
        for place in order.tolist()
    )
    return Nearness(len(covered), float(by_names.max(axis=1).mean()), float(with_reasons.max(axis=1).mean()), pairs)


def _without_itself(similarities: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.where(np.eye(len(similarities), dtype=bool), -np.inf, similarities)
