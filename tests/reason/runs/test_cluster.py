"""--ray on a real cluster of two nodes on this machine, with real vLLM, through the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed here: bash install.sh reason")

from reason.asking.messages import TaskOptions
from reason.asking.prompts import load_prompts
from reason.engines.interface import EngineOptions
from reason.errors import ReasonError
from reason.runs.claims import living_workers
from reason.runs.cluster import Layout, cluster_nodes, layout, portion_size, spread, summed_up
from reason.runs.jobs import NO_ALIGNER, ImageJob
from reason.triplets import load_image
from reason.vocabulary import parse_vocabulary

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("nodes", "tensor_parallel", "wanted", "expected"),
    [
        ([{"CPU": 64, "GPU": 8}, {"CPU": 64, "GPU": 8}], 1, 1, Layout(16, 1, 1)),
        ([{"CPU": 64, "GPU": 8}, {"CPU": 64, "GPU": 8}], 4, 1, Layout(4, 4, 1)),
        ([{"CPU": 8, "GPU": 3}, {"CPU": 8}], 2, 1, Layout(1, 2, 1)),
        ([{"CPU": 64, "GPU": 8}], 1, 3, Layout(3, 1, 1)),
        ([{"CPU": 4}, {"CPU": 2}, {"memory": 1}], 1, 1, Layout(2, 0, 2)),
        ([{"CPU": 4}, {"CPU": 2}], 1, 8, Layout(2, 0, 2)),
    ],
)
def test_a_replica_a_group_of_gpus(nodes, tensor_parallel: int, wanted: int, expected: Layout) -> None:  # type: ignore[no-untyped-def]
    assert layout(nodes, tensor_parallel, wanted) == expected


@pytest.mark.parametrize("nodes", [[{"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}], [{"CPU": 8}], []])
def test_no_room(nodes) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ReasonError, match="--tensor-parallel 2: no node"):
        layout(nodes, 2, 1)


def test_portions() -> None:
    """Every image is in one; each replica has some; large ones only as long as all have several."""
    assert portion_size(20_000, 4, 32) == 256
    assert portion_size(1_000, 4, 32) == 63
    assert portion_size(100, 4, 32) == 25, "not fewer replicas than there are"
    assert portion_size(1, 4, 32) == 1
    rows = [
        {"images": 3, "failed": 1, "host": "b", "node": "2", "process": 9},
        {"images": 2, "failed": 0, "host": "a", "node": "1", "process": 8},
        {"images": 2, "failed": 0, "host": "b", "node": "2", "process": 9},
    ]
    assert summed_up(rows, 4.0) == "8 images in 4.0 s (2.00 a second, starts included), 2 replicas on 2 nodes: a 2, b 6"


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a cluster of two nodes; each has room for one replica."""
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 100_000_000}
    one = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    try:
        one.add_node(**small)
        yield one.address
    finally:
        one.shutdown()


def command(images: Path, model: Path, output: Path, classes: Path, *more: str) -> list[str]:
    words = ["image", "--images", images, "--vocabulary", classes, "--model", model, "--output", output]
    words += ["--aligner", "none", "--attributes", "3", "3"]
    return [sys.executable, "-m", "reason", *map(str, words), "--concurrency", "2", "--ray", *more]


@pytest.mark.slow
@pytest.mark.timeout(1500)  # vLLM starts three times, beside all other tests
def test_two_nodes_one_of_whose_replicas_dies(
    cluster: str,
    mini_model: Path,
    drawn: Path,
    mini_classes: Path,
    judged: Callable[[Iterable[Path]], dict[str, float]],
    tmp_path: Path,
) -> None:
    """Its portion is done by whoever takes over, nothing is done twice, and every image has its file."""
    output = tmp_path / "results"
    environment = os.environ | {"RAY_ADDRESS": cluster, "PYTHONUNBUFFERED": "1"}
    driver = subprocess.Popen(
        command(drawn, mini_model, output, mini_classes),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        replicas: set[int] = set()
        finished: dict[Path, int] = {}
        while driver.poll() is None and not finished:
            replicas |= {worker.pid for worker in living_workers(output / ".reason")} - {driver.pid}
            if replicas:
                finished = {path: path.stat().st_mtime_ns for path in output.glob("*.json")}
            time.sleep(0.02)
        assert replicas, driver.communicate()[0]
        os.kill(min(replicas), signal.SIGKILL)
        said = driver.communicate(timeout=1000)[0]
    finally:
        driver.kill()
    assert driver.returncode == 0, said
    assert "Ray: 2 nodes, 2 copies of the model" in said and "12 of 12 images" in said
    results = sorted(output.glob("*.json"))
    assert [path.stem for path in results] == sorted(path.stem for path in drawn.iterdir())
    assert all(load_image(path).extra["provenance"]["engine"] == "vllm" for path in results)
    found = judged(results)
    assert found["recall"] >= 0.75 and found["precision"] >= 0.85, "whoever answered, it says what is there"
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "done before the kill, and not again"
    assert "Traceback" not in said


def test_the_error_of_a_replica_is_ours(cluster: str, photos: Path, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """A node that does not see the folder of results: one line, out of Ray's traceback."""
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    images = {path.stem: path for path in photos.iterdir()}
    job = ImageJob(images, parse_vocabulary("cat, dog"), load_prompts(), TaskOptions(), NO_ALIGNER, 0.7)
    options = EngineOptions(model="llm/none")
    constructor = {"job": job, "kind": "vllm", "options": options, "folder": tmp_path / "nowhere", "note": {}}
    with cluster_nodes(debug=False) as nodes:
        assert len(nodes) == 2
        with pytest.raises(ReasonError, match="^.*nowhere: not to be seen from node .*; all nodes must share it$"):
            spread(list(images), 4, Layout(2, 0, 1), constructor)


def test_no_cluster(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment["RAY_ADDRESS"] = "127.0.0.1:1"
    words = command(photos, tiny_model, tmp_path / "results", Path("cat, dog"), "--quiet")
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "no Ray cluster answers at 127.0.0.1:1" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_an_interrupt_while_replicas_load_is_one_line_and_they_end(
    cluster: str, tiny_model: Path, photos: Path, tmp_path: Path
) -> None:
    """Ctrl-C reaches the command alone; Ray ends what it started on the nodes."""
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as errors:
        driver = subprocess.Popen(
            command(photos, tiny_model, tmp_path / "results", Path("cat, dog"), "--quiet"),
            cwd=ROOT,
            env=os.environ | {"RAY_ADDRESS": cluster},
            stdout=out,
            stderr=errors,
            start_new_session=True,
        )
    try:
        while "Ray: 2 nodes" not in (tmp_path / "out").read_text():
            assert driver.poll() is None, (tmp_path / "err").read_text()
            time.sleep(0.1)
        time.sleep(5)
        before, begun = (tmp_path / "err").read_text(), time.monotonic()
        os.killpg(driver.pid, signal.SIGINT)
        assert driver.wait(timeout=60) == 130 and time.monotonic() - begun < 10
    finally:
        driver.kill()
    said = (tmp_path / "err").read_text().removeprefix(before)
    assert "Traceback" not in said and said.count("the same command continues") == 1, said
    while replicas_of_ray() and time.monotonic() - begun < 60:
        time.sleep(0.2)
    assert not replicas_of_ray()


def replicas_of_ray() -> list[str]:
    """The processes of ours that run a copy of the model for Ray."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if "MapBatches(Replica)" in line]
