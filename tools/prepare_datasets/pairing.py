"""Which images and label maps of a release belong together, and what of it was given."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path, PurePosixPath

from maft.data.locate import stems as stems_of
from maft.errors import UserError

from .archives import ARCHIVE_NAME, Member
from .engine import Item, copies
from .pool import Pool

_YEAR = re.compile(r"VOC(20\d\d)(?=/|$)")


def of_year(pool: Pool, pattern: str, year: str) -> dict[tuple[str, ...], Member]:
    """Members of a VOC development kit, where those of other years were given too.

    Args:
        pattern: as for `Pool.find`.
        year: "2010" or "2012"; a path that names no year passes for every one.

    Returns:
        members by the groups of the match; of two alike, one whose path names the year, else the first.
    """
    expression = re.compile(rf"(?:.*/)?(?:{pattern})")
    found: dict[bool, dict[tuple[str, ...], Member]] = {True: {}, False: {}}
    for source in pool.sources():
        # A folder may itself be that of a year; an archive's own name says nothing about what is inside.
        outside = "" if ARCHIVE_NAME.search(source.path.name) else f"{source.path.resolve().as_posix()}/"
        for member in source.members:
            match = expression.fullmatch(member.name)
            if match is None or "/." in f"/{member.name}" or "__MACOSX/" in member.name:
                continue
            years = _YEAR.findall(outside + member.name)
            if not years or years[-1] == year:
                found[bool(years)].setdefault(match.groups(), member)
    return found[False] | found[True]


def needed(found: Mapping[tuple[str, ...], Member], what: str, pool: Pool) -> Mapping[tuple[str, ...], Member]:
    """`found`, where it must not be empty.

    Raises:
        UserError: it is; `what` and what was given are named.
    """
    if not found:
        given = ", ".join(str(path) for path in pool.given) or "nothing"
        raise UserError(
            f"{given}: no {what} in it; give the archive or its unpacked folder with --from "
            "(python -m tools.prepare_datasets --list says where it is to be had)"
        )
    return found


def read_stems(member: Member) -> list[str]:
    """The images that a list names, one a line: the stem of the line's first word, without a path.

    Raises:
        UserError: no text, nothing in it, or a name twice.
    """
    try:
        lines = [line.split() for line in member.read().decode("utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{member}: no list of names ({error}); download or unpack it again") from error
    names = [PurePosixPath(words[0]).name for words in lines if words]
    stems = [re.sub(r"\.(jpe?g|png|mat)$", "", name, flags=re.IGNORECASE) for name in names]
    if not stems or len(set(stems)) != len(stems):
        raise UserError(f"{member}: {'a name stands twice' if stems else 'empty'}; download or unpack it again")
    return stems


def not_given(split: str, stems: Sequence[str], **kinds: Container[str]) -> str | None:
    """A note if nothing of a split was given of one kind or more; one of which a part is missing is damaged instead.

    Args:
        stems: what the split consists of.
        kinds: stems that were given or are there already, by what they are.
    """
    lost = [kind.replace("_", " ") for kind, found in kinds.items() if not any(stem in found for stem in stems)]
    return f"{split}: left out, its {' and '.join(lost)} were not given" if lost else None


def image_items(stems: Sequence[str], images: Mapping[str, Member | None], folder: str, where: str) -> list[Item]:
    """Items that copy the images of these stems to `folder`/<stem>.jpg, byte for byte.

    Args:
        stems: what is wanted.
        images: what was given, by stem; None for an image that lies there already. See `with_those_there`.
        folder: relative to the data set's folder.
        where: what the images are, for the error.

    Raises:
        UserError: an image is neither given nor there.
    """
    missing = [stem for stem in stems if stem not in images]
    if missing:
        raise lacking("images", missing, len(stems), where)
    given = {f"{folder}/{stem}.jpg": images[stem] for stem in stems}
    return copies({target: member for target, member in given.items() if member is not None})


def with_those_there(images: Mapping[str, Member], folder: Path) -> dict[str, Member | None]:
    """Images by stem: those given, and None for others that lie in `folder` already."""
    return dict.fromkeys(stems_of(folder, (".jpg",))) | dict(images)


def label_items(
    stems: Sequence[str],
    labels: Mapping[str, Member],
    target: str,
    make: Callable[..., bytes],
    where: str,
    *more: object,
) -> list[Item]:
    """Items that make a label map of each of these stems.

    Args:
        stems: what is wanted.
        labels: the release's label maps by stem.
        target: path with "{}" for the stem.
        make: called with the member and `more`.
        where: what the label maps are, for the error.

    Raises:
        UserError: a label map is not given.
    """
    missing = [stem for stem in stems if stem not in labels]
    if missing:
        raise lacking("label maps", missing, len(stems), where)
    return [
        Item(target.format(stem), make, (labels[stem], *more), space=max(labels[stem].size, 4096)) for stem in stems
    ]


def lacking(what: str, missing: Sequence[str], wanted: int, where: str) -> UserError:
    """The error for files that are not given, though others of their kind are."""
    return UserError(
        f"{where}: {len(missing)} of {wanted} {what} are not in what was given, such as {', '.join(missing[:3])}; "
        "download or unpack it again"
    )
