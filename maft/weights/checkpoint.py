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
from torch import Tensor

from maft.errors import UserError
from maft.weights.impostors import impostor, is_safetensors, read_head
from maft.weights.seeding import SEEDED, Seedable, seed_module

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

_UNDER = ("model", "state_dict", "model_state_dict")
"""Where a checkpoint keeps its state dict, beside a training's state."""

_WRAPPERS = ("module", "model")
_COMPILED = "_orig_mod"
"""What stands before names: of DistributedDataParallel; of a training module around the model; of torch.compile, which
also stands between, where a part was compiled."""

_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
"""Types of entries: weights, and the counters and masks beside them."""

_LISTED = 4
_GET_WEIGHTS = "see pretrained/README.md for where to get the published files"


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict on the CPU.

    Args:
        path: a .safetensors file, or a .pth/.pt file that holds a state dict or a dictionary with one under a key of
            `_UNDER` (training states beside it are ignored).

    Returns:
        Name -> tensor, with what wrappers put before the names taken off (`_WRAPPERS`, "_orig_mod." anywhere).

    Raises:
        UserError: the file is missing, truncated, a git-lfs pointer, a web page, a program, carries code, holds no
            state dict, or has values that are not finite.
    """
    content = read_checkpoint(path)
    state = next((content[key] for key in _UNDER if isinstance(content.get(key), Mapping)), content)
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: holds no state dict (a mapping of names to tensors, bare or under 'model')")
    named = _unwrapped(path, {str(name): value for name, value in state.items() if isinstance(value, Tensor)})
    _check_plain(path, named)
    _check_finite(path, named)
    return named


def _unwrapped(path: str | Path, state: Mapping[str, TensorT]) -> dict[str, TensorT]:
    """The entries without what wrappers put before their names; said where there was something."""
    found: dict[str, TensorT] = {}
    wrappers: dict[str, None] = {}
    for name, value in state.items():
        parts = name.split(".")
        bare = [part for part in parts if part != _COMPILED]
        while len(bare) > 1 and bare[0] in _WRAPPERS:
            wrappers[f"{bare.pop(0)}."] = None
        if _COMPILED in parts:
            wrappers[f"{_COMPILED}."] = None
        short = ".".join(bare)
        if short in found:
            raise UserError(f"{path}: holds {short} twice, under different wrappers; save the state dict of one model")
        found[short] = value
    if wrappers:
        logger.info("%s: names have %s before them, from a wrapper of the model; taken off", path, ", ".join(wrappers))
    return found


def _check_plain(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Refuse compressed weights: read as they are, they would be other numbers."""
    for name, value in state.items():
        if value.is_meta or value.is_quantized or value.layout != torch.strided or value.dtype not in _DTYPES:
            form = "without values (meta)" if value.is_meta else str(value.dtype).removeprefix("torch.")
            form = "sparse" if value.layout != torch.strided else form
            raise UserError(
                f"{path}: {name} is {form}; save the weights as dense float32, float16 or bfloat16 (dequantize them)"
            )


def _check_finite(path: str | Path, state: Mapping[str, Tensor]) -> None:
    bad: dict[str, int] = {}
    for name, value in state.items():
        if not value.is_floating_point() or torch.isfinite(value).all():
            continue
        # A causal mask is made of zeros and -inf.
        wrong = value.isnan() | value.isposinf() if name.endswith("attn_mask") else ~value.isfinite()
        if count := int(wrong.sum()):
            bad[name] = count
    if bad:
        first = next(iter(bad))
        raise UserError(
            f"{path}: {sum(bad.values())} values are NaN or infinite, in {len(bad)} of {len(state)} entries, the first "
            f"in {first}; the training that wrote it diverged, or the file is damaged: take an earlier checkpoint"
        )


def read_checkpoint(path: str | Path) -> Mapping[str, Any]:
    """Everything in a weight file, on the CPU: tensors and plain values, by name.

    Raises:
        UserError: the file is missing, truncated, a git-lfs pointer, a web page, carries code, or is no mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weight file; {_GET_WEIGHTS}, or name a file of your own")
    head = _head_of_weights(path)
    content = _read_safetensors(path) if is_safetensors(head) else _read_pickle(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds no state dict (a mapping of names to tensors, bare or under 'model')")
    return content


class Fillable(Seedable, Protocol):
    """What `load_model_weights` fills: an nn.Module, or anything else with a state dict."""

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> Any:
        """Take every entry from `state_dict`."""


def _head_of_weights(path: Path) -> bytes:
    """The first bytes of a file that may hold weights."""
    try:
        head = read_head(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if found := impostor(head):
        raise UserError(f"{path}: {found}; {_GET_WEIGHTS}")
    return head


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: truncated or not a safetensors file ({error}); download it again") from error


def _read_pickle(path: Path) -> object:
    _refuse_archives(path)
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


def _refuse_archives(path: Path) -> None:
    """Stop at a zip archive that torch.save did not write: a program, or a zipped folder.

    Raises:
        UserError: it is one.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return  # what is wrong with it is said by whoever reads it
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        raise UserError(
            f"{path}: a TorchScript program (torch.jit.save), not a checkpoint; if you trust it, write its weights "
            f"with torch.save(torch.jit.load('{path.name}').state_dict(), 'weights.pth')"
        )
    if "archive_format" in inside:
        raise UserError(
            f"{path}: an exported program (torch.export.save), not a checkpoint; if you trust it, write its weights "
            f"with torch.save(torch.export.load('{path.name}').state_dict, 'weights.pth')"
        )
    if not any(name.rpartition("/")[2] == "data.pkl" for name in names):
        listed = f"{', '.join(names[:_LISTED])}{', …' if len(names) > _LISTED else ''}" or "nothing"
        raise UserError(f"{path}: an archive that holds {listed}; unpack it and name the file inside")


def _is_plain_pickle(path: Path) -> bool:
    """Whether a file is of Python's pickle, in a protocol that torch.save does not write."""
    with path.open("rb") as file:
        head = file.read(2)
    return head[:1] == b"\x80" and head[1:] > b"\x02"


def _truncated(path: Path) -> UserError:
    return UserError(f"{path}: truncated, or not a PyTorch checkpoint; download it again ({_GET_WEIGHTS})")


def load_model_weights(model: Fillable, weights: str | Path, key: str = "MODEL.WEIGHTS") -> None:
    """Fill `model` from `weights`, strictly: every name and shape must fit, the training-only teacher aside.

    Args:
        model: the network; its device and dtypes stay.
        weights: a path, or "seeded" for the stand-in weights of `maft.weights.seeding`, of the teacher too if there is
            one.
        key: what the user names them by, for messages.

    Raises:
        UserError: nothing is named, or the file cannot be read or is of another model or size.
    """
    if not str(weights):
        raise UserError(f"{key}: empty; name a checkpoint, or 'seeded' for meaningless stand-in weights")
    if str(weights) == SEEDED:
        logger.warning("%s is 'seeded': random stand-in weights, the segmentation MEANS NOTHING", key)
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
    """What `misfit` compares: a tensor, or anything else with a shape and a type."""

    @property
    def shape(self) -> torch.Size:
        """The entry's size."""

    @property
    def dtype(self) -> torch.dtype:
        """The entry's type."""


def misfit(own: Mapping[str, Shaped], state: Mapping[str, Shaped]) -> str:
    """How the names, shapes and kinds of `state` differ from those of a model, as one phrase; "" if they fit.

    Args:
        own: the model's entries.
        state: those of a file, teacher excluded.
    """
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    integers = [
        f"{name} {str(state[name].dtype).removeprefix('torch.')}"
        for name in own
        if name in state and own[name].dtype.is_floating_point and not state[name].dtype.is_floating_point
    ]
    reshaped = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    return "; ".join(
        f"{len(names)} {what} ({', '.join(names[:_LISTED])}{', …' if len(names) > _LISTED else ''})"
        for what, names in (
            ("quantised", integers),
            ("of another size", reshaped),
            ("missing", missing),
            ("unexpected", unexpected),
        )
        if names
    )
