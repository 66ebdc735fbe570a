"""Deterministic stand-in weights: every entry of a state dict drawn from its own name and shape.

Two models whose state dicts agree in names and shapes get the same weights on any machine, so that computations can be
compared without a checkpoint, and a first run needs no download. A seeded network segments nothing meaningful.

The rules are those of the golden tensors (docs/numerics.md): per entry a PCG64 generator seeded with the CRC-32 of the
full name draws standard normal float32 numbers n; what becomes of n depends on rank and name:

==============================================  =================================================================
scalar `logit_scale`                            4.7 inside CLIP (whose exponential is clamped to 100), 3.0 elsewhere
vector ending in "gamma"                        0.5 + 0.05 n
vector ending in "weight" (norms)               1 + 0.05 n
other vectors                                   0.02 n
embeddings (`EMBEDDING_DEVIATIONS`)             deviation * n
other matrices and kernels                      n minus its mean over all axes but the first, over root of fan-in
==============================================  =================================================================

followed by the factors of `FACTORS` and the shifts of `SHIFTS`, which keep attention, masks and classes varied.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

SEEDED = "seeded"
"""The value of MODEL.WEIGHTS that asks for stand-in weights."""

EMBEDDING_DEVIATIONS = {
    "token_embedding.weight": 1.0,
    "positional_embedding": 0.5,
    "query_feat.weight": 2.0,
    "query_embed.weight": 2.0,
    "level_embed.weight": 0.5,
    "level_embed": 0.5,
    "void_embedding.weight": 0.5,
}
"""Name ending of an embedding -> standard deviation."""

FACTORS = (
    ("clip_model.transformer.", "in_proj_weight", 2.0),
    ("cdt.cross_atten.", "in_proj_weight", 2.0),
    ("cdt.cross_atten.MLP.", "", 0.1),
    ("cdt.cross_atten.norm.", "", 0.15),
    ("predictor.transformer_", "out_proj.weight", 0.25),
    ("predictor.transformer_", "linear2.weight", 0.25),
    ("predictor.mask_embed.", "layers.2.weight", 2.0),
)
"""(part of the name, ending of the name, factor); the first row that fits applies."""

SED_FACTORS = (
    ("predictor.transformer.conv1.", "weight", 8.0),
    ("predictor.transformer.decoder_corr_guidance_projection.0.", "weight", 60.0),
    ("predictor.clip_model.visual.trunk.head.norm.", "bias", 200.0),
    ("predictor.transformer.head", "weight", 3.0),
)
"""The same for names that only SED has; every row that fits applies, after those of `FACTORS`. Cosines are small, and
without them its classes would hardly differ."""

SHIFTS = {"predictor.mask_embed.layers.2.bias": 0.15, "pixel_decoder.mask_features.bias": -0.15}
"""Name ending -> constant added last: about a quarter of every mask is positive."""


class Seedable(Protocol):
    """An nn.Module, or anything else with a state dict whose tensors are its own."""

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """Every entry by its name."""

    def eval(self) -> Any:
        """Switch to evaluation."""


ModuleT = TypeVar("ModuleT", bound=Seedable)


def is_seeded_entry(name: str, value: torch.Tensor) -> bool:
    """Whether the rules cover an entry: counters, masks, class weights and most scalars keep their values."""
    if not value.is_floating_point() or "attn_mask" in name or name.endswith("empty_weight"):
        return False
    return value.dim() > 0 or name.endswith("logit_scale")


def seeded_entry(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 array of `shape` that the rules give the entry `name`."""
    if not shape:
        return np.asarray(4.7 if "clip_model" in name else 3.0, dtype=np.float32)
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    array = _base_draw(name, generator.standard_normal(size=shape, dtype=np.float32))
    for part, ending, factor in FACTORS:
        if part in name and name.endswith(ending):
            array = array * np.float32(factor)
            break
    for part, ending, factor in SED_FACTORS:
        if part in name and name.endswith(ending):
            array = array * np.float32(factor)
    for ending, shift in SHIFTS.items():
        if name.endswith(ending):
            array = array + np.float32(shift)
    return array


def _base_draw(name: str, noise: np.ndarray) -> np.ndarray:
    if noise.ndim == 1:
        if name.endswith("gamma"):
            return np.float32(0.5) + np.float32(0.05) * noise
        if name.endswith("weight"):
            return np.float32(1.0) + np.float32(0.05) * noise
        return np.float32(0.02) * noise
    for ending, deviation in EMBEDDING_DEVIATIONS.items():
        if name.endswith(ending):
            return np.float32(deviation) * noise
    inner = tuple(range(1, noise.ndim))
    # The mean is taken in float64: the last bits of a float32 mean depend on the summation order.
    centred = noise - noise.mean(axis=inner, keepdims=True, dtype=np.float64)
    return (centred / math.sqrt(math.prod(noise.shape[1:]))).astype(np.float32)


@torch.no_grad()
def seed_module(module: ModuleT) -> ModuleT:
    """Overwrite the floating-point entries of `module.state_dict()` in place and put the module into evaluation mode.

    Seed a whole model, not a part of it: the draws depend on full names such as "backbone.clip_model.ln_final.weight".
    """
    for name, value in module.state_dict().items():
        if is_seeded_entry(name, value):
            value.copy_(torch.from_numpy(seeded_entry(name, tuple(value.shape))))
    module.eval()
    return module
