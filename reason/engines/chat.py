"""Conversations as chat templates and image processors take them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from reason.asking.messages import EncodedImage, Turn


def template_messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Messages for a chat template; an image is named before its turn's text, its pixels travel apart."""
    return [
        {
            "role": turn.role,
            "content": [{"type": "image"}, {"type": "text", "text": turn.text}] if turn.image else turn.text,
        }
        for turn in turns
    ]


def images_of(turns: Sequence[Turn]) -> list[EncodedImage]:
    """The images of a conversation, in order."""
    return [turn.image for turn in turns if turn.image]


def decode(encoded: EncodedImage) -> Any:
    """The pixels of an image: a PIL image in RGB."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded.data)) as image:
        return image.convert("RGB")
