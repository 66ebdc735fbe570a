"""SED: a cost map of cosines between image cells and sentences, and a decoder that makes it a map of classes."""

from .cost import cost_map
from .decoder import Decoded, GradualFusionDecoder
from .rejection import kept_classes
from .results import class_maps, combine_attributes
from .segmentor import SED, ImageFeatures, View

__all__ = [
    "SED",
    "Decoded",
    "GradualFusionDecoder",
    "ImageFeatures",
    "View",
    "class_maps",
    "combine_attributes",
    "cost_map",
    "kept_classes",
]
