"""Asking the mini world's own model anew: real vLLM, in the environment of the reasoning, as for every other model."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from maft.errors import UserError
from maft.resources import checkout
from reason.triplets import load_generic, load_image
from reason.vocabulary import dump_vocabulary

from .dataset import COUNTS, REASON_DATA
from .scenes import render_scene
from .shipped_reasons import WEIGHTS, differing, shipped_generic, shipped_images
from .world import vocabulary

ASKED = ("--attributes", "3", "3")
"""The model gives three attributes; other numbers it was not trained for."""

_QUIET = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
_SHOWN = 5


def make_reasons(folder: Path, *, resume: bool, model: Path = WEIGHTS) -> Path:
    """Let the model write reasons for the validation images and for the classes.

    The images are drawn for it, whatever the shipped reasons are about: so new ones can be made where those no longer
    fit.

    Args:
        folder: where all goes: images/, vocabulary.json, image/mini/<stem>.json and generic.json.
        resume: go on with what is there; else all of it is made anew.
        model: the model's folder.

    Returns:
        `folder`.

    Raises:
        UserError: not in a checkout, no such model, the environment cannot be made, the folder cannot be written, or
            the run fails.
    """
    root = checkout()
    if root is None:
        raise UserError("--reason: needs a checkout with its install.sh; this is an installed package")
    if not (model / "config.json").is_file():
        raise UserError(
            f"{model}: no model there; restore it, or train it: python -m tools.mini.train --model lmm --ship"
        )
    _run(["bash", "install.sh", "reason"], root, "the environment of the reasoning cannot be made")
    python = str(root / ".venv-reason" / "bin" / "python")
    folder = folder.resolve()
    try:
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
        _draw(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}); give another --output") from error
    common = ["--model", str(model.resolve()), "--vocabulary", str(folder / "vocabulary.json"), *ASKED, "--resume"]
    words = ["--images", str(folder / "images"), "--output", str(folder / "image" / REASON_DATA), "--aligner", "none"]
    generic = ["--output", str(folder / "generic.json")]
    _run([python, "-m", "reason", "image", *common, *words], root, "the model did not answer for every image")
    _run([python, "-m", "reason", "generic", *common, *generic], root, "the model did not answer for every class")
    return folder


def _draw(folder: Path) -> None:
    """The validation images and their vocabulary."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(COUNTS["val"]):
        Image.fromarray(render_scene(number, "val").image).save(folder / "images" / f"val_{number:04d}.png")
    dump_vocabulary(vocabulary("val"), folder / "vocabulary.json")


def compared(folder: Path) -> str:
    """Whether what `make_reasons` wrote equals what ships, in a sentence or two."""
    origin, shipped = shipped_images()
    images = {path.stem: load_image(path) for path in sorted((folder / "image" / REASON_DATA).glob("*.json"))}
    others = differing({stem: shipped[stem] for stem in shipped if stem in images}, images)
    generic, known = load_generic(folder / "generic.json"), shipped_generic()
    classes = [name for name in known if generic.get(name) != known[name]]
    if not others and not classes:
        return f"The reasons made now equal the shipped ones: {len(images)} images, {len(known)} classes."
    named = [*others, *classes]
    more = ", …" if len(named) > _SHOWN else ""
    return (
        f"The reasons made now differ from the shipped ones in {len(others)} of {len(images)} images and "
        f"{len(classes)} of {len(known)} classes ({', '.join(named[:_SHOWN])}{more}). Those were written by "
        f"{origin.get('engine', 'vllm')} {origin.get('engine_version', '')}; another version or processor rounds "
        "differently."
    )


def _run(words: Sequence[str], root: Path, problem: str) -> None:
    ended = subprocess.run(words, cwd=root, env={**_QUIET, **os.environ}, check=False)
    if ended.returncode:
        raise UserError(f"--reason: {problem} ({' '.join(words[:4])}: exit status {ended.returncode}); see above")
