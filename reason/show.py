"""An HTML page of what the model said about an image: image, description, candidates, reasons, provenance.

A page needs no other file. Every text in it was written by a model or a user, and is escaped.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from reason.cli.options import read_vocabulary
from reason.errors import ReasonError
from reason.files import write_text
from reason.jsonfile import JsonError, read_json
from reason.runs.images import ImageFileError, check_stems, encode_image, list_images
from reason.score import named_classes
from reason.triplets import ImageTriplet, Reason, find_image_file, image_document, load_image
from reason.vocabulary import Vocabulary

PAGES = Path(__file__).resolve().parent / "pages"
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
    """

    image: Path
    triplet: ImageTriplet | None
    failures: tuple[Mapping[str, Any], ...] = ()
    failed: bool = False


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


def image_page(shown: Shown, results: Path, vocabulary: Vocabulary | None = None) -> str:
    """The page of one image as one HTML document.

    Args:
        results: the folder that it comes from, for the page to say.
        vocabulary: marks names that it lacks.

    Raises:
        ImageFileError: the image cannot be read.
    """
    triplet = shown.triplet
    extra = triplet.extra if triplet else {}
    reasons = list(triplet.reasons.values()) if triplet else []
    outside = set(named_classes((reason.name for reason in reasons), vocabulary)[1]) if vocabulary else set()
    image = encode_image(shown.image, max_pixels=SHOWN_PIXELS)
    description = extra.get("description")
    rows = _rows({key: value for key, value in extra.items() if key not in _OWN_FIELDS})
    rows += _usage(_objects(extra.get("attempts")))
    document = image_document(triplet) if triplet else {"failures": list(shown.failures)}
    return _template("image.html").substitute(
        title=escape(shown.image.stem),
        style=_style(),
        where=escape(" · ".join(part for part in (vocabulary.title if vocabulary else "", str(results)) if part)),
        state=_state(shown),
        image=f'<img src="{_data_uri(image.data, image.mime)}" alt="{escape(shown.image.name)}">',
        caption=escape(str(shown.image)),
        description=f'<p class="description">{escape(description)}</p>' if isinstance(description, str) else _absent(),
        candidates=_candidates(extra),
        reasons=_cards(reasons, outside),
        attempts=_attempts(shown.failures),
        provenance=_list(rows) if rows else _absent(),
        document=escape(json.dumps(document, ensure_ascii=False, indent=2)),
    )


def index_page(title: str, entries: Sequence[Shown]) -> str:
    """A page of thumbnails that lead to the pages of the images, `<stem>.html` beside it."""
    done = sum(entry.triplet is not None for entry in entries)
    failed = sum(entry.failed for entry in entries)
    counts = (
        f"{len(entries)} images: {done} with reasons, {failed} failed, {len(entries) - done - failed} without a file"
    )
    return _template("index.html").substitute(
        title=escape(title), style=_style(), counts=escape(counts), entries=_join(_entry(shown) for shown in entries)
    )


def _state(shown: Shown) -> str:
    if shown.triplet is None:
        text = (
            "This image failed: no answer could be used."
            if shown.failed
            else "There is no triplet file for this image."
        )
        return f'<p class="warning">{text}</p>'
    if not shown.triplet.reasons:
        return '<p class="warning">The file names no class: the segmentor takes generic reasons.</p>'
    return ""


def _candidates(extra: Mapping[str, Any]) -> str:
    alignment, written = extra.get("alignment"), extra.get("candidates")
    if written == []:
        return _absent("The model named none.")
    if not isinstance(alignment, list):
        if not isinstance(written, list):
            return _absent()
        alignment = [{"written": name} for name in written]
    rows = _join(_candidate(entry) for entry in alignment if isinstance(entry, Mapping))
    head = "<tr><th>written</th><th>class</th><th>similarity</th><th>by</th></tr>"
    return f'<table class="candidates"><thead>{head}</thead><tbody>\n{rows}\n</tbody></table>'


def _candidate(entry: Mapping[str, Any]) -> str:
    name, similarity = entry.get("class"), entry.get("similarity")
    known = f'<span class="class">{escape(str(name))}</span>' if name else '<span class="none">none near enough</span>'
    bar = ""
    if isinstance(similarity, int | float):
        bar = f'<meter min="0" max="1" value="{min(max(similarity, 0), 1):.3f}"></meter>{similarity:.2f}'
    cells = escape(str(entry.get("written", ""))), known, bar, escape(str(entry.get("how") or ""))
    return (
        "<tr>"
        + "".join(f"<td{' class=number' * (place == 2)}>{cell}</td>" for place, cell in enumerate(cells))
        + "</tr>"
    )


def _cards(reasons: Sequence[Reason], outside: set[str]) -> str:
    if not reasons:
        return _absent("There are none.")
    return '<div class="cards">\n' + _join(_card(reason, reason.name in outside) for reason in reasons) + "\n</div>"


def _card(reason: Reason, outside: bool) -> str:
    steps = [f"<b>{escape(part)}</b>" for part in (reason.general_category, reason.sub_category) if part]
    way = f'<p class="way">{" → ".join(steps)}</p>' if steps else '<p class="way">no category</p>'
    attributes = "".join(f"<li>{escape(attribute)}</li>" for attribute in reason.attributes)
    note = '<p class="outside">not in the vocabulary: the segmentor ignores it</p>' if outside else ""
    return f'<article><h3>{escape(reason.name)}</h3>{way}<ul class="attributes">{attributes}</ul>{note}</article>'


def _attempts(failures: Sequence[Mapping[str, Any]]) -> str:
    if not failures:
        return ""
    rows = []
    for failure in failures:
        step, attempt, problem = (escape(str(failure.get(key) or "")) for key in ("step", "attempt", "problem"))
        text = failure.get("answer") or failure.get("answer_text")
        answer = f"<details><summary>answer</summary><pre>{escape(str(text))}</pre></details>" if text else ""
        rows.append(f"<tr><td>{step}</td><td>{attempt}</td><td>{problem}{answer}</td></tr>")
    head = "<tr><th>step</th><th>attempt</th><th>problem</th></tr>"
    table = f'<table class="failures"><thead>{head}</thead><tbody>\n{_join(rows)}\n</tbody></table>'
    return f"<section><h2>Answers that could not be used</h2>{table}</section>"


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


def _list(rows: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + _join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows) + "</dl>"


def _entry(shown: Shown) -> str:
    try:
        image = encode_image(shown.image, max_pixels=THUMBNAIL_PIXELS)
        thumbnail = f'<img src="{_data_uri(image.data, image.mime)}" alt="">'
    except ImageFileError:
        thumbnail = ""
    names = ", ".join(shown.triplet.reasons) if shown.triplet else ""
    missing = "failed" if shown.failed else "no file" if shown.triplet is None else "no class"
    text = f"<span>{escape(names)}</span>" if names else f'<span class="none">{missing}</span>'
    link = escape(quote(page_name(shown.image)))
    return f'<li><a href="{link}">{thumbnail}<div><b>{escape(shown.image.stem)}</b>{text}</div></a></li>'


def page_name(image: Path) -> str:
    """The name of an image's page."""
    return f"{image.stem}.html"


def _data_uri(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


def _template(name: str) -> Template:
    return Template((PAGES / name).read_text(encoding="utf-8"))


def _style() -> str:
    return (PAGES / "page.css").read_text(encoding="utf-8")


def _absent(text: str = "The file says nothing of it.") -> str:
    return f'<p class="note">{text}</p>'


def _join(parts: Iterable[str]) -> str:
    return "\n".join(parts)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `python -m reason show`."""
    parser.description = (
        "What the model said about an image, beside the image, as an HTML page that needs no other file. Of several "
        "images, or of a folder, an index page as well."
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="images, or folders of them")
    parser.add_argument("--results", type=Path, required=True, metavar="DIR", help="folder of the triplet files")
    parser.add_argument(
        "--vocabulary", metavar="V", help="marks classes that it lacks: name of a benchmark, file or list"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where to write (default: out/show/<name of --results>)"
    )
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="show the first N images (default: 100)")


def run(args: argparse.Namespace) -> int:
    """The body of `python -m reason show`; returns the exit status: 1 if an image could not be shown.

    Raises:
        ReasonError, TripletError, VocabularyError: nothing to show, or a file that cannot be used.
    """
    if not args.results.is_dir():
        raise ReasonError(f"{args.results}: no such folder; give the one that holds the triplet files with --results")
    if args.limit < 1:
        raise ReasonError(f"--limit {args.limit}: must be at least 1")
    found = [image for given in args.images for image in list_images(given)]
    images = found[: args.limit]
    check_stems(images)
    vocabulary = read_vocabulary(args.vocabulary) if args.vocabulary else None
    output = args.output or Path("out", "show", args.results.resolve().name)
    entries = [find_shown(image, args.results) for image in images]
    if not any(entry.triplet or entry.failed for entry in entries):
        what = images[0].name if len(images) == 1 else f"any of the {len(images)} images"
        raise ReasonError(f"{args.results}: has no triplet file for {what}; check --results")
    unreadable = 0
    for entry in entries:
        try:
            page = image_page(entry, args.results, vocabulary)
        except ImageFileError as error:
            if len(entries) == 1:
                raise
            sys.stderr.write(f"{error}\n")
            unreadable += 1
            continue
        _write(output / page_name(entry.image), page)
    target = output / page_name(images[0])
    if len(entries) > 1:
        target = output / "index.html"
        _write(target, index_page(f"Reasons in {args.results}", entries))
    if len(found) > len(images):
        sys.stdout.write(f"the first {len(images)} of {len(found)} images (--limit)\n")
    sys.stdout.write(f"{target}\n")
    return 1 if unreadable else 0


def _write(path: Path, page: str) -> None:
    try:
        write_text(path, page)
    except OSError as error:
        raise ReasonError(f"{path}: cannot be written ({error.strerror or error}); give another --output") from error
