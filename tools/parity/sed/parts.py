"""Parts of a folder of SED's goldens beside its cases: state dicts, what trains, the decoder alone, training steps."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from maft.modeling.sed import SED, Decoded, GradualFusionDecoder, combine_attributes, cost_map, kept_classes
from maft.modeling.sed.training import learns
from maft.text.planes import plain_planes
from maft.text.templates import template_set
from maft.training.optimizer import parameter_groups
from maft.weights.seeding import seeded_entry

from ..compare import RESULT_BOUND, TENSOR_BOUND, Report
from ..golden import Case, read_arrays, read_cases, read_inputs, read_json
from .cases import check_case
from .network import Recorded, build_sed, shape_steps, watched

_DECODER = "sem_seg_head.predictor.transformer"
CLIP_GRADIENT_BOUND = 3e-4
"""Relative error allowed for norms of gradients in CLIP: twice, rounded up, the 1.4e-4 by which the recording itself
differs from float64 there (docs/numerics_sed.md section 9), for two float32 computations may err to either side."""
_SIDES = {"res4": (512, 48), "res3": (256, 96), "res2": (128, 192)}


def checks(folder: Path) -> list[tuple[str, Callable[[], Report]]]:
    """The checks that a folder has material for, with their names; none if it is no folder of SED's."""
    found: list[tuple[str, Callable[[], Report]]] = []
    for size in ("base", "large"):
        names, trainable = folder / f"state_dict_sed_{size}.json", folder / f"trainable_sed_{size}.json"
        if names.is_file():
            found.append((names.stem, partial(check_state_dict, names, size)))
        if trainable.is_file():
            found.append((trainable.stem, partial(check_trainable, trainable, size)))
    if (folder / "units.npz").is_file():
        found.append(("units", partial(check_units, folder)))
    if (folder / "losses.npz").is_file():
        found.append(("losses", partial(check_losses, folder)))
    return found + [(case.name, partial(_check_case, case, folder)) for case in cases(folder)]


def cases(folder: Path) -> list[Case]:
    """The cases of a folder that are SED's."""
    return [case for case in read_cases(folder) if Path(case.facts["config"]).name.startswith("convnext")]


def _check_case(case: Case, folder: Path) -> Report:
    return check_case(case, read_inputs(folder.parent))


def check_state_dict(file: Path, size: str) -> Report:
    """Names, shapes and types of every entry."""
    ours = [
        [name, list(value.shape), str(value.dtype).removeprefix("torch.")]
        for name, value in build_sed(size).state_dict().items()
    ]
    report = Report()
    report.equal("names, shapes, types", sorted(ours), sorted(read_json(file)))
    return report


def check_trainable(file: Path, size: str) -> Report:
    """The parameters that each value of CLIP_FINETUNE trains."""
    recorded, report = read_json(file), Report()
    names = [name for name, _ in build_sed(size).named_parameters()]
    full = sorted(name for name in names if learns(name, "full"))
    report.equal("full", full, sorted(recorded["trainable"]))
    for key, parts in recorded.items():
        mode = key.removeprefix("trainable_")
        if mode == key:
            continue
        wanted: list[str] = parts if isinstance(parts, list) else []
        for part, value in () if isinstance(parts, list) else parts.items():
            wanted += [name for name in full if f".{part}." in name] if value == "as full" else value
        report.equal(mode, sorted(name for name in names if learns(name, mode)), sorted(wanted))
    return report


def check_units(folder: Path) -> Report:
    """The decoder alone on drawn inputs."""
    arrays, facts = read_arrays(folder / "units.npz"), read_json(folder / "units.json")
    report, drawn = Report(), _drawn()
    planes, dense = drawn["text"][None], drawn["dense"][None]
    report.tensor("text/slice", drawn["text"][::6, ::20, :16], arrays["text/slice"])
    report.tensor("dense/slice", drawn["dense"][:16, ::6, ::6], arrays["dense/slice"])
    report.tensor("res4/slice", drawn["res4"][:16, ::12, ::12], arrays["res4/slice"])
    model = _Alone(seeded_decoder())
    maps = [drawn[name][None] for name in _SIDES]
    with torch.inference_mode():
        cost, guidance = cost_map(dense, planes), model.decoder.image_guidance(maps)
        for name, keep in (("plain", None), ("top1", 1), ("top2", 2)):
            with watched(model) as seen:
                decoded = model.decoder(cost, guidance, keep=keep)
            _compare_unit(report, name, decoded, seen, arrays)
            if keep is not None:
                kept = {f"after_stage_{i}": index.tolist() for i, index in enumerate(decoded.kept)}
                report.equal(f"{name}/kept", kept, facts[f"{name}/kept"])
        both = [torch.cat((values, values.flip(-1))) for values in (dense, *maps)]
        logits = model.decoder(cost_map(both[0], planes), model.decoder.image_guidance(both[1:])).logits
        report.tensor("batch2/logits", logits[..., ::12, ::12], arrays["batch2/logits/stride12"])
        for layer in (model.decoder.decoder1, model.decoder.decoder2, model.decoder.decoder3):
            layer.attention.pooling = 2
        logits = model.decoder(cost, guidance).logits
        report.tensor("pool2/logits", logits[0, :, ::8, ::8], arrays["pool2/logits/stride8"])
    for key in (key for key in arrays if key.startswith("rule/kept_top")):
        ours = kept_classes(torch.from_numpy(arrays["rule/scores"]), int(key.removeprefix("rule/kept_top")))
        report.equal(key, ours.tolist(), arrays[key].tolist())
    return report


class _Alone:
    """A decoder without its network, for `watched`."""

    def __init__(self, decoder: GradualFusionDecoder) -> None:
        self.decoder = decoder


def seeded_decoder() -> GradualFusionDecoder:
    """The base model's decoder with its seeded weights, CLIP not built."""
    decoder = GradualFusionDecoder().eval()
    with torch.no_grad():
        for name, value in decoder.state_dict().items():
            value.copy_(torch.from_numpy(seeded_entry(f"{_DECODER}.{name}", tuple(value.shape))))
    return decoder


def _compare_unit(
    report: Report, name: str, decoded: Decoded, seen: Mapping[str, Tensor], arrays: Mapping[str, np.ndarray]
) -> None:
    probabilities = combine_attributes(decoded.logits)
    output = torch.zeros(decoded.early[0].shape[1], *probabilities.shape[1:])
    output[decoded.kept[-1]] = probabilities
    ours = {f"aux{step}": value[0] for step, value in enumerate(decoded.early)}
    ours |= {"logits": decoded.logits[0], "output": decoded.logits[0] if name == "plain" else output, **seen}
    for key, recorded in arrays.items():
        head, _, rest = key.partition("/")
        if head != name:
            continue
        part = rest.rpartition("/")[0]
        value = ours[part]
        steps = shape_steps(value.shape, recorded.shape)
        report.tensor(key, value[steps], recorded, RESULT_BOUND if part == "output" else 1e-4)


def _draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return generator.standard_normal(size=shape, dtype=np.float32)


def _drawn() -> dict[str, Tensor]:
    """The inputs of `units`, drawn by the rules of its README."""
    direction = _draw("unit/direction", (640,))
    direction /= np.linalg.norm(direction)
    noise = _draw("unit/text", (24, 80, 640))
    noise /= np.linalg.norm(noise, axis=-1, keepdims=True)
    share = np.linspace(-0.9, 0.9, 24, dtype=np.float32)[:, None, None]
    text = share * direction + np.sqrt(1 - share * share) * noise
    text /= np.linalg.norm(text, axis=-1, keepdims=True)
    inputs = {"text": text, "dense": _regions("dense", 640, 24) + 75 * direction[:, None, None]}
    inputs |= {name: _regions(name, channels, side) for name, (channels, side) in _SIDES.items()}
    return {name: torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32)) for name, value in inputs.items()}


def _regions(name: str, channels: int, side: int) -> np.ndarray:
    row, column = np.mgrid[:side, :side]
    return _draw(f"unit/{name}", (6, channels))[column * 3 // side + 3 * (row * 2 // side)].transpose(2, 0, 1)


def check_losses(folder: Path) -> Report:
    """One training step in both phases, and the optimiser's groups."""
    facts, arrays, report = read_json(folder / "losses.json"), read_arrays(folder / "losses.npz"), Report()
    prompts = plain_planes([text.split(", ") for text in facts["classes"]], template_set("imagenet"))
    numbers = range(len(facts["labels"]))
    labels = torch.stack([torch.from_numpy(arrays[f"sem_seg_{number}"]).long() for number in numbers])
    images = [torch.from_numpy(arrays[f"image_{number}"].transpose(2, 0, 1).copy()) for number in numbers]
    for mode in ("full", "fast_infer"):
        recorded = Recorded("base", pooling=2, finetune=mode)
        # Cloned: what inference made takes no part in gradients.
        planes = recorded.planes(prompts).clone()
        model = recorded.model.train()
        torch.manual_seed(0)
        losses = model.training_losses(model.prepare(images), labels, planes)
        torch.stack(list(losses.values())).sum().backward()
        _compare_step(report, mode, model, losses, facts[mode])
        report.equal(f"{mode}: parameters", len(model.trainable_parameters()), facts[f"{mode}/trainable_count"])
        if mode == "full":
            groups = parameter_groups(
                model,
                rate=2e-4,
                rate_group=model.rate_group,
                multipliers={"sed_clip": 0.01},
                decay=1e-4,
                decay_norm=0.0,
                decay_embed=0.0,
            )
            ours = {str((float(f"{group['lr']:.6g}"), group["weight_decay"])): len(group["params"]) for group in groups}
            report.equal("groups", ours, facts["groups"])
    return report


def _compare_step(
    report: Report, mode: str, model: SED, losses: Mapping[str, Tensor], recorded: Mapping[str, Any]
) -> None:
    names = [key for key in recorded if key.startswith("loss")]
    report.equal(f"{mode}: names", sorted(losses), sorted(names))
    for name in names:
        report.tensor(f"{mode}: {name}", losses[name].item(), recorded[name])
    predictor = model.sem_seg_head.predictor
    for part, norm in recorded["grad_norm"].items():
        ours = _gradient_norm(predictor, "" if part == "all" else part)
        report.tensor(f"{mode}: gradient of {part}", ours, norm, _gradient_bound(part))
    parameters = dict(model.named_parameters())
    for name, norm in recorded["grad_norm_some"].items():
        gradient = parameters[name].grad
        if norm is None:
            report.equal(f"{mode}: gradient of {name}", gradient, None)
        else:
            ours = np.nan if gradient is None else gradient.norm().item()
            report.tensor(f"{mode}: gradient of {name}", ours, norm, _gradient_bound(name))
    idle = [name for name, parameter in model.trainable_parameters().items() if parameter.grad is None]
    report.equal(f"{mode}: trainable parameters without gradient", idle, recorded["no_grad_but_trainable"])


def _gradient_bound(name: str) -> float:
    return CLIP_GRADIENT_BOUND if "clip_model." in name else TENSOR_BOUND


def _gradient_norm(module: nn.Module, part: str) -> float:
    """Of all parameters whose names begin with a module's, or with its name and a number."""
    squares = [
        parameter.grad.double().square().sum().item()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None and (not part or name.startswith(f"{part}."))
    ]
    return float(np.sqrt(sum(squares)))
