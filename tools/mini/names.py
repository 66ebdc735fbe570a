"""Names that mean nothing, for the contrastive training of a small CLIP.

Beside true attributes they teach the text tower to read attributes past a name that it does not know. The names of new
kinds are made of the same syllables, and are never among them.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from maft.text.templates import template_set

from .world import KINDS, PART_PHRASES, STUFF_VALUES, THING_VALUES

_ONSETS = "b br d dr f fl g gl h k kl l m n p pl r s sk st t tr v y z".split()
_VOWELS = "a e i o u".split()
_CODAS = ["", *"l n r x p k m".split()]
_OTHER_WORDS = "thing object ground place small large a an body marks with that has and"


def made_up_name(rng: np.random.Generator) -> str:
    """A name of two syllables that no kind has, out of about a million."""
    while True:
        name = "".join(part[int(rng.integers(len(part)))] for _ in range(2) for part in (_ONSETS, _VOWELS, _CODAS))
        if name not in meaningful_words():
            return name


@cache
def meaningful_words() -> frozenset[str]:
    """Every word that sayings and reasons may hold beside made-up names, in lower case."""
    texts = [text for texts in (*THING_VALUES.values(), *STUFF_VALUES.values()) for text in texts]
    texts += [*PART_PHRASES.values(), _OTHER_WORDS]
    texts += [name for kind in KINDS for name in (kind.name, kind.synonym)]
    texts += template_set("vild").fill("")
    return frozenset(word.strip(".").lower() for text in texts for word in text.split())
