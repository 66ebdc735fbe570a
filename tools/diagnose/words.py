"""A diagnosis as a paragraph of plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .scores import DEFINITIONS


def in_words(report: Mapping[str, Any]) -> str:
    """The report as a paragraph."""
    sentences = []
    for run in report["runs"]:
        scores = " and ".join(f"{run['mIoU'][name]:.2f} ({name})" for name in DEFINITIONS)
        gains = {name: added["mIoU_present"] for name, added in run["oracles_add"].items()}
        sentences.append(
            f"{run['run']} has mIoU {scores}. With its own regions and the right classes it would have "
            f"{gains['classes given']:+.2f} points of mIoU_present, with the right regions and its own classes "
            f"{gains['masks right']:+.2f}."
        )
        if given := run["oracles_add"].get("candidates given"):
            sentences.append(
                f"If only the classes that are in each image competed for its pixels, it would have "
                f"{given['mIoU_present']:+.2f} points."
            )
        if run["confusions"]:
            worst = run["confusions"][0]
            sentences.append(
                f"Its costliest confusion takes {worst['true']} for {worst['predicted']}: "
                f"{worst['mIoU_present']:.2f} points."
            )
        complete = run["oracles_add"].get("lists complete")
        if complete:
            sentences.append(
                f"Classes that the images' reasons do not list cost {complete['mIoU_present']:.2f} points "
                f"(lists: recall {_percent(report['lists']['recall'])}, precision "
                f"{_percent(report['lists']['precision'])})."
            )
    if report.get("attributes"):
        best, worst = report["attributes"][0], report["attributes"][-1]
        sentences.append(
            f"The attribute that helps most is '{best['attribute']}' of {best['class']} ({best['points']:+.2f} points "
            f"of pixel accuracy in its images); the least helpful is '{worst['attribute']}' of {worst['class']} "
            f"({worst['points']:+.2f})."
        )
    given = report.get("attributes given")
    if given:
        sentences.append(
            f"True attributes for the same lists of classes would add {given['adds']['mIoU_present']:+.2f} points "
            f"(reasons that differ: {given['replaced']}; images looked at: {given['images']})."
        )
    if "comparison" in report:
        found = report["comparison"]["mIoU"]["mIoU_present"]
        sure = "differ" if found["low"] > 0 or found["high"] < 0 else "cannot be told apart on these images"
        kept = [row["class"] for row in report["comparison"]["classes"] if row["holds_up"]]
        sentences.append(
            f"The second minus the first is {found['value']:+.2f} points of mIoU_present, 95% interval "
            f"{found['low']:+.2f} to {found['high']:+.2f}: the runs {sure}. "
            f"Classes whose difference holds up: {', '.join(kept) or 'none'}."
        )
    return " ".join(sentences)


def _percent(part: float | None) -> str:
    return "unknown" if part is None else f"{part:.0%}"
