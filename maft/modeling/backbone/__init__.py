"""The image and text towers of CLIP as the backbone."""

from .clip import CLIPBackbone, build_clip, known_architecture, register_clip_configs

__all__ = ["CLIPBackbone", "build_clip", "known_architecture", "register_clip_configs"]
