"""SED with the recorded weights, and what passes through its modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import open_clip
import torch
from torch import Tensor

from maft.modeling.backbone import CLIPBackbone, build_clip
from maft.modeling.sed import SED, GradualFusionDecoder
from maft.text.encoder import CLIPTextEncoder
from maft.text.planes import PlanePrompts, fold_planes
from maft.weights.seeding import seed_module

_CLIPS = {"base": "convnext_base_w_320", "large": "convnext_large_d_320"}
MAPS = ("stem", "res2", "res3", "res4", "res5")


class HasDecoder(Protocol):
    """A network, or as much of it as has a decoder."""

    @property
    def decoder(self) -> GradualFusionDecoder:
        """SED's decoder."""


class Recorded:
    """The seeded model of one size, and its text tower.

    Args:
        size: "base" or "large".
        pooling: side of the squares of class attention.
        finetune: what is to learn, None for evaluation.
    """

    def __init__(self, size: str, *, pooling: int = 1, finetune: str | None = None) -> None:
        self.model = build_sed(size, pooling=pooling, finetune=finetune)
        seed_module(self.model)
        backbone = self.model.backbone
        self.encoder = CLIPTextEncoder(backbone.clip_model, open_clip.get_tokenizer(backbone.model_name))

    def planes(self, prompts: PlanePrompts) -> Tensor:
        """(K, n, T, E) of the prompts."""
        with torch.inference_mode():
            return fold_planes(self.encoder.encode(prompts.sentences), prompts)


def build_sed(size: str, *, pooling: int = 1, finetune: str | None = None) -> SED:
    """SED of one size with the numbers of the published yaml files, weights as they come."""
    backbone = CLIPBackbone(build_clip(_CLIPS[size]), _CLIPS[size])
    channels = backbone.channels
    decoder = GradualFusionDecoder(
        image_channels=[channels[name] for name in ("res4", "res3", "res2")], pooling=(pooling,) * 3
    )
    return SED(backbone=backbone, decoder=decoder, finetune=finetune, clip_dropout=0.1 if size == "large" else 0.0)


def size_of(config: str) -> str:
    """The size that a recorded config belongs to: the reference's yaml files are named after their CLIP."""
    return "large" if "convnextL" in config else "base"


@contextmanager
def watched(model: HasDecoder) -> Iterator[dict[str, Tensor]]:
    """Notes what the decoder's modules give, by the entries' names, classes first."""
    decoder = model.decoder
    seen: dict[str, Tensor] = {}
    before, decoder.rows_at_once = decoder.rows_at_once, 10**9
    named: dict[str, Any] = {"cost_embed": decoder.conv1}
    for step, project in enumerate(decoder.decoder_corr_guidance_projection):
        named[f"cost_guidance_{step}"] = project
    for step, layer in enumerate((decoder.decoder1, decoder.decoder2, decoder.decoder3), 1):
        parts = {"spatial": layer.cnext, "class": layer.attention, "up": layer.up, "out": layer.conv}
        named |= {f"layer{step}/{name}": part for name, part in parts.items()}

    def note(name: str) -> Any:
        def hook(_module: object, _inputs: object, output: Tensor) -> None:
            # A copy: the next module may write into it.
            seen[name] = (output.flatten(0, 1) if output.dim() == 5 else output).clone()

        return hook

    hooks = [part.register_forward_hook(note(name)) for name, part in named.items()]
    try:
        yield seen
    finally:
        decoder.rows_at_once = before
        for hook in hooks:
            hook.remove()


def stats(value: Tensor) -> list[float]:
    """Mean, standard deviation, largest magnitude."""
    value = value.double()
    return [value.mean().item(), value.std().item(), value.abs().max().item()]


def shape_steps(whole: Sequence[int], part: Sequence[int]) -> tuple[slice, ...]:
    """The slices with a step that make one shape of another: a divisor if there is one, else a power of two."""
    slices = []
    for count, kept in zip(whole, part, strict=True):
        fitting = [step for step in range(1, count + 1) if -(-count // step) == kept]
        best = [step for step in fitting if count % step == 0] or [step for step in fitting if step & (step - 1) == 0]
        slices.append(slice(None, None, (best or fitting or [1])[0]))
    return tuple(slices)
