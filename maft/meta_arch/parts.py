"""The registered parts of the reference's networks, each built from its config keys."""

from __future__ import annotations

from collections.abc import Mapping

from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.utils.registry import Registry

from maft.errors import UserError
from maft.modeling.backbone import CLIPBackbone, build_clip, known_architecture, register_clip_configs
from maft.modeling.losses import Criterion, LossOptions
from maft.modeling.pixel_decoder.msdeformattn import MSDeformAttnPixelDecoder as PixelDecoder
from maft.modeling.segmentor import MaskHead
from maft.modeling.transformer_decoder import MultiScaleMaskedTransformerDecoder as Decoder
from maft.resources import config_folder

TRANSFORMER_DECODER_REGISTRY = Registry("TRANSFORMER_DECODER")
"""Decoders by the names of MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME."""


@BACKBONE_REGISTRY.register()
def CLIP(cfg: CfgNode, input_shape: object = None) -> CLIPBackbone:
    """MODEL.BACKBONE.NAME "CLIP": the architecture of MODEL.FC_CLIP.CLIP_MODEL_NAME."""
    width = cfg.MODEL.FC_CLIP.EMBED_DIM
    name = clip_architecture(cfg)
    try:
        backbone = CLIPBackbone(build_clip(name), name)
    except ValueError as error:
        raise _bad_architecture(error) from error
    if backbone.embed_dim != width:
        raise UserError(f"MODEL.FC_CLIP.EMBED_DIM: {width}, but {name} is {backbone.embed_dim} wide; set it so")
    return backbone


def clip_architecture(cfg: CfgNode) -> str:
    """The open_clip name of MODEL.FC_CLIP.CLIP_MODEL_NAME, after open_clip was told of configs/clip/ or the file named.

    Raises:
        UserError: a file is named that is not there.
    """
    register_clip_configs(config_folder() / "clip")
    try:
        return known_architecture(cfg.MODEL.FC_CLIP.CLIP_MODEL_NAME)
    except ValueError as error:
        raise _bad_architecture(error) from error


def _bad_architecture(error: ValueError) -> UserError:
    return UserError(f"MODEL.FC_CLIP.CLIP_MODEL_NAME: {error}; take convnext_base_w_320 or convnext_large_d_320")


@SEM_SEG_HEADS_REGISTRY.register()
def MSDeformAttnPixelDecoder(cfg: CfgNode, channels: Mapping[str, int]) -> PixelDecoder:
    """MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME "MSDeformAttnPixelDecoder"."""
    head = cfg.MODEL.SEM_SEG_HEAD
    if head.NORM != "GN" or head.COMMON_STRIDE != 4:
        raise UserError(
            f"MODEL.SEM_SEG_HEAD: NORM '{head.NORM}' with COMMON_STRIDE {head.COMMON_STRIDE}; "
            "this pixel decoder has NORM 'GN' and COMMON_STRIDE 4"
        )
    return PixelDecoder(
        {name: channels[name] for name in head.IN_FEATURES},
        encoder_features=head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES,
        width=head.CONVS_DIM,
        mask_dim=head.MASK_DIM,
        heads=head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS,
        layers=head.TRANSFORMER_ENC_LAYERS,
        points=head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS,
        dropout=cfg.MODEL.MASK_FORMER.DROPOUT,
    )


@TRANSFORMER_DECODER_REGISTRY.register()
def MultiScaleMaskedTransformerDecoder(cfg: CfgNode) -> Decoder:
    """MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME of the reference."""
    former, head = cfg.MODEL.MASK_FORMER, cfg.MODEL.SEM_SEG_HEAD
    if former.HIDDEN_DIM != head.CONVS_DIM:
        raise UserError(
            f"MODEL.MASK_FORMER.HIDDEN_DIM: {former.HIDDEN_DIM} differs from MODEL.SEM_SEG_HEAD.CONVS_DIM "
            f"{head.CONVS_DIM}; the decoder takes the pixel decoder's maps as they are, set both alike"
        )
    return Decoder(
        embed_dim=cfg.MODEL.FC_CLIP.EMBED_DIM,
        width=former.HIDDEN_DIM,
        mask_dim=head.MASK_DIM,
        queries=former.NUM_OBJECT_QUERIES,
        layers=former.DEC_LAYERS - 1,
        heads=former.NHEADS,
        feedforward=former.DIM_FEEDFORWARD,
    )


@TRANSFORMER_DECODER_REGISTRY.register()
def MultiScaleMaskedTransformerDecoder_Reason(cfg: CfgNode) -> Decoder:
    """The reference's other name for the same decoder."""
    return MultiScaleMaskedTransformerDecoder(cfg)


@SEM_SEG_HEADS_REGISTRY.register()
def FCCLIPHead(cfg: CfgNode, channels: Mapping[str, int]) -> MaskHead:
    """MODEL.SEM_SEG_HEAD.NAME of the reference."""
    pixel_decoder = SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME)(cfg, channels)
    predictor = TRANSFORMER_DECODER_REGISTRY.get(cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME)(cfg)
    return MaskHead(pixel_decoder, predictor)


@SEM_SEG_HEADS_REGISTRY.register()
def FCCLIPHead_Reason(cfg: CfgNode, channels: Mapping[str, int]) -> MaskHead:
    """The reference's other name for the same head."""
    return FCCLIPHead(cfg, channels)


def build_criterion(cfg: CfgNode) -> Criterion:
    """The losses of MODEL.MASK_FORMER.*, for MODEL.SEM_SEG_HEAD.NUM_CLASSES classes.

    Raises:
        UserError: a number that makes no sense.
    """
    former = cfg.MODEL.MASK_FORMER
    try:
        options = LossOptions(
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
    return Criterion(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, options)
