"""An HTML page of what the model said about an image: image, description, candidates, reasons, provenance.

A page needs no other file. Every text in it was written by a model or a user, and is escaped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from reason.cli.options import add_source_pixels, allow_source_pixels
from reason.errors import ReasonError
from reason.files import user_path, write_text
from reason.imagefile import ImageFileError
from reason.jsonfile import JsonError, read_json
from reason.names import named_classes
from reason.pages import data_uri, render
from reason.runs.images import check_stems, encode_image, list_images
from reason.triplets import ImageTriplet, Reason, find_image_file, image_document, load_image
from reason.vocabulary import Vocabulary, read_vocabulary

INDEX = "index.html"
SHOWN_PIXELS = 900 * 900
THUMBNAIL_PIXELS = 240 * 180
_OWN_FIELDS = ("description", "candidates", "alignment", "attempts")
"""Fields beside the reasons that the page shows in a form of their own; the others are listed as they are."""


@dataclass(frozen=True)
class Shown:
    """What there is to show of an image.

    Attributes:
        image: its file.
        triplet: what the model said; None where it has no triplet file.
        failures: answers that could not be used, as recorded in the file, or for an image that failed altogether.
        failed: the generation recorded that it failed.
        problem: why its pixels cannot be shown; "" where they have not been tried.
    """

    image: Path
    triplet: ImageTriplet | None
    failures: tuple[Mapping[str, Any], ...] = ()
    failed: bool = False
    problem: str = ""


def find_shown(image: Path, results: Path) -> Shown:
    """What `results` has of an image.

    Raises:
        TripletError: its file is damaged.
    """
    file = find_image_file([results], image.name)
    if file is not None:
        triplet = load_image(file)
        attempts = _objects(triplet.extra.get("attempts"))
        return Shown(image, triplet, tuple(attempt for attempt in attempts if attempt.get("problem")))
    record = results / ".reason" / "failed" / f"{image.stem}.json"
    try:
        document = read_json(record) if record.is_file() else None
    except JsonError as error:
        raise ReasonError(f"{record}: {error}") from error
    failures = document.get("failures") if isinstance(document, dict) else None
    return Shown(image, None, _objects(failures), document is not None)


@dataclass(frozen=True)
class Neighbours:
    """The pages that a page leads to; None where there is none."""

    previous: str | None = None
    next: str | None = None
    index: str | None = None

    def links(self) -> list[tuple[str, str]]:
        """(text, address) of each."""
        named = (("← previous", self.previous), ("all images", self.index), ("next →", self.next))
        return [(text, quote(name)) for text, name in named if name]


def image_page(
    shown: Shown, results: Path, vocabulary: Vocabulary | None = None, neighbours: Neighbours | None = None
) -> str:
    """The page of one image as one HTML document.

    Args:
        shown: the image and what there is of it.
        results: the folder that it comes from, for the page to say.
        vocabulary: marks names that it lacks.
        neighbours: pages to link to.

    Raises:
        ImageFileError: the image cannot be read.
    """
    triplet = shown.triplet
    extra = triplet.extra if triplet else {}
    reasons = list(triplet.reasons.values()) if triplet else []
    outside = set(named_classes((reason.name for reason in reasons), vocabulary)[1]) if vocabulary else set()
    image = None if shown.problem else encode_image(shown.image, max_pixels=SHOWN_PIXELS)
    facts = _rows({key: value for key, value in extra.items() if key not in _OWN_FIELDS})
    document = image_document(triplet) if triplet else {"failures": list(shown.failures)}
    description = extra.get("description")
    return render(
        "image.html",
        title=shown.image.stem,
        links=(neighbours or Neighbours()).links(),
        where=" · ".join(part for part in (vocabulary.title if vocabulary else "", str(results)) if part),
        warning=_warning(shown),
        image=data_uri(image.data, image.mime) if image else "",
        caption=str(shown.image),
        description=description if isinstance(description, str) else "",
        candidates=_candidates(extra),
        no_candidates="The model named none." if extra.get("candidates") == [] else "The file says nothing of them.",
        reasons=[_reason(reason, reason.name in outside) for reason in reasons],
        failures=[_failure(failure) for failure in shown.failures],
        facts=facts + _usage(_objects(extra.get("attempts"))),
        document=json.dumps(document, ensure_ascii=False, indent=2),
    )


def index_page(title: str, entries: Sequence[Shown]) -> str:
    """A page of thumbnails that lead to the pages of the images, `<stem>.html` beside it, with a filter."""
    done = [entry.triplet for entry in entries if entry.triplet is not None]
    failed = sum(entry.failed for entry in entries)
    empty = sum(not triplet.reasons for triplet in done)
    named = sum(len(triplet.reasons) for triplet in done)
    counts = f"{len(entries)} images: {len(done)} with reasons, {failed} failed, "
    counts += f"{len(entries) - len(done) - failed} without a file"
    if done:
        counts += f"; {empty} name no class, {named / len(done):.1f} classes an image"
    return render("index.html", script="show.js", title=title, counts=counts, entries=[_entry(one) for one in entries])


def _warning(shown: Shown) -> str:
    if shown.problem:
        return f"The image cannot be read: {shown.problem}"
    if shown.triplet is None:
        if shown.failed:
            return "This image failed: no answer could be used."
        return "There is no triplet file for this image."
    return "" if shown.triplet.reasons else "The file names no class: the segmentor takes generic reasons, or names."


def _candidates(extra: Mapping[str, Any]) -> list[dict[str, Any]]:
    alignment, written = extra.get("alignment"), extra.get("candidates")
    if not isinstance(alignment, list):
        alignment = [{"written": name} for name in written] if isinstance(written, list) else []
    rows = []
    for entry in _objects(alignment):
        given = entry.get("similarity")
        similarity = float(given) if isinstance(given, int | float) else None
        row = {"written": str(entry.get("written", "")), "name": entry.get("class"), "how": str(entry.get("how") or "")}
        rows.append({**row, "similarity": similarity, "bar": min(max(similarity or 0.0, 0.0), 1.0)})
    return rows


def _reason(reason: Reason, outside: bool) -> dict[str, Any]:
    steps = [part for part in (reason.general_category, reason.sub_category) if part]
    return {"name": reason.name, "steps": steps, "attributes": reason.attributes, "outside": outside}


def _failure(failure: Mapping[str, Any]) -> dict[str, str]:
    texts = {key: str(failure.get(key) or "") for key in ("step", "attempt", "problem")}
    return {**texts, "answer": str(failure.get("answer") or failure.get("answer_text") or "")}


def _objects(values: Any) -> tuple[Mapping[str, Any], ...]:
    return tuple(entry for entry in values if isinstance(entry, Mapping)) if isinstance(values, list) else ()


def _rows(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """(name, value) texts of nested objects, the names joined by dots; empty values are left out."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += _rows(value, "" if key in ("provenance", "parts") else f"{prefix}{key}.")
        elif value not in (None, "", []):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            rows.append((f"{prefix}{key}".replace("_", " "), text))
    return rows


def _usage(attempts: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(name, value) texts of what each answer took."""
    rows = []
    for attempt in attempts:
        numbers = {name: attempt.get(f"{name}_tokens") for name in ("prompt", "cached", "completion")}
        tokens = ", ".join(f"{number} {name}" for name, number in numbers.items() if number is not None)
        drawn = f"temperature {attempt.get('temperature')}, {attempt.get('finish_reason')}"
        step = " ".join(str(attempt[key]) for key in ("step", "part") if attempt.get(key))
        rows.append((f"{step}, attempt {attempt.get('attempt')}", f"{tokens} tokens; {drawn}"))
    return rows


def _entry(shown: Shown) -> dict[str, str]:
    try:
        image = encode_image(shown.image, max_pixels=THUMBNAIL_PIXELS)
        thumbnail = data_uri(image.data, image.mime)
    except ImageFileError:
        thumbnail = ""
    names = ", ".join(shown.triplet.reasons) if shown.triplet else ""
    return {
        "name": shown.image.stem,
        "link": quote(page_name(shown.image)),
        "thumbnail": thumbnail,
        "classes": names,
        "missing": "failed" if shown.failed else "no file" if shown.triplet is None else "no class",
        "state": "named" if names else "bare",
    }


def page_name(image: Path) -> str:
    """The name of an image's page; that of the index is taken."""
    return f"{image.stem}{'_' * (image.stem.lower() == 'index')}.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `python -m reason show`."""
    parser.description = (
        "What the model said about an image, beside the image, as an HTML page that needs no other file. Of several "
        "images, or of a folder, an index page as well."
    )
    parser.add_argument("images", type=user_path, nargs="+", metavar="IMAGE", help="images, or folders of them")
    parser.add_argument("--recursive", action="store_true", help="images in the folders below, too")
    parser.add_argument("--results", type=user_path, required=True, metavar="DIR", help="folder of the triplet files")
    parser.add_argument(
        "--vocabulary", metavar="V", help="marks classes that it lacks: name of a benchmark, file or list"
    )
    parser.add_argument(
        "--output", type=user_path, metavar="DIR", help="where to write (default: out/show/<name of --results>)"
    )
    add_source_pixels(parser)
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="show the first N images (default: 100)")


def run(args: argparse.Namespace) -> int:
    """The body of `python -m reason show`; returns the exit status: 1 if an image could not be shown.

    Raises:
        ReasonError, TripletError, VocabularyError: nothing to show, or a file that cannot be used.
    """
    if not args.results.is_dir():
        raise ReasonError(f"{args.results}: no such folder; give the one that holds the triplet files with --results")
    allow_source_pixels(args)
    if args.limit < 1:
        raise ReasonError(f"--limit {args.limit}: must be at least 1")
    found = [image for given in args.images for image in list_images(given, recursive=args.recursive)]
    images = found[: args.limit]
    check_stems(images)
    vocabulary = read_vocabulary(args.vocabulary) if args.vocabulary else None
    if vocabulary:
        sys.stdout.write(f"{vocabulary.summary}\n")
    output = args.output or Path("out", "show", args.results.resolve().name)
    entries = [find_shown(image, args.results) for image in images]
    if not any(entry.triplet or entry.failed for entry in entries):
        what = images[0].name if len(images) == 1 else f"any of the {len(images)} images"
        raise ReasonError(f"{args.results}: has no triplet file for {what}; check --results")
    unreadable = 0
    for entry, neighbours in zip(entries, _neighbours(images), strict=True):
        try:
            page = image_page(entry, args.results, vocabulary, neighbours)
        except ImageFileError as error:
            if len(entries) == 1:
                raise
            sys.stderr.write(f"{error}\n")
            page = image_page(replace(entry, problem=str(error)), args.results, vocabulary, neighbours)
            unreadable += 1
        _write(output / page_name(entry.image), page)
    target = output / page_name(images[0])
    if len(entries) > 1:
        target = output / INDEX
        _write(target, index_page(f"Reasons in {args.results}", entries))
    if len(found) > len(images):
        sys.stdout.write(f"the first {len(images)} of {len(found)} images (--limit)\n")
    sys.stdout.write(f"{target}\n")
    return 1 if unreadable else 0


def _neighbours(images: Sequence[Path]) -> list[Neighbours]:
    """What the page of each image leads to; nothing where there is but one."""
    names = [None, *map(page_name, images), None]
    index = INDEX if len(images) > 1 else None
    return [Neighbours(names[place], names[place + 2], index) for place in range(len(images))]


def _write(path: Path, page: str) -> None:
    try:
        write_text(path, page)
    except OSError as error:
        raise ReasonError(f"{path}: cannot be written ({error.strerror or error}); give another --output") from error
