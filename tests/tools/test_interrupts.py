"""Ctrl-C in the commands of the segmentor: one line, status 130, nobody left, wherever it strikes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from reason.interrupts import descendants

SEGMENT = ("-m", "tools.segment", "{images}", "--vocabulary", "cat, wall", "--config-file", "tests/assets/tiny.yaml")
COMMANDS = {
    "segment": (*SEGMENT, "--output", "{out}", "MODEL.DEVICE", "cpu"),
    "train_net": ("train_net.py", "--config-file", "tests/assets/tiny.yaml", "--eval-only", "OUTPUT_DIR", "{out}"),
    "mini": ("-m", "tools.mini", "evaluate", "--output", "{out}"),
    "run_benchmarks": ("-m", "tools.run_benchmarks", "base", "mini"),
    "evaluate": ("-m", "tools.evaluate", "--predictions", "{images}", "--dataset", "mini_val_sem_seg"),
    "diagnose": ("-m", "tools.diagnose", "--config-file", "configs/mini/eval.yaml"),
    "demo": ("-m", "tools.demo", "--port", "18999"),
    "doctor": ("-m", "tools.doctor"),
    "tools": ("-m", "tools", "diagnose", "--config-file", "configs/mini/eval.yaml"),
}


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("segment", 1.0), ("segment", 7.0), ("train_net", 1.0), ("mini", 7.0), ("run_benchmarks", 1.0)]
    + [(name, 1.0) for name in ("evaluate", "diagnose", "demo", "doctor", "tools")],
)
def test_one_line_and_nobody_left(repository: Path, tmp_path: Path, name: str, seconds: float) -> None:
    """While modules are imported, and at work; the signal reaches all processes, as a terminal sends it."""
    (tmp_path / "images").mkdir()
    for number in range(100):
        Image.fromarray(skimage.data.chelsea()).resize((60, 40)).save(tmp_path / "images" / f"{number}.png")
    words = [word.format(images=tmp_path / "images", out=tmp_path / "out") for word in COMMANDS[name]]
    with (tmp_path / "err").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=repository,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    time.sleep(seconds)
    if process.poll() is not None:
        pytest.skip("ended before the signal")
    children = descendants(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    status, said = process.wait(timeout=30), (tmp_path / "err").read_text()
    if status == -signal.SIGINT and f'File "{repository}/' not in said.replace(f"{repository}/.venv", ""):
        pytest.skip("Python was not up yet")
    assert status == 130, said
    assert "Traceback" not in said and said.count("interrupted") <= 1, said
    time.sleep(0.2)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


RANKS = """
from maft.errors import run_command, run_process

def command():
    from maft import launch
    launch.choose_device = lambda cfg, number: 2  # without GPUs there is one process otherwise
    arguments = launch.parse_arguments()
    return run_command(lambda: launch.main(arguments), interrupted=launch.INTERRUPTED)

if __name__ == "__main__":
    run_process(command)
"""


@pytest.mark.parametrize("seconds", [0.5, 5.0])
def test_several_ranks_end_in_one_line(repository: Path, tmp_path: Path, seconds: float) -> None:
    """Two processes of detectron2's launch; those that still import answered with tracebacks of fifty lines."""
    (tmp_path / "two.py").write_text(RANKS)
    dataset = "openvocab_pascal20_sem_seg_val"
    words = ["--config-file", "tests/assets/tiny.yaml", "--eval-only", "OUTPUT_DIR", str(tmp_path / "out")]
    with (tmp_path / "err").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, str(tmp_path / "two.py"), *words, "DATASETS.TEST", f"('{dataset}',)"],
            cwd=repository,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)},
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    while len(children := descendants(process.pid)) < 3:  # the ranks, and what multiprocessing keeps beside them
        assert process.poll() is None, (tmp_path / "err").read_text()
        time.sleep(0.1)
    time.sleep(seconds)
    if process.poll() is not None:
        pytest.skip("ended before the signal")
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=30) == 130 and time.monotonic() - begun < 10
    said = (tmp_path / "err").read_text()
    lines = [line for line in said.splitlines() if not line.startswith("no GPU here")]
    assert len(lines) == 1 and lines[0].startswith("interrupted; what was finished is on disk"), said
    # Children that nobody waits for any more end by themselves; on a busy machine a moment later.
    deadline = time.monotonic() + 5
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [child for child in children if alive(child)]


def alive(process: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
