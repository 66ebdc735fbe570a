"""A real open_clip CLIP, only small: for tests here and for the processes they start."""

from __future__ import annotations

from collections.abc import Sequence

import open_clip
import torch
from torch import Tensor

from maft.text.encoder import CLIPTextEncoder
from maft.text.tokens import Tokens

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VISION = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
EMBED_DIM = 24


def tiny_clip(seed: int = 0) -> open_clip.CLIP:
    """A CLIP whose text features differ well between sentences."""
    torch.manual_seed(seed)
    model = open_clip.CLIP(EMBED_DIM, VISION, TEXT)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("visual."):
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def tiny_encoder(seed: int = 0, batch_size: int = 7) -> CLIPTextEncoder:
    """`tiny_clip` as a text encoder."""
    return CLIPTextEncoder(tiny_clip(seed), open_clip.get_tokenizer("convnext_base_w_320"), batch_size=batch_size)


class CountingEncoder:
    """A text encoder that keeps a record of what it was asked."""

    def __init__(self, encoder: CLIPTextEncoder) -> None:
        self.encoder = encoder
        self.asked: list[str] = []

    @property
    def dim(self) -> int:
        return self.encoder.dim

    @property
    def fingerprint(self) -> str:
        return self.encoder.fingerprint

    @property
    def tokens(self) -> Tokens:
        return self.encoder.tokens

    def encode(self, sentences: Sequence[str]) -> Tensor:
        self.asked.extend(sentences)
        return self.encoder.encode(sentences)
