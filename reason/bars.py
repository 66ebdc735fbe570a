"""Progress on standard error: a bar on a terminal, whole lines now and then in a log file; light, for everything.

The pipeline's own numbers are in `reason.runs.progress`.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

from tqdm import tqdm

SECONDS = 30.0
"""Between two lines of a log file."""

_LINE = "{desc}: {n_fmt}/{total_fmt} {unit}, {percentage:.0f}%, {elapsed} so far, {remaining} left"
_LINE_OF_BYTES = "{desc}: {n_fmt}/{total_fmt}, {percentage:.0f}%, {elapsed} so far, {remaining} left, {rate_fmt}"


class Bar(tqdm):
    """tqdm, but for what it writes where standard error is no terminal.

    There is a line at the beginning, one every `SECONDS`, and one at the end. No thread looks after slow bars, so that
    processes may be forked meanwhile.
    """

    monitor_interval = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("miniters", 1)
        if not sys.stderr.isatty():
            options["file"] = _Lines(sys.stderr)
            options["bar_format"] = _LINE_OF_BYTES if options.get("unit_scale") else _LINE
            options["mininterval"], options["leave"] = SECONDS, True
            options["dynamic_ncols"], options["ncols"] = False, None
        super().__init__(*args, **options)


class _Lines:
    """A stream for tqdm, which overwrites a line: a text becomes a line of its own, unless it is the last again."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = ""

    def write(self, text: str) -> int:
        line = text.strip("\r\n ")
        if line and line != self._last:
            self._last = line
            self._stream.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        self._stream.flush()
