"""The files of one image's result: label map, overlay, facts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maft.files import replacing, write_label_map, write_text
from maft.predictor import RESULT_PIXELS, result_size
from maft.result import Result, percent
from maft.weights.seeding import SEEDED

from .inputs import LABEL_MAP_KEY, Targets

ALARM = "Seeded weights: random numbers stand in for the published ones. This segmentation MEANS NOTHING."

_JPEG_QUALITY = 90
_SHOWN = 8


@dataclass(frozen=True)
class Writer:
    """Writes results.

    Attributes:
        weights: the file that the network's weights come from, or "seeded".
    """

    weights: str

    @property
    def alarm(self) -> str:
        """What must stand over every result; "" if nothing must."""
        return ALARM if self.weights == SEEDED else ""

    def write(self, image: str, result: Result, prompts: str, files: Targets) -> None:
        """Write label map, overlay and facts, each aside and renamed into place; the facts come last.

        Args:
            image: its file.
            result: of the library, at the image's size.
            prompts: what it was asked with, one of `reasons.WORDS`.
            files: where to.

        Raises:
            UserError: a file cannot be written.
        """
        write_label_map(result.label_map if result.segment_map is None else result.segment_map, files.label_map)
        with replacing(files.overlay) as stream:
            drawn = result.overlay(alarm=self.alarm, pixels=RESULT_PIXELS)
            drawn.save(stream, format="JPEG", quality=_JPEG_QUALITY)
        facts = self.facts(image, result, prompts)
        write_text(files.facts, json.dumps(facts, ensure_ascii=False, indent=2) + "\n")

    def facts(self, image: str, result: Result, prompts: str) -> dict[str, Any]:
        """What the JSON file of an image says."""
        height, width = result.label_map.shape
        panoptic = result.segments is not None
        found: dict[str, Any] = {
            "image": image,
            "height": height,
            "width": width,
            "labelled_at": list(result_size(height, width)),
            "weights": self.weights,
            "prompts": prompts,
            LABEL_MAP_KEY: "segment ids, 0 for none" if panoptic else "class indices",
            "classes": [
                {"index": entry.index, "name": entry.name, "share": round(entry.share, 6)} for entry in result.classes
            ],
        }
        if panoptic:
            found["without_class"] = round(result.without_class, 6)
            found["segments"] = [_segment(result, segment) for segment in result.segments or ()]
        if result.note:
            found["note"] = result.note
        if self.alarm:
            found["warning"] = self.alarm
        return found | {"vocabulary": [", ".join(names) for names in result.vocabulary.synonyms]}


def _segment(result: Result, segment: Mapping[str, Any]) -> dict[str, Any]:
    index = segment["category_id"]
    return {
        "id": segment["id"],
        "index": index,
        "name": result.vocabulary.synonyms[index][0],
        "thing": segment["isthing"],
        "share": round(float((result.segment_map == segment["id"]).mean()), 6),
    }


def line(result: Result) -> str:
    """The classes that were found and their shares, for the screen."""
    found = [f"{entry.name} {percent(entry.share)}" for entry in result.classes]
    more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    count = "" if result.segments is None else f" ({len(result.segments)} segments)"
    return (", ".join(found[:_SHOWN]) + more or "none of the classes") + count
