"""One picture through the network, and its result into files."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from numpy.typing import NDArray
from PIL import Image

from maft.data import InferenceMapper
from maft.drawing import NONE, Maps, overlay, panoptic_maps, shares
from maft.files import replacing, write_label_map, write_text
from maft.legend import compose
from maft.meta_arch import MAFT_Plus, build_network
from maft.weights.loading import load_for_evaluation
from maft.weights.seeding import SEEDED
from reason.vocabulary import Vocabulary

from .inputs import Targets

logger = logging.getLogger(__name__)

DATASET = "your pictures"
"""The name under which the user's vocabulary is registered; progress bars show it."""

ALARM = "Seeded weights: random numbers stand in for the published ones. This segmentation MEANS NOTHING."

_RESULT_PIXELS = 2**21
"""Larger pictures are labelled at this size: at 48 megapixels class maps would take 190 MB a class, and the network,
whose input has about one megapixel, knows no finer detail."""
_JPEG_QUALITY = 90
_AFTER_LATIN = 0x250
_SOURCES = ("plain", "image", "generic_missing_file", "generic_no_class")


@dataclass(frozen=True)
class Result:
    """What was found in one picture.

    Attributes:
        image: its file.
        size: (height, width) of the picture.
        maps: classes and segments, `NONE` and 0 where there are none; of the picture's size or, where that is more than
            two megapixels, of about two.
        segments: those of a panoptic result, with id, class index and whether it is countable; None of a semantic one.
        source: what the classes were prompted with: "plain", "image" or why "generic"; see `TextSource.usage`.
    """

    image: str
    size: tuple[int, int]
    maps: Maps
    segments: list[dict[str, Any]] | None
    source: str


class Segmenter:
    """The network with a vocabulary of the user's.

    Args:
        cfg: of `maft.config.build_config`.
        vocabulary: the classes.
        panoptic: whether results are panoptic segments instead of a class map.

    Raises:
        UserError: the config does not build, or its weights cannot be loaded.
    """

    def __init__(self, cfg: CfgNode, vocabulary: Vocabulary, *, panoptic: bool) -> None:
        model = build_network(cfg)
        assert isinstance(model, MAFT_Plus)
        load_for_evaluation(model, cfg.MODEL.WEIGHTS)
        self.model, self.vocabulary, self.panoptic = model, vocabulary, panoptic
        self.weights: str = cfg.MODEL.WEIGHTS
        self._mapper = InferenceMapper.from_config(cfg, obey_exif=True)
        self._shrinking_announced = False
        _register(vocabulary)

    @property
    def alarm(self) -> str:
        """What must stand over every result; "" if nothing must."""
        return ALARM if self.weights == SEEDED else ""

    def warm_up(self) -> None:
        """Encode the prompts that all pictures share."""
        self.model.text.warm_up(DATASET, self.vocabulary.synonyms)

    def __call__(self, image: str) -> Result:
        """Segment one picture.

        Raises:
            UserError: it cannot be read, or has no reasons.
            TripletError: its reasons are malformed.
        """
        record = self._mapper({"file_name": image, "meta": {"dataname": DATASET}})
        size = (record["height"], record["width"])
        record["height"], record["width"] = self._result_size(image, size)
        before = self.model.text.usage()
        with torch.inference_mode():
            output = self.model([record])[0]
        after = self.model.text.usage()
        source = next((kind for kind in _SOURCES if after.get(kind, 0) > before.get(kind, 0)), "")
        if not self.panoptic:
            classes = output["sem_seg"].argmax(dim=0).cpu().numpy().astype(np.int32)
            return Result(image, size, Maps(classes, classes), None, source)
        ids, infos = output["panoptic_seg"]
        maps = panoptic_maps(ids.cpu().numpy(), {info["id"]: info["category_id"] for info in infos})
        return Result(image, size, maps, list(infos), source)

    def _result_size(self, image: str, size: tuple[int, int]) -> tuple[int, int]:
        pixels = size[0] * size[1]
        if pixels <= _RESULT_PIXELS:
            return size
        if not self._shrinking_announced:
            self._shrinking_announced = True
            logger.warning(
                "%s: has %.0f megapixels; pictures above 2 are labelled at 2, their label maps enlarged to full size",
                image,
                pixels / 1e6,
            )
        scale = math.sqrt(_RESULT_PIXELS / pixels)
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

    def write(self, result: Result, files: Targets) -> None:
        """Write label map, overlay and facts, each aside and renamed into place; the facts come last.

        Raises:
            UserError: a file cannot be written.
        """
        labels = result.maps.classes if result.segments is None else result.maps.segments
        height, width = result.size
        if labels.shape != result.size:
            labels = np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
        write_label_map(labels, files.label_map)
        picture = self._draw(result)
        with replacing(files.overlay) as stream:
            picture.save(stream, format="JPEG", quality=_JPEG_QUALITY)
        write_text(files.facts, json.dumps(self.facts(result), ensure_ascii=False, indent=2) + "\n")

    def _draw(self, result: Result) -> Image.Image:
        height, width = result.maps.classes.shape
        # Not the mapper that feeds the network: its channels are in the order of INPUT.FORMAT.
        picture = Image.fromarray(InferenceMapper(obey_exif=True).read(result.image))
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        palette, found = self.vocabulary.palette, self.found(result)
        legend = [(f"{_drawable(name, index)} {percent(share)}", palette[index]) for index, name, share in found]
        nothing = _part_without_class(result.maps.classes)
        if nothing:
            legend.append((f"(none) {percent(nothing)}", (210, 210, 210)))
        return compose(overlay(np.asarray(picture), result.maps, palette), legend, self.alarm)

    def found(self, result: Result) -> list[tuple[int, str, float]]:
        """(class index, its first name, part of the picture in [0, 1]) of the classes that occur, largest first."""
        return [(index, self.vocabulary.synonyms[index][0], share) for index, share in shares(result.maps)]

    def facts(self, result: Result) -> dict[str, Any]:
        """What the JSON file of a picture says."""
        height, width = result.maps.classes.shape
        found: dict[str, Any] = {
            "image": result.image,
            "height": result.size[0],
            "width": result.size[1],
            "labelled_at": [height, width],
            "weights": self.weights,
            "prompts": result.source,
            "label_map": "class indices" if result.segments is None else "segment ids, 0 for none",
            "classes": [
                {"index": index, "name": name, "share": round(share, 6)} for index, name, share in self.found(result)
            ],
        }
        if result.segments is not None:
            found["without_class"] = round(_part_without_class(result.maps.classes), 6)
            found["segments"] = [self._segment(segment, result.maps.segments) for segment in result.segments]
        if self.alarm:
            found["warning"] = self.alarm
        return found | {"vocabulary": [", ".join(names) for names in self.vocabulary.synonyms]}

    def _segment(self, segment: Mapping[str, Any], ids: NDArray[np.int32]) -> dict[str, Any]:
        index = segment["category_id"]
        return {
            "id": segment["id"],
            "index": index,
            "name": self.vocabulary.synonyms[index][0],
            "thing": segment["isthing"],
            "share": round(float((ids == segment["id"]).mean()), 6),
        }


def percent(share: float) -> str:
    """A part in (0, 1] for people: what occurs is not 0.0 %, and what is not all is not 100.0 %."""
    if share < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= share < 1 else f"{share:.1%}"


def _part_without_class(classes: NDArray[np.int32]) -> float:
    return float((classes == NONE).mean())


def _drawable(name: str, index: int) -> str:
    """The name, with the class index where Pillow's own font may lack its letters: it has Latin ones only."""
    return name if all(ord(letter) < _AFTER_LATIN for letter in name) else f"{name} [class {index}]"


def _register(vocabulary: Vocabulary) -> None:
    """Make the vocabulary a data set that the model can be asked for; an earlier one is forgotten."""
    MetadataCatalog.pop(DATASET, None)
    MetadataCatalog.get(DATASET).set(
        stuff_classes=[",".join(entry.synonyms) for entry in vocabulary.classes],
        thing_dataset_id_to_contiguous_id={index: index for index in sorted(vocabulary.thing_indices)},
    )
