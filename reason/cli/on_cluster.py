"""`python -m reason image --ray`: a run on the nodes of a Ray cluster, from the plan to its summary.

What happens on the nodes is in `reason.runs.cluster`.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from reason.cli.running import keep_vocabulary, say_end, say_plan
from reason.engines.checks import check_fits, check_tensor_parallel
from reason.engines.interface import EngineInfo, EngineKind, EngineOptions
from reason.engines.model_folder import model_hash, read_model_folder
from reason.errors import ReasonError
from reason.runs.cluster import Layout, cluster_nodes, layout, portion_size, spread, summed_up
from reason.runs.jobs import ImageJob
from reason.runs.pipeline import Summary
from reason.runs.progress import Bar
from reason.runs.store import ResultStore

_LOOK_SECONDS = 5.0


def run_on_cluster(
    arguments: argparse.Namespace, job: ImageJob, options: EngineOptions, place: Callable[[EngineInfo], Path]
) -> int:
    """Do what is left of a job on the nodes of a Ray cluster; returns the exit status.

    Args:
        arguments: of `python -m reason image`.
        job: what is to be done; its paths are made absolute.
        options: of the engine of every replica.
        place: the folder of the results of a model.

    Raises:
        ReasonError: there is no cluster, no room on it, or a replica cannot work.
        EngineGone: a model stopped; nothing of what was finished is lost.
    """
    if arguments.engine == "server":
        raise ReasonError("--ray spreads copies of the model; a server is asked by one process: leave out --ray")
    sys.stdout.write(f"{job.vocabulary.summary}\n")
    info = _first_look(arguments.engine, options, job)
    job = replace(job, images={name: path.resolve() for name, path in job.images.items()})
    options = replace(options, model=str(Path(options.model).resolve()), data_parallel=1)
    folder = place(info).resolve()
    store = ResultStore(folder, job.provenance(info, job.open_aligner()))
    survey = store.survey(job.images)
    names = survey.todo(retry_failed=arguments.retry_failed)
    say_plan("image", store, survey, arguments)
    if arguments.dry_run:
        return 0
    summary = Summary()
    if names:
        note = {"images": str(arguments.images), "total": len(job.images), "unit": "image"}
        store.begin(survey, resume=arguments.resume, note=note)
        with store, cluster_nodes(debug=arguments.debug) as nodes:
            keep_vocabulary(job.vocabulary, store)
            found = layout(nodes, options.tensor_parallel, arguments.data_parallel)
            size = portion_size(len(names), found.replicas, options.concurrency)
            sys.stdout.write(f"Ray: {len(nodes)} nodes, {_count(found)}, portions of {size} images\n")
            sys.stdout.flush()
            constructor = {"job": job, "kind": arguments.engine, "options": options, "folder": folder, "note": note}
            start = time.monotonic()
            with _progress(store, len(names), quiet=arguments.quiet):
                rows = spread(names, size, found, constructor)
            sys.stdout.write(f"{summed_up(rows, time.monotonic() - start)}\n")
        survey = store.survey(job.images)
    return say_end("image", store, survey, summary)


def _first_look(kind: EngineKind, options: EngineOptions, job: ImageJob) -> EngineInfo:
    """What can be known of the model on a machine that need not be able to hold it; each replica checks its own.

    Raises:
        ReasonError: the model cannot be cut as asked, or a conversation does not fit.
    """
    model = read_model_folder(options.model)
    check_tensor_parallel(model, options.tensor_parallel)
    check_fits(options, job.constant_text(), job.answer_tokens())
    return EngineInfo(kind, "", model.path.name, model_hash(model))


@contextmanager
def _progress(store: ResultStore, total: int, *, quiet: bool) -> Iterator[None]:
    """A bar that counts what appears in the folders of results and failures meanwhile."""
    ended = threading.Event()
    # The file server's clock, not this machine's, dates the results.
    began = (store.state / "provenance.json").stat().st_mtime_ns
    folders = (store.folder, store.state / "failed")

    def watch(bar: Bar) -> None:
        last = False
        while not last:
            last = ended.wait(_LOOK_SECONDS)
            bar.move_to(min(sum(_newer(folder, began) for folder in folders), total))

    bar = Bar(total, "image", quiet=quiet)
    watcher = threading.Thread(target=watch, args=(bar,), name="reason-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        bar.close()


def _newer(folder: Path, than: int) -> int:
    """How many JSON files of a folder changed since a time in nanoseconds."""
    try:
        with os.scandir(folder) as entries:
            files = [entry for entry in entries if entry.name.endswith(".json")]
            return sum(entry.stat().st_mtime_ns >= than for entry in files)
    except OSError:  # not there yet, or a file just replaced
        return 0


def _count(found: Layout) -> str:
    what = f"{found.gpus} GPU{'s' * (found.gpus > 1)} each" if found.gpus else f"{found.cpus} processors each, no GPU"
    return f"{found.replicas} {'copies' if found.replicas > 1 else 'copy'} of the model ({what})"
