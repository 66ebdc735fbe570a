"""The published models, their hyper-parameters as plain keyword arguments.

    network = build_network("base")          # weights not loaded, evaluation mode

`maft/meta_arch` builds from a config through the same functions. Nothing here needs detectron2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from maft.errors import UserError
from maft.modeling.backbone import CLIPBackbone, build_clip, known_architecture, register_clip_configs
from maft.modeling.losses import Criterion, LossOptions
from maft.modeling.maft_plus import MAFTPlus, MaskHead
from maft.modeling.network import SegmentingNetwork
from maft.modeling.pixel_decoder.msdeformattn import MSDeformAttnPixelDecoder
from maft.modeling.results import ResultOptions
from maft.modeling.sed import SED, GradualFusionDecoder
from maft.modeling.transformer_decoder import MultiScaleMaskedTransformerDecoder
from maft.resources import config_folder


def build_backbone(clip: str) -> CLIPBackbone:
    """CLIP with a ConvNeXt image tower, without weights.

    Args:
        clip: open_clip's name of the architecture, one of configs/clip/, or the path of such a file.

    Raises:
        ValueError: the name is not known, or its image tower is not a ConvNeXt.
    """
    name = clip_architecture(clip)
    return CLIPBackbone(build_clip(name), name)


def clip_architecture(clip: str) -> str:
    """open_clip's name of an architecture, after it was told of configs/clip/ or the file named.

    Raises:
        ValueError: a file is named that is not there.
    """
    register_clip_configs(config_folder() / "clip")
    return known_architecture(clip)


def maft_plus_parts(
    *,
    clip: str,
    panoptic: bool = False,
    classes: int = 171,
    width: int = 256,
    queries: int = 100,
    encoder_layers: int = 6,
    encoder_heads: int = 8,
    encoder_points: int = 4,
    encoder_feedforward: int = 1024,
    decoder_layers: int = 9,
    decoder_heads: int = 8,
    decoder_feedforward: int = 2048,
    transfer_heads: int = 8,
    features: Sequence[str] = ("res2", "res3", "res4", "res5"),
    encoder_features: Sequence[str] = ("res3", "res4", "res5"),
    dropout: float = 0.0,
    losses: LossOptions | None = None,
    results: ResultOptions | None = None,
    learning: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    """The arguments of `MAFTPlus` from its hyper-parameters; the defaults are those of the published models.

    Args:
        clip: open_clip's name of the architecture, or one of configs/clip/.
        panoptic: the panoptic models' form of the content-dependent transfer.
        classes: of the training vocabulary (a weight per class is part of every state dict).
        width: channels of pixel decoder, mask features and queries.
        queries: masks per image.
        encoder_layers, encoder_heads, encoder_points, encoder_feedforward: of the deformable encoder.
        decoder_layers, decoder_heads, decoder_feedforward: of the masked-attention decoder.
        transfer_heads: of the content-dependent transfer.
        features: of the backbone, finest first; those not in `encoder_features` join by the FPN step.
        encoder_features: those that the deformable encoder sees.
        dropout: of the deformable encoder.
        losses: of training.
        results: which results to make.
        learning: build a model to be trained, with the frozen teacher if a loss wants one.
        changes: further arguments of `MAFTPlus`, such as pixel_mean.
    """
    backbone = build_backbone(clip)
    pixel_decoder = MSDeformAttnPixelDecoder(
        {name: backbone.channels[name] for name in features},
        encoder_features=encoder_features,
        width=width,
        mask_dim=width,
        heads=encoder_heads,
        layers=encoder_layers,
        points=encoder_points,
        feedforward=encoder_feedforward,
        dropout=dropout,
    )
    decoder = MultiScaleMaskedTransformerDecoder(
        embed_dim=backbone.embed_dim,
        width=width,
        mask_dim=width,
        queries=queries,
        layers=decoder_layers,
        heads=decoder_heads,
        feedforward=decoder_feedforward,
    )
    criterion = Criterion(classes, losses or LossOptions())
    return {
        "backbone": backbone,
        "sem_seg_head": MaskHead(pixel_decoder, decoder),
        "transfer_width": backbone.embed_dim,
        "transfer_heads": transfer_heads,
        "panoptic": panoptic,
        "criterion": criterion,
        "results": results,
        "learning": learning,
        "teacher": deepcopy(backbone) if learning and criterion.options.compensation_weight else None,
        **changes,
    }


def build_maft_plus(**hyper_parameters: Any) -> MAFTPlus:
    """MAFT+ from its hyper-parameters, which are the arguments of `maft_plus_parts`."""
    return MAFTPlus(**maft_plus_parts(**hyper_parameters))


def sed_parts(
    *,
    clip: str | CLIPBackbone,
    width: int = 128,
    widths: Sequence[int] = (64, 32, 16),
    guidance: Sequence[int] = (32, 16, 8),
    heads: int = 4,
    kernels: Sequence[int] = (9, 9, 9),
    pooling: int = 1,
    **changes: Any,
) -> dict[str, Any]:
    """The arguments of `SED` from its hyper-parameters; the defaults are those of the published models.

    Args:
        clip: open_clip's name of the architecture, or one of configs/clip/; or the CLIP itself.
        width: channels of the decoder's state at first.
        widths: channels after each of its three steps.
        guidance: channels of the maps that guide each step.
        heads: of the class attention.
        kernels: sides of the depthwise convolutions.
        pooling: side of the squares that class attention averages over: 1, and 2 while the published models trained.
        changes: further arguments of `SED`, such as side and keep.
    """
    backbone = build_backbone(clip) if isinstance(clip, str) else clip
    decoder = GradualFusionDecoder(
        width=width,
        widths=widths,
        guidance=guidance,
        image_channels=[backbone.channels[name] for name in ("res4", "res3", "res2")],
        heads=heads,
        kernels=kernels,
        pooling=(pooling,) * 3,
    )
    return {"backbone": backbone, "decoder": decoder, **changes}


def build_sed(**hyper_parameters: Any) -> SED:
    """SED from its hyper-parameters, which are the arguments of `sed_parts`."""
    return SED(**sed_parts(**hyper_parameters))


MODELS: Mapping[str, Mapping[str, Any]] = {
    # The published checkpoints: maftp_b.pth, maftp_l.pth, maftp_l_pano.pth.
    "base": {"clip": "convnext_base_w_320", "clip_weights": "laion_aesthetic_s13b_b82k_augreg"},
    "large": {"clip": "convnext_large_d_320", "clip_weights": "laion2b_s29b_b131k_ft_soup"},
    "panoptic": {
        "clip": "convnext_large_d_320",
        "clip_weights": "laion2b_s29b_b131k_ft_soup",
        "panoptic": True,
        "classes": 133,
        "results": ResultOptions(panoptic=True),
    },
    # The toy model of the drawn world, which ships with the repository.
    "mini": {
        "clip": "mini",
        "panoptic": True,
        "classes": 16,
        "width": 64,
        "queries": 16,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "decoder_heads": 4,
        "decoder_feedforward": 128,
        "transfer_heads": 4,
        "results": ResultOptions(panoptic=True),
    },
    # SED's published checkpoints, sed_b.pth and sed_l.pth. The base CLIP is not the one of MAFT+.
    "sed-base": {"clip": "convnext_base_w_320", "clip_weights": "laion_aesthetic_s13b_b82k"},
    "sed-large": {
        "clip": "convnext_large_d_320",
        "clip_weights": "laion2b_s29b_b131k_ft_soup",
        "clip_dropout": 0.1,
    },
    # SED at toy size, of the drawn world as well; it keeps the text tower of "mini".
    "sed-mini": {
        "clip": "mini",
        "width": 64,
        "widths": (32, 16, 16),
        "guidance": (16, 8, 8),
        "kernels": (5, 5, 5),
        "side": 256,
    },
}
"""Name -> the arguments of `maft_plus_parts`, of SED those of `sed_parts`, that differ from the defaults."""

SIZES: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(("base", "large", "panoptic"), (800, 1333)),
    **dict.fromkeys(("mini", "sed-mini"), (256, 256)),
    **dict.fromkeys(("sed-base", "sed-large"), (640, 2560)),
}
"""Name -> (short side, longest side) in pixels that an image is resized to."""

BUILDERS: Mapping[str, Callable[..., SegmentingNetwork[Any, Any, Any]]] = {
    name: build_sed if name.startswith("sed-") else build_maft_plus for name in MODELS
}
"""Name -> what builds it."""


def build_network(name: str, **changes: Any) -> SegmentingNetwork[Any, Any, Any]:
    """A published model in evaluation mode, weights not loaded.

    Args:
        name: one of `MODELS`.
        changes: arguments of its builder that are to differ.

    Raises:
        UserError: unknown name.
    """
    if name not in MODELS:
        raise UserError(f"unknown model '{name}'; choose one of {', '.join(MODELS)}")
    return BUILDERS[name](**{**MODELS[name], **changes}).eval()
