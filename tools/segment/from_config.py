"""Which network segments: by a config of train_net.py and KEY VALUE pairs, for which detectron2 is needed."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

import torch
from detectron2.config import CfgNode

from maft.config import build_config
from maft.data import InferenceMapper
from maft.errors import UserError
from maft.meta_arch import MAFT_Plus, build_network
from maft.meta_arch.parts import reason_settings
from maft.predictor import Segmentor
from maft.run import check_weights, choose_device
from maft.text.rows import RowFold
from maft.weights.loading import build_for_evaluation

from .model import Choice, model_name, warn_semantic, with_results
from .reasons import Places, generic_place

CONFIGS = {
    "base": ("configs/semantic/eval_base.yaml", "configs/semantic/eval_base_reason.yaml"),
    "large": ("configs/semantic/eval_large.yaml", "configs/semantic/eval_large_reason.yaml"),
    "panoptic": ("configs/panoptic/eval.yaml", "configs/panoptic/eval_pano_reason.yaml"),
    "mini": ("configs/mini/eval.yaml", "configs/mini/eval_reason.yaml"),
    "sed-base": ("configs/sed/eval_base.yaml", "configs/sed/eval_base_reason.yaml"),
    "sed-mini": ("configs/mini/sed_eval.yaml", "configs/mini/sed_eval_reason.yaml"),
    "sed-large": ("configs/sed/eval_large.yaml", "configs/sed/eval_large_reason.yaml"),
}
"""Model -> its configs with class names only and with reasons, where KEY VALUE pairs come without a config."""

_ARCHITECTURE = "MODEL.META_ARCHITECTURE"
_WITH_REASONS = "_Reason"


def by_config(arguments: Namespace) -> Choice:
    """The network that the flags and KEY VALUE pairs describe; the pairs have the last word.

    Raises:
        UserError: the weights are missing, --model and --config-file disagree, or see `maft.config.build_config`.
    """
    if arguments.model and arguments.config_file:
        raise UserError("--model and --config-file: the config says which model it is; leave one of them out")
    reasons = bool(arguments.generic or arguments.image_reasons)
    config_file = arguments.config_file or _config_of(model_name(arguments), reasons=reasons)
    own = build_config(config_file, list(arguments.opts)).MODEL.META_ARCHITECTURE.removesuffix(_WITH_REASONS)
    cfg = build_config(config_file, [*_pairs(arguments, own, reasons=reasons), *arguments.opts])
    test = cfg.MODEL.MASK_FORMER.TEST
    if arguments.panoptic and not test.PANOPTIC_ON:
        warn_semantic(config_file)
        test.PANOPTIC_ON = True
    test.SEMANTIC_ON = True
    check_weights(cfg)
    choose_device(cfg, 1)

    def build() -> Segmentor:
        return with_results(_segmentor(cfg), config_file, panoptic=arguments.panoptic)

    return Choice(cfg.MODEL.WEIGHTS, _places(cfg), build)


def _config_of(name: str, *, reasons: bool) -> str:
    if name not in CONFIGS:
        raise UserError(f"--model {name} with KEY VALUE pairs: name its config with --config-file instead")
    return CONFIGS[name][reasons]


def _pairs(arguments: Namespace, architecture: str, *, reasons: bool) -> list[str]:
    """What the flags say in the words of the config."""
    pairs = [_ARCHITECTURE, architecture + _WITH_REASONS * reasons]
    if reasons:
        pairs += ["MODEL.TEST_CLASS_REASON_JSON", str(arguments.generic or ""), "MODEL.REASON.FALLBACK", "generic"]
        pairs += ["MODEL.REASON_DIR", str(arguments.image_reasons or ""), "MODEL.REASON_DATA", ""]
    if arguments.weights is not None:
        pairs += ["MODEL.WEIGHTS", arguments.weights]
    if arguments.device is not None:
        pairs += ["MODEL.DEVICE", arguments.device]
    return pairs


def _places(cfg: CfgNode) -> Places:
    settings = reason_settings(cfg, reasons=cfg.MODEL.META_ARCHITECTURE.endswith(_WITH_REASONS))
    generic = generic_place(settings.generic_file) if settings.generic_file else None
    return Places(settings.image_folders, generic, strict=settings.fallback == "error")


def _segmentor(cfg: CfgNode) -> Segmentor:
    mapper = InferenceMapper.from_config(cfg)
    settings = reason_settings(cfg, reasons=False)
    network = build_for_evaluation(partial(build_network, cfg), cfg.MODEL.WEIGHTS)
    fold = None
    if isinstance(network, MAFT_Plus):  # SED's weights are made for templates of its own
        fold = RowFold(templates=settings.templates, mode=settings.mode, num_des=settings.num_des)
    return Segmentor(
        network,
        (mapper.short_edge, mapper.max_size),
        dtype=getattr(torch, cfg.MODEL.PRECISION),
        attributes=settings.num_des,
        mode=settings.mode,
        fold=fold,
        bank=settings.bank_dir,
        bank_dtype=settings.bank_dtype,
        text_precision=settings.text_precision,
        channels="BGR" if mapper.image_format == "BGR" else "RGB",
    )
