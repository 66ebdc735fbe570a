"""Writing a file aside and renaming it into place, with errors for the user."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from maft.errors import UserError


@contextmanager
def user_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of writing `path` into a UserError that names it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); make room and start again") from error


def write_aside(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file beside `path`, then rename it: `path` is whole or what it was.

    A process that is killed meanwhile leaves `.<name>.partial`, which the next one overwrites.

    Raises:
        UserError: the folder or the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    with user_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as stream:
                write(stream)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
