"""The registered names of the reference's parts, and a config's keys as the builder's arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.utils.registry import Registry

from maft import build
from maft.data import datasets_root
from maft.errors import UserError
from maft.modeling.losses import LossOptions
from maft.modeling.results import ResultOptions, Results
from maft.text.settings import ReasonSettings
from maft.text.source import Fold, Synonyms
from reason.triplets import describe_image_reason_folders, image_reason_folders
from reason.vocabulary import Vocabulary

TRANSFORMER_DECODER_REGISTRY = Registry("TRANSFORMER_DECODER")
"""Decoders by the names of MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME."""

Arguments = dict[str, Any]


def _register(registry: Registry, *names: str) -> Callable[[Callable[..., Arguments]], Callable[..., Arguments]]:
    """Register one function under several names: with reasons and without are one part."""

    def add(function: Callable[..., Arguments]) -> Callable[..., Arguments]:
        for name in names:
            alias = partial(function)
            alias.__name__ = name  # type: ignore[attr-defined]
            registry.register(alias)
        return function

    return add


@_register(BACKBONE_REGISTRY, "CLIP")
def clip_arguments(cfg: CfgNode, input_shape: object = None) -> Arguments:
    """MODEL.BACKBONE.NAME "CLIP": the architecture of MODEL.FC_CLIP.CLIP_MODEL_NAME."""
    return {"clip": clip_architecture(cfg)}


def clip_architecture(cfg: CfgNode) -> str:
    """The open_clip name of MODEL.FC_CLIP.CLIP_MODEL_NAME, after open_clip was told of configs/clip/ or the file named.

    Raises:
        UserError: a file is named that is not there.
    """
    try:
        return build.clip_architecture(cfg.MODEL.FC_CLIP.CLIP_MODEL_NAME)
    except ValueError as error:
        raise bad_architecture(error) from error


@dataclass(frozen=True)
class TextParts:
    """What makes the text input of a config's network, without the network.

    architecture: open_clip's name of its CLIP.
    prefix: how the entries of CLIP begin in its state dict.
    clip_weights: where CLIP comes from if a checkpoint leaves it out.
    clip_key: the config key of it, for messages.
    fold: makes the sentences.
    names: by which names a vocabulary's classes are asked for.
    """

    architecture: str
    prefix: str
    clip_weights: str
    clip_key: str
    fold: Fold[Any, Any]
    names: Callable[[Vocabulary], Synonyms]


def bad_architecture(error: ValueError) -> UserError:
    """The error of an architecture that cannot be built."""
    return UserError(f"MODEL.FC_CLIP.CLIP_MODEL_NAME: {error}; take convnext_base_w_320 or convnext_large_d_320")


@_register(SEM_SEG_HEADS_REGISTRY, "MSDeformAttnPixelDecoder")
def pixel_decoder_arguments(cfg: CfgNode, input_shape: object = None) -> Arguments:
    """MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME "MSDeformAttnPixelDecoder"."""
    head = cfg.MODEL.SEM_SEG_HEAD
    if head.NORM != "GN" or head.COMMON_STRIDE != 4:
        raise UserError(
            f"MODEL.SEM_SEG_HEAD: NORM '{head.NORM}' with COMMON_STRIDE {head.COMMON_STRIDE}; "
            "this pixel decoder has NORM 'GN' and COMMON_STRIDE 4"
        )
    return {
        "features": tuple(head.IN_FEATURES),
        "encoder_features": tuple(head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES),
        "width": head.CONVS_DIM,
        "encoder_heads": head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS,
        "encoder_layers": head.TRANSFORMER_ENC_LAYERS,
        "encoder_points": head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS,
        "dropout": cfg.MODEL.MASK_FORMER.DROPOUT,
    }


@_register(
    TRANSFORMER_DECODER_REGISTRY, "MultiScaleMaskedTransformerDecoder", "MultiScaleMaskedTransformerDecoder_Reason"
)
def decoder_arguments(cfg: CfgNode) -> Arguments:
    """MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME of the reference."""
    former, head = cfg.MODEL.MASK_FORMER, cfg.MODEL.SEM_SEG_HEAD
    if former.HIDDEN_DIM != head.CONVS_DIM:
        raise UserError(
            f"MODEL.MASK_FORMER.HIDDEN_DIM: {former.HIDDEN_DIM} differs from MODEL.SEM_SEG_HEAD.CONVS_DIM "
            f"{head.CONVS_DIM}; the decoder takes the pixel decoder's maps as they are, set both alike"
        )
    if head.MASK_DIM != head.CONVS_DIM:
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.MASK_DIM: {head.MASK_DIM} differs from MODEL.SEM_SEG_HEAD.CONVS_DIM {head.CONVS_DIM}; "
            "the decoder adds pooled mask features to queries, set both alike"
        )
    return {
        "queries": former.NUM_OBJECT_QUERIES,
        "decoder_layers": former.DEC_LAYERS - 1,
        "decoder_heads": former.NHEADS,
        "decoder_feedforward": former.DIM_FEEDFORWARD,
    }


@_register(SEM_SEG_HEADS_REGISTRY, "FCCLIPHead", "FCCLIPHead_Reason")
def head_arguments(cfg: CfgNode, input_shape: object = None) -> Arguments:
    """MODEL.SEM_SEG_HEAD.NAME of the reference."""
    pixel_decoder = SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME)
    decoder = TRANSFORMER_DECODER_REGISTRY.get(cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME)
    return {**pixel_decoder(cfg), **decoder(cfg)}


def network_arguments(cfg: CfgNode) -> Arguments:
    """The arguments of `maft.build.build_maft_plus` that a config decides.

    Raises:
        UserError: a name is not registered, or values do not go together.
    """
    head = SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg)
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg)
    return {
        **backbone,
        **head,
        "panoptic": cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON,
        "classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        "clip_weights": cfg.MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS,
        "transfer_heads": cfg.MODEL.cdt_params[1],
        "losses": loss_options(cfg),
        "results": result_options(cfg),
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "size_divisibility": max(cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY, 0) or 32,
    }


def loss_options(cfg: CfgNode) -> LossOptions:
    """The losses of MODEL.MASK_FORMER.*.

    Raises:
        UserError: a number that makes no sense.
    """
    former = cfg.MODEL.MASK_FORMER
    try:
        return LossOptions(
            class_weight=former.CLASS_WEIGHT,
            mask_weight=former.MASK_WEIGHT,
            dice_weight=former.DICE_WEIGHT,
            void_weight=former.NO_OBJECT_WEIGHT,
            deep_supervision=former.DEEP_SUPERVISION,
            points=former.TRAIN_NUM_POINTS,
            oversample=former.OVERSAMPLE_RATIO,
            importance=former.IMPORTANCE_SAMPLE_RATIO,
            compensation_weight=cfg.MODEL.rc_weights or 0.0,
        )
    except ValueError as error:
        raise UserError(
            f"MODEL.MASK_FORMER: TRAIN_NUM_POINTS, OVERSAMPLE_RATIO, IMPORTANCE_SAMPLE_RATIO: {error}"
        ) from error


def result_options(cfg: CfgNode) -> ResultOptions:
    """Which results MODEL.MASK_FORMER.TEST asks for."""
    test = cfg.MODEL.MASK_FORMER.TEST
    return ResultOptions(
        semantic=test.SEMANTIC_ON,
        panoptic=test.PANOPTIC_ON,
        instances=test.INSTANCE_ON,
        resize_masks_first=test.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE,
        object_mask_threshold=test.OBJECT_MASK_THRESHOLD,
        overlap_threshold=test.OVERLAP_THRESHOLD,
        detections=cfg.TEST.DETECTIONS_PER_IMAGE,
    )


def reason_settings(cfg: CfgNode, *, reasons: bool) -> ReasonSettings:
    """What the reason keys of a config decide.

    Args:
        cfg: the config.
        reasons: whether the architecture asks with reasons.
    """
    model = cfg.MODEL
    root = datasets_root()
    # The first folder that is there, and no other: reasons of two sources must not mix image by image.
    folders = image_reason_folders(model.REASON_DIR, model.REASON_DATA, root)[:1]
    return ReasonSettings(
        reasons=reasons,
        generic_file=model.TEST_CLASS_REASON_JSON if reasons else None,
        image_folders=tuple(folders) if reasons else (),
        image_specific=bool(model.REASON_DIR),
        fallback=model.REASON.FALLBACK,
        templates=model.REASON.TEMPLATES,
        mode=model.REASON.MODE,
        num_des=model.NUM_DES,
        feature_dir=model.REASON.FEATURE_DIR or None,
        clip_type=model.CLIP_TYPE,
        reason_data=model.REASON_DATA,
        bank_dir=model.REASON.BANK_DIR or None,
        bank_dtype=model.REASON.BANK_DTYPE,
        text_precision=model.REASON.TEXT_PRECISION,
        places=describe_image_reason_folders(model.REASON_DIR, model.REASON_DATA, root),
    )


def as_output(results: Results, record: Mapping[str, Any]) -> dict[str, Any]:
    """The results of one image as a user of detectron2 expects them: with "sem_seg", the scores of all classes at all
    pixels, unless the input says "class_maps_only"; for a large vocabulary they take gigabytes."""
    output: dict[str, Any] = dict(results)
    if "class_maps" in results and not record.get("class_maps_only", False):
        output["sem_seg"] = results["class_maps"].scores()
    return output
