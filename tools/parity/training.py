"""One training step of a golden folder: losses, random draws, matching, gradients, and which parameters train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from detectron2.structures import Instances
from torch import nn

from maft.config import build_config
from maft.meta_arch import MAFT_Plus
from maft.modeling.losses import Matching, Targets, criterion, mask_aware_loss, representation_compensation
from maft.weights.seeding import seed_module
from reason.vocabulary import Vocabulary

from .compare import TENSOR_BOUND, Report
from .golden import read_arrays, read_inputs, read_json

ROOT = Path(__file__).resolve().parents[2]
_STEP_CONFIG = "configs/semantic/train_semantic_base.yaml"
_STEP = "teacher_eval"


def check_units_of_training(report: Report, arrays: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """The mask-aware loss and representation compensation on recorded inputs (part `units`)."""
    targets = Targets.collate(
        [torch.tensor(labels) for labels in facts["mask_aware_loss/labels"]],
        [arrays["mask_aware_loss/target_masks_0"], arrays["mask_aware_loss/target_masks_1"]],
        arrays["mask_aware_loss/target_masks_0"].shape[-2:],
        "cpu",
    )
    ours = mask_aware_loss(arrays["mask_aware_loss/cls"], arrays["mask_aware_loss/masks"], targets)
    report.tensor("mask-aware loss", ours, arrays["mask_aware_loss/out"])
    for shape in ("square", "wide", "tall"):
        key = f"rc_loss_{shape}"
        ours = representation_compensation(arrays[f"{key}/a"], arrays[f"{key}/b"])
        report.tensor(f"representation compensation, {shape}", ours, arrays[f"{key}/out"])


def check_trainable(file: Path, config: str) -> Report:
    """Names of the parameters that train, those that are frozen, and every entry of a training checkpoint."""
    cfg = build_config(str(ROOT / config), ["MODEL.DEVICE", "cpu"])
    cfg.MODEL.rc_weights = 0.1
    model = MAFT_Plus(cfg, learning=True)
    recorded = read_json(file)
    report = Report()
    report.equal("trainable", sorted(model.trainable_parameters()), sorted(recorded["trainable"]))
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    report.equal("frozen", sorted(frozen), sorted(recorded["frozen"]))
    entries = file.with_name(file.name.replace("trainable", "state_dict"))
    if entries.is_file():
        shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
        report.equal("checkpoint", shapes, {name: shape for name, shape, _ in read_json(entries)})
    return report


def check_step(folder: Path) -> Report:
    """One step of the base model on seeded weights against `teacher_eval`.

    Args:
        folder: `losses/` of a golden folder, `inputs.json` lying above it.
    """
    facts, arrays = read_json(folder / "losses.json"), read_arrays(folder / "losses.npz")
    recorded, inputs = facts[_STEP], read_inputs(folder.parent)
    model = _build(facts["config"])
    batch = [_record(arrays, number, labels, inputs.vocabulary) for number, labels in enumerate(facts["labels"])]
    with _watched() as (draws, matchings):
        torch.manual_seed(0)
        losses = model.train()(batch)
    torch.stack(list(losses.values())).sum().backward()
    return _compare(facts, recorded, losses, draws, matchings, model)


def _build(config: Mapping[str, Any]) -> MAFT_Plus:
    options = {
        "MODEL.DEVICE": "cpu",
        "MODEL.REASON.BANK_DIR": "",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": config["NUM_CLASSES"],
        "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": config["TRAIN_NUM_POINTS"],
        "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": config["OVERSAMPLE_RATIO"],
        "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": config["IMPORTANCE_SAMPLE_RATIO"],
        "MODEL.MASK_FORMER.CLASS_WEIGHT": config["weights"]["ce"],
        "MODEL.MASK_FORMER.MASK_WEIGHT": config["weights"]["mask"],
        "MODEL.MASK_FORMER.DICE_WEIGHT": config["weights"]["dice"],
        "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": config["NO_OBJECT_WEIGHT"],
        "MODEL.rc_weights": config["weights"]["rc"],
    }
    pairs = [str(item) for pair in options.items() for item in pair]
    return seed_module(MAFT_Plus(build_config(str(ROOT / _STEP_CONFIG), pairs), learning=True))


def _record(arrays: Mapping[str, np.ndarray], number: int, labels: list[int], vocabulary: Vocabulary) -> dict[str, Any]:
    picture = arrays[f"image_{number}"]
    instances = Instances(picture.shape[:2])
    instances.gt_classes = torch.tensor(labels)
    instances.gt_masks = torch.from_numpy(arrays[f"masks_{number}"])
    return {
        "image": torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))),
        "file_name": f"{number}.jpg",
        "vocabulary": vocabulary,
        "instances": instances,
    }


@contextmanager
def _watched() -> Iterator[tuple[list[list[Any]], list[Matching]]]:
    """Notes the shape of every random draw and every matching, both of which happen as ever."""
    draws: list[list[Any]] = []
    matchings: list[Matching] = []
    draw, match = torch.rand, criterion.match

    def noted_draw(*size: int, **options: Any) -> torch.Tensor:
        draws.append(["rand", list(size)])
        return draw(*size, **options)

    def noted_match(*arguments: Any, **options: Any) -> Matching:
        matchings.append(match(*arguments, **options))
        return matchings[-1]

    with mock.patch.object(torch, "rand", noted_draw), mock.patch.object(criterion, "match", noted_match):
        yield draws, matchings


def _compare(
    facts: Mapping[str, Any],
    recorded: Mapping[str, Any],
    losses: Mapping[str, torch.Tensor],
    draws: list[list[Any]],
    matchings: list[Matching],
    model: MAFT_Plus,
) -> Report:
    report = Report()
    names = [name for name, value in recorded.items() if isinstance(value, float)]
    report.equal("names of the losses", sorted(losses), sorted(names))
    for name in names:
        report.tensor(name, losses[name].item(), recorded[name])
    report.equal("random draws", draws, facts[f"{_STEP}/random_calls"])
    pictures = len(facts["labels"])
    report.equal("matching", [_pairs(matching, pictures) for matching in matchings], facts[f"{_STEP}/matching"])
    modes = {part: getattr(model, part).training for part in facts[f"{_STEP}/training_flags"]}
    report.equal("training flags", modes, facts[f"{_STEP}/training_flags"])
    for part, norm in facts[f"{_STEP}/grad_norm"].items():
        report.tensor(f"gradient of {part}", _gradient_norm(model.get_submodule(part)), norm, TENSOR_BOUND)
    for name, norm in facts[f"{_STEP}/grad_norm_some"].items():
        gradient = model.get_parameter(name).grad
        report.tensor(f"gradient of {name}", np.nan if gradient is None else gradient.norm().item(), norm)
    idle = [name for name, parameter in model.trainable_parameters().items() if parameter.grad is None]
    report.equal("trainable parameters without gradient", idle, facts[f"{_STEP}/no_grad_but_trainable"])
    return report


def _pairs(matching: Matching, pictures: int) -> list[list[list[int]]]:
    """Queries and targets an image, as they are recorded."""
    return [
        [matching.query[matching.image == number].tolist(), matching.target[matching.image == number].tolist()]
        for number in range(pictures)
    ]


def _gradient_norm(part: nn.Module) -> float:
    gradients = [parameter.grad for parameter in part.parameters() if parameter.grad is not None]
    return torch.stack([gradient.double().norm() for gradient in gradients]).norm().item()
