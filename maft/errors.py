"""Errors that a user can mend, and the one place where they become a line on standard error and exit status 2."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from reason.interrupts import LINE, STATUS, end_children, leave, leave_at_once, prompt_interrupts, say
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


def run_command(main: Callable[[], int | None], *, debug: bool = False, interrupted: str = LINE) -> int:
    """Run a command line's body and return its exit status.

    Args:
        main: the body; what it returns is the exit status (None counts as 0).
        debug: let user errors and interrupts through with their traceback.
        interrupted: what is said after Ctrl-C; "" says nothing.

    Returns:
        The status of `main`, or 2 after a user error, whose message then stands on one line of standard error, or 130
        after Ctrl-C; a command that does not hear it is ended with its children (`reason.interrupts`).
    """
    try:
        with prompt_interrupts(line=interrupted):
            try:
                if signal.getsignal(signal.SIGINT) is leave:
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                return main() or 0
            except KeyboardInterrupt:
                if debug:
                    raise
                say(interrupted)
                end_children()
                return STATUS
    except USER_ERRORS as error:
        if debug:
            raise
        sys.stderr.write(f"error: {one_line(error)}\n")
        return USER_ERROR_STATUS


def run_process(command: Callable[[], int]) -> NoReturn:
    """Run a command line, its imports too if `command` makes them, and end the process with its exit status.

    After Ctrl-C nothing is waited for: neither children nor the threads of libraries.
    """
    leave_at_once()
    try:
        status = command()
    except KeyboardInterrupt:
        say("interrupted")
        status = STATUS
    if status == STATUS:
        end_children()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
