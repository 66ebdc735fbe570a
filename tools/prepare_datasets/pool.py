"""Everything that the user gave, searched as one lot of members."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from maft.errors import UserError

from .archives import ARCHIVE_NAME, Member, Source, open_nested, open_source


class Pool:
    """Everything that the user gave, as one lot of members: data sets come in one archive or several, or unpacked.

    A folder counts as an unpacked archive; archives that lie in it (not below) are looked into as well, so that the
    folder of the downloads can be given.

    Attributes:
        given: paths of archives and folders.
        spool: see `open_source`.
    """

    def __init__(self, given: Sequence[Path], spool: Path) -> None:
        self.given = tuple(given)
        self.spool = spool
        self._sources: list[Source] | None = None
        self._nested: dict[Member, Source] = {}

    def sources(self) -> list[Source]:
        """The sources in the order given, listed on the first call.

        Raises:
            UserError: as `open_source`.
        """
        if self._sources is None:
            self._sources = []
            for path in self.given:
                source = open_source(path, self.spool)
                self._sources.append(source)
                if path.is_dir():
                    inner = [m for m in source.members if "/" not in m.name and ARCHIVE_NAME.search(m.name)]
                    self._sources += [open_nested(member, self.spool) for member in inner]
        return self._sources

    def find(
        self, pattern: str, *, nested: str | None = None, exclude: str | None = None
    ) -> dict[tuple[str, ...], Member]:
        """Members whose whole path matches `(.*/)?pattern`, by the groups of the match; of two alike, the first.

        Args:
            pattern: regular expression with at least one group, such as `images/(training|validation)/([^/]+)\\.jpg`.
            nested: look also into archives inside the sources, whose whole path matches `(.*/)?nested`.
            exclude: leave out members in whose path this regular expression occurs.

        Returns:
            members, sorted by their keys.
        """
        sources = list(self.sources())
        if nested is not None:
            inner = re.compile(rf"(?:.*/)?(?:{nested})")
            for source in list(sources):
                for member in filter(lambda member: inner.fullmatch(member.name), source.members):
                    if member not in self._nested:
                        self._nested[member] = open_nested(member, self.spool)
                    sources.append(self._nested[member])
        expression = re.compile(rf"(?:.*/)?(?:{pattern})")
        # What macOS adds, and hidden files, are never meant.
        unwanted = re.compile(rf"/\.|__MACOSX/|{exclude}" if exclude else r"/\.|__MACOSX/")
        found: dict[tuple[str, ...], Member] = {}
        for source in sources:
            for member in source.members:
                match = expression.fullmatch(member.name)
                if match and not unwanted.search(f"/{member.name}"):
                    found.setdefault(match.groups(), member)
        return dict(sorted(found.items(), key=lambda entry: tuple(part or "" for part in entry[0])))

    def need(
        self, what: str, pattern: str, *, nested: str | None = None, exclude: str | None = None
    ) -> dict[tuple[str, ...], Member]:
        """`find`, where something must be found.

        Args:
            what: what is looked for and where it comes from, for the message: "label maps (annotations/ of X.zip)".

        Raises:
            UserError: nothing matches.
        """
        found = self.find(pattern, nested=nested, exclude=exclude)
        if not found:
            given = ", ".join(str(path) for path in self.given) or "nothing"
            raise UserError(
                f"{given}: no {what} in it; give the archive or its unpacked folder with --from "
                "(python -m tools.prepare_datasets --list says where it is to be had)"
            )
        return found
