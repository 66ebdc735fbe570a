"""The reference repository beside ours, in turns: seconds by stage, and how many times faster an image is done.

One image, the 59 classes of Pascal Context, reasons of its own for four classes of two names each: 336 sentences.
"all" is from the image at the network's size to the class of each of its 640 x 427 pixels.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import open_clip
import torch
from tabulate import tabulate
from torch import Tensor

from maft.errors import UserError
from maft.text.bank import FeatureBank
from maft.text.encoder import CLIPTextEncoder
from reason.triplets import Reason
from reason.vocabulary import load_vocabulary

from .measure import Clock, spread
from .stages import ATTRIBUTES, COVERED, labels_of, parts, precision, watched

CONFIGS: Mapping[str, str] = {
    "base": "configs/semantic/eval_base_reason.yaml",
    "large": "configs/semantic/eval_large_reason.yaml",
}
"""Our name of a model -> the reference's config."""

SHIPPED, STORED = "as shipped", "text on disk"
STAGES = ("text", "backbone", "pixel decoder", "decoder", "all")
_INSTALL = {"hydra": "hydra-core", "PIL": "pillow", "cv2": "opencv-python", "yaml": "pyyaml", "skimage": "scikit-image"}
_WORKER = Path(__file__).with_name("reference_worker.py")


@dataclass(frozen=True)
class Way:
    """One of ours: how the network runs, how sentences are encoded, and what the bank has of them.

    dtype: of the network, under autocast.
    text: of the text tower.
    filled: whether the bank has every sentence.
    """

    dtype: torch.dtype
    text: str
    filled: bool


OURS: Mapping[str, Way] = {
    "float32": Way(torch.float32, "float32", filled=True),
    "bfloat16": Way(torch.bfloat16, "float32", filled=True),
    "first, float32": Way(torch.float32, "float32", filled=False),
    "first, text in bfloat16": Way(torch.float32, "bfloat16", filled=False),
    "first, all in bfloat16": Way(torch.bfloat16, "bfloat16", filled=False),
}
"""The first image of a vocabulary meets an empty bank."""


def check_clone(folder: Path, models: Sequence[str]) -> None:
    """Whether the folder is a clone of the reference, and has these models.

    Raises:
        UserError: it is not, or has not.
    """
    for model in models:
        if model not in CONFIGS:
            raise UserError(f"--reference: it has no {model} to hold against; --models of {', '.join(CONFIGS)} only")
    if not folder.is_dir():
        raise UserError(f"--reference {folder}: no such folder; git clone https://github.com/Hanzy1996/OpenSeg-R")
    for file in (Path("maft") / "maft_plus.py", *(Path(CONFIGS[model]) for model in models)):
        if not (folder / file).is_file():
            raise UserError(f"--reference {folder}: no clone of Hanzy1996/OpenSeg-R, it has no {file}")


def parse_answer(line: str, folder: Path, ended: Callable[[], str]) -> dict[str, Any]:
    """One answer of the worker.

    Args:
        line: a line of JSON, "" where the process has ended.
        folder: the clone, for messages.
        ended: gives the last words of the process.

    Raises:
        UserError: the process has ended, lacks a module, met an error, or says what cannot be a time.
    """
    try:
        answer = json.loads(line)
    except ValueError:
        raise UserError(f"--reference {folder}: the process that times it ended early: {ended()}") from None
    if "missing" in answer:
        name = str(answer["missing"])
        package = name.partition(".")[0]
        if package == "maft":
            raise UserError(f"--reference {folder}: it has no module {name}; another version than the published one?")
        if package == "detectron2":
            what = "a clone of https://github.com/facebookresearch/detectron2 (not the subset in compat/)"
            raise UserError(f"--reference {folder}: it needs {name}; put {what} on PYTHONPATH")
        raise UserError(
            f"--reference {folder}: it needs the module {package}; install {_INSTALL.get(package, package)} with pip "
            "(--target FOLDER leaves this environment alone) and put the folder on PYTHONPATH"
        )
    if "error" in answer:
        raise UserError(f"--reference {folder}: {answer['error']}")
    for way, seconds in answer.get("seconds", {}).items():
        for stage in STAGES:
            value = seconds.get(stage)
            if not isinstance(value, float) or not math.isfinite(value) or value < 0:
                raise UserError(f"--reference {folder}: {way}: no seconds for {stage!r}; another version of it?")
    return answer


@contextmanager
def started(folder: Path, model: str, image: Tensor, size: tuple[int, int]) -> Iterator[Callable[[], dict[str, Any]]]:
    """A process with the reference's network; gives what asks it for an answer: first about itself, then a round each.

    Args:
        folder: the clone.
        model: one of `CONFIGS`.
        image: (3, H, W), for its size and device.
        size: (height, width) of the label map.
    """
    height, width = map(str, image.shape[-2:])
    words = [str(_WORKER), str(folder.resolve()), "--config", CONFIGS[model], "--device", image.device.type]
    words += ["--threads", str(torch.get_num_threads()), "--height", height, "--width", width]
    words += ["--result", *map(str, size), "--attributes", *ATTRIBUTES]
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryFile("w+") as noise:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=place, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise
        )
        assert process.stdin is not None and process.stdout is not None
        source: IO[str] = process.stdout
        asked: IO[str] = process.stdin
        first = True

        def ended() -> str:
            process.wait()
            noise.seek(0)
            return next((line.strip() for line in reversed(noise.readlines()) if line.strip()), "it said nothing")

        def ask() -> dict[str, Any]:
            nonlocal first
            if not first:
                asked.write("round\n")
                asked.flush()
            first = False
            return parse_answer(source.readline(), folder, ended)

        try:
            yield ask
        finally:
            process.terminate()
            process.wait()
            for pipe in (source, asked):
                pipe.close()


class Ours:
    """Our network, the same image and classes, each of `OURS`.

    Args:
        network: MAFT+, in evaluation mode.
        image: (3, H, W) uint8.
        size: (height, width) of the label map.
    """

    def __init__(self, network: Any, image: Tensor, size: tuple[int, int]) -> None:
        self._network, self._image, self._size = network, image, size
        vocabulary = load_vocabulary("pc59")
        self._classes = len(vocabulary)
        self._fold = network.text_fold(attributes=len(ATTRIBUTES), mode="reference", design=None)
        self._names = self._fold.names(vocabulary)
        two = [names for names in self._names if len(names) == 2][:COVERED]
        self._reasons = {names[0]: Reason(names[0], "", "", ATTRIBUTES) for names in two}
        clip = network.clip
        tokenizer = open_clip.get_tokenizer(clip.model_name)
        self._encoders = {
            text: CLIPTextEncoder(clip.clip_model, tokenizer, precision=text) for text in ("float32", "bfloat16")
        }
        self._banks = {text: FeatureBank(encoder, self._fold.templates) for text, encoder in self._encoders.items()}
        self.clocks = {name: Clock(network.device) for name in OURS}
        self._labels: dict[str, np.ndarray] = {}

    @property
    def sentences(self) -> int:
        """How many the image's classes have."""
        return len(self._prompts().sentences)

    def _prompts(self) -> Any:
        return self._fold.image(self._names, self._reasons, "benchmark")

    def _text(self, bank: FeatureBank) -> Any:
        prompts = self._prompts()
        return self._fold.fold(bank.get(prompts.sentences), prompts, self._classes, "image")

    @torch.inference_mode()
    def round(self) -> None:
        """One image each way."""
        for name, way in OURS.items():
            clock = self.clocks[name]
            bank = self._banks[way.text] if way.filled else FeatureBank(self._encoders[way.text], self._fold.templates)
            with watched(parts(self._network), clock):
                self._labels[name] = clock.time("all", partial(self._segment, bank, way.dtype, clock))

    @property
    def agreement(self) -> dict[str, float]:
        """The part of the pixels that have the class of "float32", by the name of the way."""
        exact = self._labels["float32"]
        return {name: round(float((labels == exact).mean()), 5) for name, labels in self._labels.items()}

    def _segment(self, bank: FeatureBank, dtype: torch.dtype, clock: Clock) -> np.ndarray:
        given = clock.time("text", partial(self._text, bank))
        with precision(self._network.device, dtype):
            view = self._network.look([self._image])[0]
            return labels_of(self._network.results(view, given, self._size))


def compare(network: Any, image: Tensor, folder: Path, model: str, rounds: int) -> dict[str, Any]:
    """Seconds of both, rounds in turn, and ratios of the whole image, the reference's by ours.

    Args:
        network: ours, one of `CONFIGS`.
        image: (3, H, W) uint8.
        folder: the reference's clone.
        model: the network's name.
        rounds: after one to warm up.

    Raises:
        UserError: the reference cannot be run.
    """
    size = (427, 640)
    ours = Ours(network, image, size)
    seconds: dict[str, Clock] = {way: Clock(network.device) for way in (SHIPPED, STORED)}
    with started(folder, model, image, size) as ask:
        facts = ask()
        if facts["sentences"] != ours.sentences:
            raise UserError(f"--reference {folder}: {facts['sentences']} sentences; ours are {ours.sentences}")
        for _ in range(rounds + 1):
            for way, stages in ask()["seconds"].items():
                for stage, value in stages.items():
                    seconds[way].note(stage, value)
            ours.round()
    found = {
        **{f"reference, {way}": clock.summary(warm_up=1) for way, clock in seconds.items()},
        **{name: clock.summary(warm_up=1) for name, clock in ours.clocks.items()},
    }
    ratios = {
        name: {way: _ratio(seconds[way].seconds["all"][1:], clock.seconds["all"][1:]) for way in (SHIPPED, STORED)}
        for name, clock in ours.clocks.items()
    }
    return {**facts, "seconds": found, "ratios": ratios, "agreement": ours.agreement}


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """Of neighbouring rounds: what slows the machine for a while slows both."""
    return spread([slow / fast for slow, fast in zip(theirs, ours, strict=True)])


def table(found: dict[str, Any]) -> str:
    """What `compare` found, for people."""
    rows = [
        [
            name,
            *(f"{seconds[stage]['median']:.3f}" if stage in seconds else "" for stage in STAGES),
            *(_times(found["ratios"].get(name, {}).get(way)) for way in (SHIPPED, STORED)),
            f"{100 * found['agreement'][name]:.2f}%" if name in found["agreement"] else "",
        ]
        for name, seconds in found["seconds"].items()
    ]
    headers = ["seconds", *STAGES, f"times faster than {SHIPPED}", f"than with {STORED}", "pixels as in float32"]
    lines = [f"an image of {found['sentences']} sentences; the reference's op: {found['op']}, torch {found['torch']}"]
    return "\n".join([*lines, tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)])


def _times(ratio: dict[str, float] | None) -> str:
    return "" if ratio is None else f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
