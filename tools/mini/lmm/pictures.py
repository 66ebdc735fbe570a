"""The images that the multimodal model is trained on, drawn once and kept: pixels as at run time, and what they show.

Images are drawn as for CLIP (no combination of a new kind, `world.held_out`), go through `reason`'s own encoding (252
pixels, JPEG), and lie in one file that processes map into memory.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reason.bars import Bar
from reason.files import write_text
from reason.runs.images import encode_image

from ..scenes import SIDE as DRAWN
from ..scenes import Scene, dev_scene, lmm_training_scene
from ..world import STUFF_VALUES, THING_VALUES
from .looks import GRID, Look, cell_of, describe_scene
from .network import SIDE

HEADS: Mapping[str, tuple[str, ...]] = {
    "thing": ("no", "yes"),
    "middle": ("no", "yes"),
    **{f"thing {axis}": values for axis, values in THING_VALUES.items()},
    **{f"stuff {axis}": values for axis, values in STUFF_VALUES.items()},
}
"""What is asked on the side of every image token about the image there, and the possible answers."""


@dataclass(frozen=True)
class Pictures:
    """Images and what is in them.

    Attributes:
        pixels: (N, 252, 252, 3) uint8 RGB.
        answers: (N, 81, heads of `HEADS`) int8, the answer's place, -1 where there is none.
        looks: what a faultless observer says of each, under the kinds' own names.
    """

    pixels: NDArray[np.uint8]
    answers: NDArray[np.int8]
    looks: list[list[Look]]

    def __len__(self) -> int:
        return len(self.looks)


def training_pictures(folder: Path, count: int) -> Pictures:
    """The first `count` images of training; drawn into `folder` where they do not lie there yet."""
    return _kept(folder / f"lmm-{count}", count, "lmm")


def dev_pictures(folder: Path, count: int) -> Pictures:
    """Images as validation has them, of other seeds."""
    return _kept(folder / f"dev-{count}", count, "dev")


def as_seen(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(252, 252, 3) uint8: an image of (256, 256, 3) as it reaches the model."""
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        Image.fromarray(pixels).save(file, format="PNG", compress_level=0)
        file.flush()
        encoded = encode_image(Path(file.name), max_pixels=SIDE**2)
    with Image.open(io.BytesIO(encoded.data)) as image:
        return np.asarray(image.convert("RGB"))


def answers_of(scene: Scene) -> NDArray[np.int8]:
    """(81, heads) int8: what is in the middle of every token's cell, row by row."""
    places = ((np.arange(GRID) + 0.5) * DRAWN / GRID).astype(int)
    ids = scene.panoptic[np.ix_(places, places)].reshape(-1)
    found = np.full((GRID**2, len(HEADS)), -1, dtype=np.int8)
    found[:, 1] = 0
    for segment in scene.segments:
        cells = ids == segment.id
        found[cells, 0] = segment.thing
        kind = "thing" if segment.thing else "stuff"
        for head, (name, values) in enumerate(HEADS.items()):
            if name.startswith(f"{kind} "):
                found[cells, head] = values.index(segment.attributes[name.split()[1]])
        if segment.thing:
            x, y, width, height = segment.box
            found[cell_of(y + height / 2) * GRID + cell_of(x + width / 2), 1] = 1
    return found


def _kept(folder: Path, count: int, stream: str) -> Pictures:
    ready = folder / "looks.json"
    if not ready.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _draw(folder, count, stream)
    entries = json.loads(ready.read_text(encoding="utf-8"))
    looks = [[_look(entry) for entry in picture] for picture in entries]
    pixels = np.load(folder / "pixels.npy", mmap_mode="r")
    return Pictures(pixels, np.load(folder / "answers.npy"), looks)


def _draw(folder: Path, count: int, stream: str) -> None:
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", mode="w+", dtype=np.uint8, shape=(count, SIDE, SIDE, 3))
    answers = np.empty((count, GRID**2, len(HEADS)), dtype=np.int8)
    looks: list[list[dict[str, Any]]] = []
    jobs = [(stream, number) for number in range(count)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        drawn = pool.imap(_drawn, jobs, chunksize=32)
        bar = Bar(drawn, total=count, desc=f"drawing, {stream}", unit="image")
        for number, (image, answer, said) in enumerate(bar):
            pixels[number], answers[number] = image, answer
            looks.append(said)
    pixels.flush()
    np.save(folder / "answers.npy", answers)
    write_text(folder / "looks.json", json.dumps(looks))  # last: where it is, all is


def _drawn(job: tuple[str, int]) -> tuple[NDArray[np.uint8], NDArray[np.int8], list[dict[str, Any]]]:
    stream, number = job
    scene = lmm_training_scene(number) if stream == "lmm" else dev_scene(number)
    return as_seen(scene.image), answers_of(scene), [asdict(look) for look in describe_scene(scene, {})]


def _look(entry: Mapping[str, Any]) -> Look:
    cell = entry["cell"]
    return Look(**{**entry, "cell": None if cell is None else (cell[0], cell[1])})
