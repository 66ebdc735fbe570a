"""Trains everything of the mini world, exports it and evaluates it: CLIP, the segmentors, the multimodal model.

    python -m tools.mini.train --seed 0                 into out/mini_train/seed0
    python -m tools.mini.train --model sed --seed 0     SED, from the CLIP that ships, into out/mini_train/sed-seed0
    python -m tools.mini.train --model lmm --seed 0     the multimodal model, into out/mini_train/lmm-seed0
    python -m tools.mini.train --model all --seed 0     all of them, one after the other
    python -m tools.mini.train --seed 0 --ship          and the weights into tools/mini/weights, where evaluation looks
    python -m tools.mini.train --seed 0 --resume        go on where a run was interrupted

The output folder gets clip.safetensors, segmentor/ (OUTPUT_DIR of train_net.py), mini.safetensors (all that evaluation
needs, in half precision) and evaluation/ (results.json, report.html). About 20 minutes of one core. SED's has no
clip.safetensors and no report; sed-mini.safetensors leaves out what SED does not change of CLIP, its text tower. The
multimodal model is trained in .venv-reason, by tools.mini.lmm.train, and is a folder, model/.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from maft.config import build_config
from maft.errors import UserError, run_command, run_process
from maft.files import user_path, write_bytes
from maft.launch import main as launch
from maft.launch import parse_arguments
from maft.meta_arch import build_network
from maft.modeling.sed.training import CLIP
from maft.run import register_datasets
from maft.weights.clip import LEFT_OUT, digest, read_clip
from maft.weights.loading import load_for_evaluation
from maft.weights.saving import FINAL

from .dataset import prepare
from .methods import CONFIGS, WEIGHTS, SegmentorName
from .run import run as evaluate
from .shipped_reasons import WEIGHTS as WEIGHTS_LMM
from .train_clip import Recipe, save_clip, train_clip

CONFIG_TRAIN: Mapping[SegmentorName, str] = {"maft": "configs/mini/train.yaml", "sed": "configs/mini/sed_train.yaml"}
LARGEST: Mapping[SegmentorName, int] = {"maft": 12_000_000, "sed": 4_000_000}
"""Bytes that the shipped weights may have."""


def shipped(segmentor: SegmentorName) -> Path:
    """Where the weights of the repository lie."""
    return Path(__file__).resolve().parent / "weights" / f"{WEIGHTS[segmentor]}.safetensors"


def export(
    checkpoint: Path,
    target: Path,
    about: Mapping[str, str],
    keys: Sequence[str] = (),
    segmentor: SegmentorName = "maft",
) -> None:
    """Write what evaluation needs of a training checkpoint, in half precision.

    Args:
        checkpoint: of train_net.py.
        target: a .safetensors file; written aside, then renamed.
        about: goes into the file's metadata.
        keys: KEY VALUE pairs of the training that change the network.
        segmentor: whose. SED's file leaves out what training left of its CLIP as it was.

    Raises:
        UserError: the checkpoint is not of configs/mini, or the file is larger than `LARGEST`.
    """
    cfg = build_config(CONFIGS[segmentor][0], [*keys, "MODEL.WEIGHTS", str(checkpoint), "MODEL.DEVICE", "cpu"])
    register_datasets(cfg)
    model = build_network(cfg)
    load_for_evaluation(model, cfg.MODEL.WEIGHTS)
    entries, metadata = {name: _halved(tensor) for name, tensor in model.state_dict().items()}, dict(about)
    if segmentor == "sed":
        begun = {name: _halved(tensor) for name, tensor in read_clip(cfg.SED.CLIP_WEIGHTS).items()}
        same = [name for name in begun if torch.equal(begun[name], entries[f"{CLIP}{name}"])]
        metadata[LEFT_OUT] = digest({name: entries.pop(f"{CLIP}{name}") for name in same})
    content = save(entries, metadata)
    if len(content) > LARGEST[segmentor]:
        raise UserError(f"{target}: {len(content)} bytes, more than {LARGEST[segmentor]}; make configs/mini smaller")
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
    segmentor: SegmentorName = options.model
    own_clip = segmentor == "maft"
    folder = f"seed{options.seed}" if own_clip else f"{segmentor}-seed{options.seed}"
    output: Path = options.output or Path("out/mini_train") / folder
    recipe = Recipe(seed=options.seed, iterations=options.clip_iterations, scenes=options.clip_scenes)
    settings = asdict(recipe) if own_clip else {"model": segmentor, "seed": options.seed}
    _claim(output, {**settings, "keys": list(keys)}, options.resume)
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    prepare()
    training = ["SEED", str(options.seed), "OUTPUT_DIR", str(output / "segmentor")]
    if own_clip:
        clip = output / "clip.safetensors"
        if not clip.is_file():
            save_clip(train_clip(recipe)[0], clip)
        training += ["MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS", str(clip)]
        seconds["clip"] = time.perf_counter() - start
    start = time.perf_counter()
    final = output / "segmentor" / FINAL
    if not final.is_file():
        words = ["--config-file", CONFIG_TRAIN[segmentor], "--resume", *training, *keys]
        if status := launch(parse_arguments(words)):
            raise UserError(f"{final.parent}: training ended with status {status}; its log says why")
    seconds["segmentor"] = time.perf_counter() - start
    about = {"seed": str(options.seed), "torch": torch.__version__}
    weights = output / f"{WEIGHTS[segmentor]}.safetensors"
    export(final, weights, about, keys, segmentor)
    start = time.perf_counter()
    names = {"MODEL.WEIGHTS": str(weights)}
    evaluate(output / "evaluation", names, resume=False, sweep=False, segmentor=segmentor)
    seconds["evaluation"] = time.perf_counter() - start
    print(", ".join(f"{step} {value:.0f} s" for step, value in seconds.items()))
    if options.ship:
        export(final, shipped(segmentor), about, keys, segmentor)
        print(f"shipped: {shipped(segmentor)}")


def train_lmm(options: argparse.Namespace) -> None:
    """Train the multimodal model, in the environment that has transformers.

    Args:
        options: of the command line.

    Raises:
        UserError: there is no such environment, or the training fails.
    """
    python = Path(".venv-reason/bin/python")
    if not python.exists():
        raise UserError(f"{python}: missing, and the multimodal model is trained there; run bash install.sh reason")
    output: Path = options.output or Path(f"out/mini_train/lmm-seed{options.seed}")
    words = ["--seed", str(options.seed), "--output", str(output), *(["--resume"] if options.resume else [])]
    status = subprocess.run([str(python), "-m", "tools.mini.lmm.train", *words], check=False).returncode
    if status:
        raise UserError(f"{output}: training ended with status {status}; what stands above says why")
    if options.ship:
        shutil.copytree(output / "model", WEIGHTS_LMM, dirs_exist_ok=True)
        print(f"shipped: {WEIGHTS_LMM}")


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
    parser.add_argument(
        "--model",
        choices=(*WEIGHTS, "lmm", "all"),
        default="maft",
        help="MAFT+ (default), SED, the multimodal model, or all",
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and captions")
    parser.add_argument("--output", type=user_path, help="default: out/mini_train/seed<seed>, or sed-seed<seed>")
    parser.add_argument("--clip-iterations", type=int, default=Recipe.iterations, help="steps of CLIP's training")
    parser.add_argument("--clip-scenes", type=int, default=Recipe.scenes, help="different images that CLIP sees")
    parser.add_argument("--ship", action="store_true", help="also write the weights to tools/mini/weights")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(words[:cut])
    if options.model == "all" and options.output is not None:
        parser.error("--output: of one model; leave it out with --model all")

    def body() -> None:
        for model in (*WEIGHTS, "lmm") if options.model == "all" else (options.model,):
            one = argparse.Namespace(**{**vars(options), "model": model})
            if model == "lmm":
                train_lmm(one)
            else:
                train_all(one, words[cut + 1 :])

    return run_command(body, debug=options.debug)


if __name__ == "__main__":
    run_process(main)
