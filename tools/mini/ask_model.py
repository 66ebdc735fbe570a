"""Asking the mini world's own model anew: real vLLM, in the environment of the reasoning, as for every other model."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from maft.errors import UserError
from maft.resources import checkout
from reason.triplets import load_generic, load_image

from .dataset import REASON_DATA, Layout
from .shipped_reasons import WEIGHTS, differing, shipped_generic, shipped_images

ASKED = ("--attributes", "3", "3")
"""The model gives three attributes; other numbers it was not trained for."""

_QUIET = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
_SHOWN = 5


def make_reasons(layout: Layout, folder: Path, model: Path = WEIGHTS) -> Path:
    """Let the model write reasons for the validation images and for the classes, anew or where it was interrupted.

    Args:
        layout: the prepared validation split.
        folder: where they go: image/mini/<stem>.json and generic.json.
        model: the model's folder.

    Returns:
        `folder`.

    Raises:
        UserError: not in a checkout, no such model, the environment cannot be made, or the run fails.
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
    common = ["--model", str(model.resolve()), "--vocabulary", str(layout.vocabulary.resolve()), *ASKED]
    images = folder.resolve() / "image" / REASON_DATA
    words = ["--images", str(layout.images.resolve()), "--output", str(images), "--aligner", "none", "--resume"]
    generic = ["--output", str(folder.resolve() / "generic.json"), "--resume"]
    _run([python, "-m", "reason", "image", *common, *words], root, "the model did not answer for every image")
    _run([python, "-m", "reason", "generic", *common, *generic], root, "the model did not answer for every class")
    return folder


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
