"""A training as TensorBoard shows it: event files beside metrics.json, and through them Weights & Biases."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from numpy.typing import NDArray
from PIL import Image

from maft.drawing import Maps, overlay, panoptic_maps
from maft.errors import UserError
from maft.evaluation.evaluators import Evaluator
from reason.imagefile import read_rgb

logger = logging.getLogger(__name__)

SHOWN = 4
"""Images of each data set whose predictions are shown."""
_SIDE = 512
"""Longest side, in pixels, that they are shown with."""


class Events:
    """Writes what `maft.training.log` logs, and images of predictions, as TensorBoard's event files.

    Nothing is written before `begin`, which the main process alone calls.

    Args:
        folder: OUTPUT_DIR.
        project: the project of Weights & Biases that mirrors them; "" for none.
        config: the configuration as text, for Weights & Biases.
    """

    def __init__(self, folder: str | Path, project: str = "", config: str = "") -> None:
        self.folder, self.project, self.config = Path(folder), project, config
        self._writer: Any = None
        self._wandb: Any = None

    def begin(self, start: int) -> None:
        """Open the files.

        Args:
            start: finished steps; events of an interrupted run after them are not shown any more.

        Raises:
            UserError: a project is named, but wandb or tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            if self.project:
                raise UserError("SOLVER.WANDB_PROJECT: needs tensorboard as well: pip install tensorboard") from None
            logger.warning("tensorboard is not installed: metrics.json is written, event files are not")
            return
        if self.project:
            self._wandb = _begin_wandb(self.folder, self.project, self.config)
        self._writer = SummaryWriter(str(self.folder), purge_step=start + 1 if start else None)

    def add(self, line: Mapping[str, Any]) -> None:
        """One line of metrics.json: "iteration", and figures by name; those that are not finite are left out."""
        if self._writer is None:
            return
        for name, value in line.items():
            if name != "iteration" and isinstance(value, int | float) and math.isfinite(value):
                self._writer.add_scalar(_tag(name), value, line["iteration"])
        self._writer.flush()

    def add_image(self, tag: str, image: NDArray[np.uint8], iteration: int) -> None:
        """An (H, W, 3) uint8 RGB image, by a tag such as "DATASET/val_0001"."""
        if self._writer is not None:
            self._writer.add_image(tag, image, iteration, dataformats="HWC")
            self._writer.flush()

    def close(self) -> None:
        """Write what is buffered, and end the run of Weights & Biases."""
        if self._writer is not None:
            self._writer.close()
        if self._wandb is not None:
            self._wandb.finish()


class ShowingEvaluator:
    """An evaluator that also keeps the overlays of a data set's first images, as far as this process evaluates them.

    Args:
        evaluator: what does the work.
        files: of the images that are shown, as records name them.
        palette: one RGB colour in [0, 255] a class.
        overlays: gets an (H, W, 3) uint8 overlay by file.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        files: Sequence[str],
        palette: Sequence[tuple[int, int, int]],
        overlays: dict[str, NDArray[np.uint8]],
    ) -> None:
        self.evaluator, self.files, self.palette, self.overlays = evaluator, frozenset(files), palette, overlays

    @property
    def what(self) -> str:
        """See `Evaluator`."""
        return self.evaluator.what

    def process_one(self, input: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
        """See `Evaluator`."""
        record = self.evaluator.process_one(input, output)
        if input["file_name"] in self.files:
            maps = _maps(output)
            if maps is not None:
                # Data sets are evaluated on the stored grid, without the EXIF orientation.
                pixels = read_rgb(input["file_name"], obey_exif=False)
                self.overlays[input["file_name"]] = _small(overlay(pixels, maps, self.palette))
        return record

    def summarise(self, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """See `Evaluator`."""
        return self.evaluator.summarise(records)


class Shown:
    """Overlays of the first images of every data set of one evaluation; `evaluator` is for `maft.run.evaluate_all`.

    Args:
        build: makes the evaluator of a data set from config, name and records.
        palette_of: the colours of a data set's classes.
    """

    def __init__(
        self,
        build: Callable[[CfgNode, str, Sequence[Mapping[str, Any]]], Evaluator],
        palette_of: Callable[[str], Sequence[tuple[int, int, int]]],
    ) -> None:
        self._build, self._palette_of = build, palette_of
        self._of: dict[str, dict[str, NDArray[np.uint8]]] = {}

    def evaluator(self, cfg: CfgNode, dataset: str, records: Sequence[Mapping[str, Any]]) -> Evaluator:
        """The evaluator that the config asks for, which keeps overlays."""
        files = [record["file_name"] for record in records[:SHOWN]]
        overlays = self._of.setdefault(dataset, {})
        return ShowingEvaluator(self._build(cfg, dataset, records), files, self._palette_of(dataset), overlays)

    def hand_to(self, events: Events, iteration: int) -> None:
        """Write the overlays as events, tagged "DATASET/STEM"."""
        for dataset, overlays in self._of.items():
            for file, image in overlays.items():
                events.add_image(f"{dataset}/{Path(file).stem}", image, iteration)


def _maps(output: Mapping[str, Any]) -> Maps | None:
    """The panoptic segments of an output, else its classes; None where there are neither."""
    if "panoptic_seg" in output:
        ids, segments = output["panoptic_seg"]
        return panoptic_maps(ids.cpu().numpy(), {segment["id"]: segment["category_id"] for segment in segments})
    if "class_maps" in output:
        classes = output["class_maps"].labels().cpu().numpy().astype(np.int32)
        return Maps(classes, classes)
    return None


def _small(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    return np.asarray(image)


def _tag(name: str) -> str:
    """Losses and settings under headings of their own, metrics under their data set's."""
    if "/" in name:
        return name
    return f"losses/{name}" if "loss" in name else f"training/{name}"


def _begin_wandb(folder: Path, project: str, config: str) -> Any:
    try:
        import wandb
    except ImportError:
        raise UserError(
            f"SOLVER.WANDB_PROJECT {project}: wandb is not installed; pip install wandb, or leave the key empty"
        ) from None
    # One run a folder: a resumed training goes on in it.
    identifier = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    return wandb.init(
        project=project,
        dir=str(folder),
        name=folder.resolve().name,
        id=identifier,
        resume="allow",
        config={"config": config},
        sync_tensorboard=True,
    )
