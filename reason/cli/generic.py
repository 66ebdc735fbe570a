"""`python -m reason generic`: one file of reasons for all classes of a vocabulary."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

from reason.cli.options import (
    add_asking,
    add_engine,
    add_run,
    add_what,
    engine_options,
    read_prompts,
    task_options,
)
from reason.cli.running import Plan, carry_out
from reason.engines.interface import EngineInfo
from reason.errors import ReasonError
from reason.files import user_path, write_text
from reason.jsonfile import JsonError, read_json
from reason.runs.jobs import GenericJob
from reason.runs.store import STATE_FOLDER, ResultStore
from reason.vocabulary import read_vocabulary

RESULTS = Path("reason_data", "general_reason")
_RECORD = "written.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `python -m reason generic`."""
    parser.description = (
        "Let a model say of every class of a vocabulary, without an image, by which category, sub-category and visual "
        "attributes it is known. Class by class, so that it can be interrupted and continues; the file is written when "
        "every class has its reason, since the segmentor needs all of them."
    )
    what = add_what(parser)
    what.add_argument(
        "--output",
        type=user_path,
        metavar="FILE",
        help=f"default: {RESULTS}/<vocabulary>_class_reason.json",
    )
    add_engine(parser)
    add_asking(parser, images=False)
    add_run(parser, unit="classes")


def state_folder(target: Path) -> Path:
    """Where the results of single classes are kept for a generic file."""
    return target.parent / STATE_FOLDER / target.stem


def is_foreign(target: Path) -> bool:
    """Whether there is a generic file that this command has not written as it is."""
    try:
        content = target.read_bytes()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ReasonError(f"{target}: cannot be read ({error.strerror}); name another --output") from error
    try:
        return bool(read_json(state_folder(target) / _RECORD)["sha256"] != hashlib.sha256(content).hexdigest())
    except (JsonError, KeyError, TypeError):
        return True


def run(arguments: argparse.Namespace) -> int:
    """The body of `python -m reason generic`; returns the exit status.

    Raises:
        ReasonError, VocabularyError, TripletError: see `reason.errors`.
    """
    job = GenericJob(read_vocabulary(arguments.vocabulary), read_prompts(arguments.prompts), task_options(arguments))
    target = arguments.output or RESULTS / f"{job.vocabulary.name}_class_reason.json"
    if target.suffix.lower() != ".json" or target.is_dir():
        raise ReasonError(f"--output {target}: name the file to write, such as {target}/classes.json")
    if is_foreign(target) and not (arguments.resume or arguments.dry_run):
        raise ReasonError(
            f"{target}: exists, and comes from elsewhere (published, or changed by hand); --resume replaces it when "
            "all classes are done, or name another --output"
        )

    def place(info: EngineInfo) -> tuple[Path, Path]:
        return state_folder(target) / "classes", state_folder(target)

    def finish(store: ResultStore) -> None:
        job.assemble(store, target)
        digest = hashlib.sha256(target.read_bytes()).hexdigest()
        write_text(store.state / _RECORD, json.dumps({"file": target.name, "sha256": digest}) + "\n")
        sys.stdout.write(f"{target} is written\n")

    plan = Plan(
        kind=arguments.engine,
        options=engine_options(arguments),
        work=job.work(),
        vocabulary=job.vocabulary,
        provenance=job.provenance,
        place=place,
        constant_text=job.constant_text(),
        answer_tokens=job.answer_tokens(),
        note={"target": str(target), "total": len(job.vocabulary), "unit": "class"},
    )
    return carry_out(plan, arguments, finish=finish)
