"""Reading a JSON object whose lists do not fit into memory: one list entry at a time.

Not ijson: it gives the entries of one list whose path is known, while here all lists are read in one pass.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any

from maft.errors import UserError

_BLANK = " \t\r\n"


def list_entries(chunks: Iterator[bytes], where: object) -> Iterator[tuple[str, Any]]:
    """Every entry of every list that the top-level object of a JSON file holds, in the file's order.

    Args:
        chunks: the file in pieces, UTF-8.
        where: the file's name, for the error.

    Returns:
        pairs (key of the list, entry); values that are no lists are left out.

    Raises:
        UserError: not a JSON object, or cut off.
    """
    reader = _Reader(chunks, where)
    reader.expect("{")
    while reader.peek() != "}":
        key = reader.value()
        if not isinstance(key, str):
            raise reader.malformed("a key is no text")
        reader.expect(":")
        if reader.peek() == "[":
            reader.expect("[")
            while reader.peek() != "]":
                yield key, reader.value()
                reader.separator("]")
            reader.expect("]")
        else:
            reader.value()
        reader.separator("}")


class _Reader:
    """A window on the file's text that moves along as values are taken from it."""

    def __init__(self, chunks: Iterator[bytes], where: object) -> None:
        self._chunks = chunks
        self._where = where
        self._text = ""
        self._place = 0
        self._ended = False
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._json = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no blank, left in place."""
        while True:
            while self._place < len(self._text):
                if self._text[self._place] not in _BLANK:
                    return self._text[self._place]
                self._place += 1
            self._more("it ends too early")

    def expect(self, character: str) -> None:
        """Step over a character that must come next."""
        if self.peek() != character:
            raise self.malformed(f"expected {character!r}, not {self.peek()!r}")
        self._place += 1

    def separator(self, closing: str) -> None:
        """Step over a comma, unless the bracket closes."""
        if self.peek() != closing:
            self.expect(",")
            if self.peek() == closing:
                raise self.malformed(f"{closing!r} after a comma")

    def value(self) -> Any:
        """The next value."""
        self.peek()
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._place)
            except (ValueError, RecursionError) as error:
                self._more(str(error))
                continue
            # A number may go on in the part that is not read yet.
            if end < len(self._text) or self._ended:
                self._place = end
                return value
            self._more("it ends too early")

    def malformed(self, problem: str) -> UserError:
        return UserError(f"{self._where}: not valid JSON ({problem}); it may be cut off: download it again")

    def _more(self, problem: str) -> None:
        """Read on; if nothing is left, `problem` is what is wrong with the file."""
        if self._ended:
            raise self.malformed(problem)
        # As much as is held, so that an entry of any length is tried a few times only.
        held, data = len(self._text) - self._place, b""
        while not self._ended and len(data) <= held:
            piece = next(self._chunks, b"")
            self._ended, data = not piece, data + piece
        try:
            text = self._utf8.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            raise self.malformed(str(error)) from error
        self._text = self._text[self._place :] + text
        self._place = 0
