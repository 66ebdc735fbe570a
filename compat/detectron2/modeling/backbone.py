"""The base class of backbones and their registry."""

from abc import ABCMeta, abstractmethod
from typing import Any

from torch import nn

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry

BACKBONE_REGISTRY = Registry("BACKBONE")
"""Backbones by name: called with the configuration and the ShapeSpec of the input."""


class Backbone(nn.Module, metaclass=ABCMeta):
    """A network that turns images into named feature maps.

    The default `output_shape` reads the attributes `_out_features` (names), `_out_feature_channels` and
    `_out_feature_strides` (both by name).
    """

    _out_features: Any
    _out_feature_channels: Any
    _out_feature_strides: Any

    @abstractmethod
    def forward(self) -> Any:
        """Images (B, C, H, W) -> {name: feature map}."""

    @property
    def size_divisibility(self) -> int:
        """What height and width of the input must be multiples of; 0: anything."""
        return 0

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every feature map."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Backbone:
    """Build MODEL.BACKBONE.NAME for inputs of `input_shape` (default: as many channels as MODEL.PIXEL_MEAN)."""
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_shape)
    assert isinstance(backbone, Backbone), f"{cfg.MODEL.BACKBONE.NAME} built a {type(backbone)}, not a Backbone"
    return backbone
