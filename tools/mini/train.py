"""Trains everything of the mini world, exports it and evaluates it: CLIP, then the segmentor through train_net.py.

    python -m tools.mini.train --seed 0                 into out/mini_train/seed0
    python -m tools.mini.train --seed 0 --ship          and the weights into tools/mini/weights, where evaluation looks
    python -m tools.mini.train --seed 0 --resume        go on where a run was interrupted

The output folder gets clip.safetensors, segmentor/ (OUTPUT_DIR of train_net.py), mini.safetensors (all that evaluation
needs, in half precision) and evaluation/ (results.json, report.html). About half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from maft.config import build_config
from maft.errors import UserError, run_command
from maft.files import user_path, write_bytes
from maft.launch import main as launch
from maft.launch import parse_arguments
from maft.meta_arch import build_network
from maft.run import register_datasets
from maft.weights.loading import load_for_evaluation
from maft.weights.saving import FINAL

from .dataset import prepare
from .run import run as evaluate
from .train_clip import Recipe, save_clip, train_clip

CONFIG_TRAIN, CONFIG_EVAL = "configs/mini/train.yaml", "configs/mini/eval.yaml"
SHIPPED = Path(__file__).resolve().parent / "weights" / "mini.safetensors"
LARGEST = 12_000_000
"""Bytes that the shipped weights may have."""


def export(checkpoint: Path, target: Path, about: Mapping[str, str], keys: Sequence[str] = ()) -> None:
    """Write what evaluation needs of a training checkpoint, in half precision.

    Args:
        checkpoint: of train_net.py.
        target: a .safetensors file; written aside, then renamed.
        about: goes into the file's metadata.
        keys: KEY VALUE pairs of the training that change the network.

    Raises:
        UserError: the checkpoint is not of configs/mini, or the file is larger than `LARGEST`.
    """
    cfg = build_config(CONFIG_EVAL, [*keys, "MODEL.WEIGHTS", str(checkpoint), "MODEL.DEVICE", "cpu"])
    register_datasets(cfg)
    model = build_network(cfg)
    load_for_evaluation(model, cfg.MODEL.WEIGHTS)
    content = save({name: _halved(tensor) for name, tensor in model.state_dict().items()}, dict(about))
    if len(content) > LARGEST:
        raise UserError(f"{target}: {len(content)} bytes, more than {LARGEST}; make configs/mini smaller")
    write_bytes(target, content)


def _halved(tensor: Tensor) -> Tensor:
    return (tensor.half() if tensor.is_floating_point() else tensor).contiguous()


def train_all(options: argparse.Namespace, keys: Sequence[str]) -> None:
    """Every step in order; with --resume, finished ones are left as they are.

    Args:
        options: of the command line.
        keys: KEY VALUE pairs for train_net.py and the evaluation.

    Raises:
        UserError: the folder holds another run, or a step fails.
    """
    output: Path = options.output or Path("out/mini_train") / f"seed{options.seed}"
    recipe = Recipe(seed=options.seed, iterations=options.clip_iterations, scenes=options.clip_scenes)
    _claim(output, {**asdict(recipe), "keys": list(keys)}, options.resume)
    clip, weights, segmentor = output / "clip.safetensors", output / "mini.safetensors", output / "segmentor"
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    prepare()
    if not clip.is_file():
        save_clip(train_clip(recipe)[0], clip)
    seconds["clip"] = time.perf_counter() - start
    start = time.perf_counter()
    training = ["SEED", str(options.seed), "OUTPUT_DIR", str(segmentor)]
    training += ["MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS", str(clip)]
    status = 0
    if not (segmentor / FINAL).is_file():
        words = ["--config-file", CONFIG_TRAIN, "--resume", *training, *keys]
        status = launch(parse_arguments(words))
    if status:
        raise UserError(f"{segmentor}: training ended with status {status}; its log says why")
    seconds["segmentor"] = time.perf_counter() - start
    export(segmentor / FINAL, weights, {"seed": str(options.seed), "torch": torch.__version__}, keys)
    start = time.perf_counter()
    evaluate(output / "evaluation", {"MODEL.WEIGHTS": str(weights)}, resume=False, sweep=False)
    seconds["evaluation"] = time.perf_counter() - start
    print(", ".join(f"{step} {value:.0f} s" for step, value in seconds.items()))
    if options.ship:
        export(segmentor / FINAL, SHIPPED, {"seed": str(options.seed), "torch": torch.__version__}, keys)
        print(f"shipped: {SHIPPED}")


def _claim(output: Path, settings: Mapping[str, object], resume: bool) -> None:
    """Write down what a folder is for, so that two different runs never mix in it."""
    marker = output / "settings.json"
    if marker.is_file():
        if json.loads(marker.read_text(encoding="utf-8")) != settings:
            raise UserError(f"{output}: holds a run with other settings ({marker.name}); choose another --output")
        if not resume:
            raise UserError(f"{output}: holds this run already; add --resume to go on, or choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps(settings) + "\n", encoding="utf-8")


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    words = list(sys.argv[1:] if words is None else words)
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        prog="python -m tools.mini.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and captions")
    parser.add_argument("--output", type=user_path, help="default: out/mini_train/seed<seed>")
    parser.add_argument("--clip-iterations", type=int, default=Recipe.iterations, help="steps of CLIP's training")
    parser.add_argument("--clip-scenes", type=int, default=Recipe.scenes, help="different pictures that CLIP sees")
    parser.add_argument("--ship", action="store_true", help=f"also write {SHIPPED.name} to tools/mini/weights")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(words[:cut])
    return run_command(lambda: train_all(options, words[cut + 1 :]), debug=options.debug)


if __name__ == "__main__":
    sys.exit(main())
