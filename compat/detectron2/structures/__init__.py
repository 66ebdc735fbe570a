"""Images of one batch, and the instances of one image."""

from .boxes import Boxes
from .image_list import ImageList
from .instances import Instances
from .masks import BitMasks

__all__ = ["BitMasks", "Boxes", "ImageList", "Instances"]
