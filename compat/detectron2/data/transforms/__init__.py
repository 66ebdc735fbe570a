"""Image transforms, the policies that choose them, and fvcore's base classes."""

from fvcore.transforms.transform import NoOpTransform, Transform, TransformList

from .augmentation import AugInput, Augmentation, AugmentationList, apply_augmentations
from .resize import ResizeShortestEdge, ResizeTransform

__all__ = ["AugInput", "Augmentation", "AugmentationList", "NoOpTransform", "ResizeShortestEdge", "ResizeTransform"]
__all__ += ["Transform", "TransformList", "apply_augmentations"]
