"""Trains the multimodal model of the mini world, in two processes, and writes it as a Hugging Face folder.

    .venv-reason/bin/python -m tools.mini.lmm.train --seed 0              into out/mini_train/lmm-seed0
    .venv-reason/bin/python -m tools.mini.lmm.train --seed 0 --resume     go on where a run was interrupted

First the vision tower alone learns to tell, of every image token, what is there; then all learns to speak: of images
what they look like, of imagined worlds what that is called (docs/mini_lmm.md). The folder gets metrics.jsonl,
checkpoint.pt and model/. About 70 minutes of two cores that have AMX; others take several times that.
"""

from __future__ import annotations

import argparse
import json
import pickle
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from maft.errors import UserError, run_command, run_process
from maft.files import replacing, user_path
from reason.bars import Bar

from .answering import look_figures
from .examples import Scribe
from .network import EMBEDDING, Shape
from .pictures import dev_pictures, training_pictures
from .tokens import build_tokenizer
from .training import HEAD_BIAS, HEAD_WEIGHT, Mixture, Step, head_sizes
from .weights import export, new_weights

CHECKPOINT = "checkpoint.pt"
_RECORD, _LOOK, _SAVE = 20, 200, 100
"""Steps between records of the losses, looks at the images for choices, and checkpoints."""

_DEV = 80
"""How many images for choices are looked at."""

SIGHT = Mixture(images=32, talks=0, definitions=0, whole_prompt=0.0)


@dataclass(frozen=True)
class Recipe:
    """How the model is trained.

    Attributes:
        seed: of weights, and of what every step shows; the images are always the same.
        pictures: different images.
        sight_steps, steps: of the vision tower alone, and of all.
        images, talks, definitions: what a step of all shows a process, see `Mixture`.
        matrices: learning rate of matrices (Muon).
        others: of embeddings, biases and norms (AdamW).
        warmup: steps at the start of either part.
        decay: last part of all steps over which the rates fall to zero.
        late: last part of all steps in which the system turn of run time is frequent.
        whole_early, whole_late: how often it is shown before and then; else the list of classes alone.
        shape: sizes of the network that are not `Shape`'s own.
    """

    seed: int = 0
    pictures: int = 16000
    sight_steps: int = 400
    steps: int = 1800
    images: int = 24
    talks: int = 6
    definitions: int = 3
    matrices: float = 0.015
    others: float = 1.5e-3
    warmup: int = 50
    decay: float = 0.6
    late: float = 0.75
    whole_early: float = 0.05
    whole_late: float = 0.35
    shape: Mapping[str, Any] = field(default_factory=dict)

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
        self.shape = Shape(len(self.tokenizer), **recipe.shape)
        folder = output.parent / "lmm_pictures"
        self.pictures = training_pictures(folder, recipe.pictures)
        self.dev = dev_pictures(folder, _DEV) if rank == 0 and recipe.steps >= _LOOK else None
        torch.manual_seed(recipe.seed)
        self.weights = {name: tensor.requires_grad_() for name, tensor in self._fresh().items()}
        matrices = [tensor for name, tensor in self.weights.items() if _is_matrix(name, tensor)]
        others = [tensor for name, tensor in self.weights.items() if not _is_matrix(name, tensor)]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=recipe.matrices, weight_decay=0.01),
            torch.optim.AdamW(others, lr=recipe.others, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.step = 0

    def run(self, until: int) -> None:
        """The steps from where it stands to `until`."""
        began, total = time.perf_counter(), self.recipe.sight_steps + self.recipe.steps
        steps, sums, since = range(self.step, until), dict[str, float](), self.step
        for step in Bar(steps, desc="training", initial=self.step, total=total, disable=self.rank > 0):
            parts = self._one(step)
            if self.rank > 0:
                continue
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value
            done = step + 1
            if done % _RECORD == 0 or done == until:
                row: dict[str, Any] = {"step": done, "seconds": round(time.perf_counter() - began, 1)}
                row |= {name: round(value / (done - since), 4) for name, value in sums.items()}
                if self.dev is not None and done % _LOOK == 0 and done > self.recipe.sight_steps:
                    row["dev"] = self.figures()
                with (self.output / "metrics.jsonl").open("a", encoding="utf-8") as record:
                    record.write(json.dumps(row) + "\n")
                sums, since = {}, done
            if done % _SAVE == 0 or done == until:
                self.save(done)

    def _one(self, step: int) -> dict[str, float]:
        recipe = self.recipe
        rng = np.random.default_rng((recipe.seed, step, self.rank))
        # Whether the long system turn is shown is the same for all processes: they wait for each other.
        mixture = recipe.mixture(step)
        whole = bool(np.random.default_rng((recipe.seed, step)).random() < mixture.whole_prompt)
        cast = {name: tensor.to(torch.bfloat16) for name, tensor in self.weights.items()}
        loss, parts = Step(self.shape, self.scribe, self.pictures, mixture).loss(cast, rng, whole=whole)
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

    def figures(self) -> dict[str, float]:
        """How good its descriptions of images like those of validation are, with the system turn of run time."""
        assert self.dev is not None
        cast = {name: tensor.detach().to(torch.bfloat16) for name, tensor in self.weights.items()}
        figures = look_figures(cast, self.shape, self.scribe, self.tokenizer, self.dev)
        return {name: round(value, 3) for name, value in figures.items()}

    def _fresh(self) -> dict[str, Tensor]:
        weights = new_weights(self.shape, self.tokenizer)
        weights[HEAD_WEIGHT] = torch.zeros(sum(head_sizes()), self.shape.width)
        weights[HEAD_BIAS] = torch.zeros(sum(head_sizes()))
        return weights

    def save(self, done: int) -> None:
        """Keep everything to go on from here; aside first, then in place."""
        state = {
            "recipe": asdict(self.recipe),
            "done": done,
            "weights": {name: tensor.detach() for name, tensor in self.weights.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        with replacing(self.output / CHECKPOINT) as stream:
            torch.save(state, stream)

    def load(self) -> None:
        """Go on where a run was interrupted."""
        state = read_checkpoint(self.output / CHECKPOINT)
        with torch.no_grad():
            for name, tensor in state["weights"].items():
                self.weights[name].copy_(tensor)
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.step = state["done"]


def _is_matrix(name: str, tensor: Tensor) -> bool:
    return tensor.ndim == 2 and name not in (EMBEDDING, HEAD_WEIGHT)


def _work(rank: int, processes: int, recipe: Recipe, output: Path, address: str, resume: bool, until: int) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if processes > 1:
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=processes)
    trainer = Trainer(recipe, output, rank, processes)
    if resume:
        trainer.load()
    trainer.run(until)
    if rank == 0 and until == recipe.sight_steps + recipe.steps:
        kept = {name: tensor.detach() for name, tensor in trainer.weights.items() if not name.startswith("heads.")}
        export(kept, trainer.shape, trainer.tokenizer, output / "model")
    if processes > 1:
        dist.destroy_process_group()


def train(recipe: Recipe, output: Path, *, processes: int = 2, resume: bool = False, until: int | None = None) -> None:
    """Train into a folder.

    Args:
        recipe: how.
        output: the folder; images lie beside it.
        processes: how many work side by side, a thread each.
        resume: go on from its checkpoint, or begin where it has none yet.
        until: stop after this step; None: after the last one, when the model is written.

    Raises:
        UserError: it holds a run already, or another one, or its checkpoint is damaged.
    """
    checkpoint = output / CHECKPOINT
    if checkpoint.is_file() and not resume:
        raise UserError(f"{output}: holds a training already; add --resume to go on, or choose another --output")
    if checkpoint.is_file() and read_checkpoint(checkpoint)["recipe"] != asdict(recipe):
        raise UserError(f"{output}: holds a training with other settings; choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    training_pictures(output.parent / "lmm_pictures", recipe.pictures)
    if recipe.steps >= _LOOK:
        dev_pictures(output.parent / "lmm_pictures", _DEV)
    last = recipe.sight_steps + recipe.steps
    with tempfile.TemporaryDirectory() as place:  # where the processes find each other
        work: tuple[Any, ...] = (
            *(processes, recipe, output, f"file://{place}/meeting"),
            *(checkpoint.is_file(), until or last),
        )
        mp.start_processes(_work, work, nprocs=processes, start_method="spawn")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `Trainer.save` kept.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return dict(torch.load(path, weights_only=True))
    except (RuntimeError, EOFError, ValueError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: no checkpoint ({str(error).splitlines()[0]}); delete it to begin anew") from error


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.mini.lmm.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and of what each step shows (default: 0)")
    parser.add_argument("--sight-steps", type=int, default=Recipe.sight_steps, help="steps of the vision tower alone")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="steps of all (default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=Recipe.pictures, help="different images (default: %(default)s)")
    parser.add_argument("--output", type=user_path, help="default: out/mini_train/lmm-seed<seed>")
    parser.add_argument("--processes", type=int, default=2, help="side by side, a thread each (default: 2)")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(words)
    numbers = (options.sight_steps, options.steps, options.pictures, options.processes)
    if min(numbers) < 1:
        parser.error("steps, pictures and processes: at least 1 is needed")
    recipe = Recipe(seed=options.seed, pictures=options.pictures, sight_steps=options.sight_steps, steps=options.steps)
    output: Path = options.output or Path(f"out/mini_train/lmm-seed{options.seed}")
    return run_command(
        lambda: train(recipe, output, processes=options.processes, resume=options.resume), debug=options.debug
    )


if __name__ == "__main__":
    run_process(main)
