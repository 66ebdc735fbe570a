"""What training minimises: matched class and mask losses, the mask-aware loss, representation compensation."""

from .compensation import representation_compensation
from .criterion import Criterion, LossOptions
from .mask_aware import mask_aware_loss
from .matching import Matching, match
from .points import sample_at, uncertain_points
from .targets import Targets

__all__ = [
    "Criterion",
    "LossOptions",
    "Matching",
    "Targets",
    "mask_aware_loss",
    "match",
    "representation_compensation",
    "sample_at",
    "uncertain_points",
]
