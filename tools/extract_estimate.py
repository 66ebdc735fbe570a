"""How long encoding will take and how much it will store, found out before it starts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise

from maft.text.bank import FeatureBank
from maft.text.shards import sentence_keys

_BATCH = 16_384
"""Sentences that are looked up together."""
_WARM, _TRIAL = 64, 1024
"""Sentences that are encoded first, for the machine to get going, and those whose encoding is timed."""
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass
class Survey:
    """What is asked of a bank.

    Attributes:
        bank: where rows are looked for.
        sentences: different sentences.
        missing: those that the bank has no row of.
        trial: the first of these.
        encoded: how many `estimate` encoded.
    """

    bank: FeatureBank
    sentences: int = 0
    missing: int = 0
    trial: list[str] = field(default_factory=list)
    encoded: int = 0
    _seen: set[bytes] = field(default_factory=set, repr=False)

    def add(self, needed: Iterable[Sequence[str]]) -> tuple[int, int]:
        """Look up what is needed; sentences that were added before count once.

        Returns:
            How many were new to this survey, and how many of them the bank lacks.

        Raises:
            UserError: the bank cannot be read.
        """
        before = self.sentences, self.missing
        sentences = (sentence for of_image in needed for sentence in dict.fromkeys(of_image))
        while batch := list(islice(sentences, _BATCH)):
            keys = [key.tobytes() for key in sentence_keys(batch)]
            fresh = {key: text for key, text in zip(keys, batch, strict=True) if key not in self._seen}
            self._seen.update(fresh)
            lacking = self.bank.lacks(fresh.values())
            self.sentences += len(fresh)
            self.missing += len(lacking)
            self.trial += lacking[: _WARM + _TRIAL - len(self.trial)]
        return self.sentences - before[0], self.missing - before[1]

    def estimate(self) -> str:
        """Time and size of what is missing, in words; encodes `trial`, which the bank keeps.

        Raises:
            UserError: the bank cannot be written.
        """
        if not self.missing:
            return "nothing to encode"
        size = f"{self.missing * self.bank.row_bytes / 1e6:,.0f} MB" if self.bank.folder else "in memory only"
        warm, timed = self.trial[:_WARM], self.trial[_WARM:]
        self.encoded += self.bank.prefetch(warm)
        if not timed:
            return f"{self.missing:,} sentences to encode, {size}"
        start = time.perf_counter()
        self.encoded += self.bank.prefetch(timed)
        rate = len(timed) / (time.perf_counter() - start)
        left = self.missing - len(self.trial)
        return f"{self.missing:,} sentences to encode: about {in_words(left / rate)} at {rate:,.0f} a second, {size}"


def in_words(seconds: float) -> str:
    """A time in its two largest units: "3 h 20 min"."""
    rest = max(1, round(seconds))
    for (size, name), (smaller, below) in pairwise(_UNITS):
        if rest >= size:
            whole, part = rest // size, rest % size // smaller
            return f"{whole} {name} {part} {below}" if part else f"{whole} {name}"
    return f"{rest} s"
