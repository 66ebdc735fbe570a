"""Evaluation of a model that is being trained: what its weights are, and its metrics in one line."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

_SEMANTIC = ("mIoU_reference", "mIoU_present")
_PANOPTIC = ("PQ", "SQ", "RQ")


def hash_state(model: nn.Module) -> str:
    """The blake2b hash over names and values of a model's state, 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def flat_metrics(evaluations: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The main metrics of several data sets, by "<data set>/<metric>".

    Args:
        evaluations: data set to what `maft.evaluation.loop.evaluate` returned.
    """
    flat: dict[str, float] = {}
    for dataset, evaluation in evaluations.items():
        for task, metrics in evaluation["metrics"].items():
            values = metrics if task == "sem_seg" else metrics["all"]
            keys = _SEMANTIC if task == "sem_seg" else _PANOPTIC
            flat |= {f"{dataset}/{key}": values[key] for key in keys}
    return flat
