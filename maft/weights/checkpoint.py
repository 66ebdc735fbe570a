"""Reading weights: MAFT+ checkpoints (.pth) and safetensors, without ever running code that a file carries."""

from __future__ import annotations

import logging
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from maft.errors import UserError
from maft.weights.impostors import impostor, read_head
from maft.weights.seeding import SEEDED, seed_module

logger = logging.getLogger(__name__)

_PLAIN_NUMPY: list[Any] = [
    np.dtype,
    np.ndarray,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
]
"""Training checkpoints hold learning rates as numpy scalars, by the names of the numpy that wrote them: plain data."""

TensorT = TypeVar("TensorT")

_LISTED = 4
_GET_WEIGHTS = "see pretrained/README.md for where to get the published files"


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict on the CPU.

    Args:
        path: a .safetensors file, or a .pth/.pt file that holds a state dict or a dictionary with one under "model" or
            "state_dict" (training states beside it are ignored).

    Returns:
        Name -> tensor, with a leading "module." (from DistributedDataParallel) taken off.

    Raises:
        UserError: the file is missing, truncated, a git-lfs pointer, a web page, carries code, or holds no state dict.
    """
    content = read_checkpoint(path)
    state = content.get("model", content.get("state_dict", content))
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: holds no state dict (a mapping of names to tensors, bare or under 'model')")
    return {str(name).removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}


def read_checkpoint(path: str | Path) -> Mapping[str, Any]:
    """Everything in a weight file, on the CPU: tensors and plain values, by name.

    Raises:
        UserError: the file is missing, truncated, a git-lfs pointer, a web page, carries code, or is no mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weight file; {_GET_WEIGHTS}, or set MODEL.WEIGHTS to your own")
    _refuse_impostors(path)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds no state dict (a mapping of names to tensors, bare or under 'model')")
    return content


def _refuse_impostors(path: Path) -> None:
    try:
        found = impostor(read_head(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if found:
        raise UserError(f"{path}: {found}; {_GET_WEIGHTS}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: truncated or not a safetensors file ({error}); download it again") from error


def _read_pickle(path: Path) -> object:
    if inside := _archive_without_weights(path):
        raise UserError(f"{path}: an archive that holds {inside}; unpack it and name the file inside")
    try:
        with torch.serialization.safe_globals(_PLAIN_NUMPY), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            # Memory-mapped reading leaves the optimiser's state of a training checkpoint on the disk.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        text = str(error)
        if "unsupported global" in text.lower() or ("Unsupported operand" in text and _is_plain_pickle(path)):
            raise UserError(
                f"{path}: refused, the pickle carries code or objects other than weights; "
                "convert it to .safetensors, or save its state dict alone with torch.save"
            ) from error
        raise _truncated(path) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise _truncated(path) from error


def _archive_without_weights(path: Path) -> str:
    """The first members of a zip archive that torch.save did not write, such as a zipped folder; "" for other files."""
    if not zipfile.is_zipfile(path):
        return ""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return ""  # what is wrong with it is said by whoever reads it
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return ""
    return f"{', '.join(names[:_LISTED])}{', …' if len(names) > _LISTED else ''}" or "nothing"


def _is_plain_pickle(path: Path) -> bool:
    """Whether a file is of Python's pickle, in a protocol that torch.save does not write."""
    with path.open("rb") as file:
        head = file.read(2)
    return head[:1] == b"\x80" and head[1:] > b"\x02"


def _truncated(path: Path) -> UserError:
    return UserError(f"{path}: truncated, or not a PyTorch checkpoint; download it again ({_GET_WEIGHTS})")


def load_model_weights(model: nn.Module, weights: str | Path) -> None:
    """Fill `model` from `weights`, strictly: every name and shape must fit, the training-only teacher aside.

    Args:
        model: the network; its device and dtypes stay.
        weights: a path, or "seeded" for the stand-in weights of `maft.weights.seeding`, of the teacher too if there is
            one.

    Raises:
        UserError: nothing is named, or the file cannot be read or is of another model or size.
    """
    if not str(weights):
        raise UserError("MODEL.WEIGHTS: empty; name a checkpoint, or 'seeded' for meaningless stand-in weights")
    if str(weights) == SEEDED:
        logger.warning("MODEL.WEIGHTS is 'seeded': random stand-in weights, the segmentation MEANS NOTHING")
        seed_module(model)
        return
    state = without(load_weights(weights), getattr(model, "teacher_prefix", ""))
    if problem := misfit(model.state_dict(), state):
        raise UserError(
            f"{weights}: not a checkpoint of this model: {problem}; "
            "check that --config-file fits the weights (base, large, panoptic)"
        )
    model.load_state_dict(state)
    logger.info("loaded %d entries from %s", len(state), weights)


def without(state: Mapping[str, TensorT], prefix: str) -> dict[str, TensorT]:
    """The entries of a state dict that evaluation uses.

    Args:
        state: by name.
        prefix: how the entries of the network's frozen teacher begin, which only training needs; "" for none.
    """
    return {name: value for name, value in state.items() if not (prefix and name.startswith(prefix))}


class Shaped(Protocol):
    """What `misfit` compares: a tensor, or anything else with a shape."""

    @property
    def shape(self) -> torch.Size:
        """The entry's size."""


def misfit(own: Mapping[str, Shaped], state: Mapping[str, Shaped]) -> str:
    """How the names and shapes of `state` differ from those of a model, as one phrase; "" if they fit.

    Args:
        own: the model's entries.
        state: those of a file, teacher excluded.
    """
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    reshaped = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    return "; ".join(
        f"{len(names)} {what} ({', '.join(names[:_LISTED])}{', …' if len(names) > _LISTED else ''})"
        for what, names in (("of another size", reshaped), ("missing", missing), ("unexpected", unexpected))
        if names
    )
