"""`python -m reason check`: is a reason file as the segmentor needs it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping

from reason.asking.aligner import DEFAULT_MODEL, sentence_embedding
from reason.check import FIRST, check_reasons, read_reasons, ruler
from reason.errors import ReasonError
from reason.files import user_path
from reason.similarity import nearness
from reason.triplets import Reason
from reason.vocabulary import Vocabulary, load_vocabulary

EXIT_FINDINGS = 1
_PAIRS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.description = (
        "Checks a file of generic reasons, or of one image: one line per finding. Exit status 0: nothing found; 1: "
        "something; 2: the file cannot be read."
    )
    parser.add_argument("file", type=user_path, metavar="FILE", help="generic or image-specific reasons, JSON")
    parser.add_argument("--vocabulary", metavar="NAME", help="what the file is for: a known name, or a file of classes")
    parser.add_argument(
        "--similarity",
        action="store_true",
        help="also say how near classes lie to one another in the aligner's sentence embedding, by names and with "
        "their reasons, and list the nearest pairs (needs --vocabulary, and .venv-reason)",
    )
    parser.add_argument(
        "--aligner", type=os.path.expanduser, default=DEFAULT_MODEL, metavar="MODEL", help="default: %(default)s"
    )


def run(arguments: argparse.Namespace) -> int:
    """The body of `python -m reason check`; returns the exit status.

    Raises:
        TripletError, VocabularyError: the file or the vocabulary cannot be read.
    """
    vocabulary = load_vocabulary(arguments.vocabulary) if arguments.vocabulary else None
    if arguments.similarity and vocabulary is None:
        raise ReasonError("--similarity: name the classes with --vocabulary")
    reasons, generic = read_reasons(arguments.file)
    measure = ruler()
    findings = check_reasons(reasons, vocabulary, generic=generic, measure=measure)
    for finding in findings:
        sys.stdout.write(f"{arguments.file}: {finding.name}: {finding.rule}: {finding.problem}\n")
    kind = "generic" if generic else "image-specific"
    sys.stdout.write(
        f"{len(reasons)} {kind} reasons, {len(findings)} findings; length counted in {measure.unit}"
        f"{'' if vocabulary else '; not held against a vocabulary'}\n"
    )
    if arguments.similarity and vocabulary is not None:
        _say_similarity(vocabulary, reasons, arguments.aligner)
    return EXIT_FINDINGS if findings else 0


def _say_similarity(vocabulary: Vocabulary, reasons: Mapping[str, Reason], model: str) -> None:
    found = nearness(vocabulary, reasons, sentence_embedding(model))
    if found is None:
        sys.stdout.write("similarity: fewer than two classes have an entry\n")
        return
    sys.stdout.write(
        f"similarity of a class to its nearest other class, mean over {found.classes}: {found.names:.3f} by names, "
        f"{found.reasons:.3f} with the first {FIRST} attributes\n"
    )
    for name, other, by_names, with_reasons in found.pairs[:_PAIRS]:
        sys.stdout.write(f"  {name} / {other}: {by_names:.3f} by names, {with_reasons:.3f} with reasons\n")
