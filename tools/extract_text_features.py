"""Encode the sentences of reason files ahead of an evaluation.

    python -m tools.extract_text_features --config-file configs/semantic/eval_base_reason.yaml --datasets pc59 ade150
    python -m tools.extract_text_features --config-file ... --reasons FOLDER --vocabulary pc59 [KEY VALUE ...]
    python -m tools.extract_text_features --config-file configs/sed/eval_base_reason.yaml --datasets pc59 --estimate

Fills the feature bank (MODEL.REASON.BANK_DIR), which evaluations read; says before how long it will take and how much
it will store. Started again it does what is left to do; several may run at once. `--format json` also writes
OpenSeg-R's feature files below MODEL.REASON.FEATURE_DIR.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from maft.config import build_config
from maft.data import datasets_root
from maft.errors import UserError, run_command, run_process
from maft.files import user_path
from maft.meta_arch import text_parts
from maft.meta_arch.parts import TextParts
from maft.text.bank import FeatureBank
from maft.text.encoder import load_text_encoder, text_prefix
from maft.text.feature_files import feature_file_path, read_feature_file, write_feature_file
from maft.text.prompts import Prompts, image_prompts
from maft.text.rows import RowFold, fold_rows
from maft.text.source import Fold, TextSource
from maft.text.templates import template_set
from maft.weights.checkpoint import load_weights
from maft.weights.clip import find_clip_weights
from maft.weights.seeding import SEEDED
from reason.bars import Bar
from reason.shipped import GENERIC
from reason.triplets import describe_image_reason_folders, image_reason_folders, load_image
from reason.vocabulary import Vocabulary, load_vocabulary

from .benchmarks import generic_file, reason_keys
from .commands import command, described
from .extract_estimate import Survey

logger = logging.getLogger(__name__)

_GENERIC_KEY = "MODEL.TEST_CLASS_REASON_JSON"
_CONFIG_KEY = re.compile(r"[A-Z][A-Z_0-9]*(\.\w+)+$")
_WAITING_FILES = 4


@dataclass(frozen=True)
class Job:
    """The reasons of one vocabulary.

    Attributes:
        vocabulary: its classes.
        generic: the generic reasons, or None.
        files: the image-specific reason files, in the order of their names.
    """

    vocabulary: Vocabulary
    generic: Path | None
    files: tuple[Path, ...]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=command("extract_text_features"),
        description=described(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file", required=True, help="as for train_net.py: architecture, weights, NUM_DES, bank"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--datasets", nargs="+", metavar="VOCABULARY", help="pc59, ade150, …; default MODEL.REASON_DATA")
    what.add_argument("--reasons", type=user_path, metavar="FOLDER", help="a folder of image-specific reason files")
    parser.add_argument("--vocabulary", help="with --reasons: its name, or a vocabulary file")
    parser.add_argument("--estimate", action="store_true", help="say what there is to do, and stop")
    parser.add_argument("--format", choices=("bank", "json"), default="bank", help="json: write feature files, too")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …; default: a GPU if there is one")
    parser.add_argument("--batch-size", type=int, default=256, help="sentences in one forward pass")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that write feature files")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a user error")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys, as for train_net.py")
    parsed = parser.parse_args(arguments)
    # argparse cannot tell where an open list ends: KEY VALUE pairs after --datasets start at the first config key.
    words = parsed.datasets or []
    end = next((number for number, word in enumerate(words) if _CONFIG_KEY.match(word)), len(words))
    if words:
        parsed.datasets, parsed.opts = words[:end], words[end:] + parsed.opts
    return parsed


def find_jobs(arguments: argparse.Namespace, cfg: CfgNode) -> list[Job]:
    """What is asked for, with the files that are there.

    Raises:
        UserError: something asked for has neither image-specific nor generic reasons, or no vocabulary is named.
        VocabularyError: an unknown vocabulary.
    """
    overrides = dict(zip(arguments.opts[::2], arguments.opts[1::2], strict=False))
    if arguments.reasons is not None:
        if not arguments.vocabulary:
            raise UserError("--reasons: name the vocabulary of the folder with --vocabulary, such as pc59")
        if not arguments.reasons.is_dir():
            raise UserError(f"--reasons {arguments.reasons}: no such folder")
        vocabulary = load_vocabulary(arguments.vocabulary)
        named = overrides.get(_GENERIC_KEY)
        generic = Path(named) if named else generic_file(vocabulary.name)
        return [_job(vocabulary, generic, [arguments.reasons], str(arguments.reasons))]
    if arguments.vocabulary:
        raise UserError(
            "--vocabulary: goes with --reasons FOLDER; vocabularies with folders of their own are --datasets"
        )
    own = {key: _value(cfg, key) for key in (_GENERIC_KEY, "MODEL.REASON_DIR")}
    if arguments.datasets:
        return [_job_of(name, {**reason_keys(name), **overrides}) for name in arguments.datasets]
    if not cfg.MODEL.REASON_DATA:
        raise UserError("MODEL.REASON_DATA: empty; name vocabularies with --datasets, such as --datasets pc59")
    return [_job_of(cfg.MODEL.REASON_DATA, own)]


def _job_of(name: str, keys: dict[str, str]) -> Job:
    where = (keys["MODEL.REASON_DIR"], name, datasets_root())
    generic = Path(keys[_GENERIC_KEY])
    # As in an evaluation, the first folder that is there counts, and no other.
    folders = image_reason_folders(*where)[:1]
    return _job(load_vocabulary(name), generic, folders, describe_image_reason_folders(*where))


def _job(vocabulary: Vocabulary, generic: Path | None, folders: Sequence[Path], looked_at: str) -> Job:
    files = {path.name: path for folder in folders for path in folder.glob("*.json")}
    if generic is not None and str(generic) != GENERIC and not generic.is_file():
        print(f"{vocabulary.name}: no generic reasons ({generic})")
        generic = None
    if not files and generic is None:
        raise UserError(f"{vocabulary.name}: no reasons to encode in {looked_at}; see reason_data/README.md")
    return Job(vocabulary, generic, tuple(files[name] for name in sorted(files)))


class Filling:
    """The sentences of a job, which a bank is to have.

    Args:
        job: the reasons.
        text: how the network makes sentences of them.
        bank: what is to have their features.
    """

    def __init__(self, job: Job, text: TextParts, bank: FeatureBank) -> None:
        self.job = job
        self._folders = list(dict.fromkeys(path.parent for path in job.files))
        self._source = TextSource(text.fold, bank, generic_file=job.generic, image_folders=self._folders)
        self._names = text.names(job.vocabulary)

    def needs(self) -> Iterator[tuple[str, ...]]:
        """The sentences, those of an image together."""
        for files in self._parts():
            yield from self._source.needs(self._names, files)

    def fill(self) -> tuple[int, int]:
        """Encode all sentences that the bank lacks; returns how many, and how many CLIP reads in part."""
        title = self.job.vocabulary.name
        encoded = sum(self._source.warm_up(title, self._names, files) for files in self._parts())
        return encoded, self._source.cut

    def _parts(self) -> Iterator[list[str]]:
        if self.job.generic is not None:
            yield []
        for folder in self._folders:
            # A reason file is found by its own name as well as by its image's.
            yield [path.name for path in self.job.files if path.parent == folder]


class FeatureWriter:
    """Writes feature files, in other processes if there are any, and waits for them before many pile up."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> FeatureWriter:
        if self._workers > 0:
            # Not forked: this process has threads of its own, and perhaps a GPU.
            self._pool = ProcessPoolExecutor(self._workers, mp_context=multiprocessing.get_context("spawn"))
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True)

    def write(self, path: Path, rows: torch.Tensor, prompts: Prompts) -> None:
        """Write one file, or see to it that it gets written."""
        task = (path, rows.numpy(), prompts.rows_per_class, prompts.class_index or ())
        if self._pool is None:
            write_feature_file(*task)
            return
        self._waiting.append(self._pool.submit(write_feature_file, *task))
        self.finish(at_most=_WAITING_FILES * self._workers)

    def finish(self, at_most: int = 0) -> None:
        """Wait until no more than `at_most` files are to be written; errors come out here."""
        while len(self._waiting) > at_most:
            self._waiting.popleft().result()


def write_json(job: Job, cfg: CfgNode, fold: Fold[Any, Any], bank: FeatureBank, workers: int) -> Counter[str]:
    """Write the feature file of every reason file of a job; counts what became of them.

    Existing files that fit stay as they are; others are written anew.
    """
    counts: Counter[str] = Counter()
    templates = template_set(cfg.MODEL.REASON.TEMPLATES)
    if not isinstance(fold, RowFold):
        raise UserError("--format json: feature files hold rows of MAFT+; SED reads the bank alone")
    if cfg.MODEL.REASON.MODE != "reference":
        raise UserError("--format json: feature files hold rows of MODEL.REASON.MODE 'reference'; set it so")
    if not cfg.MODEL.REASON.FEATURE_DIR:
        raise UserError("MODEL.REASON.FEATURE_DIR: empty, but --format json writes there; name a folder")
    with FeatureWriter(workers) as writer:
        for path in Bar(job.files, desc=f"feature files of {job.vocabulary.name}", unit="file"):
            reasons = load_image(path).reasons
            prompts = image_prompts(
                job.vocabulary.synonyms, reasons, cfg.MODEL.NUM_DES, "reference", str(path), templates
            )
            if prompts is None:
                counts["without a class of the vocabulary"] += 1
                continue
            target = feature_file_path(
                cfg.MODEL.REASON.FEATURE_DIR, job.vocabulary.name, cfg.MODEL.CLIP_TYPE, path.stem
            )
            state = _state(target, prompts, bank.encoder.dim)
            counts[state] += 1
            if state != "kept":
                writer.write(target, fold_rows(bank.get(prompts.sentences), prompts.row_members), prompts)
        writer.finish()
    return counts


def _state(target: Path, prompts: Prompts, dim: int) -> str:
    if not target.is_file():
        return "written"
    try:
        read_feature_file(target, prompts, dim)
    except UserError as error:
        logger.warning("%s", error)
        return "replaced"
    return "kept"


def _value(cfg: CfgNode, key: str) -> str:
    for part in key.split("."):
        cfg = cfg[part]
    return str(cfg)


def tower_file(weights: str, text: TextParts) -> str | Path:
    """The file that holds the text tower: the checkpoint, or CLIP's own weights where it leaves the tower out.

    Raises:
        UserError: neither can be had.
    """
    if weights in ("", SEEDED) or text_prefix(load_weights(weights)) is not None:
        return weights
    try:
        return find_clip_weights(text.architecture, text.clip_weights, text.clip_key)
    except UserError as error:
        raise UserError(f"MODEL.WEIGHTS {weights}: lacks CLIP's text tower, and {error}") from error


def choose_device(asked: str | None) -> torch.device:
    """The device of the text tower.

    Raises:
        UserError: no such device here.
    """
    try:
        device = torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise UserError(f"--device {asked}: no device; use cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {asked}: this machine has {torch.cuda.device_count()} GPUs; use --device cpu")
    return device


def extract(arguments: argparse.Namespace) -> int:
    """Find the files, then encode."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    cfg = build_config(arguments.config_file, arguments.opts)
    if arguments.batch_size < 1 or arguments.num_workers < 0:
        raise UserError("--batch-size must be at least 1, --num-workers at least 0")
    if arguments.format == "bank" and not cfg.MODEL.REASON.BANK_DIR:
        raise UserError("MODEL.REASON.BANK_DIR: empty, so nothing would be kept; name a folder, or use --format json")
    device = choose_device(arguments.device)
    jobs = find_jobs(arguments, cfg)
    for job in jobs:
        print(job.vocabulary.summary, flush=True)
    text = text_parts(cfg)
    encoder = load_text_encoder(
        text.architecture,
        tower_file(cfg.MODEL.WEIGHTS, text),
        device=device,
        batch_size=arguments.batch_size,
        precision=cfg.MODEL.REASON.TEXT_PRECISION,
        prefix=text.prefix,
    )
    options = {"storage_dtype": cfg.MODEL.REASON.BANK_DTYPE}
    with FeatureBank(encoder, text.fold.templates, cfg.MODEL.REASON.BANK_DIR or None, **options) as bank:
        fillings = [Filling(job, text, bank) for job in jobs]
        survey = Survey(bank)
        for filling in fillings:
            different, missing = survey.add(filling.needs())
            name, images = filling.job.vocabulary.name, len(filling.job.files)
            print(f"{name}: {images} images ask for {different:,} different sentences, {missing:,} new", flush=True)
        print(f"{survey.estimate()}; on {device}, bank {bank.folder}", flush=True)
        if arguments.estimate:
            return 0
        encoded_before = survey.encoded
        for filling in fillings:
            job = filling.job
            encoded, cut = filling.fill()
            encoded, encoded_before = encoded + encoded_before, 0
            ends = f", {cut} sentences cut after {encoder.tokens.most} CLIP tokens" if cut else ""
            print(f"{job.vocabulary.name}: {len(job.files)} images, {encoded} new sentences{ends}, bank {bank.folder}")
            if arguments.format == "json":
                counts = write_json(job, cfg, text.fold, bank, arguments.num_workers)
                summary = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
                print(f"{job.vocabulary.name}: feature files: {summary or 'none'}")
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = parse_arguments(words)
    return run_command(lambda: extract(arguments), debug=arguments.debug)


if __name__ == "__main__":
    run_process(main)
