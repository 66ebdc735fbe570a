"""CLIP's own weights: where a training begins, and what a checkpoint leaves out since training does not change it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import open_clip
import safetensors
import torch
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from torch import Tensor

from maft.errors import UserError
from maft.modeling.network import Network
from maft.weights.checkpoint import load_weights, misfit

logger = logging.getLogger(__name__)

_INSIDE = "clip_model."
LEFT_OUT = "clip_left_out"
"""In the metadata of a .safetensors file without some of CLIP's entries: their `digest`."""
_MINI = ("mini", "clip.safetensors")
_TRAIN_MINI = "OMP_NUM_THREADS=1 python -m tools.mini.train_clip"
"""What configs/mini/train.yaml begins with, and what makes it."""
_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")


def load_clip(model: Network, weights: str) -> None:
    """Fill both towers of the backbone, and of the teacher where there is one, from one CLIP checkpoint.

    Args:
        model: its device and dtypes stay.
        weights: a file (see `read_clip`), or the tag of weights that open_clip knows for this architecture and
            downloads.

    Raises:
        UserError: no such tag or file, no way to download it, or weights of another architecture.
    """
    architecture = model.clip.model_name
    path = find_clip_weights(architecture, weights, model.clip_key)
    state = read_clip(path)
    if problem := misfit(model.clip.clip_model.state_dict(), state):
        raise UserError(f"{model.clip_key}: {path} is not a checkpoint of {architecture} ({problem}); name one that is")
    for backbone in (model.clip, model.backbone_t):
        if backbone is not None:
            backbone.clip_model.load_state_dict(state)
    logger.info("CLIP %s begins with %s", architecture, path)


def read_clip(path: str | Path) -> dict[str, Tensor]:
    """The entries of a CLIP by open_clip's names.

    Args:
        path: .safetensors, or a pickled state dict as open_clip writes it; or the checkpoint of a segmentor, of which
            the CLIP is taken.

    Raises:
        UserError: see `load_weights`.
    """
    state = load_weights(path)
    inside = {prefix for prefix, found, _ in (name.partition(_INSIDE) for name in state) if found}
    # A segmentor's frozen teacher stands beside the CLIP that was trained: the shorter prefix is the latter's.
    first = min(inside, key=len, default=None)
    if first is None:
        return state
    whole = f"{first}{_INSIDE}"
    return {name.removeprefix(whole): value for name, value in state.items() if name.startswith(whole)}


def check_file(weights: str, key: str) -> None:
    """Find out whether CLIP's weights are there, if a file is named; a tag is left to `find_clip_weights`.

    Args:
        weights: see `load_clip`.
        key: what the user names them by, for the error.

    Raises:
        UserError: they are not.
    """
    path = Path(weights)
    if weights.endswith(_SUFFIXES) and not path.is_file():
        made = path.parts[-2:] == _MINI
        way_out = f"'{_TRAIN_MINI}' writes it in 10 minutes" if made else "name a file or a tag of open_clip's"
        raise UserError(f"{key}: {weights} is not there; {way_out}")


def find_clip_weights(architecture: str, weights: str, key: str) -> Path:
    """The file of a CLIP's weights, downloaded into open_clip's cache where only a tag is given.

    Args:
        architecture: open_clip's name.
        weights: see `load_clip`.
        key: what the user names them by, for the error.

    Raises:
        UserError: no such tag or file, or no way to download it.
    """
    if Path(weights).is_file():
        return Path(weights)
    known = open_clip.list_pretrained_tags_by_model(architecture)
    if weights not in known:
        check_file(weights, key)
        tags = f"its tags for {architecture} are {', '.join(known)}" if known else f"it has none for {architecture}"
        raise UserError(f"{key}: '{weights}' is neither a file nor a tag of open_clip's; {tags}")
    try:
        return Path(download_pretrained(get_pretrained_cfg(architecture, weights)))
    # Whatever goes wrong on the way to another machine: the libraries below raise errors of many families.
    except Exception as error:
        raise UserError(
            f"{key}: '{weights}' of {architecture} could not be downloaded ({type(error).__name__}: {error}); fetch "
            "the file elsewhere and name its path"
        ) from error


def entries_left_out(
    names: Iterable[str], own: Mapping[str, Tensor], checkpoint: str | Path, clip: str | Path
) -> dict[str, Tensor]:
    """The entries of CLIP that a checkpoint leaves out, from CLIP's own file.

    Args:
        names: of these entries, in the network.
        own: the network's entries.
        checkpoint: the file that lacks them. If its metadata say which they were (`LEFT_OUT`), that is checked.
        clip: see `read_clip`.

    Raises:
        UserError: the file of CLIP cannot be read, or its entries are of another size or other ones.
    """
    state = read_clip(clip)
    by_name = {name: name.rpartition(_INSIDE)[2] for name in names}
    found = {name: state[short] for name, short in by_name.items() if short in state}
    lacks = f"{checkpoint}: lacks {len(by_name)} entries of CLIP (such as {next(iter(by_name), '')})"
    if problem := misfit({name: own[name] for name in by_name}, found):
        raise UserError(f"{lacks}, and {clip} does not supply them: {problem}")
    expected = _metadata(checkpoint).get(LEFT_OUT)
    if expected is not None and expected != digest({by_name[name]: value for name, value in found.items()}):
        raise UserError(f"{lacks}, and those of {clip} are others than it was trained with; name that CLIP's file")
    return found


def digest(entries: Mapping[str, Tensor]) -> str:
    """Hexadecimal digits of entries by name, the same for float32 and for what half precision keeps of it."""
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(entries.items()):
        found.update(f"{name} {tuple(tensor.shape)}".encode())
        found.update(tensor.half().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _metadata(checkpoint: str | Path) -> Mapping[str, str]:
    if Path(checkpoint).suffix != ".safetensors":
        return {}
    with safetensors.safe_open(checkpoint, framework="pt") as file:
        return file.metadata() or {}
