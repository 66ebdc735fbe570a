"""What the text side counts and says once per run."""

from __future__ import annotations

import logging
from collections import Counter

logger = logging.getLogger(__name__)


class Notes:
    """Counts to be shown beside results, and warnings that are given once."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._announced: set[str] = set()

    def first(self, kind: str) -> bool:
        """Whether nothing of this kind has been announced yet; from now on, something has."""
        if kind in self._announced:
            return False
        self._announced.add(kind)
        return True

    def announce(self, kind: str, text: str) -> None:
        """Warn, once per run and kind."""
        if self.first(kind):
            logger.warning("%s", text)

    def usage(self) -> dict[str, int]:
        """The counts that are not zero, sorted by name."""
        return {key: count for key, count in sorted(self.counts.items()) if count}
