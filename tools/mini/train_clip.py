"""Trains the CLIP of the mini world, contrastively, on regions of its images and captions of them.

    python -m tools.mini.train_clip [--seed 0] [--output out/mini/clip.safetensors]

Regions are pooled from the dense features as in the segmentor, since that is what they are for: masks at stride 32,
then the trunk's head and CLIP's projection. First come close-ups, cheap and mostly of free combinations of attributes,
so that kinds are not learned by heart; then whole scenes. Two losses add up. One is CLIP's: regions against the sayings
of a batch, both ways, where several may be true of a region, or of several regions. The other asks every region what it
is called and which value of every axis it has; each option is a caption. Nothing here sees a validation image.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from maft.errors import UserError
from maft.files import user_path, write_bytes
from maft.modeling.backbone import CLIPBackbone, build_clip, register_clip_configs
from maft.modeling.classify import MAX_LOGIT_SCALE
from maft.modeling.layers import mask_pool
from maft.resources import config_folder
from reason.bars import Bar

from . import clip_rows
from .clip_rows import Facts, Saying
from .scenes import Scene, Segment, clip_training_scene

logger = logging.getLogger(__name__)

ARCHITECTURE = "mini"
"""The model config below configs/clip/."""

PIXEL_MEAN, PIXEL_STD = (122.7709383, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.32316305)
"""As in configs/base.yaml."""

_MASK_STRIDE = 4
_QUESTIONS_WEIGHT = 3.0
_CLOSE_UP, _SHIFT, _FREE_RATHER, _MOSTLY, _SMALLEST_GROUND = 128, 12.0, 3.0, 0.6, 1500
_SMALLEST_REGION = 300
"""Pixels; of less, hardly anything is left at stride 32."""


@dataclass(frozen=True)
class Recipe:
    """How the mini CLIP is trained.

    Attributes:
        seed: of initial weights, order, flips and captions; the images are always the same.
        iterations: steps.
        close_ups: part of the steps, the first ones, that see close-ups.
        batch: scenes a step.
        close_up_batch: close-ups a step.
        scenes: different images.
        rate: largest learning rate; it rises linearly over `warmup` steps and falls to zero as a cosine.
        warmup: steps.
        weight_decay: of matrices, embeddings apart.
        layer_scale: initial value of the trunk's, which is made for far longer trainings.
        logit_scale: initial inverse temperature.
    """

    seed: int = 0
    iterations: int = 1300
    close_ups: float = 0.5
    batch: int = 12
    close_up_batch: int = 32
    scenes: int = 2500
    rate: float = 4e-3
    warmup: int = 50
    weight_decay: float = 0.02
    layer_scale: float = 0.5
    logit_scale: float = 14.0


@dataclass(frozen=True)
class Regions:
    """An image for training.

    pixels: (3, H, W) uint8 RGB. masks: (N, H / 4, W / 4) uint8, how many of a cell's 16 pixels belong to each region.
    segments: the N regions. facts: (N, F).
    """

    pixels: Tensor
    masks: Tensor
    segments: tuple[Segment, ...]
    facts: Facts


def regions_of(scene: Scene) -> Regions:
    """The regions of a scene that are large enough."""
    segments = tuple(segment for segment in scene.segments if segment.area >= _SMALLEST_REGION)
    member = np.stack([scene.panoptic == segment.id for segment in segments])
    count, height, width = member.shape
    cells = member.reshape(count, height // _MASK_STRIDE, _MASK_STRIDE, width // _MASK_STRIDE, _MASK_STRIDE)
    return Regions(
        torch.from_numpy(scene.image).permute(2, 0, 1).contiguous(),
        torch.from_numpy(cells.sum(axis=(2, 4), dtype=np.uint8)),
        segments,
        np.stack([clip_rows.facts_of(segment.kind, segment.thing, segment.attributes) for segment in segments]),
    )


def close_up(sample: Regions, rng: np.random.Generator) -> Regions:
    """A window of `_CLOSE_UP` pixels around one thing, with the regions that are still there for the most part.

    Free combinations are chosen `_FREE_RATHER` times as often as known kinds.
    """
    rather = [_FREE_RATHER * segment.thing if segment.kind is None else segment.thing for segment in sample.segments]
    weights = np.array(rather, dtype=np.float64)
    if not weights.any():
        return sample
    place = int(rng.choice(len(weights), p=weights / weights.sum()))
    x, y, width, height = sample.segments[place].box
    centre = np.array([y + height / 2, x + width / 2]) + rng.uniform(-_SHIFT, _SHIFT, 2) - _CLOSE_UP / 2
    largest = sample.pixels.shape[-1] - _CLOSE_UP
    top, left = (int(np.clip(value, 0, largest)) // _MASK_STRIDE for value in centre)
    side = _CLOSE_UP // _MASK_STRIDE
    masks = sample.masks[:, top : top + side, left : left + side]
    seen = masks.sum(dim=(1, 2)).tolist()
    whole = sample.masks.sum(dim=(1, 2)).tolist()
    kept = [
        number
        for number, segment in enumerate(sample.segments)
        if seen[number] >= (_MOSTLY * whole[number] if segment.thing else _SMALLEST_GROUND)
    ]
    rows, columns = (slice(start * _MASK_STRIDE, start * _MASK_STRIDE + _CLOSE_UP) for start in (top, left))
    segments = tuple(sample.segments[number] for number in kept)
    return Regions(sample.pixels[:, rows, columns], masks[kept], segments, sample.facts[kept])


class RegionClip(nn.Module):
    """The mini CLIP, as the segmentor uses it: one feature a region, one a sentence."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        register_clip_configs(config_folder() / "clip")
        self.backbone = CLIPBackbone(build_clip(ARCHITECTURE), ARCHITECTURE)
        self._tokenizer: Callable[[list[str]], Tensor] = open_clip.get_tokenizer(ARCHITECTURE)
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD).view(-1, 1, 1), persistent=False)

    @property
    def clip(self) -> nn.Module:
        """The open_clip model."""
        return self.backbone.clip_model

    @property
    def scale(self) -> Tensor:
        """Inverse temperature."""
        return self.backbone.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)

    def encode_regions(self, pixels: Tensor, masks: Sequence[Tensor]) -> Tensor:
        """Features of the regions of a batch (docs/numerics.md, "CLIP logits").

        Args:
            pixels: (B, 3, H, W) RGB in [0, 255].
            masks: an image's (N, H / 4, W / 4), as in `Regions`.

        Returns:
            (sum of N, E), L2-normalised.
        """
        normal = ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        dense = self.backbone(normal)["clip_vis_dense"]
        pooled = []
        for features, counts in zip(dense, masks, strict=True):
            logits = counts.to(features)[None] * (2 / _MASK_STRIDE**2) - 1
            small = F.interpolate(logits, size=features.shape[-2:], mode="bilinear", align_corners=False)
            pooled.append(mask_pool(features[None], small)[0])
        return F.normalize(self.backbone.embed(torch.cat(pooled)), dim=-1)

    def encode_sentences(self, sentences: Sequence[str]) -> Tensor:
        """(N, E), L2-normalised; padding beyond the longest sentence is left out, which changes nothing."""
        tokens = self._tokenizer(list(sentences)).to(self.mean.device)
        ends = tokens.argmax(dim=-1)
        length = int(ends.max()) + 1
        clip: Any = self.clip
        hidden = clip.token_embedding(tokens[:, :length]) + clip.positional_embedding[:length]
        hidden = clip.transformer(hidden, attn_mask=clip.attn_mask[:length, :length])
        pooled = clip.ln_final(hidden[torch.arange(len(tokens), device=tokens.device), ends])
        return F.normalize(pooled @ clip.text_projection, dim=-1)

    def encode_sayings(self, sayings: Sequence[Saying]) -> Tensor:
        """(N, E) classifier rows: the averages over the sentences of every saying, L2-normalised."""
        features = self.encode_sentences([sentence for saying in sayings for sentence in saying.sentences])
        owner = [index for index, saying in enumerate(sayings) for _ in saying.sentences]
        rows = features.new_zeros(len(sayings), features.shape[1])
        return F.normalize(rows.index_add(0, torch.tensor(owner, device=rows.device), features), dim=-1)


def contrastive_loss(logits: Tensor, true: Tensor) -> Tensor:
    """CLIP's loss where several pairs of a row or column may be true: cross entropy against who may have said what.

    A saying that is true of n regions was said of each with equal probability, 1 / n. So the vaguer a true saying, the
    less a region points to it: a name that tells nothing must lose against the right one.

    Args:
        logits: (N regions, M sayings).
        true: the same, bool; every region has a true saying, a saying that is true of none counts as a negative only.
    """
    weights = true.to(logits.dtype)
    said = weights.sum(dim=0)
    of_sayings = weights / said.clamp(min=1)
    of_regions = of_sayings / of_sayings.sum(dim=1, keepdim=True)
    rows = (of_regions * logits.log_softmax(dim=1)).sum(dim=1).mean()
    columns = (of_sayings * logits.log_softmax(dim=0))[:, said > 0].sum(dim=0).mean()
    return -(rows + columns)


def question_loss(features: Tensor, options: Sequence[Tensor], answers: Tensor, scale: Tensor) -> Tensor:
    """Mean over questions of the cross entropy of the regions that have an answer.

    Args:
        features: (N, E) of regions, normalised.
        options: a question's (choices, E) rows, in the order of the columns of `answers`.
        answers: (N, questions), the right option's place or -1.
        scale: inverse temperature.
    """
    losses = [
        F.cross_entropy(scale * features[answer >= 0] @ rows.T, answer[answer >= 0])
        for rows, answer in zip(options, answers.T, strict=True)
        if (answer >= 0).any()
    ]
    return torch.stack(losses).mean()


def step_loss(model: RegionClip, batch: Sequence[Regions], rng: np.random.Generator) -> Tensor:
    """Both losses of a batch of images, each flipped or not."""
    flips = rng.random(len(batch)) < 0.5
    pixels = [sample.pixels.flip(-1) if flip else sample.pixels for sample, flip in zip(batch, flips, strict=True)]
    masks = [sample.masks.flip(-1) if flip else sample.masks for sample, flip in zip(batch, flips, strict=True)]
    features = model.encode_regions(torch.stack(pixels).to(model.mean), masks)
    facts = np.concatenate([sample.facts for sample in batch])
    segments = [segment for sample in batch for segment in sample.segments]
    sayings = [clip_rows.say(segment, rng) for segment in segments]
    sayings += [clip_rows.say_of_look_alike(segment, rng) for segment in segments]
    contrast = contrastive_loss(
        model.scale * features @ model.encode_sayings(sayings).T, clip_rows.truth(facts, sayings).to(features.device)
    )
    asked = clip_rows.questions(rng)
    rows = model.encode_sentences([sentence for options in asked for sentence in options])
    options = rows.split([len(options) for options in asked])
    asking = question_loss(features, options, clip_rows.answers(facts).to(features.device), model.scale)
    return contrast + _QUESTIONS_WEIGHT * asking


def train_clip(recipe: Recipe) -> tuple[RegionClip, list[float]]:
    """Train the mini CLIP, on a GPU where there is one.

    Returns:
        the model on the CPU, in evaluation mode, and the loss of every step.

    Raises:
        UserError: the loss is no longer finite.
    """
    # The optimiser's memory of words that no longer occur fades into denormal numbers, which are slow.
    torch.set_flush_denormal(True)
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    model = _new_model(recipe).to("cuda" if torch.cuda.is_available() else "cpu").train()
    optimizer = _optimizer(model, recipe)
    samples = [regions_of(clip_training_scene(number)) for number in _bar(recipe.scenes, "drawing")]
    losses = []
    for step in _bar(recipe.iterations, "training CLIP"):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * _rate(step, recipe)
        loss = step_loss(model, _batch(samples, step < recipe.close_ups * recipe.iterations, recipe, rng), rng)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise UserError(f"the loss is {losses[-1]} at step {step}; make Recipe.rate smaller")
    return model.cpu().eval(), losses


def _bar(count: int, title: str) -> Iterable[int]:
    """Numbers from 0 behind a progress bar, which writes little into a log file."""
    return Bar(range(count), desc=title, mininterval=0.2, disable=count < 50)


def _batch(samples: Sequence[Regions], near: bool, recipe: Recipe, rng: np.random.Generator) -> list[Regions]:
    """Close-ups or whole scenes, drawn at random."""
    places = rng.integers(len(samples), size=recipe.close_up_batch if near else recipe.batch)
    return [close_up(samples[place], rng) if near else samples[place] for place in places]


def _new_model(recipe: Recipe) -> RegionClip:
    model = RegionClip()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(recipe.layer_scale)
        model.backbone.logit_scale.fill_(math.log(recipe.logit_scale))
    return model


def _optimizer(model: RegionClip, recipe: Recipe) -> torch.optim.Optimizer:
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (free if parameter.ndim < 2 or "embedding" in name else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98))


def _rate(step: int, recipe: Recipe) -> float:
    return min(1.0, (step + 1) / recipe.warmup) * 0.5 * (1 + math.cos(math.pi * step / recipe.iterations))


def save_clip(model: RegionClip, path: Path) -> None:
    """Write the CLIP under open_clip's own names, float32; aside first, then in place."""
    write_bytes(path, save({name: tensor.contiguous() for name, tensor in model.clip.state_dict().items()}))


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--iterations", type=int, default=Recipe.iterations)
    parser.add_argument("--output", type=user_path, default=Path("out/mini/clip.safetensors"))
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Train and save."""
    options = parse_arguments(words)
    recipe = Recipe(seed=options.seed, iterations=options.iterations)
    start = time.perf_counter()
    model, losses = train_clip(recipe)
    save_clip(model, options.output)
    last = sum(losses[-50:]) / len(losses[-50:])
    print(f"{options.output}: loss {last:.3f} after {len(losses)} steps, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
