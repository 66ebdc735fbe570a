"""`python -m reason check`: is a reason file as the segmentor needs it."""

from __future__ import annotations

import argparse
import sys

from reason.check import check_reasons, read_reasons, ruler
from reason.files import user_path
from reason.vocabulary import load_vocabulary

EXIT_FINDINGS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.description = (
        "Checks a file of generic reasons, or of one image: one line per finding. Exit status 0: nothing found; 1: "
        "something; 2: the file cannot be read."
    )
    parser.add_argument("file", type=user_path, metavar="FILE", help="generic or image-specific reasons, JSON")
    parser.add_argument("--vocabulary", metavar="NAME", help="what the file is for: a known name, or a file of classes")


def run(arguments: argparse.Namespace) -> int:
    """The body of `python -m reason check`; returns the exit status.

    Raises:
        TripletError, VocabularyError: the file or the vocabulary cannot be read.
    """
    vocabulary = load_vocabulary(arguments.vocabulary) if arguments.vocabulary else None
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
    return EXIT_FINDINGS if findings else 0
