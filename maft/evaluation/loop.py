"""Run a model over a data set: what a journal does not have yet, over all processes, with a progress bar."""

from __future__ import annotations

import logging
import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from detectron2.data import build_detection_test_loader
from detectron2.utils import comm
from PIL import Image
from torch import nn

from maft.errors import USER_ERRORS, UserError
from maft.evaluation.evaluators import Evaluator
from maft.evaluation.journal import Entry, Header, JournalWriter, exclusive, open_journal
from maft.evaluation.provenance import hash_records
from reason.bars import Bar

logger = logging.getLogger(__name__)

Record = dict[str, Any]
Usage = Callable[[], Mapping[str, int]]


def evaluate(
    model: nn.Module,
    dataset_name: str,
    records: Sequence[Record],
    mapper: Callable[[Record], Record],
    evaluator: Evaluator,
    *,
    output_dir: str | Path,
    batch_size: int = 1,
    num_workers: int = 0,
    resume: bool = False,
    fingerprint: Mapping[str, str],
    usage: Usage | None = None,
) -> dict[str, Any] | None:
    """Evaluate a model on a data set; every rank of a distributed run calls it.

    Per-image results go to a journal in `output_dir` (see `maft.evaluation.journal`), and images that an earlier,
    unfinished run of the same fingerprint evaluated are not evaluated again. The journal stays unfinished until
    `maft.evaluation.results.write_results` has written the results.

    Args:
        model: maps a list of detectron2 inputs to a list of outputs; it is put into eval mode meanwhile. The inputs say
            "class_maps_only", see `maft.meta_arch.MAFT_Plus.forward`.
        dataset_name: the data set's registered name.
        records: its images, the same list on every rank; "file_name" is an image's identity.
        mapper: turns a record into an input; it runs in the loader's workers. The input keeps "file_name".
        evaluator: makes records of outputs and metrics of records.
        output_dir: the folder of this data set's results, on a disk that all ranks share.
        batch_size: images a forward pass and rank; of several, images of one size come together.
        num_workers: loader processes a rank.
        resume: reuse a finished journal too.
        fingerprint: part ("config", "weights", "triplets", "code") to hash; a change starts the evaluation over.
        usage: cumulative counters, of the reasons that were used for example; what the evaluation adds to them is
            journalled with the images.

    Returns:
        On the main rank {"metrics": task to metrics, "images": {"total", "earlier_run", "this_run"}, "usage": counters
        over all images and runs, "seconds": of this run}; None on the others.

    Raises:
        UserError: no images, bad ground truth, an unreadable image, a folder that cannot be written. The rank that
            meets it raises; its launcher ends the other ranks. What was journalled before stays valid.
    """
    keys = _image_keys(dataset_name, records)
    main = comm.is_main_process()
    with exclusive(output_dir) if main else nullcontext():
        earlier: dict[str, Entry] = {}
        header = Header(dataset_name, evaluator.what, dict(fingerprint))
        if main:
            header = replace(header, fingerprint={**fingerprint, "data set": hash_records(records)})
            earlier = open_journal(output_dir, header, len(records), resume=resume)
        header, done = comm.all_gather((header, set(earlier)))[0]  # what the main rank says goes for all
        remaining = [record for key, record in zip(keys, records, strict=True) if key not in done]
        if batch_size > 1:  # images of one size share a pass through the network
            remaining.sort(key=_size)
        start = time.monotonic()
        entries = []
        with JournalWriter(output_dir, header, comm.get_rank()) as journal:
            if remaining:
                loader = _loader(remaining, mapper, batch_size, num_workers)
                for batch in _forward(model, loader, evaluator, usage, dataset_name):
                    journal.append(batch)
                    entries += batch
        gathered = comm.gather(entries)
        if not main:
            return None
        complete = {**earlier, **{entry.image: entry for part in gathered for entry in part}}
        return {
            "metrics": evaluator.summarise(_records_of(complete, keys)),
            "images": {"total": len(keys), "earlier_run": len(done), "this_run": len(remaining)},
            "usage": _total_usage(complete.values()),
            "seconds": round(time.monotonic() - start, 3),
        }


def _image_keys(dataset_name: str, records: Sequence[Record]) -> list[str]:
    if not records:
        raise UserError(f"{dataset_name}: there is no image to evaluate; check the data set's folder")
    keys = [record["file_name"] for record in records]
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise UserError(f"{dataset_name}: lists {twice[0]} more than once; remove the duplicate")
    return keys


def _size(record: Record) -> tuple[int, int]:
    """(width, height) by the file's header; an unreadable one is reported when its image is loaded."""
    try:
        with Image.open(record["file_name"]) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return (0, 0)


def _records_of(entries: Mapping[str, Entry], keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    missing = [key for key in keys if key not in entries]
    if missing:
        raise RuntimeError(f"{len(missing)} images have no result, {missing[0]} among them")
    return {key: entries[key].record for key in keys}


def _total_usage(entries: Iterable[Entry]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for entry in entries:
        total.update(entry.usage)
    return dict(sorted(total.items()))


def _forward(
    model: nn.Module, loader: Any, evaluator: Evaluator, usage: Usage | None, dataset_name: str
) -> Iterator[list[Entry]]:
    """Yield the entries of one batch after another."""
    counted = Counter(usage()) if usage else Counter()
    bar = Bar(
        total=len(loader.sampler),
        desc=_share(dataset_name),
        unit="image",
        mininterval=0.5,
        smoothing=0.1,
        disable=not comm.is_main_process(),
    )
    with bar, _eval_mode(model):
        for inputs in loader:
            for loaded in inputs:
                if isinstance(loaded, _Failure):
                    raise loaded.error
            with torch.inference_mode():
                # Scores of every class at full size would take gigabytes for a large vocabulary.
                outputs = model([{**input, "class_maps_only": True} for input in inputs])
                batch = [
                    Entry(input["file_name"], evaluator.process_one(input, output))
                    for input, output in zip(inputs, outputs, strict=True)
                ]
            if usage:
                now = Counter(usage())
                # A batch is journalled in one write, so its first image can carry the counters for all of it.
                batch[0].usage.update(now - counted)
                counted = now
            yield batch
            bar.update(len(batch))


def _share(dataset_name: str) -> str:
    ranks = comm.get_world_size()
    return dataset_name if ranks == 1 else f"{dataset_name} (rank 0 of {ranks})"


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@dataclass(frozen=True)
class _Failure:
    """A user error on its way from a loader worker to the process that reports it."""

    error: Exception


class _Guarded:
    """A mapper whose user errors arrive as they were: the loader would wrap them into a traceback."""

    def __init__(self, mapper: Callable[[Record], Record]) -> None:
        self._mapper = mapper

    def __call__(self, record: Record) -> Record | _Failure:
        try:
            return self._mapper(record)
        except USER_ERRORS as error:
            return _Failure(_portable(error))


def _portable(error: Exception) -> Exception:
    """The error itself where it survives pickling, else a UserError of the same message."""
    try:
        pickle.loads(pickle.dumps(error))
    except (TypeError, AttributeError, pickle.PickleError):
        return UserError(str(error))
    return error


def _loader(records: list[Record], mapper: Callable[[Record], Record], batch_size: int, num_workers: int) -> Any:
    """This rank's share of the records, in batches (lists) of inputs."""
    return build_detection_test_loader(records, mapper=_Guarded(mapper), batch_size=batch_size, num_workers=num_workers)
