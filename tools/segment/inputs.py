"""What the user gave, made into lists: images, classes, and where each image's results go."""

from __future__ import annotations

import glob
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from maft.errors import UserError
from maft.files import prediction_names
from reason.imagefile import SUFFIXES
from reason.imagefile import find_images as images_in
from reason.vocabulary import Vocabulary, read_vocabulary

__all__ = ["Targets", "find_images", "mark_things", "read_vocabulary", "targets"]

logger = logging.getLogger(__name__)

LABEL_MAP, OVERLAY, FACTS = ".png", ".overlay.jpg", ".json"
"""How the names of an image's results end."""
LABEL_MAP_KEY = "label_map"
"""In the facts, what the label map holds; by this key they are told from other JSON files."""

_SHOWN = 3


@dataclass(frozen=True)
class Targets:
    """The files of one image's result."""

    label_map: Path
    overlay: Path
    facts: Path


def find_images(words: Sequence[str], *, recursive: bool = False) -> list[str]:
    """Images by files, folders and glob patterns, in the order given, each once; says what it leaves out.

    Results of this tool, by their names and content, are no images to segment.

    Args:
        words: as the user gave them.
        recursive: take the folders below those that are named, or met by a pattern, too.

    Raises:
        UserError: a word that stands for no image.
    """
    found: dict[str, str] = {}
    results: list[str] = []
    for word in map(os.path.expanduser, words):
        matches = [word] if os.path.exists(word) else sorted(glob.glob(word, recursive=True))
        candidates = _images_of(word, matches, recursive=recursive)
        images = [image for image in candidates if not _is_result(image)]
        results += [image for image in candidates if image not in set(images)]
        if not images:
            problem = "nothing there but results of earlier runs" if candidates else _nothing_there(matches)
            raise UserError(f"{word}: {problem}; name images, a folder of them, or a pattern")
        for image in images:
            found.setdefault(os.path.realpath(image), image)
    if results:
        listed = ", ".join(results[:_SHOWN]) + (", …" if len(results) > _SHOWN else "")
        logger.warning("left out, being results of earlier runs: %d (%s)", len(results), listed)
    return list(found.values())


def _nothing_there(matches: Sequence[str]) -> str:
    if not matches:
        return "no such image"
    return f"no image there ({', '.join(SUFFIXES[:8])}, …)"


def _images_of(word: str, matches: Sequence[str], *, recursive: bool) -> list[str]:
    """The images of the files and folders that a word stands for."""
    images: list[str] = []
    passed = 0
    for match in matches:
        if not os.path.isdir(match):
            images.append(match)
        elif match == word or recursive:
            images += _images_in(Path(match), recursive=recursive)
        else:  # a folder that a pattern met: its files count only where the pattern means them
            passed += 1
    if passed:
        logger.warning("%s: left out: %d folder%s (--recursive looks into them)", word, passed, "s" * (passed > 1))
    return images


def _images_in(folder: Path, *, recursive: bool) -> list[str]:
    try:
        found = images_in(folder, recursive=recursive)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error
    if found.left_out:
        logger.warning("%s", found.left_out)
    return [str(image) for image in found.images]


def _is_result(image: str) -> bool:
    """Whether a file is the label map or the overlay of an earlier run.

    An overlay is known by its name where the image or one of its other results lies beside it, a label map by the facts
    and the overlay beside it.
    """
    path = Path(image)
    if path.name.endswith(OVERLAY):
        stem = path.name.removesuffix(OVERLAY)
        beside = (LABEL_MAP, FACTS, *SUFFIXES)
        return bool(stem) and any(path.with_name(stem + ending).is_file() for ending in beside)
    if path.suffix != LABEL_MAP or not path.with_name(path.stem + OVERLAY).is_file():
        return False
    try:
        facts = json.loads(path.with_suffix(FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(facts, dict) and LABEL_MAP_KEY in facts


def mark_things(vocabulary: Vocabulary, names: str) -> Vocabulary:
    """The vocabulary with exactly these classes countable.

    Args:
        names: comma-separated class names.

    Raises:
        UserError: a name that is no class.
    """
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    unknown = sorted(wanted - {name for entry in vocabulary.classes for name in (entry.name, *entry.synonyms)})
    if unknown:
        raise UserError(f"--things: '{unknown[0]}' is no class of the vocabulary; name its classes as it does")
    return replace(
        vocabulary,
        classes=tuple(
            replace(entry, thing=not wanted.isdisjoint((entry.name, *entry.synonyms))) for entry in vocabulary.classes
        ),
    )


def targets(images: Sequence[str], output: Path) -> list[Targets]:
    """Where the results of each image go: into `output`, named after it.

    Images of one name in different folders keep their folders; those that differ in the suffix alone keep that.

    Raises:
        UserError: a result would overwrite one of the images, or the result of another.
    """
    stems = Counter(Path(image).stem for image in images)
    longer = prediction_names(images)
    names = [Path(image).stem if stems[Path(image).stem] == 1 else longer[image] for image in images]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"--output {output}: the results of several images would be {twice[0]}.png; run them apart")
    result = [Targets(*(output / f"{name}{ending}" for ending in (LABEL_MAP, OVERLAY, FACTS))) for name in names]
    originals = {os.path.realpath(image) for image in images}
    for path in _files(result):
        if os.path.realpath(path) in originals:
            raise UserError(f"--output {output}: the result {path} would overwrite the image; name another folder")
    return result


def _files(results: Iterable[Targets]) -> Iterator[Path]:
    for one in results:
        yield from (one.label_map, one.overlay, one.facts)
