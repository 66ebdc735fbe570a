"""What somebody may have meant: for names of vocabularies, data sets, commands and keys."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_CLOSE = 0.6


def closest(word: str, known: Iterable[str]) -> list[str]:
    """Those of `known` that `word` looks like, the likeliest first, three at most.

    Case and signs do not count ("PC-59" is "pc59"), and the beginning of a name counts as the name ("coco").
    """
    names = {_bare(name): name for name in known}
    wanted = _bare(word)
    begun = [name for name in names if len(wanted) >= 3 and name.startswith(wanted)]
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=_CLOSE)
    return [names[name] for name in dict.fromkeys([*begun, *near])][:3]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Such as "; did you mean pc59?", to be put behind a message; "" where nothing is near."""
    near = closest(word, known)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _bare(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).lower()
