"""Segment your own images by your own classes.

    python -m tools.segment photo.jpg --vocabulary "cat, dog, sofa"
    python -m tools.segment FOLDER 'more/*.png' --vocabulary classes.txt --output out/segment
    python -m tools.segment photo.jpg --vocabulary ade150 --model large --weights maftp_l.pth
    python -m tools.segment drawing.png --vocabulary "disc, grass" --model mini

Of every image three files are written: NAME.png, the class index (with --panoptic the segment id) of each pixel;
NAME.overlay.jpg, to look at; NAME.json, the classes found and their shares.

Without --panoptic every pixel gets one of the classes that you name, the likeliest: name what else is in the image,
too ("wall, floor, sky"), or it will be shared out among the rest.

KEY VALUE pairs after the images, such as MODEL.WEIGHTS my.pth INPUT.MIN_SIZE_TEST 640, and --config-file are those of
train_net.py; with them, detectron2 is needed.
"""

from __future__ import annotations

import argparse
import glob
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from maft.errors import USER_ERROR_STATUS, USER_ERRORS, UserError, one_line, run_command
from maft.files import check_folder, user_path
from maft.predictor import RESULT_PIXELS
from reason.imagefile import SUFFIXES, allow_pixels
from reason.runs.progress import Bar, several
from reason.vocabulary import Vocabulary

from ..commands import command, described
from .inputs import Targets, find_images, mark_things, read_vocabulary, targets
from .model import Choice, by_name
from .reasons import FALLBACKS, WORDS, Asked, ReasonPlan, generic_place, summary
from .results import Writer, line

if TYPE_CHECKING:
    from maft import Segmentor

logger = logging.getLogger("tools.segment")

SECTIONS = frozenset(
    "CUDNN_BENCHMARK DATALOADER DATASETS FLOAT32_PRECISION GLOBAL INPUT MODEL OUTPUT_DIR SED SEED SOLVER TEST VERSION "
    "VIS_PERIOD".split()
)
"""How the keys of a config begin."""

_MANY_SENTENCES = 500
"""Encoding so many shows how far it is."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `images` and `opts` (KEY VALUE ...) are told apart."""
    parser = argparse.ArgumentParser(
        prog=command("segment"), description=described(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "words", nargs="+", metavar="IMAGE", help="images, folders, patterns; then KEY VALUE pairs of the config"
    )
    parser.add_argument(
        "--vocabulary",
        required=True,
        metavar="CLASSES",
        help='"cat, dog, sofa"; with synonyms "cat, kitten; dog, puppy"; a file of one class a line, or .json; '
        "or a benchmark's: pc59, ade150, ...",
    )
    _add_model(parser.add_argument_group("model"))
    group = parser.add_argument_group("reasons")
    group.add_argument(
        "--generic",
        type=generic_place,
        metavar="FILE",
        help="generic reasons of the classes: OpenSeg-R instead of MAFT+; 'generic': those that come along",
    )
    group.add_argument(
        "--image-reasons",
        type=user_path,
        metavar="FOLDER",
        help="reasons of single images, <stem>.json each; an image without any there, or whose reasons name none of "
        "the classes, is asked with --generic, or with class names alone",
    )
    group = parser.add_argument_group("images and results")
    group.add_argument("--panoptic", action="store_true", help="tell the instances of countable classes apart")
    group.add_argument("--things", metavar="CLASSES", help='the countable classes of --panoptic: "cat, dog"')
    group.add_argument("--output", type=user_path, default=Path("out/segment"), help="folder; default: out/segment")
    group.add_argument("--recursive", action="store_true", help="look into the folders below, too")
    group.add_argument(
        "--max-source-pixels",
        type=int,
        metavar="N",
        help="open image files of up to so many pixels (default: 178956970; a small file can hold a huge image)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of errors")
    parsed = parser.parse_intermixed_args(arguments)
    first_key = next((number for number, word in enumerate(parsed.words) if _is_key(word)), len(parsed.words))
    parsed.images, parsed.opts = parsed.words[:first_key], parsed.words[first_key:]
    return parsed


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model", metavar="NAME", help="base (default), large, panoptic (default with --panoptic), mini, ..."
    )
    group.add_argument(
        "--weights",
        type=os.path.expanduser,
        metavar="FILE",
        help="its checkpoint, or 'seeded'; default: the published one in pretrained/",
    )
    group.add_argument("--device", metavar="DEVICE", help="cuda, cuda:1, cpu; default: a GPU where there is one")
    group.add_argument(
        "--config-file", type=os.path.expanduser, metavar="FILE", help="a config of train_net.py instead of --model"
    )


def _is_key(word: str) -> bool:
    """Whether a word begins the KEY VALUE pairs. An image may be called TEST.jpg: what exists is no key."""
    return word.split(".")[0] in SECTIONS and not _is_image(word)


def _is_image(word: str) -> bool:
    return word.lower().endswith(SUFFIXES) or os.path.exists(word)


def choose_vocabulary(arguments: argparse.Namespace) -> Vocabulary:
    """The user's classes, with a word on choices that surprise.

    Raises:
        UserError, VocabularyError: the classes, or the countable ones, are not given rightly.
    """
    vocabulary = read_vocabulary(arguments.vocabulary)
    sys.stderr.write(f"{vocabulary.summary}\n")
    if arguments.things is not None:
        if not arguments.panoptic:
            raise UserError("--things: goes with --panoptic")
        vocabulary = mark_things(vocabulary, arguments.things)
    elif arguments.panoptic and not vocabulary.thing_indices:
        logger.warning("no class is marked as countable, so each is one segment; name the countable ones with --things")
    if len(vocabulary) == 1 and not arguments.panoptic:
        logger.warning("one class only: every pixel will be '%s'; name what else there is", vocabulary.classes[0].name)
    return vocabulary


def choose_images(arguments: argparse.Namespace) -> list[str]:
    """The images to segment.

    Raises:
        UserError: there are none, or --max-source-pixels makes no sense.
    """
    if arguments.max_source_pixels is not None:
        if arguments.max_source_pixels < 1:
            raise UserError(f"--max-source-pixels {arguments.max_source_pixels}: a number of pixels above 0")
        allow_pixels(arguments.max_source_pixels)
    if not arguments.images:
        raise UserError("no image named; give images before the KEY VALUE pairs")
    for word in arguments.images:
        section, _, rest = word.partition(".")
        if section.upper() in SECTIONS and not _is_image(word) and not glob.glob(word):
            meant = ".".join([section.upper(), *([rest.upper() if rest.islower() else rest] if rest else [])])
            raise UserError(f"{word}: no such image; if a config key is meant, write it in capitals: {meant}")
    return find_images(arguments.images, recursive=arguments.recursive)


def choose_network(arguments: argparse.Namespace) -> Choice:
    """The network by its name or, where a config or keys of one are given, by these.

    Raises:
        UserError: see `by_name` and `by_config`; detectron2 is needed and missing; no folder of reasons.
    """
    if arguments.image_reasons is not None and not arguments.image_reasons.is_dir():
        raise UserError(f"--image-reasons {arguments.image_reasons}: no such folder")
    if not arguments.config_file and not arguments.opts:
        return by_name(arguments)
    try:
        from .from_config import by_config
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "maft", "reason", "tools", "openseg_r"):  # a fault of ours, not something to install
            raise
        raise UserError(
            f"--config-file and KEY VALUE pairs need {package}, which is not installed (docs/installation.md); "
            "--model NAME and --weights FILE do without"
        ) from error
    return by_config(arguments)


class Run:
    """Segments image after image.

    Args:
        segmentor: the network.
        vocabulary: the classes.
        plan: the reasons.
        writer: of the results.
        debug: show tracebacks.

    Attributes:
        kinds: what the images done so far were asked with, one of `reasons.WORDS` each.
        errors: what went wrong with single images; the others are done.
    """

    def __init__(
        self, segmentor: Segmentor, vocabulary: Vocabulary, plan: ReasonPlan, writer: Writer, *, debug: bool
    ) -> None:
        self._segmentor, self._vocabulary, self._writer = segmentor, vocabulary, writer
        self._shared = segmentor.read_reasons(plan.generic, vocabulary, None)
        self._debug = debug
        self._shrinking_announced = False
        self.kinds: list[str] = []
        self.errors: list[Exception] = []

    def warm_up(self) -> None:
        """Encode the sentences that images without reasons of their own share."""
        bar: Bar | None = None

        def report(done: int, total: int) -> None:
            nonlocal bar
            bar = bar or Bar(total, "sentence", quiet=total < _MANY_SENTENCES)
            bar.move_to(done)

        self._segmentor.classifier(self._vocabulary, self._shared, report)
        if bar is not None:
            bar.close()

    def all(self, images: Sequence[str], asked: Sequence[Asked | Exception], files: Sequence[Targets]) -> None:
        """Segment the images, a line each.

        Raises:
            UserError: a result cannot be written.
        """
        bar = Bar(len(images), "image", quiet=len(images) < 2)
        with logging_redirect_tqdm():
            for number, (image, reasons, target) in enumerate(zip(images, asked, files, strict=True), 1):
                self._one(image, reasons, target)
                bar.move_to(number, f"{len(self.errors)} failed" if self.errors else "")
        bar.close()

    def _one(self, image: str, asked: Asked | Exception, target: Targets) -> None:
        try:
            if isinstance(asked, Exception):
                raise asked
            seen = self._segmentor.look(image)
            result = seen.segment(self._vocabulary, self._shared if asked.file is None else asked.file)
        except USER_ERRORS as error:
            if self._debug:
                traceback.print_exception(error)
            self.errors.append(error)
            return
        self._announce_shrinking(image, result.label_map.size)
        self._writer.write(image, result, asked.kind, target)
        self.kinds.append(asked.kind)
        how = f" [{WORDS[asked.kind]}]" if asked.kind in FALLBACKS else ""
        tqdm.write(f"{image}: {line(result)}{how}")

    def _announce_shrinking(self, image: str, pixels: int) -> None:
        if pixels > RESULT_PIXELS and not self._shrinking_announced:
            self._shrinking_announced = True
            logger.warning(
                "%s: has %.0f megapixels; images above 2 are labelled at 2, their label maps enlarged to full size",
                image,
                pixels / 1e6,
            )


def announce(plan: ReasonPlan, asked: Sequence[Asked | Exception]) -> None:
    """Say before anything is computed where images have no reasons of their own, and classes no generic ones."""
    if plan.note:
        logger.warning("%s", plan.note)
    kinds = [one.kind for one in asked if isinstance(one, Asked)]
    if not set(kinds).isdisjoint(FALLBACKS):
        logger.warning("reasons: not all of the %s have their own: %s", several(len(kinds), "image"), summary(kinds))
        if "image" not in kinds:
            logger.warning("reasons: no image has its own; are folder and vocabulary those that the reasons are of?")


def segment(arguments: argparse.Namespace) -> int:
    """Check everything that the user gave, then build the network and segment image after image."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    vocabulary = choose_vocabulary(arguments)
    images = choose_images(arguments)
    files = targets(images, arguments.output)
    check_folder("--output", arguments.output)
    choice = choose_network(arguments)
    plan = ReasonPlan(choice.places, vocabulary)
    asked = plan.look_at_all(images)
    announce(plan, asked)
    segmentor, writer = choice.build(), Writer(choice.weights)
    run = Run(segmentor, vocabulary, plan, writer, debug=arguments.debug)
    if any(isinstance(one, Asked) and one.file is None for one in asked):
        run.warm_up()
    try:
        run.all(images, asked, files)
        segmentor.flush()
        done = f"{len(run.kinds)} of {several(len(images), 'image')} in {arguments.output}"
        print(f"{done}; asked with {summary(run.kinds)}", flush=True)
        if writer.alarm:
            print(writer.alarm)
    finally:
        for error in run.errors:
            sys.stderr.write(f"error: {one_line(error)}\n")
    return USER_ERROR_STATUS if run.errors else 0


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = parse_arguments(words)
    done = f"interrupted; the images finished before are in {arguments.output}"
    return run_command(lambda: segment(arguments), debug=arguments.debug, interrupted=done)
