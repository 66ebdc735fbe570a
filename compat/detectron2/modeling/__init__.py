"""Registries of model parts, and the functions that build them from a configuration."""

from detectron2.layers import ShapeSpec

from .backbone import BACKBONE_REGISTRY, Backbone, build_backbone
from .meta_arch import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, build_model, build_sem_seg_head

__all__ = ["BACKBONE_REGISTRY", "META_ARCH_REGISTRY", "SEM_SEG_HEADS_REGISTRY", "Backbone", "ShapeSpec"]
__all__ += ["build_backbone", "build_model", "build_sem_seg_head"]
