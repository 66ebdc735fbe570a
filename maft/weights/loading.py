"""What a model starts from: its checkpoint, and CLIP's own weights where that checkpoint does not hold them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import Tensor

from maft.errors import UserError
from maft.modeling.network import Network
from maft.weights.checkpoint import load_model_weights, load_weights, misfit, without
from maft.weights.clip import entries_left_out, find_clip_weights, load_clip
from maft.weights.seeding import SEEDED
from maft.weights.undrawn import build_and_fill

logger = logging.getLogger(__name__)

NetworkT = TypeVar("NetworkT", bound=Network)

_CLASSES = "criterion.empty_weight"
"""The one entry of MAFT+ whose length follows the training classes: weights of the loss, constant, not learnt."""


def load_for_evaluation(model: Network, weights: str) -> None:
    """Fill `model` from a checkpoint, strictly.

    A checkpoint may leave out parts of CLIP that training does not change, its text tower above all: they come from
    the model's `clip_weights` then. Entries in float16 become the model's float32. It may have been trained on another
    number of classes, which is said: nothing that is learnt depends on it.

    Args:
        model: its device and dtypes stay.
        weights: a path, or "seeded".

    Raises:
        UserError: nothing is named, or what is named cannot be read, is of another model, or is not enough.
    """
    if weights in ("", SEEDED):
        load_model_weights(model, weights, model.weights_key)
    else:
        _load_checkpoint(model, weights)


def build_for_evaluation(build: Callable[[], NetworkT], weights: str) -> NetworkT:
    """A network filled from a checkpoint, see `load_for_evaluation`; random initial values are not drawn.

    Args:
        build: makes the network.
        weights: a path, or "seeded".

    Raises:
        UserError: see `load_for_evaluation`.
    """
    return build_and_fill(build, lambda network: load_for_evaluation(network, weights))


def load_for_training(model: Network, weights: str) -> None:
    """Fill a model that is to be trained, teacher included.

    Without a checkpoint, CLIP and its teacher come from the model's `clip_weights`, and the rest keeps its initial
    values. With it, everything comes from that checkpoint, and what it lacks of CLIP and teacher from there. As in
    `load_for_evaluation` it may be of other classes: so a published one learns a user's own.

    Args:
        model: its device and dtypes stay.
        weights: a path, "seeded", or "".

    Raises:
        UserError: what is named cannot be read, is of another model, or is not enough.
    """
    if weights == SEEDED:
        load_model_weights(model, SEEDED, model.weights_key)
    elif weights:
        _load_checkpoint(model, weights)
    else:
        load_clip(model, model.clip_weights)


def _load_checkpoint(model: Network, path: str) -> None:
    own = model.state_dict()
    state = load_weights(path)
    if _CLASSES in own and state.get(_CLASSES, own[_CLASSES]).shape != own[_CLASSES].shape:
        numbers = (len(state[_CLASSES]) - 1, len(own[_CLASSES]) - 1)
        logger.warning("%s was trained on %d classes, this model is built for %d; its weights fit both", path, *numbers)
        state[_CLASSES] = own[_CLASSES]
    if model.backbone_t is None:
        state = without(state, model.teacher_prefix)
    lacking = [name for name in own if name.startswith(model.clip_prefixes) and name not in state]
    # A file of another model is told so before CLIP is looked for.
    problem = misfit({name: value for name, value in own.items() if name not in lacking}, state)
    if lacking and not problem:
        state |= _entries_of_clip(lacking, own, model, path)
    elif problem:
        problem = misfit(own, state)
        raise UserError(
            f"{path}: not a checkpoint of this model: {problem}; "
            "check that the model fits the weights (base, large, panoptic, SED's)"
        )
    model.load_state_dict(state)
    logger.info("loaded %d entries from %s", len(state) - len(lacking), path)


def _entries_of_clip(lacking: list[str], own: Mapping[str, Tensor], model: Network, path: str) -> dict[str, Tensor]:
    """The entries of CLIP, and of the teacher, that a checkpoint lacks."""
    try:
        file = find_clip_weights(model.clip.model_name, model.clip_weights, model.clip_key)
    except UserError as error:
        what = f"{model.weights_key} {path}: lacks {len(lacking)} entries of CLIP (such as {lacking[0]})"
        raise UserError(f"{what}, and {error}") from error
    found = entries_left_out(lacking, own, path, file)
    logger.info("%d entries of CLIP, which %s leaves out, from %s", len(found), path, file)
    return found
