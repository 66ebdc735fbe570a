"""Which reasons each image is asked with: found out before the network is built, said where they are not its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from maft.errors import USER_ERRORS, UserError
from maft.inputs import read_reasons
from reason.files import user_path
from reason.shipped import GENERIC
from reason.triplets import find_image_file, load_generic
from reason.vocabulary import Vocabulary

WORDS = {
    "image": "own reasons",
    "generic": "generic reasons",
    "generic_missing_file": "generic reasons (no reason file)",
    "generic_no_class": "generic reasons (the reason file names none of the classes)",
    "plain": "class names",
    "plain_missing_file": "class names (no reason file)",
    "plain_no_class": "class names (the reason file names none of the classes)",
}
"""What an image was asked with, as the facts have it -> the same for people."""

FALLBACKS = tuple(kind for kind in WORDS if kind.endswith(("_missing_file", "_no_class")))
"""Those where the image was to be asked with reasons of its own, but has none."""


@dataclass(frozen=True)
class Places:
    """Where reasons lie.

    Attributes:
        folders: of reasons of single images, in the order in which they are looked through; empty for none.
        generic: a file of generic reasons, `Path("generic")` for those that come along, or None.
        strict: an image without reasons of its own is an error.
    """

    folders: tuple[Path, ...] = ()
    generic: Path | None = None
    strict: bool = False


def generic_place(text: str | Path) -> Path:
    """A file of generic reasons as a user names it: the word "generic" stands for those that come along.

    A path drops the "./" by which a file of that very name is told from the word, so that it is made absolute.
    """
    path = user_path(str(text))
    return path.absolute() if path == Path(GENERIC) and str(text) != GENERIC else path


@dataclass(frozen=True)
class Asked:
    """What one image is asked with.

    Attributes:
        kind: one of `WORDS`.
        file: the image's own reason file, where that is used.
    """

    kind: str
    file: Path | None = None


class ReasonPlan:
    """The reasons of every image of a run.

    Args:
        places: where they lie.
        vocabulary: the classes.

    Attributes:
        generic: what images without reasons of their own are asked with: a file, "generic", or None for names alone.
        note: what is to be said of that file; "" for nothing.

    Raises:
        UserError: the generic reasons name none of the classes.
        TripletError: they are missing, malformed, or those of an image.
    """

    def __init__(self, places: Places, vocabulary: Vocabulary) -> None:
        self._places, self._vocabulary = places, vocabulary
        # The library takes the word for the reasons that come along, and a path for a file of that name.
        self.generic: str | Path | None = GENERIC if places.generic == Path(GENERIC) else places.generic
        if isinstance(self.generic, Path):
            load_generic(self.generic)
        shared = read_reasons(self.generic, vocabulary, None)
        self.note = shared.note
        if places.generic is not None and shared.kind == "names":
            some = ", ".join(vocabulary.class_names[:8])
            raise UserError(f"--generic {places.generic}: has a reason for none of the classes ({some})")

    def look(self, image: str) -> Asked:
        """What an image is to be asked with.

        Raises:
            UserError: it has no reasons of its own, and the config says that this is an error.
            TripletError: its reason file is malformed.
        """
        otherwise = "plain" if self._places.generic is None else "generic"
        if not self._places.folders:
            return Asked(otherwise)
        file = find_image_file(self._places.folders, image)
        if file is not None and read_reasons(file, self._vocabulary, image).kind == "image":
            return Asked("image", file)
        kind = f"{otherwise}_{'missing_file' if file is None else 'no_class'}"
        if self._places.strict:
            raise UserError(f"{image}: asked with {WORDS[kind]}, which MODEL.REASON.FALLBACK 'error' forbids")
        return Asked(kind)

    def look_at_all(self, images: Iterable[str]) -> list[Asked | Exception]:
        """What every image is to be asked with, or why it cannot be."""
        found: list[Asked | Exception] = []
        for image in images:
            try:
                found.append(self.look(image))
            except USER_ERRORS as error:
                found.append(error)
        return found


def summary(kinds: Sequence[str]) -> str:
    """Such as "own reasons 5, class names (no reason file) 3"."""
    counts = Counter(kinds)
    return ", ".join(f"{words} {counts[kind]}" for kind, words in WORDS.items() if counts[kind]) or "none"
