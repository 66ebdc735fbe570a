"""Conversations as chat templates and image processors take them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from reason.asking.messages import Picture, Turn


def template_messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Messages for a chat template; a picture is named before its turn's text, its pixels travel apart."""
    return [
        {
            "role": turn.role,
            "content": [{"type": "image"}, {"type": "text", "text": turn.text}] if turn.picture else turn.text,
        }
        for turn in turns
    ]


def pictures_of(turns: Sequence[Turn]) -> list[Picture]:
    """The pictures of a conversation, in order."""
    return [turn.picture for turn in turns if turn.picture]


def decode(picture: Picture) -> Any:
    """The pixels of a picture: a PIL image in RGB."""
    from PIL import Image

    with Image.open(io.BytesIO(picture.data)) as image:
        return image.convert("RGB")
