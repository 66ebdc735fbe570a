"""Flags that `image` and `generic` share, and what they mean."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Literal

from reason.asking.messages import TaskOptions
from reason.asking.prompts import PromptSet, load_prompts
from reason.datasetfile import read_dataset_file
from reason.engines.interface import ENGINES, EngineOptions
from reason.errors import ReasonError
from reason.files import user_path
from reason.imagefile import allow_pixels
from reason.runs.images import MAX_PIXELS
from reason.vocabulary import Vocabulary, read_vocabulary

_DEFAULTS = TaskOptions()
_ENGINE = EngineOptions(model="")


def add_what(parser: argparse.ArgumentParser, *, dataset: bool = False) -> argparse._ArgumentGroup:
    """What is to be done: vocabulary and output, with room for more in the same group.

    Args:
        parser: of the command.
        dataset: a data-set file may name the vocabulary instead, see `add_dataset`.
    """
    group = parser.add_argument_group("what")
    if dataset:
        add_dataset(group)
    group.add_argument(
        "--vocabulary",
        required=not dataset,
        metavar="V",
        help="benchmark (voc20, pc59, ade150, pc459, ade847), file (.json, or .txt of one class a line), or list: "
        '"cat, dog, sofa", with synonyms "cat, kitten; dog, puppy"',
    )
    return group


def add_dataset(group: argparse._ActionsContainer) -> None:
    """A data set of the user's own, which names images, labels, vocabulary and the place of its reasons."""
    group.add_argument(
        "--dataset",
        type=user_path,
        metavar="FILE",
        help="yaml file of a data set (datasets/README.md), in place of the folders and the vocabulary",
    )


def take_dataset(arguments: argparse.Namespace, **folders: str) -> Vocabulary:
    """The vocabulary of --dataset or --vocabulary; folders that were not given are those of the data set.

    Args:
        arguments: of the command; changed.
        folders: option -> attribute of `DatasetFile`, such as labels="labels".

    Raises:
        ReasonError: neither a data set nor a vocabulary is named, or both.
        VocabularyError: what is named cannot be used.
    """
    if arguments.dataset is None:
        if arguments.vocabulary is None:
            raise ReasonError("--vocabulary: missing; name the classes, or a yaml file with --dataset")
        return read_vocabulary(arguments.vocabulary)
    if arguments.vocabulary is not None:
        raise ReasonError("--vocabulary: --dataset names the classes already; leave one of the two out")
    own = read_dataset_file(arguments.dataset)
    for option, attribute in folders.items():
        if getattr(arguments, option) is None:
            setattr(arguments, option, getattr(own, attribute))
    return own.vocabulary


def add_engine(parser: argparse.ArgumentParser) -> None:
    """The model, and what runs it."""
    group = parser.add_argument_group("model and engine")
    group.add_argument(
        "--model",
        type=os.path.expanduser,
        default="",
        metavar="DIR",
        help="folder of a Qwen2.5-VL; of a server: the name it has there",
    )
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default="vllm",
        help="vllm: in this process (default); server: an OpenAI-compatible endpoint; transformers: slow, small models",
    )
    group.add_argument("--url", metavar="URL", help="of the server, such as http://gpu1:8000/v1")
    group.add_argument(
        "--api-key-env",
        default=_ENGINE.api_key_env,
        metavar="NAME",
        help="variable with its key (default: %(default)s)",
    )
    group.add_argument(
        "--tensor-parallel", type=int, default=1, metavar="N", help="GPUs that share one copy of the model"
    )
    group.add_argument("--data-parallel", type=int, default=1, metavar="N", help="copies of the model")
    group.add_argument(
        "--gpu-memory",
        type=float,
        default=_ENGINE.gpu_memory,
        metavar="F",
        help="share of each GPU (default: %(default)s)",
    )
    group.add_argument(
        "--max-model-len", type=int, metavar="N", help="longest conversation in tokens (default: up to 16384)"
    )
    group.add_argument(
        "--dtype", default="auto", choices=("auto", "bfloat16", "float16", "float32"), help="default: auto"
    )
    group.add_argument(
        "--concurrency",
        type=int,
        default=_ENGINE.concurrency,
        metavar="N",
        help="requests at a time, of each copy (default: %(default)s)",
    )


def add_asking(parser: argparse.ArgumentParser, *, images: bool) -> None:
    """How the model is asked. All of these change the results, but for --attempts."""
    group = parser.add_argument_group("how the model is asked")
    if images:
        group.add_argument(
            "--candidates",
            choices=("free", "closed"),
            default="free",
            help="free: the model writes names and the aligner maps them, as in the paper (default); closed: it can "
            "write names of the vocabulary only",
        )
    group.add_argument(
        "--answer-form",
        choices=("json", "text"),
        default="json",
        help="json: the engine keeps the model to a schema (default); text: the A1/A2/A3 sentences of the published "
        "files",
    )
    group.add_argument(
        "--prompts", default="v1", metavar="VERSION", help="version, or a folder of templates (default: v1)"
    )
    group.add_argument(
        "--attributes",
        type=int,
        nargs=2,
        default=_DEFAULTS.attributes,
        metavar=("MIN", "MAX"),
        help="how many a class gets (default: {} {})".format(*_DEFAULTS.attributes),
    )
    group.add_argument(
        "--attempts",
        type=int,
        default=_DEFAULTS.attempts,
        metavar="N",
        help="answers a step is given (default: %(default)s)",
    )
    group.add_argument(
        "--temperatures",
        type=float,
        nargs="+",
        default=_DEFAULTS.temperatures,
        metavar="T",
        help="of the first attempt, the second, ... (default: {})".format(" ".join(map(str, _DEFAULTS.temperatures))),
    )
    group.add_argument("--top-p", type=float, default=_DEFAULTS.top_p, metavar="P", help="default: %(default)s")
    group.add_argument("--seed", type=int, default=_DEFAULTS.seed, metavar="N", help="default: %(default)s")


def add_run(parser: argparse.ArgumentParser, *, unit: str) -> argparse._ArgumentGroup:
    """How the run goes; none of it changes a result."""
    group = parser.add_argument_group("run")
    group.add_argument(
        "--resume",
        action="store_true",
        help=f"do {unit} again whose results come from other settings (not needed to continue)",
    )
    group.add_argument("--retry-failed", action="store_true", help=f"try the {unit} again that failed before")
    group.add_argument("--dry-run", action="store_true", help="say what would be done, and end")
    group.add_argument("--quiet", action="store_true", help="no progress bar")
    return group


def add_source_pixels(parser: argparse._ActionsContainer) -> None:
    """How large image files may be."""
    parser.add_argument(
        "--max-source-pixels",
        type=int,
        metavar="N",
        help="open image files of up to so many pixels (default: 178956970; a small file can hold a huge image)",
    )


def allow_source_pixels(arguments: argparse.Namespace) -> None:
    """Do what --max-source-pixels says.

    Raises:
        ReasonError: no number of pixels.
    """
    if arguments.max_source_pixels is not None:
        if arguments.max_source_pixels < 1:
            raise ReasonError(f"--max-source-pixels {arguments.max_source_pixels}: a number of pixels above 0")
        allow_pixels(arguments.max_source_pixels)


def read_prompts(version: str) -> PromptSet:
    """The templates that --prompts names: a version of this package, or a folder.

    Raises:
        ReasonError: there are none, or one is malformed.
    """
    folder = Path(version)
    return load_prompts(folder.name, folder.parent) if folder.is_dir() else load_prompts(version)


def task_options(arguments: argparse.Namespace) -> TaskOptions:
    """How tasks ask.

    Raises:
        ReasonError: a value out of range.
    """
    least, most = arguments.attributes
    if not 1 <= least <= most:
        raise ReasonError(f"--attributes {least} {most}: at least 1, and not more than the second")
    if arguments.attempts < 1:
        raise ReasonError(f"--attempts {arguments.attempts}: at least one is needed")
    if any(not 0 <= temperature <= 2 for temperature in arguments.temperatures):
        raise ReasonError("--temperatures: from 0 (greedy) to 2")
    if not 0 < arguments.top_p <= 1:
        raise ReasonError(f"--top-p {arguments.top_p}: above 0 and at most 1")
    candidates: Literal["free", "closed"] = getattr(arguments, "candidates", "free")
    if candidates == "closed" and arguments.answer_form == "text":
        raise ReasonError("--candidates closed needs --answer-form json: sentences cannot be kept to the vocabulary")
    return TaskOptions(
        candidates=candidates,
        answer_form=arguments.answer_form,
        attempts=arguments.attempts,
        temperatures=tuple(arguments.temperatures),
        top_p=arguments.top_p,
        seed=arguments.seed,
        attributes=(least, most),
    )


def engine_options(arguments: argparse.Namespace) -> EngineOptions:
    """How the engine is opened.

    Raises:
        ReasonError: no model is named.
    """
    if not arguments.model and arguments.engine != "server":
        raise ReasonError("--model: name the folder of a Qwen2.5-VL, such as llm/Qwen2.5-VL-72B-Instruct-AWQ")
    return EngineOptions(
        model=arguments.model,
        url=arguments.url,
        api_key_env=arguments.api_key_env,
        tensor_parallel=arguments.tensor_parallel,
        data_parallel=arguments.data_parallel,
        max_model_len=arguments.max_model_len,
        gpu_memory=arguments.gpu_memory,
        max_pixels=getattr(arguments, "max_pixels", MAX_PIXELS),
        concurrency=arguments.concurrency,
        dtype=arguments.dtype,
        # Sentences are kept to no schema, so a server that cannot keep to one serves as well.
        constraint="none" if arguments.answer_form == "text" else "auto",
    )
