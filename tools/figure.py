"""A comparison for a paper: image, ground truth and the results of several runs, side by side, as PDF, PNG or SVG.

    python -m tools.figure names=out/A reasons=out/B --dataset NAME --images 2007_000033 2007_000042 --output fig.pdf
    python -m tools.figure names=out/A reasons=out/B --dataset NAME --best 4 --image-reasons FOLDER --output fig.png

Runs are output folders with label maps (train_net.py with TEST.SAVE_PREDICTIONS True, or tools.evaluate), TITLE=FOLDER
each. --best N takes the images on which the last run is ahead of the first by most. With --image-reasons the reasons
that gained most stand under each row.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from numpy.typing import NDArray

from maft.data import dataset_names, register_all, register_modules
from maft.data.specs import counted_classes
from maft.drawing import NONE, Maps, agreement, overlay
from maft.errors import UserError, run_command, run_process
from maft.files import replacing, user_path
from maft.meta_arch.vocabularies import registered_vocabulary
from reason.imagefile import ImageFileError, read_rgb
from reason.suggest import did_you_mean
from reason.vocabulary import Vocabulary

from .commands import command, described
from .diagnose.lists import read_list
from .diagnose.saved import Truth

logger = logging.getLogger(__name__)

FORMATS = (".pdf", ".png", ".svg")
_INCHES, _DPI = 2.2, 200
_REASONS, _LEGEND_COLUMNS, _LEGEND_CLASSES = 2, 6, 24
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Row:
    """One image of the figure.

    file: the image.
    label: (H, W) class indices of the ground truth, `maft.drawing.NONE` where nothing counts.
    found: (H, W) class indices of each run.
    """

    file: str
    label: NDArray[np.int32]
    found: tuple[NDArray[np.int32], ...]

    def agreement(self, run: int) -> float:
        """Part of the counted pixels that a run has right."""
        return float(agreement(Maps(self.found[run], self.found[run]), Maps(self.label, self.label)))


def read_rows(truth: Truth, runs: Sequence[Path], stems: Sequence[str], best: int) -> list[Row]:
    """The rows of the figure.

    Args:
        truth: the data set.
        runs: output folders.
        stems: names of the images, without folder and suffix; empty to choose.
        best: how many to choose, those on which the last run is ahead of the first by most.

    Raises:
        UserError: an image that is none of the data set's, or predictions that cannot be used.
    """
    files = {Path(record["file_name"]).stem: record["file_name"] for record in truth.records}
    for stem in stems:
        if stem not in files:
            raise UserError(f"--images {stem}: is no image of {truth.name}{did_you_mean(stem, sorted(files))}")
    only = [files[stem] for stem in stems] or None
    rows: list[Row] = []
    for together in zip(*(truth.predictions(run, only) for run in runs), strict=True):
        record, _, label = together[0]
        marked = np.where(label == truth.ignore, NONE, label).astype(np.int32)
        rows.append(Row(record["file_name"], marked, tuple(found for _, found, _ in together)))
        if not stems:
            rows = sorted(rows, key=lambda row: row.agreement(0) - row.agreement(len(runs) - 1))[:best]
    return sorted(rows, key=lambda row: stems.index(Path(row.file).stem)) if stems else rows


def gained(row: Row, vocabulary: Vocabulary, folder: Path | None) -> list[str]:
    """The reasons of the classes that the last run found more of than the first, most first."""
    if folder is None:
        return []
    present = frozenset(np.unique(row.label).tolist()) - {NONE}
    reasons = read_list(folder, row.file, vocabulary.synonyms, present).reasons
    gains = []
    for index, reason in reasons.items():
        inside = row.label == index
        gain = int((row.found[-1][inside] == index).sum()) - int((row.found[0][inside] == index).sum())
        if gain > 0:
            name = vocabulary.classes[index].synonyms[0]
            gains.append((gain, f"{name}: {', '.join(reason.attributes[:3])}"))
    return [text for _, text in sorted(gains, reverse=True)[:_REASONS]]


def draw(rows: Sequence[Row], titles: Sequence[str], vocabulary: Vocabulary, path: Path, reasons: Path | None) -> None:
    """Write the figure.

    Args:
        rows: the images.
        titles: of the runs.
        vocabulary: for names and colours.
        path: PDF, PNG or SVG, by its suffix.
        reasons: folder of the images' reasons, or None.

    Raises:
        UserError: an image cannot be read, or the file cannot be written.
        TripletError: a malformed reason file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    columns = ["image", "ground truth", *titles]
    figure = Figure(figsize=(_INCHES * len(columns), _INCHES * (len(rows) + 0.4)), layout="constrained")
    FigureCanvasAgg(figure)
    shown: dict[int, None] = {}
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, axes in zip(rows, grid, strict=True):
        try:
            pixels = read_rgb(row.file, obey_exif=False)
        except ImageFileError as error:
            raise UserError(str(error)) from error
        maps = (row.label, *row.found)
        shown |= dict.fromkeys(number for labels in maps for number in np.unique(labels).tolist() if number != NONE)
        panels = [pixels, *(overlay(pixels, Maps(labels, labels), vocabulary.palette) for labels in maps)]
        for place, (axis, panel) in enumerate(zip(axes, panels, strict=True)):
            axis.imshow(panel, interpolation="none")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if place >= 2:
                axis.set_xlabel(f"{row.agreement(place - 2):.0%} right", fontsize=7)
            if row is rows[0]:
                axis.set_title(columns[place], fontsize=9)
        axes[0].set_xlabel("\n".join(gained(row, vocabulary, reasons)), fontsize=6, loc="left")
    legend = []
    for number in sorted(shown)[:_LEGEND_CLASSES]:
        red, green, blue = (part / 255 for part in vocabulary.palette[number])
        legend.append(Patch(color=(red, green, blue), label=vocabulary.classes[number].synonyms[0]))
    if len(shown) > _LEGEND_CLASSES:
        logger.warning("the legend names %d of the %d classes shown", _LEGEND_CLASSES, len(shown))
    figure.legend(handles=legend, loc="outside lower center", ncols=_LEGEND_COLUMNS, fontsize=7, frameon=False)
    with replacing(path) as stream:
        figure.savefig(stream, format=path.suffix.lower()[1:], dpi=_DPI, bbox_inches="tight", pad_inches=0.03)


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options; `runs` are pairs of title and folder."""
    parser = argparse.ArgumentParser(
        prog=command("figure"), description=described(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="TITLE=OUTPUT_DIR", help="one column each, in this order")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a registered data set with label maps")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--images", nargs="+", default=[], metavar="STEM", help="which images, one row each")
    which.add_argument("--best", type=int, metavar="N", help="the N images that gained most")
    parser.add_argument("--image-reasons", type=user_path, metavar="FOLDER", help="reasons of images, <stem>.json each")
    parser.add_argument("--output", type=user_path, required=True, metavar="FILE", help="ends in .pdf, .png or .svg")
    parser.add_argument("--register", nargs="*", default=[], metavar="MODULE", help="modules that register data sets")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(words)
    if options.output.suffix.lower() not in FORMATS:
        parser.error(f"--output {options.output}: end it in {', '.join(FORMATS)}")
    if options.best is not None and options.best < 1:
        parser.error(f"--best {options.best}: give a whole number, at least 1")
    pairs = [text.rpartition("=") for text in options.runs]
    options.runs = [(title or Path(folder).name, user_path(folder)) for title, _, folder in pairs]
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parse_arguments(words)

    def body() -> None:
        register_all()
        register_modules(options.register)
        if options.dataset not in DatasetCatalog.list():
            hint = did_you_mean(options.dataset, dataset_names())
            raise UserError(f"--dataset {options.dataset}: not registered{hint}")
        titles, folders = zip(*options.runs, strict=True)
        rows = read_rows(Truth.of(options.dataset), folders, options.images, options.best or 0)
        background = MetadataCatalog.get(options.dataset).get("background")
        vocabulary = counted_classes(registered_vocabulary(options.dataset, "--dataset"), background)
        draw(rows, titles, vocabulary, options.output, options.image_reasons)
        print(options.output)

    return run_command(body, debug=options.debug)


if __name__ == "__main__":
    run_process(main)
