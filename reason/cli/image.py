"""`python -m reason image`: one file of reasons for every image of a folder."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from reason.asking.aligner import DEFAULT_MODEL, DEFAULT_THRESHOLD
from reason.cli.options import (
    add_asking,
    add_engine,
    add_run,
    add_source_pixels,
    add_what,
    allow_source_pixels,
    engine_options,
    read_prompts,
    take_dataset,
    task_options,
)
from reason.cli.running import Plan, carry_out
from reason.engines.interface import EngineInfo
from reason.engines.opening import model_info
from reason.errors import ReasonError
from reason.files import user_path
from reason.labelmaps import label_files
from reason.runs.images import MAX_PIXELS, check_stems, list_images
from reason.runs.jobs import NO_ALIGNER, ImageJob
from reason.runs.provenance import model_name
from reason.runs.store import STATE_FOLDER
from reason.vocabulary import Vocabulary

RESULTS = Path("reason_data", "image_reason")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `python -m reason image`."""
    parser.description = (
        "Let a multimodal model look at every image of a folder and write what it sees, one file an image. Can be "
        "interrupted at any time, in whatever way; the same command continues."
    )
    what = add_what(parser, dataset=True)
    what.add_argument("--images", type=user_path, metavar="DIR", help="folder of images, or one image")
    what.add_argument("--recursive", action="store_true", help="images in the folders below --images, too")
    what.add_argument(
        "--output", type=user_path, metavar="DIR", help=f"of the results (default: {RESULTS}/<model>/<vocabulary>)"
    )
    what.add_argument(
        "--labels", type=user_path, metavar="DIR", help="only images that have a label map in this folder"
    )
    what.add_argument("--limit", type=int, metavar="N", help="the first N images only")
    what.add_argument(
        "--shard",
        type=_shard,
        default=(1, 1),
        metavar="I/N",
        help="every N-th image, beginning with the I-th of 1 to N",
    )
    add_engine(parser)
    add_asking(parser, images=True)
    asking = parser.add_argument_group("how names become classes, and images tokens")
    asking.add_argument(
        "--aligner",
        type=os.path.expanduser,
        default=DEFAULT_MODEL,
        metavar="MODEL",
        help=f"sentence-transformers model, or '{NO_ALIGNER}': spellings only (default: %(default)s)",
    )
    asking.add_argument(
        "--threshold",
        type=float,
        default=DEFAULT_THRESHOLD,
        metavar="S",
        help="least similarity (default: %(default)s)",
    )
    add_source_pixels(asking)
    asking.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help="larger images are made smaller; 784 pixels are a token (default: %(default)s)",
    )
    run_group = add_run(parser, unit="images")
    run_group.add_argument(
        "--ray", action="store_true", help="spread the images over the nodes of a running Ray cluster"
    )


def _shard(text: str) -> tuple[int, int]:
    try:
        part, parts = (int(word) for word in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: write I/N, such as 1/4") from None
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"{text}: the parts of {parts} are 1/{parts} to {parts}/{parts}")
    return part, parts


def labelled_images(images: Sequence[Path], labels: Path) -> Sequence[Path]:
    """Those of `images` that have a label map, as those of a data set that are evaluated.

    Raises:
        ReasonError: none has one, or the folder holds no label maps.
    """
    stems = {path.stem for path in label_files(labels)}
    chosen = [image for image in images if image.stem in stems]
    if not chosen:
        raise ReasonError(
            f"--labels {labels}: none of its {len(stems)} label maps belongs to one of the {len(images)} images"
        )
    return chosen


def chosen_images(images: Sequence[Path], arguments: argparse.Namespace) -> Sequence[Path]:
    """Those of `images` that --shard and --limit leave.

    Raises:
        ReasonError: a limit below 1.
    """
    part, parts = arguments.shard
    if arguments.limit is not None and arguments.limit < 1:
        raise ReasonError(f"--limit {arguments.limit}: at least 1")
    return images[part - 1 :: parts][: arguments.limit]


def image_job(arguments: argparse.Namespace, images: Sequence[Path], vocabulary: Vocabulary) -> ImageJob:
    """What the flags ask for, without a model.

    Raises:
        ReasonError, VocabularyError: a value that cannot be used.
    """
    return ImageJob(
        images={path.stem: path for path in images},
        vocabulary=vocabulary,
        prompts=read_prompts(arguments.prompts),
        options=task_options(arguments),
        aligner_model=arguments.aligner,
        threshold=arguments.threshold,
        max_pixels=arguments.max_pixels,
    )


def run(arguments: argparse.Namespace) -> int:
    """The body of `python -m reason image`; returns the exit status.

    Raises:
        ReasonError, VocabularyError, TripletError: see `reason.errors`.
    """
    allow_source_pixels(arguments)
    vocabulary = take_dataset(arguments, images="images", labels="labels", output="image_reasons")
    if arguments.images is None:
        raise ReasonError("--images: missing; name a folder of images, or a yaml file with --dataset")
    everything: Sequence[Path] = list_images(arguments.images, recursive=arguments.recursive)
    if arguments.labels is not None:
        everything = labelled_images(everything, arguments.labels)
    check_stems(everything)
    job = image_job(arguments, chosen_images(everything, arguments), vocabulary)
    options = engine_options(arguments)

    def place(info: EngineInfo) -> tuple[Path, Path]:
        folder = arguments.output or RESULTS / model_name(info.model) / job.vocabulary.name
        return folder, folder / STATE_FOLDER

    if arguments.ray:
        from reason.cli.on_cluster import run_on_cluster

        return run_on_cluster(arguments, job, options, lambda info: place(info)[0])
    if arguments.engine != "server":
        model_info(arguments.engine, options)  # what is wrong with it shows before the aligner's seconds of imports
    aligner = job.open_aligner()
    plan = Plan(
        kind=arguments.engine,
        options=options,
        work=job.work(aligner),
        vocabulary=job.vocabulary,
        provenance=lambda info: job.provenance(info, aligner),
        place=place,
        constant_text=job.constant_text(),
        answer_tokens=job.answer_tokens(),
        note={"images": str(arguments.images), "total": len(everything), "unit": "image"},
    )
    return carry_out(plan, arguments)
