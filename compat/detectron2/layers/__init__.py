"""Shape description of feature maps."""

from dataclasses import dataclass

__all__ = ["ShapeSpec"]


@dataclass
class ShapeSpec:
    """What is known of a feature map: channels, height and width in cells, and stride in pixels (None: unknown)."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
