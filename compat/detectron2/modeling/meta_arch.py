"""Registries of whole models and of segmentation heads."""

from typing import Any

import torch
from torch import nn

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry

META_ARCH_REGISTRY = Registry("META_ARCH")
"""Whole models by name: called with the configuration."""

SEM_SEG_HEADS_REGISTRY = Registry("SEM_SEG_HEADS")
"""Segmentation heads by name: called with the configuration and the backbone's output shapes."""


def build_model(cfg: CfgNode) -> nn.Module:
    """Build MODEL.META_ARCHITECTURE on MODEL.DEVICE. No weights are loaded."""
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    model.to(torch.device(cfg.MODEL.DEVICE))
    return model


def build_sem_seg_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> Any:
    """Build MODEL.SEM_SEG_HEAD.NAME on feature maps of these shapes."""
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, input_shape)
