"""Errors that a user can mend, and the one place where they become a line on standard error and exit status 2."""

from __future__ import annotations

import sys
from collections.abc import Callable

from reason.triplets import TripletError
from reason.vocabulary import VocabularyError


class UserError(Exception):
    """Bad input or configuration: one line that names the file or key, what is wrong, and the way out."""


USER_ERRORS = (UserError, TripletError, VocabularyError)
"""Everything that is reported as one line and exit status 2 (docs/design.md section 7)."""

USER_ERROR_STATUS = 2


def one_line(error: BaseException) -> str:
    """The message of `error` with line breaks folded into spaces."""
    return " ".join(str(error).split())


def run_command(main: Callable[[], int | None], *, debug: bool = False) -> int:
    """Run a command line's body and return its exit status.

    Args:
        main: the body; what it returns is the exit status (None counts as 0).
        debug: let user errors through with their traceback.

    Returns:
        The status of `main`, or 2 after a user error, whose message then stands on one line of standard error.
    """
    try:
        return main() or 0
    except USER_ERRORS as error:
        if debug:
            raise
        sys.stderr.write(f"error: {one_line(error)}\n")
        return USER_ERROR_STATUS
