"""Where an image's time goes, stage by stage, beside what the machine could do at best.

    python -m tools.bench.image                                         base, 800 pixels, a few minutes
    python -m tools.bench.image --models base sed-base --vocabularies 59 847 --device cuda
    python -m tools.bench.image --alternatives float32 torch.compile --json out/image.json
    python -m tools.bench.image --reference ../OpenSeg-R-reference      beside a clone of Hanzy1996/OpenSeg-R

Random weights and text features: they change no time. The alternatives of a stage (float32, bfloat16, deformable
attention fused, compiled and in plain PyTorch, torch.compile) take turns in one run, so that a busy machine slows
all of them; medians with the lowest and highest round. A floor is the larger of two: the stage's FLOPs at the rate of
a matrix product, and its bytes at that of a copy, both measured here.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import skimage.data
import torch
from PIL import Image
from tabulate import tabulate

from maft import build
from maft.errors import UserError, run_command, run_process
from maft.memory import keep_freed_memory
from maft.modeling.pixel_decoder.ops import active_backend
from maft.text.bank import FeatureBank
from maft.text.encoder import CLIPTextEncoder
from maft.weights.seeding import seed_module
from reason.files import user_path, write_text
from reason.vocabulary import Vocabulary, load_vocabulary

from . import reference
from .measure import Clock, costs, machine_peaks, peak_memory
from .stages import (
    ALTERNATIVES,
    WAYS,
    alternatives,
    count,
    cut_to,
    deformable_attention,
    forget_masks,
    labels_of,
    parts,
    precision,
    prompts_of,
    read,
    set_memory,
    text_input,
    watched,
)

SENTENCES = 336
"""Encoded to time the text tower: as many as four classes with three attributes and two names each have."""


@torch.inference_mode()
def measure_network(network: Any, image: torch.Tensor, rounds: int, wanted: Sequence[str]) -> dict[str, Any]:
    """Seconds of the stages before any vocabulary, for every alternative in turn, and what they must do at least."""
    device, modules = network.device, parts(network)
    chosen = {name: value for name, value in alternatives(network, device).items() if name in wanted}
    compiled = "torch.compile" in chosen
    clocks = {name: Clock(device) for name in chosen}
    eager = {name: module.forward for name, module in modules.items()}
    fast = {name: torch.compile(forward) for name, forward in eager.items()} if compiled else {}
    for _ in range(rounds + 1):  # the first is the warm-up
        for name, (op, dtype) in chosen.items():
            set_memory(name)
            for part, module in modules.items():
                module.forward = fast[part] if name == "torch.compile" and part != "pixel decoder" else eager[part]
            with precision(device, dtype), deformable_attention(op, device) as calls, watched(modules, clocks[name]):
                clocks[name].time("all", lambda: network.look([image]))
            if calls:
                clocks[name].note("op in pixel decoder", sum(calls))
    set_memory("float32")
    for part, module in modules.items():
        module.forward = eager[part]
    seconds = {name: clock.summary(warm_up=1) for name, clock in clocks.items()}
    return {"seconds": seconds, "least": costs(lambda: network.look([image]), modules)}


@torch.inference_mode()
def measure_vocabulary(network: Any, image: torch.Tensor, vocabulary: Vocabulary, rounds: int) -> dict[str, Any]:
    """Seconds of the stages that a vocabulary decides, for every way to ask, and the peak of memory of a whole image.

    "text": from features to the network's text input; "classes": scores, and segments of a panoptic model; "assembly":
    the label of each pixel; "metric": the confusion matrix.
    """
    device, size = network.device, (image.shape[-2] * 427 // 800, image.shape[-1] * 427 // 800)
    clocks = {way: Clock(device) for way in WAYS}
    peaks: dict[str, Any] = {}
    view = network.look([image])[0]
    for number in range(rounds + 1):
        for way, clock in clocks.items():
            forget_masks(view)
            given = clock.time("text", partial(text_input, network, vocabulary, way))
            ask = partial(network.results, view, given, size, vocabulary.thing_indices)
            results = clock.time("classes", ask)
            labels = clock.time("assembly", partial(labels_of, results))
            clock.time("metric", partial(count, labels, len(vocabulary)))
            if number == rounds:
                with peak_memory(device) as peak:
                    labels_of(network.results(network.look([image])[0], given, size, vocabulary.thing_indices))
                peaks[way] = peak.get("mib")
            del given, ask, results, labels
    return {way: {"seconds": clock.summary(warm_up=1), "peak_mib": peaks[way]} for way, clock in clocks.items()}


def measure_text(network: Any, rounds: int) -> dict[str, Any]:
    """Seconds for `SENTENCES` sentences, encoded and out of the bank's memory."""
    fold = network.text_fold(attributes=3, mode="reference", design=None)
    vocabulary = load_vocabulary("ade150")
    prompts, _ = prompts_of(fold, fold.names(vocabulary), "reasons")
    sentences = list(dict.fromkeys(prompts.sentences))[:SENTENCES]
    clip, clock = network.clip, Clock(network.device)
    tokenizer = open_clip.get_tokenizer(clip.model_name)
    encoders = {"bank empty": CLIPTextEncoder(clip.clip_model, tokenizer)}
    encoders["bank empty, bfloat16"] = CLIPTextEncoder(clip.clip_model, tokenizer, precision="bfloat16")
    for _ in range(rounds + 1):
        for name, encoder in encoders.items():
            bank = FeatureBank(encoder, fold.templates)
            clock.time(name, partial(bank.get, sentences))
        clock.time("bank filled", partial(bank.get, sentences))
    return {"sentences": len(sentences), "seconds": clock.summary(warm_up=1)}


def measure_model(name: str, options: argparse.Namespace, photograph: Path) -> dict[str, Any]:
    """Everything about one model."""
    device = torch.device(options.device)
    network = seed_module(build.build_network(name)).to(device).requires_grad_(False)
    sizes = build.SIZES[name] if options.size is None else (options.size, options.size * 5 // 3)
    clock = Clock(device)
    for _ in range(options.rounds + 1):
        image = clock.time("reading", lambda: read(photograph, sizes))
    vocabularies = cut_to(options.vocabularies, load_vocabulary)
    beside = {}
    if options.reference is not None:  # first: its errors should not take minutes to come
        beside["reference"] = reference.compare(network, image.to(device), options.reference, name, options.rounds)
    return {
        **beside,
        "image": list(image.shape[-2:]),
        "reading": clock.summary(warm_up=1)["reading"],
        "network": measure_network(network, image, options.rounds, options.alternatives),
        "encoding": measure_text(network, options.rounds),
        "vocabularies": {
            str(size): measure_vocabulary(network, image, vocabulary, options.rounds)
            for size, vocabulary in vocabularies.items()
        },
    }


def tables(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [
        f"{report['device']}, {report['threads']} threads, deformable attention: {report['op']}; matrix products at "
        f"{report['peaks']['gflops']} GFLOP/s, copies at {report['peaks']['gbytes']} GB/s; "
        "seconds, median (low to high)"
    ]
    for name, model in report["models"].items():
        height, width = model["image"]
        lines.append(f"\n{name}, {height} x {width}; reading {_shown(model['reading'])}")
        seconds, least = model["network"]["seconds"], model["network"]["least"]
        stages = list(dict.fromkeys(stage for of in seconds.values() for stage in of))
        rows = [
            [stage, *(_shown(of.get(stage)) for of in seconds.values()), _floor(least.get(stage), report["peaks"])]
            for stage in stages
        ]
        lines.append(tabulate(rows, headers=["", *seconds, "floor"], tablefmt="github"))
        encoding = model["encoding"]
        spent = ", ".join(f"{state} {_shown(value)}" for state, value in encoding["seconds"].items())
        lines.append(f"\n{encoding['sentences']} sentences: {spent}\n")
        rows = [
            [classes, way, *(_shown(value) for value in of["seconds"].values()), of["peak_mib"]]
            for classes, ways in model["vocabularies"].items()
            for way, of in ways.items()
        ]
        headers = ["classes", "asked by", "text", "classes", "assembly", "metric", "peak MiB"]
        lines.append(tabulate(rows, headers=headers, tablefmt="github"))
        if "reference" in model:
            lines.append("\n" + reference.table(model["reference"]))
    return "\n".join(lines)


def _shown(value: dict[str, float] | None) -> str:
    return "" if value is None else f"{value['median']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def _floor(least: dict[str, int] | None, peaks: dict[str, float]) -> str:
    if least is None:
        return ""
    return f"{max(least['flops'] / peaks['gflops'], least['bytes'] / peaks['gbytes']) / 1e9:.3f}"


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write the JSON; the exit status."""
    options = parse_arguments(words)

    def body() -> None:
        device = torch.device(options.device)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: no GPU here; leave it out")
        if device.type == "cpu":
            keep_freed_memory()
        if options.reference is not None:
            reference.check_clone(options.reference, options.models)
        with tempfile.TemporaryDirectory() as folder:
            photograph = options.image or _photograph(Path(folder))
            report: dict[str, Any] = {
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "op": active_backend(device.type),
                "peaks": machine_peaks(device, torch.float32),
                "peaks_bfloat16": machine_peaks(device, torch.bfloat16),
                "rounds": options.rounds,
                "models": {name: measure_model(name, options, photograph) for name in options.models},
            }
        print(tables(report))
        if options.json:
            write_text(options.json, json.dumps(report, indent=1) + "\n")

    return run_command(body)


def _photograph(folder: Path) -> Path:
    """A JPEG of 640 x 427 pixels."""
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.coffee()).resize((640, 427), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    path = folder / "coffee.jpg"
    path.write_bytes(buffer.getvalue())
    return path


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.image", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["base"], choices=list(build.MODELS))
    sizes = [5, 59, 150, 459, 847]
    parser.add_argument("--vocabularies", nargs="+", type=int, default=sizes, help="numbers of classes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=_positive, help="short side in pixels (default: the model's)")
    parser.add_argument("--rounds", type=_positive, default=3, help="after one to warm up (default: 3)")
    parser.add_argument(
        "--alternatives",
        nargs="+",
        default=ALTERNATIVES[:-1],
        choices=ALTERNATIVES,
        help="default: all but torch.compile, which takes minutes to begin",
    )
    parser.add_argument(
        "--reference",
        type=user_path,
        metavar="DIR",
        help="time a clone of Hanzy1996/OpenSeg-R in the same run (docs/performance.md says what it needs)",
    )
    parser.add_argument("--image", type=user_path, help="a photograph of your own")
    parser.add_argument("--json", type=user_path, help="write the figures to this file")
    return parser.parse_args(words)


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}: a whole number, at least 1")
    return int(text)


if __name__ == "__main__":
    run_process(main)
