"""The ways in which the mini world is evaluated: one network, whose classifier rows come from different texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .dataset import LIST_ONLY, MODEL, REASON_DATA, Layout
from .observer import LEVELS
from .results import DATASET

SegmentorName = Literal["maft", "sed"]
CONFIGS: Mapping[SegmentorName, tuple[str, str]] = {
    "maft": ("configs/mini/eval.yaml", "configs/mini/eval_reason.yaml"),
    "sed": ("configs/mini/sed_eval.yaml", "configs/mini/sed_eval_reason.yaml"),
}
"""Configuration files without and with reasons."""
WEIGHTS: Mapping[SegmentorName, str] = {"maft": "mini", "sed": "sed-mini"}
"""The names of the models whose weights ship."""


@dataclass(frozen=True)
class Method:
    """One evaluation.

    Attributes:
        name: its folder below the output, and its key in results.json.
        title: for people.
        reasons: with reasons, or class names alone.
        keys: KEY VALUE pairs beside the configuration file's.
        shown: the report shows its predictions.
        dataset: the registered name of what it is evaluated on.
        segmentor: MAFT+ or SED.
    """

    name: str
    title: str
    reasons: bool
    keys: Mapping[str, str] = field(default_factory=dict)
    shown: bool = False
    dataset: str = DATASET
    segmentor: SegmentorName = "maft"

    @property
    def config(self) -> str:
        """Its configuration file."""
        return CONFIGS[self.segmentor][self.reasons]

    @property
    def panoptic(self) -> bool:
        """Whether it gives segments as well; SED gives class maps alone."""
        return self.segmentor == "maft"


CLOSED = Method("closed", "names only, seen kinds alone", reasons=False, dataset="mini_closed_panoptic")
"""What the segmentor can do with what it was trained on: images without any other kind, and their names."""


def main_methods(layout: Layout) -> tuple[Method, ...]:
    """MAFT+: without reasons, with generic ones, with those of the image, in both modes."""
    specific = _image(layout, MODEL)
    return (
        Method("names", "names only", reasons=False, shown=True),
        Method("generic", "generic reasons", True, _generic(layout, MODEL), shown=True),
        Method("image", "image-specific reasons", True, specific, shown=True),
        Method("image_aligned", "image-specific, aligned", True, {**specific, "MODEL.REASON.MODE": "aligned"}),
    )


def sed_methods(layout: Layout) -> tuple[Method, ...]:
    """SED: without reasons, with generic ones, with those of the image."""
    generic, specific = _generic(layout, MODEL), _image(layout, MODEL)
    return (
        Method("sed_names", "SED, names only", reasons=False, shown=True, segmentor="sed"),
        Method("sed_generic", "SED, generic reasons", True, generic, segmentor="sed"),
        Method("sed_image", "SED, image-specific reasons", True, specific, shown=True, segmentor="sed"),
    )


def sweep_methods(layout: Layout) -> tuple[Method, ...]:
    """What if: simulated observers, from faultless to poor, and the model's list of classes with generic reasons."""
    methods = []
    for level in LEVELS:
        methods.append(Method(f"generic@{level}", "generic reasons", True, _generic(layout, level)))
        methods.append(Method(f"image@{level}", "image-specific reasons", True, _image(layout, level)))
    listed = "list of the image's classes, generic reasons"
    methods.append(Method(f"image@{LIST_ONLY}", listed, True, _image(layout, LIST_ONLY, MODEL)))
    return tuple(methods)


def _generic(layout: Layout, level: str) -> dict[str, str]:
    return {
        "MODEL.TEST_CLASS_REASON_JSON": str(layout.generic_reason(level)),
        "MODEL.REASON_DIR": "",
        "MODEL.REASON_DATA": REASON_DATA,
    }


def _image(layout: Layout, folder: str, generic: str | None = None) -> dict[str, str]:
    return {**_generic(layout, generic or folder), "MODEL.REASON_DIR": str(layout.reason_dir(folder))}
