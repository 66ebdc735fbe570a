"""`python -m reason image --ray`: the images of a run spread over the nodes of an existing Ray cluster.

Ray Data hands out portions of image names; an actor a group of GPUs holds the model and does them with the same
pipeline as a run on one machine, down to the claims. So the folders of images, results and model must be the same path
on every node (a shared file system), and so must Python's environment; the code travels along. An actor that dies is
started again by Ray and its portion is handed out again; what was finished of it is on disk and stays.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reason.engines.interface import EngineKind, EngineOptions
from reason.engines.opening import open_engine
from reason.errors import EngineGone, ReasonError
from reason.runs.jobs import ImageJob
from reason.runs.pipeline import run_work
from reason.runs.store import ResultStore

logger = logging.getLogger(__name__)

_PORTIONS = 4
"""Portions a replica gets at least, so that a slow one does not hold up the end; an engine runs empty between two."""

_LARGEST_PORTION = 8
"""Of an engine's concurrency, in images."""

_LOOK_SECONDS = 5.0
_KNOCK_SECONDS = 10.0
_RAISED = re.compile(r"^reason\.errors\.(\w+): (.+)$", re.MULTILINE)
_PASSED_ON = ("VLLM_", "HF_", "OMP_", "TOKENIZERS_", "CUDA_HOME", "DO_NOT_TRACK")
"""Beginnings of the environment variables that the actors get from the command."""


@dataclass(frozen=True)
class Layout:
    """How many copies of the model there are, and what each one takes of a node.

    Attributes:
        replicas: copies.
        gpus, cpus: of one copy; a copy without GPUs has a whole node's processors.
    """

    replicas: int
    gpus: int
    cpus: int


def layout(nodes: Sequence[Mapping[str, float]], tensor_parallel: int, wanted: int) -> Layout:
    """One replica a group of GPUs, or one a node where there are none.

    Args:
        nodes: the resources of every node, as Ray calls them ("CPU", "GPU").
        tensor_parallel: GPUs of one replica.
        wanted: at most so many replicas; 1: as many as there is room for.

    Raises:
        ReasonError: there is no room for one.
    """
    gpus = [int(node.get("GPU", 0)) for node in nodes]
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    if any(gpus):
        room = sum(count // tensor_parallel for count in gpus)
        found = Layout(room, tensor_parallel, 1)
    else:
        room = sum(count > 0 for count in cpus) if tensor_parallel == 1 else 0
        found = Layout(room, 0, min((count for count in cpus if count), default=0))
    if not room:
        raise ReasonError(
            f"--tensor-parallel {tensor_parallel}: no node of the cluster has so many GPUs (they have {_listed(gpus)})"
        )
    return replace(found, replicas=min(room, wanted)) if wanted > 1 else found


class Replica:
    """An actor: one copy of the model, and the pipeline around it."""

    def __init__(self, job: ImageJob, kind: EngineKind, options: EngineOptions, folder: Path, note: Any) -> None:
        """Load the model and join the work on the folder.

        Raises:
            ReasonError: the model cannot be loaded here, or the folder is not there.
        """
        if not folder.is_dir():
            raise ReasonError(f"{folder}: not to be seen from node {os.uname().nodename}; all nodes must share it")
        import ray

        node = ray.get_runtime_context().get_node_id()
        self._place = {"host": os.uname().nodename, "node": node, "process": os.getpid()}
        aligner = job.open_aligner()
        self._engine = open_engine(kind, options)
        info = self._engine.info
        self._work = job.work(aligner)
        self._store = ResultStore(folder, job.provenance(info, aligner))
        self._store.describe(engine=info.engine, engine_version=info.engine_version)
        # The command has settled already what may be replaced.
        self._store.begin(self._store.survey(self._work.names), resume=True, note=note)

    def __call__(self, portion: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Do one portion of names; returns one row of counts."""
        names = [str(name) for name in portion["name"]]
        summary = run_work(self._work, names, self._engine, self._store, quiet=True)
        if summary.signal:
            # This process was told to end, with part of the portion undone: Ray hands it out again if it dies, only.
            os._exit(1)
        row = {"images": summary.done, "failed": len(summary.failed), "report": summary.report, **self._place}
        return {key: [value] for key, value in row.items()}


def portion_size(images: int, replicas: int, concurrency: int) -> int:
    """Images of one portion: a few portions a replica, but so large that an engine is full for most of the time."""
    several = min(-(-images // (_PORTIONS * replicas)), _LARGEST_PORTION * concurrency)
    return min(-(-images // replicas), max(several, concurrency))


def summed_up(rows: Sequence[Mapping[str, Any]], seconds: float) -> str:
    """One line of what was done where, from the rows of all portions."""
    hosts: Counter[str] = Counter()
    for row in rows:
        hosts[row["host"]] += row["images"] + row["failed"]
    total = sum(hosts.values())
    places = {(row["node"], row["process"]) for row in rows}
    where = f"{len(places)} replicas on {len({node for node, _ in places})} nodes"
    shares = ", ".join(f"{host} {count}" for host, count in sorted(hosts.items()))
    return f"{total} images in {seconds:.1f} s ({total / seconds:.2f} a second, starts included), {where}: {shares}"


def spread(names: Sequence[str], size: int, found: Layout, constructor: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Hand out portions of `names`; one row of counts a portion.

    Raises:
        ReasonError, EngineGone: a replica cannot work, or Ray cannot go on.
    """
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    portions = -(-len(names) // size)
    rows = ray.data.from_items([{"name": name} for name in names], override_num_blocks=portions)
    results = rows.map_batches(
        Replica,
        fn_constructor_kwargs=dict(constructor),
        batch_size=None,  # a block is a portion
        compute=ray.data.ActorPoolStrategy(size=min(found.replicas, portions), max_tasks_in_flight_per_actor=1),
        num_gpus=found.gpus or None,
        num_cpus=found.cpus,
    )
    rows_of_counts: list[Mapping[str, Any]] = []
    try:
        for row in results.iter_rows():
            logger.debug("%s: %s", row["host"], row["report"])
            rows_of_counts.append(row)
    except Exception as error:
        own = _own_error(error)
        if own is None:
            raise ReasonError(f"Ray: {_last_line(error)}; start again, what was finished is kept (--debug)") from error
        raise own from error
    return rows_of_counts


@contextmanager
def cluster_nodes(*, debug: bool) -> Iterator[list[Mapping[str, float]]]:
    """Join the cluster that RAY_ADDRESS names, or the one on this machine; the resources of its living nodes.

    Raises:
        ReasonError: there is none.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ReasonError(f"Ray is not installed here ({error}): run 'bash install.sh reason'") from error
    if not debug:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
    address = os.environ.get("RAY_ADDRESS") or "auto"
    environment = {key: value for key, value in os.environ.items() if key.startswith(_PASSED_ON)}
    try:
        _knock(address)
        ray.init(
            address=address,
            log_to_driver=debug,
            logging_level=logging.INFO if debug else logging.ERROR,
            runtime_env={"py_modules": [str(Path(__file__).resolve().parents[1])], "env_vars": environment},
        )
    except (OSError, ValueError, RuntimeError) as error:
        where = "on this machine" if address == "auto" else f"at {address}"
        raise ReasonError(
            f"--ray: no Ray cluster answers {where} ({_last_line(error)}): 'ray start --head' starts one, "
            "'ray start --address=HOST:6379' joins it from other machines"
        ) from error
    try:
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise an OSError within seconds where nobody listens at HOST:PORT; Ray itself tries for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()


def _own_error(error: BaseException | None) -> ReasonError | None:
    """The error of ours that a replica raised, out of the traceback that Ray makes of it."""
    while error is not None:
        found = _RAISED.findall(str(error))
        if found:
            name, message = found[-1]
            return EngineGone(message) if name == EngineGone.__name__ else ReasonError(message)
        error = error.__cause__
    return None


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def _listed(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts)) or "none"
