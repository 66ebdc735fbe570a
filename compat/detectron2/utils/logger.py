"""Loggers that write to standard output (rank 0, coloured) and to one file a process."""

import functools
import logging
import os
import sys

from termcolor import colored

_DATE = "%m/%d %H:%M:%S"


class _ColourFormatter(logging.Formatter):
    """Green time and logger name, with the root logger's name shortened, and a red level for warnings and errors."""

    def __init__(self, root: str, short: str) -> None:
        super().__init__(colored("[%(asctime)s %(name)s]: ", "green") + "%(message)s", datefmt=_DATE)
        self._root = f"{root}."
        self._short = f"{short}." if short else ""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record = logging.makeLogRecord(vars(record))  # a copy: the log file gets the full name
        record.name = record.name.replace(self._root, self._short)
        line = super().formatMessage(record)
        if record.levelno < logging.WARNING:
            return line
        if record.levelno == logging.WARNING:
            return f"{colored('WARNING', 'red', attrs=['blink'])} {line}"
        return f"{colored('ERROR', 'red', attrs=['blink', 'underline'])} {line}"


@functools.lru_cache  # a second call with the same arguments must not add the handlers again
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
) -> logging.Logger:
    """Let the logger `name` write everything from DEBUG up, and return it.

    `output` is a folder (its log.txt is appended to), a file named .txt or .log, or None: no file; ranks above 0 write
    beside it, to `<file>.rank<N>`, and not to standard output. There `abbrev_name` stands for `name` (default: "d2"
    for "detectron2", else `name`; "" leaves it out). Records no longer go to the logger's parents.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    plain = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt=_DATE)
    if abbrev_name is None:
        abbrev_name = "d2" if name == "detectron2" else name
    if distributed_rank == 0:
        screen = logging.StreamHandler(sys.stdout)
        screen.setFormatter(_ColourFormatter(name, abbrev_name) if color else plain)
        logger.addHandler(screen)
    if output is not None:
        file = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        file += f".rank{distributed_rank}" if distributed_rank > 0 else ""
        os.makedirs(os.path.dirname(os.path.abspath(file)), exist_ok=True)
        to_file = logging.FileHandler(file, mode="a")
        to_file.setFormatter(plain)
        logger.addHandler(to_file)
    return logger
