"""Segment your own pictures by your own classes.

    python -m tools.segment photo.jpg --vocabulary "cat, dog, sofa"
    python -m tools.segment FOLDER 'more/*.png' --vocabulary classes.txt --output out/segment

Of every picture three files are written: NAME.png, the class index (with --panoptic the segment id) of each pixel;
NAME.overlay.jpg, to look at; NAME.json, the classes found and their shares.

Without --panoptic every pixel gets one of the classes that you name, the likeliest: name what else is in the picture,
too ("wall, floor, sky"), or it will be shared out among the rest.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode, get_cfg
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from maft.config import build_config
from maft.errors import USER_ERROR_STATUS, USER_ERRORS, UserError, one_line, run_command
from maft.run import check_weights, choose_device
from reason.triplets import load_generic
from reason.vocabulary import Vocabulary

from ..commands import command, described
from .inputs import Targets, find_images, mark_things, read_vocabulary, targets
from .segmenter import Result, Segmenter, percent

logger = logging.getLogger("tools.segment")

CONFIGS = {
    (False, False): "configs/semantic/eval_base.yaml",
    (False, True): "configs/semantic/eval_base_reason.yaml",
    (True, False): "configs/panoptic/eval.yaml",
    (True, True): "configs/panoptic/eval_pano_reason.yaml",
}
"""(--panoptic, with reasons) -> the config where none is named."""

_SHOWN = 8


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `images` and `opts` (KEY VALUE ...) are told apart."""
    parser = argparse.ArgumentParser(
        prog=command("segment"), description=described(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "words", nargs="+", metavar="IMAGE", help="pictures, folders, patterns; then KEY VALUE pairs of the config"
    )
    parser.add_argument(
        "--vocabulary",
        required=True,
        metavar="CLASSES",
        help='"cat, dog, sofa"; with synonyms "cat, kitten; dog, puppy"; a file of one class a line, or .json; '
        "or a benchmark's: pc59, ade150, ...",
    )
    parser.add_argument("--config-file", help=f"default: {CONFIGS[False, False]} or the one that fits the flags below")
    parser.add_argument("--generic", metavar="FILE", help="generic reasons of the classes: OpenSeg-R instead of MAFT+")
    parser.add_argument("--image-reasons", metavar="FOLDER", help="reasons of single pictures, <stem>.json each")
    parser.add_argument("--panoptic", action="store_true", help="tell the instances of countable classes apart")
    parser.add_argument("--things", metavar="CLASSES", help='the countable classes of --panoptic: "cat, dog"')
    parser.add_argument("--output", type=Path, default=Path("out/segment"), help="folder; default: out/segment")
    parser.add_argument("--debug", action="store_true", help="show the traceback of errors")
    parsed = parser.parse_intermixed_args(arguments)
    sections = set(get_cfg())
    # A picture may be called TEST.jpg: what exists is no key.
    first_key = next(
        (
            number
            for number, word in enumerate(parsed.words)
            if word.split(".")[0] in sections and not os.path.exists(word)
        ),
        len(parsed.words),
    )
    parsed.images, parsed.opts = parsed.words[:first_key], parsed.words[first_key:]
    return parsed


def read_config(arguments: argparse.Namespace) -> CfgNode:
    """The config that the flags and KEY VALUE pairs ask for; the pairs have the last word.

    Raises:
        UserError: a file or folder of reasons or the weights are missing, or see `maft.config.build_config`.
        TripletError: the generic reasons are malformed.
    """
    reasons = bool(arguments.generic or arguments.image_reasons)
    pairs = ["MODEL.META_ARCHITECTURE", "MAFT_Plus_Reason" if reasons else "MAFT_Plus"]
    if reasons:
        if arguments.generic:
            load_generic(arguments.generic)
        if arguments.image_reasons and not Path(arguments.image_reasons).is_dir():
            raise UserError(f"--image-reasons {arguments.image_reasons}: no such folder")
        pairs += ["MODEL.TEST_CLASS_REASON_JSON", arguments.generic or ""]
        # Where there are no generic reasons to fall back on, a picture without its own cannot be segmented.
        pairs += ["MODEL.REASON.FALLBACK", "generic" if arguments.generic else "error"]
        pairs += ["MODEL.REASON_DIR", arguments.image_reasons or "", "MODEL.REASON_DATA", ""]
        # Ready-made features belong to a benchmark's pictures, not to one's own of the same name.
        pairs += ["MODEL.REASON.FEATURE_DIR", ""]
    config_file = arguments.config_file or CONFIGS[arguments.panoptic, reasons]
    cfg = build_config(config_file, [*pairs, *arguments.opts])
    test = cfg.MODEL.MASK_FORMER.TEST
    test.SEMANTIC_ON = not arguments.panoptic
    if arguments.panoptic and not test.PANOPTIC_ON:
        logger.warning(
            "--panoptic: %s is of a semantic model; it is run as a panoptic one, which its published weights were not "
            "trained for (those of %s were)",
            config_file,
            CONFIGS[True, reasons],
        )
        test.PANOPTIC_ON = True
    check_weights(cfg)
    return cfg


def choose_vocabulary(arguments: argparse.Namespace) -> Vocabulary:
    """The user's classes, with a word on choices that surprise.

    Raises:
        UserError, VocabularyError: the classes, or the countable ones, are not given rightly.
    """
    vocabulary = read_vocabulary(arguments.vocabulary)
    if arguments.things is not None:
        if not arguments.panoptic:
            raise UserError("--things: goes with --panoptic")
        vocabulary = mark_things(vocabulary, arguments.things)
    elif arguments.panoptic and not vocabulary.thing_indices:
        logger.warning("no class is marked as countable, so each is one segment; name the countable ones with --things")
    if len(vocabulary) == 1 and not arguments.panoptic:
        logger.warning("one class only: every pixel will be '%s'; name what else there is", vocabulary.classes[0].name)
    return vocabulary


def segment_all(
    segmenter: Segmenter, images: Sequence[str], files: Sequence[Targets], errors: list[Exception], *, debug: bool
) -> None:
    """Segment the pictures, a line each.

    Args:
        errors: what goes wrong with single pictures is added to it; the others are done.

    Raises:
        UserError: a result cannot be written.
    """
    interval = 0.5 if sys.stderr.isatty() else 30.0
    bar = tqdm(total=len(images), unit="picture", mininterval=interval, disable=len(images) < 2)
    with bar, logging_redirect_tqdm():
        for image, target in zip(images, files, strict=True):
            try:
                result = segmenter(image)
            except USER_ERRORS as error:
                if debug:
                    traceback.print_exception(error)
                errors.append(error)
            else:
                segmenter.write(result, target)
                tqdm.write(f"{image}: {_summary(segmenter, result)}")
            bar.update()


def _summary(segmenter: Segmenter, result: Result) -> str:
    found = [f"{name} {percent(share)}" for _, name, share in segmenter.found(result)]
    more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    count = "" if result.segments is None else f" ({len(result.segments)} segments)"
    return (", ".join(found[:_SHOWN]) + more or "none of the classes") + count


def segment(arguments: argparse.Namespace) -> int:
    """Check everything that the user gave, then build the network and segment picture after picture."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    vocabulary = choose_vocabulary(arguments)
    if not arguments.images:
        raise UserError("no image named; give pictures before the KEY VALUE pairs")
    images = find_images(arguments.images)
    files = targets(images, arguments.output)
    cfg = read_config(arguments)
    choose_device(cfg, 1)
    segmenter = Segmenter(cfg, vocabulary, panoptic=arguments.panoptic)
    if not arguments.image_reasons:
        segmenter.warm_up()
    errors: list[Exception] = []
    try:
        segment_all(segmenter, images, files, errors, debug=arguments.debug)
        segmenter.model.text.flush()
        usage = ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in segmenter.model.text.usage().items())
        done = f"{len(images) - len(errors)} of {len(images)} pictures in {arguments.output}"
        print(f"{done}; prompts used: {usage or 'none'}")
        if segmenter.alarm:
            print(segmenter.alarm)
    finally:
        for error in errors:
            sys.stderr.write(f"error: {one_line(error)}\n")
    return USER_ERROR_STATUS if errors else 0


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = parse_arguments(words)
    return run_command(lambda: segment(arguments), debug=arguments.debug)
