"""Which network segments: by name, with the library's own builder, which needs no detectron2."""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from maft.build import BUILDERS, MODELS, build_maft_plus
from maft.errors import UserError
from maft.modeling.maft_plus import MAFTPlus
from maft.predictor import Segmentor, load_segmentor
from maft.resources import mini_weights
from maft.weights.seeding import SEEDED
from reason.suggest import did_you_mean

from ..commands import command
from ..fetch_weights.catalogue import CATALOGUE, default_folder, in_place
from .reasons import Places

logger = logging.getLogger(__name__)

BANK = Path("reason_data/text_bank")
"""Where text features are kept, as in the configs: used where the folder above it is there."""

_PUBLISHED = {"panoptic": "pano"}
"""Model -> name of its weights, where that is another."""


@dataclass(frozen=True)
class Choice:
    """A network, its weights and where its reasons lie; nothing is built yet.

    Attributes:
        weights: the weight file, or "seeded".
        places: of the reasons.
        build: makes the segmentor.
    """

    weights: str
    places: Places
    build: Callable[[], Segmentor]


def model_name(arguments: Namespace) -> str:
    """The model of --model, or the one that the other flags ask for.

    Raises:
        UserError: there is none of that name.
    """
    name = arguments.model or ("panoptic" if arguments.panoptic else "base")
    if name not in MODELS:
        raise UserError(f"--model {name}: no such model{did_you_mean(name, MODELS)}; choose one of {', '.join(MODELS)}")
    return name


def by_name(arguments: Namespace) -> Choice:
    """The model of that name, with its published weights or those of --weights.

    Raises:
        UserError: no such model, or its weights are missing.
    """
    name = model_name(arguments)
    if arguments.panoptic and BUILDERS[name] is not build_maft_plus:
        raise _class_maps_only(name)
    weights = find_weights(name, arguments.weights)
    device = arguments.device
    if device is None and not torch.cuda.is_available():
        sys.stderr.write("no GPU here: running on the CPU\n")
        device = "cpu"

    def build() -> Segmentor:
        bank = BANK if BANK.parent.is_dir() else None
        segmentor = load_segmentor(name, weights, device=device, bank=bank)
        return with_results(segmentor, name, panoptic=arguments.panoptic)

    folders = (arguments.image_reasons,) if arguments.image_reasons else ()
    return Choice(weights, Places(folders, arguments.generic), build)


def find_weights(name: str, given: str | None) -> str:
    """The weights of a model: those given, or the published ones where they are in place.

    Raises:
        UserError: there is no such file.
    """
    if given is not None:
        if given != SEEDED and not Path(given).is_file():
            raise UserError(f"--weights {given}: no such file ('seeded': random ones, with a meaningless result)")
        return given
    if name.endswith("mini"):
        return str(mini_weights(name))
    entry = CATALOGUE[_PUBLISHED.get(name, name)]
    place = in_place(entry, default_folder())
    if place is None:
        raise UserError(
            f"{default_folder() / entry.file}: no such weight file; {command('fetch_weights')} {entry.name} gets it, "
            "--weights FILE names another place, and --model mini needs none"
        )
    return str(place)


def with_results(segmentor: Segmentor, name: str, *, panoptic: bool) -> Segmentor:
    """The same segmentor, making panoptic segments or class maps, as asked for.

    Raises:
        UserError: its network has no panoptic results.
    """
    network = segmentor.network
    if not isinstance(network, MAFTPlus):
        if panoptic:
            raise _class_maps_only(name)
        return segmentor
    if panoptic and not network.result_options.panoptic:
        warn_semantic(name)
    network.result_options = replace(network.result_options, semantic=True, panoptic=panoptic, instances=False)
    return segmentor


def _class_maps_only(name: str) -> UserError:
    return UserError(f"--panoptic: {name} gives class maps only; leave it out, or take --model panoptic")


def warn_semantic(name: str) -> None:
    """Say that a semantic model is run as a panoptic one."""
    logger.warning(
        "--panoptic: %s is of a semantic model; it is run as a panoptic one, which its published weights were not "
        "trained for (those of --model panoptic were)",
        name,
    )
