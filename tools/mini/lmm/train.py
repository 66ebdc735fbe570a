"""Trains the multimodal model of the mini world, in two processes, and writes it as a Hugging Face folder.

    .venv-reason/bin/python -m tools.mini.lmm.train --seed 0              into out/mini_train/lmm-seed0
    .venv-reason/bin/python -m tools.mini.lmm.train --seed 0 --resume     go on where a run was interrupted

First the vision tower alone learns to tell, of every image token, what is there; then all learns to speak: of images what
they look like, of imagined worlds what that is called (docs/mini_lmm.md). The folder gets metrics.jsonl, checkpoint.pt and
model/.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from reason.bars import Bar
from reason.errors import ReasonError

from .answering import look_figures
from .examples import Scribe
from .network import EMBEDDING, Shape
from .pictures import dev_pictures, training_pictures
from .tokens import build_tokenizer
from .training import HEAD_BIAS, HEAD_WEIGHT, Mixture, Step, head_count
from .weights import export, new_weights

logger = logging.getLogger(__name__)

SIGHT = Mixture(images=32, talks=0, definitions=0, whole_prompt=0.0)


@dataclass(frozen=True)
class Recipe:
    """How the model is trained.

    Attributes:
        seed: of weights, and of what every step shows; the images are always the same.
        pictures: different images.
        sight_steps, steps: of the vision tower alone, and of all.
        matrices: learning rate of matrices (Muon).
        others: of embeddings, biases and norms (AdamW).
        warmup: steps at the start of either part.
        decay: last part of all steps over which the rates fall to zero.
        late: last part of all steps in which the system turn of run time is frequent.
    """

    seed: int = 0
    pictures: int = 16000
    sight_steps: int = 400
    steps: int = 1600
    images: int = 24
    talks: int = 6
    definitions: int = 3
    matrices: float = 0.015
    others: float = 1.5e-3
    warmup: int = 50
    decay: float = 0.5
    late: float = 0.4
    whole_early: float = 0.05
    whole_late: float = 0.3

    def rate(self, step: int) -> float:
        """Factor on the learning rates at a step."""
        first = step if step < self.sight_steps else step - self.sight_steps
        rise = min(1.0, (first + 1) / self.warmup)
        left = (self.sight_steps + self.steps - step) / (self.steps * self.decay)
        return rise * min(1.0, left)

    def mixture(self, step: int) -> Mixture:
        """What a step shows."""
        if step < self.sight_steps:
            return SIGHT
        late = step >= self.sight_steps + self.steps * (1 - self.late)
        whole = self.whole_late if late else self.whole_early
        return Mixture(self.images, self.talks, self.definitions, whole)


class Trainer:
    """One of the processes."""

    def __init__(self, recipe: Recipe, output: Path, rank: int, processes: int) -> None:
        self.recipe, self.output, self.rank, self.processes = recipe, output, rank, processes
        self.tokenizer = build_tokenizer()
        self.scribe = Scribe(self.tokenizer)
        self.shape = Shape(len(self.tokenizer))
        folder = output.parent / "lmm_pictures"
        self.pictures = training_pictures(folder, recipe.pictures)
        self.dev = dev_pictures(folder, 80) if rank == 0 else None
        torch.manual_seed(recipe.seed)
        self.weights = {name: tensor.requires_grad_() for name, tensor in self._fresh().items()}
        matrices = [tensor for name, tensor in self.weights.items() if _is_matrix(name, tensor)]
        others = [tensor for name, tensor in self.weights.items() if not _is_matrix(name, tensor)]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=recipe.matrices, weight_decay=0.01),
            torch.optim.AdamW(others, lr=recipe.others, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.step = 0

    def run(self) -> None:
        """All steps from where it stands."""
        total = self.recipe.sight_steps + self.recipe.steps
        began, record = time.perf_counter(), (self.output / "metrics.jsonl").open("a", encoding="utf-8")
        sums: dict[str, float] = {}
        for self.step in Bar(
            range(self.step, total), desc="training", initial=self.step, total=total, disable=self.rank > 0
        ):
            parts = self._one(self.step)
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value
            done = self.step + 1
            if self.rank == 0 and done % 20 == 0:
                row = {"step": done, "seconds": round(time.perf_counter() - began, 1)}
                row |= {name: round(value / 20, 4) for name, value in sums.items()}
                sums = {}
                if done % 200 == 0 and done > self.recipe.sight_steps:
                    row["dev"] = self.figures(whole=done % 400 == 0)
                record.write(json.dumps(row) + "\n")
                record.flush()
            if self.rank == 0 and (done % 100 == 0 or done == total):
                self.save(done)
        record.close()

    def _one(self, step: int) -> dict[str, float]:
        recipe = self.recipe
        rng = np.random.default_rng((recipe.seed, step, self.rank))
        # Whether the long system turn is shown is the same for all processes: they wait for each other.
        mixture = recipe.mixture(step)
        whole = bool(np.random.default_rng((recipe.seed, step)).random() < mixture.whole_prompt)
        cast = {name: tensor.to(torch.bfloat16) for name, tensor in self.weights.items()}
        loss, parts = Step(self.shape, self.scribe, self.pictures, mixture).loss(cast, rng, whole)
        loss.backward()
        self._share_gradients()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group.setdefault("full", group["lr"])
                group["lr"] = group["full"] * recipe.rate(step)
            optimizer.step()
            optimizer.zero_grad()
        return parts

    def _share_gradients(self) -> None:
        owned = [tensor for tensor in self.weights.values() if tensor.grad is not None]
        flat = torch.cat([tensor.grad.reshape(-1) for tensor in owned if tensor.grad is not None])
        if self.processes > 1:
            dist.all_reduce(flat)
            flat /= self.processes
        flat *= (1.0 / flat.norm()).clamp(max=1.0)
        for tensor, grad in zip(owned, flat.split([tensor.numel() for tensor in owned]), strict=True):
            tensor.grad = grad.view_as(tensor)

    def figures(self, *, whole: bool) -> dict[str, float]:
        """How good its descriptions of images like those of validation are."""
        assert self.dev is not None
        cast = {name: tensor.detach().to(torch.bfloat16) for name, tensor in self.weights.items()}
        figures = look_figures(cast, self.shape, self.scribe, self.tokenizer, self.dev, whole=whole)
        return {name: round(value, 3) for name, value in figures.items()}

    def _fresh(self) -> dict[str, Tensor]:
        weights = new_weights(self.shape, self.tokenizer)
        weights[HEAD_WEIGHT] = torch.zeros(head_count(), self.shape.width)
        weights[HEAD_BIAS] = torch.zeros(head_count())
        return weights

    def save(self, done: int) -> None:
        """Keep everything to go on from here; aside first, then in place."""
        state = {
            "recipe": asdict(self.recipe),
            "done": done,
            "weights": {name: tensor.detach() for name, tensor in self.weights.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        aside = self.output / "checkpoint.pt.part"
        torch.save(state, aside)
        aside.replace(self.output / "checkpoint.pt")

    def load(self) -> None:
        """Go on where a run was interrupted."""
        state = torch.load(self.output / "checkpoint.pt", weights_only=True)
        with torch.no_grad():
            for name, tensor in state["weights"].items():
                self.weights[name].copy_(tensor)
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.step = state["done"]


def _is_matrix(name: str, tensor: Tensor) -> bool:
    return tensor.ndim == 2 and name not in (EMBEDDING, HEAD_WEIGHT)


def _work(rank: int, processes: int, recipe: Recipe, output: Path, address: str, resume: bool) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if processes > 1:
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=processes)
    trainer = Trainer(recipe, output, rank, processes)
    if resume:
        trainer.load()
    trainer.run()
    if rank == 0:
        kept = {name: tensor.detach() for name, tensor in trainer.weights.items() if not name.startswith("heads.")}
        export(kept, trainer.shape, trainer.tokenizer, output / "model")
    if processes > 1:
        dist.destroy_process_group()


def train(recipe: Recipe, output: Path, *, processes: int = 2, resume: bool = False) -> None:
    """Train into a folder.

    Args:
        recipe: how.
        output: the folder; images lie beside it.
        processes: how many work side by side, a thread each.
        resume: go on from its checkpoint.

    Raises:
        ReasonError: it holds a run already, another one, or none to go on with.
    """
    checkpoint = output / "checkpoint.pt"
    if checkpoint.is_file() and not resume:
        raise ReasonError(f"{output}: holds a training already; add --resume to go on, or choose another --output")
    if checkpoint.is_file() and torch.load(checkpoint, weights_only=True)["recipe"] != asdict(recipe):
        raise ReasonError(f"{output}: holds a training with other settings; choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    training_pictures(output.parent / "lmm_pictures", recipe.pictures)
    dev_pictures(output.parent / "lmm_pictures", 80)
    address = f"file://{(output / f'meeting-{time.time_ns()}').resolve()}"
    work: tuple[Any, ...] = (processes, recipe, output, address, resume and checkpoint.is_file())
    mp.start_processes(_work, work, nprocs=processes, start_method="spawn")


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sight-steps", type=int, default=Recipe.sight_steps)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--pictures", type=int, default=Recipe.pictures)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args(words)
    recipe = Recipe(seed=options.seed, pictures=options.pictures, sight_steps=options.sight_steps, steps=options.steps)
    output = options.output or Path(f"out/mini_train/lmm-seed{options.seed}")
    train(recipe, output, processes=options.processes, resume=options.resume)
    return 0


if __name__ == "__main__":
    sys.exit(main())
