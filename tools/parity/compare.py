"""What it means for a recorded value and ours to be equal, and a report of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

TENSOR_BOUND = 1e-4
"""Relative error allowed up to the logits: norm of the difference over norm."""
RESULT_BOUND = 5e-4
"""Relative error allowed for results."""
PIXEL_BOUND = 1e-3
"""Part of the pixels that may differ in an arg-max or a segment map."""


def relative_error(ours: ArrayLike, recorded: ArrayLike) -> float:
    """Norm of the difference over the norm of the recorded array (over 1 where that is zero); infinite where shapes or
    non-finite entries differ."""
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(recorded, dtype=np.float64)
    if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    finite = np.isfinite(b)
    return float(np.linalg.norm(a[finite] - b[finite]) / (np.linalg.norm(b[finite]) or 1.0))


def differing_part(ours: ArrayLike, recorded: ArrayLike) -> float:
    """The part of the entries that differ; 1 where shapes do."""
    a, b = np.asarray(ours), np.asarray(recorded)
    return float(np.mean(a != b)) if a.shape == b.shape else 1.0


@dataclass(frozen=True)
class Check:
    """One comparison: what was compared, how far apart, how far apart it may be, and in which sense."""

    name: str
    error: float
    bound: float
    sense: str

    @property
    def holds(self) -> bool:
        """Whether the error is within its bound (NaN is not)."""
        return self.error <= self.bound

    def line(self) -> str:
        """The check as one line of a report."""
        return f"{'ok  ' if self.holds else 'FAIL'} {self.error:9.2e} <= {self.bound:7.1e}  {self.sense:8s} {self.name}"


@dataclass
class Report:
    """The checks of one case, in order."""

    checks: list[Check] = field(default_factory=list)

    def tensor(self, name: str, ours: ArrayLike, recorded: ArrayLike, bound: float = TENSOR_BOUND) -> None:
        """Compare by relative error."""
        self.checks.append(Check(name, relative_error(ours, recorded), bound, "relative"))

    def pixels(self, name: str, ours: ArrayLike, recorded: ArrayLike) -> None:
        """Compare maps of labels by the part of pixels that differ."""
        self.checks.append(Check(name, differing_part(ours, recorded), PIXEL_BOUND, "pixels"))

    def equal(self, name: str, ours: object, recorded: object) -> None:
        """Compare exactly."""
        self.checks.append(Check(name, float(ours != recorded), 0.0, "equal"))

    def unknown(self, name: str) -> None:
        """An entry that this tool cannot check counts as a failure: it must not pass unseen."""
        self.checks.append(Check(f"{name} (not an entry that this tool knows)", float("inf"), 0.0, "unknown"))

    @property
    def failures(self) -> list[Check]:
        """The checks that do not hold."""
        return [check for check in self.checks if not check.holds]


_STAGES = (
    ("backbone", "backbone/"),
    ("pixel decoder", "pixel_decoder/"),
    ("decoder's masks", "decoder/"),
    ("CLIP's features under masks", ("mask_pooled", "pooled_clip_feature", "img_feat")),
    ("text rows", "text_classifier"),
    ("class logits and scores", ("cdt", "pred_logits", "out_vocab_logits", "mask_cls", "aux_", "query_class")),
    ("class maps", "sem_seg"),
)
"""Stage -> how the names of its entries begin, the way to ask ("image/") taken off; statistics are left out."""
_ASKED = ("image/", "generic/", "plain/", "unpadded/")


def rounding(report: Report) -> list[str]:
    """How far a network in another precision is from the recorded one, a line a stage."""
    errors: dict[str, float] = {}
    pixels: dict[str, float] = {}
    for check in report.checks:
        short = next((check.name.removeprefix(way) for way in _ASKED if check.name.startswith(way)), check.name)
        if check.sense == "pixels" and short == "argmax":  # numbers of segments move up where one is missing
            pixels[check.name] = 1 - check.error
        if check.sense != "relative" or short.endswith(("stats", "per_query")):
            continue
        stage = next((stage for stage, begins in _STAGES if short.startswith(begins)), None)
        if stage is not None:
            errors[stage] = max(errors.get(stage, 0.0), check.error)
    ordered = [(stage, errors[stage]) for stage, _ in _STAGES if stage in errors]
    lines = [f"{stage:28s} largest relative error {error:.1e}" for stage, error in ordered]
    return [*lines, *(f"{name:28s} {100 * share:.2f}% of the pixels equal" for name, share in pixels.items())]
