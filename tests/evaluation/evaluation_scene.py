"""A small data set on disk, a small real network, and a program that evaluates one on the other.

As a program: python evaluation_scene.py FOLDER OUTPUT [options]; it builds nothing, the test has called `build`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import launch
from PIL import Image
from torch import nn

from maft.data.mapper import InferenceMapper
from maft.errors import run_command
from maft.evaluation.evaluators import CombinedEvaluator, PanopticEvaluator, SemanticEvaluator
from maft.evaluation.loop import evaluate
from maft.evaluation.results import results_folder, write_results
from maft.files import encode_panoptic

NAME = "evaluation_scene"
CLASSES = ["road", "sky", "tree", "cat", "dog"]
THINGS = (3, 4)
IGNORE = 255
SIZE = (20, 28)


def build(folder: Path, images: int = 24, seed: int = 0) -> None:
    """Write images, label maps (PNG, every third a 16-bit TIFF) and panoptic ground truth of random rectangles."""
    rng = np.random.default_rng(seed)
    for part in ("images", "labels", "panoptic"):
        (folder / part).mkdir(parents=True)
    segments = {}
    for number in range(images):
        name = f"{number:03d}"
        label = np.full(SIZE, rng.integers(len(CLASSES)), dtype=np.uint8)
        panoptic = np.full(SIZE, 1, dtype=np.int64)
        for identifier in range(2, 6):
            top, left = rng.integers(SIZE[0] - 4), rng.integers(SIZE[1] - 4)
            box = np.s_[top : top + rng.integers(4, 14), left : left + rng.integers(4, 14)]
            label[box] = rng.choice([*range(len(CLASSES)), IGNORE])
            panoptic[box] = identifier * 300 if label[top, left] != IGNORE else 0
        colours = np.stack([label * 40.0, 255 - label * 40.0, label % 2 * 200.0], axis=-1)
        noisy = np.clip(colours + rng.normal(0, 40, colours.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / "images" / f"{name}.png")
        if number % 3:
            Image.fromarray(label).save(folder / "labels" / f"{name}.png")
        else:
            Image.fromarray(label.astype(np.uint16)).save(folder / "labels" / f"{name}.tif")
        Image.fromarray(encode_panoptic(panoptic)).save(folder / "panoptic" / f"{name}.png")
        segments[name] = [
            {"id": int(i), "category_id": int(label[panoptic == i][0]), "iscrowd": 0} for i in np.unique(panoptic) if i
        ]
    (folder / "segments.json").write_text(json.dumps(segments))


def records(folder: Path) -> list[dict]:
    """The data set's records, sorted by name."""
    segments = json.loads((folder / "segments.json").read_text())
    return [
        {
            "file_name": str(folder / "images" / f"{name}.png"),
            "image_id": int(name),
            "sem_seg_file_name": str(next((folder / "labels").glob(f"{name}.*"))),
            "pan_seg_file_name": str(folder / "panoptic" / f"{name}.png"),
            "segments_info": infos,
        }
        for name, infos in sorted(segments.items())
    ]


def register(folder: Path) -> None:
    """Register the data set of `folder` under NAME, in place of an earlier one."""
    if NAME in DatasetCatalog.list():
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)
    DatasetCatalog.register(NAME, lambda: records(folder))
    MetadataCatalog.get(NAME).set(
        stuff_classes=CLASSES,
        ignore_label=IGNORE,
        thing_dataset_id_to_contiguous_id={index + 100: index for index in THINGS},
        stuff_dataset_id_to_contiguous_id={index + 100: index for index in range(len(CLASSES))},
    )


class Network(nn.Module):
    """A 1x1 convolution with seeded weights; counts its use and logs the images it saw."""

    def __init__(self, visits: Path | None = None, delay: float = 0.0) -> None:
        super().__init__()
        self.score = nn.Conv2d(3, len(CLASSES), 1)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            self.score.weight.copy_(torch.randn(self.score.weight.shape, generator=generator))
            self.score.bias.zero_()
        self.visits, self.delay = visits, delay
        self.counters = {"image": 0, "generic": 0}

    def forward(self, inputs: list[dict]) -> list[dict]:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        time.sleep(self.delay)
        outputs = []
        for input in inputs:
            self.counters["image" if input["image_id"] % 3 else "generic"] += 1
            scores = self.score(input["image"][None].float() / 255 - 0.5)[0]
            classes = scores.argmax(0)
            found = [int(c) for c in classes.unique()]
            infos = [{"id": c + 1, "category_id": c, "isthing": c in THINGS} for c in found]
            outputs.append({"sem_seg": scores, "panoptic_seg": ((classes + 1).int(), infos)})
            if self.visits:
                with self.visits.open("a") as stream:
                    stream.write(f"{input['file_name']}\n")
        return outputs


def run(folder: Path, output: Path, **options) -> dict | None:
    """Evaluate and write the results; the arguments of `main` below."""
    register(folder)
    target = results_folder(output, NAME)
    save = options.get("save", False)
    evaluator = CombinedEvaluator([kind(NAME, target, save) for kind in (SemanticEvaluator, PanopticEvaluator)])
    model = Network(options.get("visits"), options.get("delay", 0.0))
    result = evaluate(
        model,
        NAME,
        records(folder),
        InferenceMapper(short_edge=0),
        evaluator,
        output_dir=target,
        batch_size=options.get("batch", 1),
        num_workers=options.get("workers", 0),
        resume=options.get("resume", False),
        fingerprint=options.get("fingerprint", {"weights": "w1", "config": "c1"}),
        usage=lambda: dict(model.counters),
    )
    if result is not None:
        write_results(output, NAME, result, {"config_file": "scene.yaml", "fingerprint": {}})
    return result


def main(options: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    torch.set_num_threads(1)
    if options.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.file_limit, options.file_limit))
    if "TORCHELASTIC_RUN_ID" in os.environ:
        dist.init_process_group("gloo")
    keys = ("batch", "workers", "delay", "resume", "visits", "save")
    return run_command(lambda: run(options.folder, options.output, **{k: getattr(options, k) for k in keys}) and 0)


def _start_rank(options: argparse.Namespace) -> None:
    raise SystemExit(main(options))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--visits", type=Path)
    parser.add_argument("--file-limit", type=int)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    launch(_start_rank, arguments.ranks, dist_url="auto", args=(arguments,))
