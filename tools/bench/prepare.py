"""How much of the image codec's speed is left when ADE20K-847 is prepared, and whether memory stays flat.

    python -m tools.bench.prepare                      a few hundred images
    python -m tools.bench.prepare --images 27574       as many as the release has

Images are generated: photographs of scikit-image at sizes like the release's, and class maps in the `_seg.png` coding.
A round measures, on the same images and as many processes, the codec alone (decode, resize, encode; nothing looked up,
checked or written) and the preparation, one after the other; the ratio is that of the medians. Exit status 1 if the
preparation reaches less than --least of the codec, or memory grows.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from PIL import Image

from maft.errors import run_command
from reason.files import user_path
from reason.vocabulary import load_vocabulary

from ..prepare_datasets.ade_full import JPEG_QUALITY, SHORT_SIDE, plan, smaller_size
from ..prepare_datasets.engine import execute
from ..prepare_datasets.pool import Pool

SIZES = ((1536, 2048), (960, 1280), (768, 1024), (2048, 1536), (600, 800), (1200, 1600), (512, 683), (256, 256))
"""Height and width; of the release's images, about a tenth are not made smaller."""
DISTINCT = 48
FLAT = 1.15
"""Memory grows if its peak in the last three quarters exceeds that of the first one by more than this factor."""


def generate(folder: Path, images: int) -> list[Path]:
    """Make `images` images and class maps as the release has them; a few dozen distinct ones, linked.

    Returns:
        the images' files, each with a `_seg.png` beside it.
    """
    folder.mkdir(parents=True)
    generator = np.random.default_rng(847)
    identifiers = np.array([entry.dataset_id for entry in load_vocabulary("ade847").classes])
    photographs = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()]
    made: list[Path] = []
    for number in range(images):
        path = folder / f"ADE_{'val' if number % 14 == 0 else 'train'}_{number:08}.jpg"
        if number < DISTINCT:
            height, width = SIZES[number % len(SIZES)]
            photograph = cv2.resize(photographs[number // 2 % 4], (width, height), interpolation=cv2.INTER_CUBIC)
            noise = generator.normal(0, 4, photograph.shape)
            Image.fromarray(np.clip(photograph + noise, 0, 255).astype(np.uint8)).save(path, quality=90)
            Image.fromarray(_class_map(height, width, identifiers, generator)).save(_label_of(path))
        else:
            for source, target in (
                (made[number % DISTINCT], path),
                (_label_of(made[number % DISTINCT]), _label_of(path)),
            ):
                os.link(source, target)
        made.append(path)
    return made


def _label_of(image: Path) -> Path:
    return image.with_name(f"{image.stem}_seg.png")


def _class_map(height: int, width: int, identifiers: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8: a few dozen ellipses of random classes, each with its number in B, as instances have it."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for number in range(40):
        value = int(generator.choice(identifiers))
        center = (int(generator.integers(width)), int(generator.integers(height)))
        axes = (int(generator.integers(8, width // 3)), int(generator.integers(8, height // 3)))
        color = (value // 256 * 10, value % 256, number + 1)
        cv2.ellipse(image, center, axes, float(generator.integers(180)), 0, 360, color, -1)
    return image


def codec_only(path: Path) -> int:
    """Decode, resize and encode one image and its class map; bytes made."""
    image, label = np.asarray(Image.open(path)), np.asarray(Image.open(_label_of(path)))
    size = smaller_size(*image.shape[:2])
    jpeg, tiff = io.BytesIO(), io.BytesIO()
    if size is not None:
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
        label = cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST)
        Image.fromarray(image).save(jpeg, format="JPEG", quality=JPEG_QUALITY)
    indices = label[..., 0].astype(np.uint16) << 8 | label[..., 1]
    Image.fromarray(indices).save(tiff, format="TIFF", compression="tiff_adobe_deflate")
    return len(jpeg.getvalue()) + len(tiff.getvalue())


def time_codec(paths: Sequence[Path], workers: int) -> float:
    """Seconds that the codec alone takes."""
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        start = time.perf_counter()
        for _ in pool.map(codec_only, paths, chunksize=8):
            pass
        return time.perf_counter() - start


def time_preparation(source: Path, root: Path, workers: int) -> tuple[float, list[float]]:
    """Seconds that the preparation takes, planning included, and the MiB that it used, four times a second.

    Raises:
        RuntimeError: it failed.
    """
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_prepare, args=(source, root, workers, writer))
    process.start()
    assert process.pid is not None
    samples = []
    while not reader.poll(0.25):
        if not process.is_alive():
            raise RuntimeError(f"the preparation ended with status {process.exitcode}")
        samples.append(_memory(process.pid))
    seconds = reader.recv()
    process.join()
    return seconds, samples


def _prepare(source: Path, root: Path, workers: int, writer: Connection) -> None:
    start = time.perf_counter()
    made = plan(Pool([source], root / "spool"), root, ("train", "val"))
    execute(made, root, workers=workers, sources=[source])
    writer.send(time.perf_counter() - start)


def _memory(pid: int) -> float:
    """MiB of a process and its children, what they share counted once."""
    total = 0
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for process in (str(pid), *children):
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    except (OSError, StopIteration):
        pass  # it ends just now
    return total / 1024


def growth(samples: Sequence[float]) -> float:
    """Peak of the last three quarters over the peak of the first quarter; 1 for too few samples."""
    quarter = len(samples) // 4
    return max(samples[quarter:]) / max(samples[:quarter]) if quarter >= 2 else 1.0


def main(arguments: argparse.Namespace) -> int:
    """Measure and print; see the module."""
    cv2.setNumThreads(1)  # its threads would not survive the fork
    folder = Path(tempfile.mkdtemp(prefix="bench_prepare_", dir=arguments.folder))
    try:
        paths = generate(folder / "release", arguments.images)
        codec, preparation, samples = [], [], []
        for round_number in range(arguments.rounds):
            root = folder / "prepared"
            first = partial(time_codec, paths, arguments.workers)
            if round_number % 2 == 0:  # neither is always the one that runs while the machine is cold
                codec.append(first())
            seconds, memory = time_preparation(folder / "release", root, arguments.workers)
            preparation.append(seconds)
            samples.append(memory)
            shutil.rmtree(root)
            if round_number % 2:
                codec.append(first())
    finally:
        shutil.rmtree(folder)
    ratio = statistics.median(codec) / statistics.median(preparation)
    grown = statistics.median(growth(memory) for memory in samples)
    report = {
        "images": arguments.images,
        "workers": arguments.workers,
        "short_side": SHORT_SIDE,
        "codec_images_per_second": round(arguments.images / statistics.median(codec), 1),
        "prepared_images_per_second": round(arguments.images / statistics.median(preparation), 1),
        "codec_seconds": [round(value, 2) for value in codec],
        "preparation_seconds": [round(value, 2) for value in preparation],
        "ratio": round(ratio, 3),
        "memory_peak_mib": round(max(max(memory, default=0.0) for memory in samples), 1),
        "memory_growth": round(grown, 3),
    }
    print(json.dumps(report, indent=1))
    return int(ratio < arguments.least or grown > FLAT)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--least", type=float, default=0.8, help="of the codec's throughput (default: 0.8)")
    parser.add_argument("--folder", type=user_path, help="where to work (default: the folder for temporary files)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(parse_arguments())))
