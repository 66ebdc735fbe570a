"""SED's designs of reasons on the mini world: how a class's attributes meet the image (docs/numerics_sed.md, 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from detectron2.data import DatasetCatalog
from tabulate import tabulate

from maft.data import load_dataset, register_custom
from maft.errors import UserError
from maft.text.planes import DESIGNS

from .dataset import Layout, prepare
from .methods import Method, sed_methods
from .results import COLUMNS, read_evaluation, scores_of, write_json
from .run import evaluate_methods
from .scenes import IGNORE_LABEL
from .world import GROUPS, vocabulary

OVERALL = "all"
"""Column of the mIoU over all classes."""


def design_methods(layout: Layout) -> tuple[Method, ...]:
    """Class names alone, then every design with generic and with image-specific reasons."""
    names, *reasons = sed_methods(layout)
    methods = [replace(names, shown=False)]
    for method in reasons:
        for design in DESIGNS:
            keys = {**method.keys, "SED.ATTRIBUTES": design}
            title = f"{method.title}, {design}"
            methods.append(replace(method, name=f"{method.name}_{design}", title=title, keys=keys, shown=False))
    return tuple(methods)


def compare_designs(weights: Sequence[Path], output: Path, *, images: int, resume: bool) -> None:
    """Evaluate every design with every weight file, print the table, and write designs.json.

    Args:
        weights: of as many trainings; none: the file that ships.
        output: a folder a file is made in it.
        images: how many of the validation images, the first ones.
        resume: reuse finished evaluations.

    Raises:
        UserError: a file is missing or of another model, two files have one name, or there are not so many images.
    """
    layout = prepare(splits=("val",))["val"]
    name_of_images = _first(layout, images)
    methods = [replace(method, dataset=name_of_images) for method in design_methods(layout)]
    given: Mapping[str, Mapping[str, str]] = {_folder(path): {"MODEL.WEIGHTS": str(path)} for path in weights}
    if len(given) < len(weights):
        raise UserError("sed-designs: two weight files have one name and folder; the results would mix")
    scores: dict[str, list[Mapping[str, float]]] = {method.name: [] for method in methods}
    for name, keys in (given or {"shipped": {}}).items():
        evaluate_methods(methods, output / name, keys, resume=resume)
        for method in methods:
            results = read_evaluation(output / name / method.name, method.dataset, panoptic=False)
            overall = float(results["metrics"]["sem_seg"]["mIoU_reference"])
            scores[method.name].append({**scores_of(results), OVERALL: overall, "seconds": float(results["seconds"])})
    print(
        f"\n{table(methods, scores)}\n\n{images} images. mIoU in percent, mean ± standard deviation over weight files."
    )
    write_json(output / "designs.json", scores)


def _first(layout: Layout, images: int) -> str:
    """The registered name of a data set of so many validation images."""
    there = len(list(layout.images.glob("*.png")))
    if not 1 <= images <= there:
        raise UserError(f"--images {images}: the validation split has {there}; choose a number from 1 to that")
    name = f"mini_val_{images}_sem_seg"
    register_custom(name, vocabulary("val"), layout.images, layout.annotations, ignore_label=IGNORE_LABEL)
    DatasetCatalog.remove(name)
    DatasetCatalog.register(name, lambda: load_dataset(name)[:images])
    return name


def _folder(path: Path) -> str:
    """A name for a weight file's results: its own and its folder's, of which one says the seed."""
    return f"{path.absolute().parent.name}-{path.stem}"


def table(methods: Sequence[Method], scores: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """One row a method."""
    keys = (*COLUMNS, OVERALL, "seconds")
    rows = []
    for method in methods:
        found = scores[method.name]
        rows.append([method.title, *(_spread([values[key] for values in found]) for key in keys)])
    headers = ["", *(f"mIoU {group}" for group in GROUPS), "varying", "all classes", "seconds"]
    return str(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"
