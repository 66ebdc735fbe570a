"""How many images a second the generation of reasons handles apart from the model, and whether memory stays flat.

    .venv-reason/bin/python -m tools.bench.reason_pipeline                  20,000 images, a few minutes
    .venv-reason/bin/python -m tools.bench.reason_pipeline --images 2000

The pipeline of `python -m reason image` (read, resize, hash, three steps, parse, align, validate, write, claim) runs on
generated JPEGs of 640 x 480 with an engine that answers at once, which exists in this file only. Beside it a plain loop
in one process, which reads with Pillow, resizes, encodes and writes a file of the same size, and does none of the rest.
Processor seconds are given too: on a busy machine they say more than the clock.

Exit status 1 below --least images a second or where memory grows.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from reason.asking.messages import Answer, Request, TaskOptions
from reason.asking.prompts import load_prompts
from reason.engines.interface import EngineInfo
from reason.errors import ReasonError, run_command
from reason.files import user_path
from reason.runs.images import fitted_size
from reason.runs.jobs import NO_ALIGNER, ImageJob
from reason.runs.pipeline import run_work
from reason.runs.store import ResultStore
from reason.vocabulary import load_vocabulary

SIZE = (640, 480)
DISTINCT = 64
CANDIDATES = 4
FLAT = 1.1
"""Memory grows if its peak in the second half exceeds that of the first by more than this factor."""


class InstantEngine:
    """Answers every request at once, with the same few classes and attributes: the benchmark's stand-in for a model."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self.info = EngineInfo("instant", "", "instant", "0" * 12)
        self.capacity = 40
        self._answers: list[Answer] = []
        words = "A room with a large window, a wooden floor and several chairs around a table, seen from the door. "
        self._description = json.dumps({"description": (words * 6).strip()})
        self._candidates = json.dumps({"classes": list(class_names[:CANDIDATES])})
        attributes = [
            "four slender legs",
            "a flat wooden seat",
            "a curved backrest",
            "a dark glossy surface",
            "thin rods",
        ]
        self._reason = {"general_category": "furniture", "sub_category": "seat", "attributes": attributes}

    def submit(self, request: Request) -> None:
        """Answer by the step that the request's key names."""
        step = request.key.split("/")[-2]
        if step == "description":
            text = self._description
        elif step == "candidates":
            text = self._candidates
        else:
            assert request.schema is not None
            text = json.dumps(dict.fromkeys(request.schema["properties"], self._reason))
        self._answers.append(Answer(request.key, text, "stop", 1000, 900, 100))

    def collect(self, timeout: float | None = None) -> list[Answer]:
        """All answers that are there."""
        answers, self._answers = self._answers, []
        return answers

    def close(self) -> None:
        """Nothing to let go of."""


@dataclass
class Measured:
    """Time that some images took.

    Attributes:
        images: how many.
        seconds: by the clock.
        processor: of all threads.
        memory: MiB in use, four times a second.
    """

    images: int = 0
    seconds: float = 0.0
    processor: float = 0.0
    memory: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds

    @property
    def growth(self) -> float:
        """Peak of memory in the second half over that in the first; 1 for too few samples."""
        half = len(self.memory) // 2
        return max(self.memory[half:]) / max(self.memory[:half]) if half >= 2 else 1.0

    @contextmanager
    def measure(self, images: int) -> Iterator[None]:
        """Count what happens inside."""
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(ended,), daemon=True)
        watcher.start()
        start, before = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start
            self.processor += time.process_time() - before
            self.images += images
            ended.set()
            watcher.join()

    def _watch(self, ended: threading.Event) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not ended.wait(0.25):
            self.memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * page / 2**20)


def generate(folder: Path, images: int) -> list[Path]:
    """Make `images` JPEGs out of scikit-image's photographs, a few dozen distinct ones, linked; 60 to 90 KB each."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(640)
    photographs = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()]
    made: list[Path] = []
    for number in range(images):
        path = folder / f"{number:06}.jpg"
        if number < DISTINCT:
            photograph = Image.fromarray(photographs[number % len(photographs)])
            noise = generator.normal(0, 3, (SIZE[1], SIZE[0], 3))
            pixels = np.asarray(photograph.resize(SIZE, Image.Resampling.BICUBIC)) + noise
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=90)
        else:
            os.link(made[number % DISTINCT], path)
        made.append(path)
    return made


def make_pipeline(paths: Sequence[Path], results: Path) -> Callable[[Sequence[Path]], None]:
    """What does some of `paths` as `python -m reason image` would.

    Raises:
        ReasonError: by what it returns, if an image failed.
    """
    vocabulary = load_vocabulary("ade150")
    job = ImageJob(
        images={path.stem: path for path in paths},
        vocabulary=vocabulary,
        prompts=load_prompts(),
        options=TaskOptions(),
        aligner_model=NO_ALIGNER,
        threshold=0.7,
    )
    engine = InstantEngine(vocabulary.class_names)
    aligner = job.open_aligner()
    work = job.work(aligner)
    store = ResultStore(results, job.provenance(engine.info, aligner))

    def run(part: Sequence[Path]) -> None:
        names = [path.stem for path in part]
        store.begin(store.survey(names), resume=False, note={})
        with store:
            summary = run_work(work, names, engine, store, quiet=True)
        if summary.done != len(part):
            raise ReasonError(
                f"{summary.done} of {len(part)} images were done: {next(iter(summary.failed.values()), '')}"
            )

    return run


def plain_loop(paths: Sequence[Path], results: Path) -> None:
    """Read, resize, encode and write with Pillow alone, one image after the other."""
    results.mkdir(parents=True, exist_ok=True)
    text = "x" * 5000
    for path in paths:
        with Image.open(path) as image:
            size = fitted_size(*image.size)
            resized = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        resized.save(stream, "JPEG", quality=95, subsampling=0)
        (results / f"{path.stem}.json").write_text(text)


def main(arguments: argparse.Namespace) -> int:
    """Measure and print; see the module."""
    folder = Path(tempfile.mkdtemp(prefix="bench_reason_", dir=arguments.folder))
    ours, plain = Measured(), Measured()
    try:
        paths = generate(folder / "images", arguments.images)
        run = make_pipeline(paths, folder / "results")
        step = -(-len(paths) // arguments.parts)
        parts = [paths[first : first + step] for first in range(0, len(paths), step)]
        for part in parts:
            with ours.measure(len(part)):
                run(part)
            few = part[: max(len(part) // 10, 1)]
            with plain.measure(len(few)):
                plain_loop(few, folder / "plain")
        written = next((folder / "results").glob("*.json")).stat().st_size
    finally:
        shutil.rmtree(folder)
    report = {
        "images": ours.images,
        "cores": len(os.sched_getaffinity(0)),
        "images_per_second": round(ours.rate, 1),
        "images_per_processor_second": round(ours.images / ours.processor, 1),
        "plain_loop_images_per_second": round(plain.rate, 1),
        "plain_loop_images_per_processor_second": round(plain.images / plain.processor, 1),
        "ratio": round(ours.rate / plain.rate, 2),
        "bytes_of_a_result": written,
        "memory_peak_mib": round(max(ours.memory, default=0.0), 1),
        "memory_growth": round(ours.growth, 3),
    }
    print(json.dumps(report, indent=1))
    return int(ours.rate < arguments.least or ours.growth > FLAT)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.reason_pipeline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=int, default=20_000, help="(default: 20000)")
    parser.add_argument("--parts", type=int, default=1, help="in which the pipeline does them (default: 1)")
    parser.add_argument("--least", type=float, default=200.0, help="images a second (default: 200)")
    parser.add_argument("--folder", type=user_path, help="where to work (default: the folder for temporary files)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(parse_arguments()), debug=False))
