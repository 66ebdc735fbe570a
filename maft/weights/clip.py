"""Where a training begins: CLIP's published weights in the backbone and in its frozen teacher."""

from __future__ import annotations

import logging
from pathlib import Path

import open_clip
from open_clip.pretrained import download_pretrained, get_pretrained_cfg

from maft.errors import UserError
from maft.modeling.network import Network
from maft.weights.checkpoint import load_weights, misfit

logger = logging.getLogger(__name__)

_KEY = "MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS"
_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")


def load_clip(model: Network, weights: str) -> None:
    """Fill both towers of the backbone, and of the teacher where there is one, from one CLIP checkpoint.

    Args:
        model: its device and dtypes stay.
        weights: a file (.safetensors, or a pickled state dict as open_clip writes it), or the tag of weights that
            open_clip knows for this architecture and downloads.

    Raises:
        UserError: no such tag or file, no way to download it, or weights of another architecture.
    """
    architecture = model.clip.model_name
    path = find_clip_weights(architecture, weights)
    state = load_weights(path)
    if problem := misfit(model.clip.clip_model.state_dict(), state):
        raise UserError(f"{_KEY}: {path} is not a checkpoint of {architecture} ({problem}); name one that is")
    for backbone in (model.clip, model.backbone_t):
        if backbone is not None:
            backbone.clip_model.load_state_dict(state)
    logger.info("CLIP %s begins with %s", architecture, path)


def find_clip_weights(architecture: str, weights: str) -> Path:
    """The file of a CLIP's weights, downloaded into open_clip's cache where only a tag is given.

    Args:
        architecture: open_clip's name.
        weights: see `load_clip`.

    Raises:
        UserError: no such tag or file, or no way to download it.
    """
    if Path(weights).is_file():
        return Path(weights)
    known = open_clip.list_pretrained_tags_by_model(architecture)
    if weights not in known:
        if weights.endswith(_SUFFIXES):
            raise UserError(f"{_KEY}: {weights} is not there; name a file or a tag of open_clip's")
        tags = f"its tags for {architecture} are {', '.join(known)}" if known else f"it has none for {architecture}"
        raise UserError(f"{_KEY}: '{weights}' is neither a file nor a tag of open_clip's; {tags}")
    try:
        return Path(download_pretrained(get_pretrained_cfg(architecture, weights)))
    # Whatever goes wrong on the way to another machine: the libraries below raise errors of many families.
    except Exception as error:
        raise UserError(
            f"{_KEY}: '{weights}' of {architecture} could not be downloaded ({type(error).__name__}: {error}); fetch "
            "the file elsewhere and name its path"
        ) from error
