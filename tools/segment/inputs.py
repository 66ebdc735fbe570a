"""What the user gave, made into lists: pictures, classes, and where each picture's results go."""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from maft.errors import UserError
from maft.evaluation.evaluators import prediction_names
from reason.imagefile import SUFFIXES
from reason.vocabulary import Vocabulary, read_vocabulary

__all__ = ["Targets", "find_images", "mark_things", "read_vocabulary", "targets"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Targets:
    """The files of one picture's result."""

    label_map: Path
    overlay: Path
    facts: Path


def find_images(words: Sequence[str]) -> list[str]:
    """Pictures by files, folders (not those within) and glob patterns, in the order given, each once.

    Raises:
        UserError: a word that stands for no picture.
    """
    found: dict[str, str] = {}
    for word in words:
        matches = [word] if os.path.exists(word) else sorted(glob.glob(word, recursive=True))
        pictures = [picture for match in matches for picture in _pictures_of(match, is_named=match == word)]
        if not pictures:
            raise UserError(f"{word}: {_nothing_there(word, matches)}; name pictures, a folder of them, or a pattern")
        for picture in pictures:
            found.setdefault(os.path.realpath(picture), picture)
    return list(found.values())


def _nothing_there(word: str, matches: Sequence[str]) -> str:
    if not matches:
        return "no such image"
    return f"no image there ({', '.join(SUFFIXES[:8])})"


def _pictures_of(path: str, *, is_named: bool) -> Iterator[str]:
    if os.path.isfile(path):
        yield path
        return
    if not is_named:  # a folder that a pattern met: its files count only where the pattern means them
        return
    files = [entry for entry in sorted(Path(path).iterdir()) if not entry.name.startswith(".")]
    pictures = [entry for entry in files if entry.suffix.lower() in SUFFIXES and entry.is_file()]
    others = [entry.name for entry in files if entry not in pictures]
    if others:
        logger.warning("%s: left out, being no pictures by name: %d, such as %s", path, len(others), others[0])
    yield from map(str, pictures)


def mark_things(vocabulary: Vocabulary, names: str) -> Vocabulary:
    """The vocabulary with exactly these classes countable.

    Args:
        names: comma-separated class names.

    Raises:
        UserError: a name that is no class.
    """
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    unknown = sorted(wanted - {entry.name for entry in vocabulary.classes})
    if unknown:
        raise UserError(f"--things: '{unknown[0]}' is no class of the vocabulary; name its classes as it does")
    return replace(
        vocabulary, classes=tuple(replace(entry, thing=entry.name in wanted) for entry in vocabulary.classes)
    )


def targets(images: Sequence[str], output: Path) -> list[Targets]:
    """Where the results of each picture go: into `output`, named after it.

    Pictures of one name in different folders keep their folders; those that differ in the suffix alone keep that.

    Raises:
        UserError: a result would overwrite one of the pictures, or the result of another.
    """
    stems = Counter(Path(image).stem for image in images)
    longer = prediction_names(images)
    names = [Path(image).stem if stems[Path(image).stem] == 1 else longer[image] for image in images]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"--output {output}: the results of several pictures would be {twice[0]}.png; run them apart")
    result = [Targets(*(output / f"{name}{ending}" for ending in (".png", ".overlay.jpg", ".json"))) for name in names]
    pictures = {os.path.realpath(image) for image in images}
    for path in _files(result):
        if os.path.realpath(path) in pictures:
            raise UserError(f"--output {output}: the result {path} would overwrite the picture; name another folder")
    return result


def _files(results: Iterable[Targets]) -> Iterator[Path]:
    for one in results:
        yield from (one.label_map, one.overlay, one.facts)
