"""What a model starts from: MODEL.WEIGHTS, and CLIP's own weights where that checkpoint does not hold them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import open_clip
from detectron2.config import CfgNode
from torch import Tensor, nn

from .checkpoint import load_model_weights, load_weights, misfit, without_teacher
from .errors import UserError
from .modeling.backbone import known_architecture
from .seeding import SEEDED

logger = logging.getLogger(__name__)

KEY = "MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS"
STUDENT = "backbone.clip_model."
TEACHER = "backbone_t.clip_model."
_FILE_ENDINGS = (".safetensors", ".pt", ".pth", ".bin")
_UNUSED = ("attn_mask", "position_ids", "logit_bias")
"""Endings of entries that old files have and no network reads."""


def load_clip_weights(weights: str, architecture: str) -> dict[str, Tensor]:
    """CLIP's state dict, by open_clip's own names.

    Args:
        weights: a file (.safetensors, .pt, .pth, .bin), or open_clip's name of pretrained weights of `architecture`,
            which are downloaded unless open_clip has them in its cache.
        architecture: open_clip's name.

    Raises:
        UserError: nothing is named, no such file or name, it cannot be downloaded or read.
    """
    if not weights:
        raise UserError(f"{KEY}: empty; name the file of CLIP's weights, or a name that open_clip knows")
    path = Path(weights)
    if path.suffix not in _FILE_ENDINGS:
        path = _download(weights, architecture)
    elif not path.is_file():
        raise UserError(f"{KEY}: '{weights}': no such file; pretrained/README.md says where to get it")
    return {name: value for name, value in load_weights(path).items() if not name.endswith(_UNUSED)}


def _download(tag: str, architecture: str) -> Path:
    known = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in known:
        raise UserError(
            f"{KEY}: '{tag}' is no file ({', '.join(_FILE_ENDINGS)}), and open_clip has no weights of that name for "
            f"{architecture} (it has: {', '.join(known) or 'none'})"
        )
    try:
        return Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(architecture, tag)))
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{KEY}: '{tag}' of {architecture} cannot be downloaded ({type(error).__name__}); download it elsewhere "
            "and set the key to the file's path"
        ) from error


def load_for_evaluation(cfg: CfgNode, model: nn.Module) -> None:
    """Fill `model` from MODEL.WEIGHTS, strictly; parts of CLIP that the file lacks come from `KEY`.

    A checkpoint may leave out CLIP's text tower, or all of CLIP, where it did not change: that is most of its size.

    Raises:
        UserError: nothing is named, or what is named cannot be read, is of another model, or is not enough.
    """
    weights = cfg.MODEL.WEIGHTS
    if weights in ("", SEEDED):
        load_model_weights(model, weights)
        return
    state = without_teacher(load_weights(weights))
    _fill(cfg, model, state, str(weights))


def load_for_training(cfg: CfgNode, model: nn.Module) -> None:
    """Fill a model that is to be trained, teacher included.

    Without MODEL.WEIGHTS, CLIP and its frozen teacher come from `KEY`, and the rest keeps its initial values. With it,
    everything comes from that checkpoint; a teacher that it lacks comes from `KEY`.

    Raises:
        UserError: what is named cannot be read, is of another model, or is not enough.
    """
    weights = cfg.MODEL.WEIGHTS
    if weights == SEEDED:
        load_model_weights(model, weights)
        return
    if weights:
        _fill(cfg, model, load_weights(weights), str(weights))
        return
    own = model.state_dict()
    state = {name: value for name, value in own.items() if not name.startswith((STUDENT, TEACHER))}
    _fill(cfg, model, state, "a training from scratch (MODEL.WEIGHTS is empty)")


def _fill(cfg: CfgNode, model: nn.Module, state: dict[str, Tensor], what: str) -> None:
    own = model.state_dict()
    if not any(name.startswith(TEACHER) for name in own):
        state = without_teacher(state)
    lacking = [name for name in own if name.startswith((STUDENT, TEACHER)) and name not in state]
    # A file of another model is told so, before anything is downloaded.
    problem = misfit({name: value for name, value in own.items() if name not in lacking}, state)
    if lacking and not problem:
        state |= _clip_entries(cfg, own, lacking, what)
        problem = misfit(own, state)
    if problem:
        raise UserError(
            f"{what}: not a checkpoint of this model: {problem}; "
            "check that --config-file fits the weights (base, large, panoptic)"
        )
    model.load_state_dict(state)
    logger.info("loaded %d entries from %s", len(state) - len(lacking), what)


def _clip_entries(cfg: CfgNode, own: Mapping[str, Tensor], lacking: list[str], what: str) -> dict[str, Tensor]:
    """The entries of CLIP and of the teacher that a checkpoint lacks."""
    weights, architecture = cfg.MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS, cfg.MODEL.FC_CLIP.CLIP_MODEL_NAME
    try:
        clip = load_clip_weights(weights, known_architecture(architecture))
    except UserError as error:
        raise UserError(f"{what}: lacks {len(lacking)} entries of CLIP ({lacking[0]}, …). {error}") from error
    by_name = ((name, clip.get(name.removeprefix(STUDENT).removeprefix(TEACHER))) for name in lacking)
    found = {name: value for name, value in by_name if value is not None}
    if problem := misfit({name: own[name] for name in lacking}, found):
        raise UserError(f"{KEY}: '{weights}' is no CLIP of the architecture {architecture}: {problem}")
    logger.info("%d entries of CLIP from %s", len(found), weights)
    return found
