"""What the demo does with an image, classes and reasons: everything but the page around it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from maft import Result, Seen, Segmentor
from maft.errors import UserError
from maft.files import replacing, write_label_map
from maft.inputs import read_classes
from maft.result import percent
from reason.files import write_text
from reason.triplets import Reason, dump_image
from reason.vocabulary import Vocabulary

from .table import as_triplet

Kind = Literal["names only", "generic", "table", "table alone"]
KINDS: Mapping[str, Kind] = {
    "names only": "names only",
    "generic reasons that ship": "generic",
    "the table; other classes by name": "table",
    "the table; its classes alone, as for one image": "table alone",
}
"""What the page calls the ways to use reasons."""

Region = tuple[NDArray[np.float32], str]


@dataclass(frozen=True)
class Shown:
    """One result as the page shows it.

    image: (H, W, 3) uint8.
    regions: a mask in [0, 1] per class that occurs, and its name with its share.
    colours: such as "#ff8800", by the same names.
    """

    image: NDArray[np.uint8]
    regions: list[Region]
    colours: dict[str, str]


def read_vocabulary_text(text: str) -> Vocabulary:
    """Classes, one a line with synonyms after commas; a single line is a list of classes, or a benchmark's name.

    Raises:
        UserError: no class, or one that cannot be used.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError("classes: none given; write one a line")
    return read_classes(lines if len(lines) > 1 else lines[0])


def look(segmentor: Segmentor, file: str | None) -> Seen:
    """Run the network on an uploaded image, before any classes.

    Raises:
        UserError: there is none, or it cannot be read; Pillow refuses images of more than about 180 megapixels.
    """
    if file is None:
        raise UserError("image: none yet; upload one, paste one, or take an example")
    return segmentor.look(file)


def segment(seen: Seen, vocabulary: Vocabulary, kind: Kind, reasons: Mapping[str, Reason]) -> Result:
    """The result for one way of using reasons.

    Args:
        seen: of `look`.
        vocabulary: the classes.
        kind: how reasons are used.
        reasons: of the table; those of classes that the vocabulary lacks are left out.

    Raises:
        UserError: the table is wanted, but has no reason for any class.
    """
    if kind == "names only":
        return seen.segment(vocabulary)
    if kind == "generic":
        return seen.segment(vocabulary, "generic")
    known = {name for names in vocabulary.synonyms for name in names} | set(vocabulary.class_names)
    usable = {
        name: reason
        for name, reason in reasons.items()
        if not known.isdisjoint({name, *(part.strip() for part in name.split(","))})
    }
    if not usable:
        raise UserError("reasons: the table has none for these classes; fill in a class and its attributes")
    if kind == "table":
        return seen.segment(vocabulary, usable)
    with tempfile.TemporaryDirectory() as folder:
        # Reasons in an image's file are those of the image: its classes are the only ones that are asked for.
        dump_image(as_triplet(usable), Path(folder, "image.json"))
        return seen.segment(vocabulary, Path(folder, "image.json"))


def shown(result: Result) -> Shown:
    """The regions of a result, for hovering."""
    palette = result.vocabulary.palette
    regions: list[Region] = []
    colours: dict[str, str] = {}
    for found in result.classes:
        label = f"{found.name} {percent(found.share)}"
        regions.append(((result.label_map == found.index).astype(np.float32), label))
        colours[label] = "#{:02x}{:02x}{:02x}".format(*palette[found.index])
    return Shown(result.image, regions, colours)


def cards(result: Result) -> str:
    """A card for every class that occurs, with its reason, as HTML; every text is escaped."""
    parts = [f"<p>{escape(result.note)}</p>"] if result.note else []
    for found in result.classes:
        reason = result.reasons.get(found.name)
        lines = [f"<h4>{escape(found.name)} <small>{percent(found.share)}</small></h4>"]
        if reason is None:
            lines.append("<p>asked for by name</p>")
        else:
            place = " › ".join(part for part in (reason.general_category, reason.sub_category) if part)
            lines += [f"<p>{escape(place)}</p>"] if place else []
            lines.append("<ul>" + "".join(f"<li>{escape(text)}</li>" for text in reason.attributes) + "</ul>")
        parts.append(f'<div class="reason-card">{"".join(lines)}</div>')
    return f'<div class="reason-cards">{"".join(parts)}</div>'


def attributes(result: Result, used: int = 3) -> list[str]:
    """The attributes that the network read, as "CLASS: ATTRIBUTE", those of classes that occur first."""
    order = [found.name for found in result.classes]
    names = sorted(result.reasons, key=lambda name: order.index(name) if name in order else len(order))
    return [f"{name}: {text}" for name in names for text in result.reasons[name].attributes[:used]]


def write_files(result: Result, folder: Path) -> list[str]:
    """Label map, overlay and facts, to be downloaded.

    Raises:
        UserError: they cannot be written.
    """
    labels = np.where(result.label_map < 0, 65535 if len(result.vocabulary) > 255 else 255, result.label_map)
    write_label_map(labels.astype(np.int32), folder / "labels.png")
    with replacing(folder / "overlay.png") as stream:
        result.overlay().save(stream, format="PNG")
    write_text(folder / "result.json", json.dumps(_facts(result), indent=1, ensure_ascii=False) + "\n")
    return [str(folder / name) for name in ("labels.png", "overlay.png", "result.json")]


def _facts(result: Result) -> dict[str, Any]:
    return {
        "classes": [",".join(entry.synonyms) for entry in result.vocabulary.classes],
        "reasons": {name: list(reason.attributes) for name, reason in result.reasons.items()},
        "origin": result.origin,
        "note": result.note,
        "found": [
            {"index": found.index, "name": found.name, "share": round(found.share, 6), "score": round(found.score, 6)}
            for found in result.classes
        ],
    }
