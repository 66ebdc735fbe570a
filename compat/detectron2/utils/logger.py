"""Loggers that write to standard output (rank 0, coloured) and to one file a process."""

from __future__ import annotations

import functools
import logging
import os
import sys

from termcolor import colored

from detectron2.utils.file_io import PathManager

__all__ = ["setup_logger"]

_DATE = "%m/%d %H:%M:%S"
_SEVERE = {logging.WARNING: ["blink"], logging.ERROR: ["blink", "underline"], logging.CRITICAL: ["blink", "underline"]}


class _ColourFormatter(logging.Formatter):
    """Green time and logger name, with the root logger's name shortened, and a red level for warnings and errors."""

    def __init__(self, root: str, short: str) -> None:
        super().__init__(colored("[%(asctime)s %(name)s]: ", "green") + "%(message)s", datefmt=_DATE)
        self._root = f"{root}."
        self._short = f"{short}." if short else ""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record = logging.makeLogRecord(vars(record))  # a copy: the file handler must see the full name
        record.name = record.name.replace(self._root, self._short)
        line = super().formatMessage(record)
        effects = _SEVERE.get(record.levelno)
        if effects is None:
            return line
        word = "WARNING" if record.levelno == logging.WARNING else "ERROR"
        return f"{colored(word, 'red', attrs=effects)} {line}"


def _log_file(output: str, rank: int) -> str:
    """The log file of process `rank`: `output` itself if it is named .txt or .log, else log.txt in that folder."""
    name = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
    return f"{name}.rank{rank}" if rank > 0 else name


@functools.lru_cache  # a second call with the same arguments must not add the handlers again
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Let the logger `name` write everything from DEBUG up.

    Args:
        output: a folder (log.txt is appended to there) or a file named .txt or .log; None: no file. Processes of a
            rank above 0 write beside it, to `<file>.rank<N>`.
        distributed_rank: this process's rank; only rank 0 writes to standard output.
        color: colour the lines on standard output.
        name: the logger.
        abbrev_name: what to print instead of `name` (default: "d2" for "detectron2", else `name`; "" leaves it out).
        enable_propagation: hand records to parent loggers too.
        configure_stdout: write to standard output at all.

    Returns:
        the logger.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    plain = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt=_DATE)
    if abbrev_name is None:
        abbrev_name = "d2" if name == "detectron2" else name

    handlers: list[logging.Handler] = []
    if configure_stdout and distributed_rank == 0:
        handlers.append(logging.StreamHandler(sys.stdout))
        handlers[-1].setFormatter(_ColourFormatter(name, abbrev_name) if color else plain)
    if output is not None:
        file = _log_file(output, distributed_rank)
        PathManager.mkdirs(os.path.dirname(os.path.abspath(file)))
        handlers.append(logging.FileHandler(file, mode="a"))
        handlers[-1].setFormatter(plain)
    for handler in handlers:
        handler.setLevel(logging.DEBUG)
        logger.addHandler(handler)
    return logger
