"""CLIP with a ConvNeXt image tower as the backbone: dense features of the image, and CLIP's embedding head."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

STRIDES = {"stem": 4, "res2": 4, "res3": 8, "res4": 16, "res5": 32}
"""Pixels of the input a cell of each feature map."""


def register_clip_configs(folder: str | Path) -> None:
    """Make the CLIP architectures of `folder` (open_clip's JSON model configs) known by their file names."""
    if any(Path(folder).glob("*.json")):
        open_clip.add_model_config(Path(folder))


def known_architecture(name: str) -> str:
    """The open_clip name of an architecture.

    Args:
        name: one that open_clip knows, or the path of a JSON model config, which is made known by its file name.

    Raises:
        ValueError: the path names no file.
    """
    if not name.endswith(".json"):
        return name
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"'{name}' is no file")
    open_clip.add_model_config(path)
    return path.stem


def build_clip(model_name: str) -> nn.Module:
    """An open_clip CLIP without pretrained weights: they come with the checkpoint, which holds both towers.

    Args:
        model_name: an open_clip architecture with a timm ConvNeXt image tower, such as "convnext_base_w_320".

    Raises:
        ValueError: the name is not known, or its image tower is not a ConvNeXt of timm.
    """
    if model_name not in open_clip.list_models():
        raise ValueError(f"'{model_name}' is not an architecture that open_clip knows")
    root = logging.getLogger()
    root.addFilter(_is_no_weights_warning)
    try:
        clip = open_clip.create_model(model_name, pretrained=None, load_weights=False)
    finally:
        root.removeFilter(_is_no_weights_warning)
    trunk = getattr(getattr(clip, "visual", None), "trunk", None)
    if not all(hasattr(trunk, part) for part in ("stem", "stages", "norm_pre", "head")):
        raise ValueError(f"'{model_name}' has no ConvNeXt image tower")
    if not hasattr(clip, "token_embedding"):
        raise ValueError(f"'{model_name}' has no text tower of CLIP's own kind")
    return clip


def _is_no_weights_warning(record: logging.LogRecord) -> bool:
    # open_clip warns of random weights, which would alarm everybody: a checkpoint replaces them all a moment later.
    return "No pretrained weights loaded" not in record.getMessage()


class CLIPBackbone(nn.Module):
    """Image features at strides 4 to 32, and CLIP's head on pooled features.

    See docs/numerics.md, "Backbone", "CLIP logits".

    Args:
        clip_model: an open_clip CLIP with a timm ConvNeXt image tower.
        model_name: its name in open_clip.
    """

    def __init__(self, clip_model: nn.Module, model_name: str) -> None:
        super().__init__()
        # Typed loosely: open_clip's towers are not told apart by their types.
        self.clip_model: Any = clip_model
        self.model_name = model_name

    @property
    def embed_dim(self) -> int:
        """E, the width of the space that images and sentences share."""
        return self.clip_model.text_projection.shape[-1]

    @property
    def logit_scale(self) -> Tensor:
        """CLIP's own temperature, as a logarithm."""
        return self.clip_model.logit_scale

    @property
    def channels(self) -> dict[str, int]:
        """Channels of every feature map, by name."""
        widths = [info["num_chs"] for info in self.clip_model.visual.trunk.feature_info]
        return dict(zip(STRIDES, [widths[0], *widths], strict=True))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Features of normalised pixels.

        Args:
            pixels: (B, 3, H, W) float, H and W multiples of 32.

        Returns:
            "stem", "res2" to "res5": (B, channels, H / stride, W / stride), and "clip_vis_dense" at stride 32.
        """
        trunk = self.clip_model.visual.trunk
        # Channels last in memory, as its norms and matrix products want them: nothing is copied between them and the
        # convolutions, and the values are the same to the bit. On a GPU that was not measured.
        kept = torch.channels_last if pixels.device.type == "cpu" else torch.contiguous_format
        x = trunk.stem(pixels.contiguous(memory_format=kept))
        features = {"stem": x.contiguous(memory_format=kept)}
        for number, stage in enumerate(trunk.stages, start=2):
            x = stage(x)
            features[f"res{number}"] = x.contiguous(memory_format=kept)
        features["clip_vis_dense"] = trunk.norm_pre(x).contiguous(memory_format=kept)
        return features

    def embed(self, pooled: Tensor) -> Tensor:
        """(..., C) features at stride 32 -> (..., E): the trunk's head and CLIP's projection, position by position."""
        visual = self.clip_model.visual
        cells = pooled.reshape(-1, pooled.shape[-1], 1, 1)
        return visual.head(visual.trunk.head(cells)).unflatten(0, pooled.shape[:-1])

    def scrambled_features(self, dense: Tensor) -> Tensor:
        """The image features that the content-dependent transfer looks at, quirk 3 of docs/numerics.md included.

        The memory of (C, H, W) is read as (H * W, C) without moving the channel axis, so "position" k holds the numbers
        k * C to (k + 1) * C of the map: a few channels at all positions. The published weights were trained so.

        Args:
            dense: (B, C, H, W) "clip_vis_dense".

        Returns:
            (B, E, H, W).
        """
        batch, channels, height, width = dense.shape
        cells = self.embed(dense.reshape(batch, height * width, channels))
        return cells.transpose(1, 2).unflatten(2, (height, width))
