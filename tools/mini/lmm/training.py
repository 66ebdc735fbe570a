"""One step of the model's training: what it is shown, and the losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..world import KINDS
from .examples import ClassList, Example, Scribe, draw_list
from .looks import GRID, Look, imagine, mirrored, renamed
from .network import EMBEDDING, KeysValues, Shape, Weights, patches, positions, read, see
from .pictures import HEADS, Pictures

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""As the processor of the published models normalises."""

System = tuple[KeysValues, int]
"""Keys and values of a system turn, and its length."""

HEAD_WEIGHT, HEAD_BIAS = "heads.weight", "heads.bias"
"""Of the questions that are asked of every image token beside; thrown away in the end."""

_EXACT, _MISREAD = 0.55, 0.38
_GAIN, _TINT = 0.06, 0.03


@dataclass(frozen=True)
class Mixture:
    """What a step of a process shows, and what it weighs.

    Attributes:
        images: how many are looked at.
        talks: conversations about imagined worlds, in front of images that have nothing to do with them.
        definitions: generic questions.
        whole_prompt: how often the system turn is that of run time; else the list of classes alone.
        heads, talking, defining: weights of these losses beside that of looking.
    """

    images: int
    talks: int
    definitions: int
    whole_prompt: float
    heads: float = 0.3
    talking: float = 1.0
    defining: float = 0.3


def head_sizes() -> list[int]:
    """How many answers each question on the side has: those of `HEADS`, then the token's row and its column.

    Rotary positions are relative: without the last two, a token knows badly where it stands, and "row four" finds it
    badly.
    """
    return [*(len(values) for values in HEADS.values()), GRID, GRID]


def normalised(pixels: np.ndarray[Any, Any], rng: np.random.Generator | None = None) -> Tensor:
    """Images for the network.

    Args:
        pixels: (B, 252, 252, 3) uint8.
        rng: for a little more or less light, and tint; None: as they are.

    Returns:
        (B, 3, 252, 252) float32.
    """
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    if rng is not None:
        count = len(images)
        gain = rng.uniform(1 - _GAIN, 1 + _GAIN, (count, 1)) * rng.uniform(1 - _TINT, 1 + _TINT, (count, 3))
        images = (images * torch.from_numpy(gain).float()[:, :, None, None]).clamp(max=1)
    return (images - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)


class Step:
    """Computes the loss of a step."""

    def __init__(self, shape: Shape, scribe: Scribe, pictures: Pictures, mixture: Mixture) -> None:
        self.shape, self.scribe, self.pictures, self.mixture = shape, scribe, pictures, mixture

    def loss(self, weights: Weights, rng: np.random.Generator, *, whole: bool) -> tuple[Tensor, dict[str, float]]:
        """The weighted loss, and its parts.

        Args:
            weights: in the dtype of the arithmetic, with `HEAD_WEIGHT` and `HEAD_BIAS`.
            rng: what the step is drawn from.
            whole: whether the system turn is that of run time; else it is the list of classes alone.
        """
        mixture = self.mixture
        classes = draw_list(rng)
        tokens, answers, looks = self._look_at(weights, rng)
        losses = {"heads": _head_loss(weights, tokens, answers)}
        if mixture.talks:
            system = prefix(weights, self.shape, self.scribe.system(classes.listed, whole=whole))
            looking = [self.scribe.looking(renamed(one, classes.names), rng) for one in looks]
            losses["look"] = self._said(weights, looking, tokens, system)
            others = torch.roll(tokens.detach(), 1, dims=0)
            worlds = [imagine(rng, classes.names, exact=_EXACT, misread=_MISREAD) for _ in range(mixture.talks)]
            talking = [self.scribe.talking(world, classes.listed) for world in worlds]
            losses["talk"] = self._said(weights, talking, others[: mixture.talks], system)
        if mixture.definitions:
            losses["define"] = self._definition_loss(weights, classes, rng, whole)
        shares = {"heads": mixture.heads, "look": 1.0, "talk": mixture.talking, "define": mixture.defining}
        total = torch.stack([shares[name] * loss for name, loss in losses.items()]).sum()
        return total, {name: float(loss.detach()) for name, loss in losses.items()}

    def _look_at(self, weights: Weights, rng: np.random.Generator) -> tuple[Tensor, Tensor, list[list[Look]]]:
        """Image tokens (B, 81, width), answers (B, 81, heads) and what is to be said of some images, some mirrored."""
        places = np.sort(rng.integers(len(self.pictures), size=self.mixture.images))
        flips = rng.random(len(places)) < 0.5
        pixels = np.stack([self.pictures.pixels[place] for place in places])
        pixels[flips] = pixels[flips, :, ::-1]
        answers = self.pictures.answers[places].reshape(-1, GRID, GRID, len(HEADS))
        answers[flips] = answers[flips, :, ::-1]
        looks = [
            mirrored(self.pictures.looks[place]) if flip else self.pictures.looks[place]
            for place, flip in zip(places, flips, strict=True)
        ]
        tokens = see(weights, self.shape, patches(normalised(pixels, rng)).to(weights[EMBEDDING].dtype))
        return tokens, torch.from_numpy(answers).flatten(1, 2), looks

    def _said(self, weights: Weights, examples: Sequence[Example], tokens: Tensor, system: System) -> Tensor:
        return said_loss(weights, self.shape, examples, system, (tokens, self.scribe.image_at))

    def _definition_loss(self, weights: Weights, classes: ClassList, rng: np.random.Generator, whole: bool) -> Tensor:
        kinds = [KINDS[int(place)] for place in rng.integers(len(KINDS), size=self.mixture.definitions)]
        examples = [self.scribe.defining(kind, classes.names.get(kind.name, kind.name)) for kind in kinds]
        system = self.scribe.system(classes.listed, whole=whole, image=False)
        return said_loss(weights, self.shape, examples, prefix(weights, self.shape, system), None)


def prefix(weights: Weights, shape: Shape, ids: Sequence[int]) -> System:
    """Keys and values of what all sequences of a batch begin with, and its length."""
    tokens = F.embedding(torch.tensor([ids]), weights[EMBEDDING])
    return read(weights, shape, tokens, positions(0, None, len(ids)))[1], len(ids)


def said_loss(
    weights: Weights,
    shape: Shape,
    examples: Sequence[Example],
    system: System,
    image: tuple[Tensor, int] | None,
) -> Tensor:
    """Cross entropy of what is to be said, weighted.

    Args:
        weights: in the dtype of the arithmetic.
        shape: of the network.
        examples: one a sequence.
        system: what they begin with, and its length.
        image: the tokens (B, 81, width) of their images, and where they begin; None: they have none.
    """
    count = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), count, dtype=torch.int64)
    heard = ids.clone()
    shares = torch.zeros(len(examples), count)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        heard[row, : len(example.ids)] = torch.tensor(example.heard or example.ids)
        shares[row, : len(example.ids)] = torch.tensor(example.weights)
    embedded = F.embedding(heard, weights[EMBEDDING])
    if image is not None:
        seen, at = image
        embedded = torch.cat((embedded[:, :at], seen, embedded[:, at + GRID**2 :]), dim=1)
    places = positions(system[1], None if image is None else image[1], count)
    hidden, _ = read(weights, shape, embedded, places, system[0])
    rows, columns = torch.nonzero(shares[:, 1:], as_tuple=True)
    logits = F.linear(hidden[rows, columns], weights[EMBEDDING]).float()
    losses = F.cross_entropy(logits, ids[rows, columns + 1], reduction="none")
    share = shares[rows, columns + 1]
    return (losses * share).sum() / share.sum()


def _head_loss(weights: Weights, tokens: Tensor, answers: Tensor) -> Tensor:
    """Mean over the questions of the cross entropy where there is an answer."""
    logits = F.linear(tokens, weights[HEAD_WEIGHT], weights[HEAD_BIAS]).float()
    parts = logits.split(head_sizes(), dim=-1)
    cells = torch.arange(GRID**2)
    places = torch.stack((cells // GRID, cells % GRID), dim=-1).expand(len(tokens), -1, -1)
    answers = torch.cat((answers.long(), places), dim=-1)
    losses = [
        F.cross_entropy(part.flatten(0, 1), answers[..., head].flatten(), ignore_index=-1)
        for head, part in enumerate(parts)
    ]
    return torch.stack(losses).mean()
