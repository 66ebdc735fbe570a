"""Errors that are the user's to fix, and how a command line ends on them."""

from __future__ import annotations

import sys
from collections.abc import Callable

from reason.imagefile import ImageFileError
from reason.interrupts import STATUS, prompt_interrupts, say
from reason.triplets import TripletError
from reason.vocabulary import VocabularyError

EXIT_USER_ERROR = 2
EXIT_ENGINE_GONE = 3


class ReasonError(Exception):
    """Something the user can put right: one line that names the file or flag, what is wrong, and the way out."""


class EngineGone(ReasonError):
    """The engine cannot answer any more. What was finished before stays finished; a restart continues."""


def run_command(main: Callable[[], int | None], *, debug: bool) -> int:
    """Run a command and turn its errors into one line on stderr.

    Args:
        main: the command; what it returns is the exit status, None meaning 0.
        debug: let errors pass, so that Python prints the traceback.

    Returns:
        What `main` returned, or 2 for an error of the user, 3 for an engine that is gone, 130 for an interrupt.
    """
    try:
        with prompt_interrupts():
            try:
                return main() or 0
            except KeyboardInterrupt:
                if debug:
                    raise
                say()
                return STATUS
    except (ReasonError, ImageFileError, TripletError, VocabularyError) as error:
        if debug:
            raise
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return EXIT_ENGINE_GONE if isinstance(error, EngineGone) else EXIT_USER_ERROR
