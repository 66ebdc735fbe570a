"""What evaluations of the photographs left behind: results.json, and the predicted maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maft.errors import UserError
from reason.jsonfile import JsonError, read_json
from tools.pictures import Maps, panoptic_maps

_TASKS = {"sem_seg": "semantic", "panoptic_seg": "panoptic"}


@dataclass(frozen=True)
class Run:
    """One data set's folder in the output of one evaluation.

    Attributes:
        name: how the page calls it: after the configuration, and the output folder where that is not enough.
        folder: `OUT_DIR/inference/<data set>`.
        results: the content of results.json; empty where the evaluation did not end.
    """

    name: str
    folder: Path
    results: Mapping[str, Any]

    @property
    def dataset(self) -> str:
        """The data set's registered name."""
        return self.folder.name

    @property
    def seeded(self) -> bool | None:
        """Whether the weights were random ones; None if the evaluation did not say."""
        provenance = self.results.get("provenance", {})
        return provenance["weights_file"] is None if "weights_file" in provenance else None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks with a result or with saved predictions."""
        metrics = self.results.get("metrics", {})
        return tuple(task for task in _TASKS if task in metrics or (self.folder / task).is_dir())


def task_name(task: str) -> str:
    """The word for a task on the page."""
    return _TASKS[task]


def find_runs(out_dirs: Iterable[Path], prefix: str) -> list[Run]:
    """The evaluations of data sets whose name begins with `prefix`, in the order given.

    Raises:
        UserError: a folder holds none, or a results.json is damaged.
    """
    runs = []
    for out_dir in out_dirs:
        found = sorted(path for path in (out_dir / "inference").glob(f"{prefix}*") if path.is_dir())
        if not found:
            raise UserError(
                f"{out_dir}: holds no evaluation of the photographs (inference/{prefix}*); "
                "give the OUTPUT_DIR of one, or run bash eval_reason_base.sh photos"
            )
        runs += [_run(out_dir, folder) for folder in found]
    uses = Counter((run.name, run.dataset) for run in runs)
    return [run if uses[run.name, run.dataset] == 1 else replace(run, name=_long_name(run)) for run in runs]


def _run(out_dir: Path, folder: Path) -> Run:
    results = _results(folder / "results.json")
    config_file = results.get("provenance", {}).get("config_file")
    return Run(Path(config_file).stem if config_file else str(out_dir), folder, results)


def _long_name(run: Run) -> str:
    return f"{run.name} ({run.folder.parent.parent})"


def read_prediction(run: Run, task: str, stem: str, num_classes: int) -> Maps | str:
    """What a run predicted for one photograph, or why there is nothing to show, as a sentence.

    Args:
        task: "sem_seg": a map of class indices; "panoptic_seg": a COCO panoptic map, described in panoptic_seg.json.
        stem: the photograph's file name without suffix.
        num_classes: size of the vocabulary.
    """
    path = run.folder / task / f"{stem}.png"
    if not path.is_file():
        return "No prediction was saved: the evaluation did not reach this photograph, or did not save predictions."
    try:
        pixels = read_pixels(path)
        if task == "panoptic_seg":
            segments = decode_segments(pixels)
            return panoptic_maps(segments, _predicted_segments(run.folder / "panoptic_seg.json", path.name))
        if pixels.ndim != 2 or pixels.max() >= num_classes:
            return f"The prediction is no map of {num_classes} classes: {path.name}."
        return Maps(pixels, pixels)
    except (UserError, OSError, ValueError) as error:
        return f"The prediction cannot be shown: {error}."


def read_pixels(path: Path) -> NDArray[np.int32]:
    """The pixels of an image file, as stored: (H, W) or (H, W, channels)."""
    with Image.open(path) as image:
        return np.asarray(image).astype(np.int32)


def decode_segments(pixels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Segment ids (H, W) from a COCO panoptic picture (H, W, 3).

    Raises:
        ValueError: another shape.
    """
    if pixels.ndim != 3:
        raise ValueError("it is no colour picture, as a panoptic map is")
    return pixels[..., :3] @ np.array([1, 256, 65536], dtype=np.int32)


def segment_categories(document: Any, file_name: str) -> dict[int, int]:
    """Segment id to category, of one picture of a COCO panoptic document.

    Raises:
        ValueError: the document has no such picture, or is no such document.
    """
    try:
        for annotation in document["annotations"]:
            if annotation["file_name"] == file_name:
                return {int(info["id"]): int(info["category_id"]) for info in annotation["segments_info"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"the list of segments is damaged ({error})") from error
    raise ValueError(f"the list of segments has no {file_name}")


def _predicted_segments(path: Path, file_name: str) -> dict[int, int]:
    return segment_categories(_json(path), file_name)


def _results(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    content = _json(path)
    if not isinstance(content, dict) or not isinstance(content.get("metrics"), dict):
        raise UserError(f"{path}: holds no metrics; delete it and evaluate again")
    return content


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except JsonError as error:
        raise UserError(f"{path}: {error}") from error
