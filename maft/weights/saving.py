"""Checkpoints of a training: whole or absent, the newest named in last_checkpoint, as detectron2 does."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from maft.errors import UserError
from maft.files import replacing, write_text
from maft.weights.checkpoint import read_checkpoint

logger = logging.getLogger(__name__)

LAST = "last_checkpoint"
FINAL = "model_final.pth"
_NUMBERED = re.compile(r"model_\d{7}\.pth")
_FREE = (
    *("OUTPUT_DIR", "VIS_PERIOD", "TEST", "DATALOADER.NUM_WORKERS", "DATASETS.TEST", "MODEL.REASON", "MODEL.WEIGHTS"),
    *("SOLVER.LOG_PERIOD", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.KEEP_CHECKPOINTS"),
)
"""Keys, or sections, that may change between a run and its continuation without a word."""


def save(folder: str | Path, content: Mapping[str, Any], *, final: bool, keep: int) -> Path:
    """Write a checkpoint and make it the last one.

    Args:
        folder: OUTPUT_DIR.
        content: tensors and plain values, "iteration" among them: finished steps.
        final: it is the end of the training (model_final.pth).
        keep: numbered checkpoints to keep, the newest ones; 0 keeps all.

    Returns:
        Its path.

    Raises:
        UserError: it cannot be written; the checkpoint before it stays the last one.
    """
    folder = Path(folder)
    path = folder / (FINAL if final else f"model_{content['iteration']:07d}.pth")
    try:
        with replacing(path) as stream:
            torch.save(dict(content), stream)
    except RuntimeError as error:  # torch's archive writer on a full disk
        raise UserError(f"{path}: cannot be written ({error}); make room and continue with --resume") from error
    write_text(folder / LAST, path.name)
    numbered = sorted(entry for entry in folder.iterdir() if _NUMBERED.fullmatch(entry.name) and entry != path)
    if keep > 0:
        for old in numbered[: max(len(numbered) - keep + (not final), 0)]:
            old.unlink(missing_ok=True)
    logger.info("saved %s", path)
    return path


def last(folder: str | Path) -> Path | None:
    """The newest checkpoint of a training, None if there is none.

    Raises:
        UserError: last_checkpoint names a file that is not there.
    """
    pointer = Path(folder) / LAST
    if not pointer.is_file():
        return None
    path = pointer.parent / pointer.read_text(encoding="utf-8").strip()
    if not path.is_file():
        raise UserError(
            f"{pointer}: names {path.name}, which is not there; write the name of another checkpoint into it"
        )
    return path


def load(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU.

    Raises:
        UserError: it is damaged, or none of a training.
    """
    content = read_checkpoint(path)
    lacking = [
        key for key in ("model", "optimizer", "scaler", "iteration", "processes", "config") if key not in content
    ]
    if lacking:
        raise UserError(
            f"{path}: has no {', '.join(lacking)}, so no training can continue from it; to start from its weights, "
            "pass MODEL.WEIGHTS and another OUTPUT_DIR, without --resume"
        )
    return dict(content)


def changed_keys(before: str, now: str) -> list[str]:
    """What differs between two configurations that training depends on, one "KEY: old -> new" each.

    Args:
        before, now: as yaml.
    """
    old, new = (_flat(yaml.safe_load(text)) for text in (before, now))
    return [
        f"{key}: {old.get(key)} -> {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not any(key == free or key.startswith(f"{free}.") for free in _FREE)
    ]


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
