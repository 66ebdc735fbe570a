"""One case of SED: an image through encoder and decoder, for every vocabulary that it was recorded with."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms
from torch import Tensor

from maft.class_maps import ClassMaps
from maft.modeling.sed import Decoded, ImageFeatures, class_maps, combine_attributes
from maft.modeling.sed.cost import cost_map
from maft.text.planes import DESIGNS, PlanePrompts, plain_planes, reason_planes
from maft.text.templates import template_set
from reason.triplets import parse_image

from ..compare import PIXEL_BOUND, RESULT_BOUND, Check, Report
from ..golden import Case, Inputs
from .network import MAPS, Recorded, shape_steps, size_of, stats, watched

_SHORT, _LONG = 640, 2560
_FACTS_OF_THE_RECORDING = {"case", "config", "opts", "torch", "result_size", "vocabulary", "resized", "small", "shapes"}


def check_case(case: Case, inputs: Inputs) -> Report:
    """Compare every entry of one case; `inputs` has the reasons."""
    with torch.inference_mode():
        ours = _Entries(case, inputs).all()
    return _compare(case, ours)


class _Entries:
    """Our value of every entry, by name; an entry's part is cut out when it is compared."""

    def __init__(self, case: Case, inputs: Inputs) -> None:
        self.case, self.inputs = case, inputs
        self.recorded = Recorded(size_of(case.facts["config"]))
        self.model = self.recorded.model
        self.size = (case.facts["result_size"][0], case.facts["result_size"][1])
        self.templates = template_set("imagenet")
        self.ours: dict[str, Any] = {}

    def all(self) -> dict[str, Any]:
        small = self.case.arrays["image"]
        resize = transforms.ResizeShortestEdge(_SHORT, _LONG, "choice").get_transform(small)
        resized = np.ascontiguousarray(resize.apply_image(small))
        self.ours["resized/every16"] = resized[::16, ::16]
        self.ours["resized"] = {"size": list(resized.shape[:2]), "crc32": zlib.crc32(resized.tobytes())}
        features = self._encode(resized)
        for name, classes in self.case.facts["vocabulary"].items():
            planes = self._text(name, plain_planes([text.split(", ") for text in classes], self.templates))
            self._plain(name, planes, features)
            for key in self.case.facts:
                if key.startswith(f"{name}/fast_top") and key.endswith("/kept"):
                    self._fast(key.removesuffix("/kept"), planes, features)
            if name == "inputs":
                self._other_pooling(planes, features)
                self._small(planes, small)
        if "reason" in self.case.facts:
            self._reason(features)
        return self.ours

    def _encode(self, picture: np.ndarray) -> ImageFeatures:
        pixels = self.model.prepare([torch.from_numpy(picture.transpose(2, 0, 1).copy())])
        maps, features = self.model.backbone(pixels), self.model.encode(pixels)
        for name in MAPS:
            self.ours[f"clip/{name}"] = maps[name][0]
        self.ours["clip/clip_vis_dense"] = features.dense[0]
        self.ours |= {f"clip_guidance_{step}": values[0] for step, values in enumerate(features.guidance)}
        return features

    def _text(self, name: str, prompts: PlanePrompts) -> Tensor:
        planes = self.recorded.planes(prompts)
        rows = planes.flatten(0, 1)
        # Of a long vocabulary every n-th class was recorded, in all entries of the text.
        rows = rows[shape_steps(rows.shape[:1], self.case.arrays[f"{name}/text/strided"].shape[:1])]
        mean = rows.mean(dim=1)
        self.ours |= {
            f"{name}/text/strided": rows[:, ::16, :32],
            f"{name}/text/first_class": rows[0, :, :24],
            f"{name}/text/last_class": rows[-1, :, :24],
            f"{name}/text/template_mean": mean[:, :64],
            f"{name}/text/norm_of_mean": mean.norm(dim=-1),
        }
        return planes

    def _plain(self, name: str, planes: Tensor, features: ImageFeatures) -> None:
        cost = cost_map(features.dense, planes)[0].transpose(0, 1)
        self.ours |= {f"{name}/cost": cost, f"{name}/cost/first_class": cost[:, 0, ::6, ::6]}
        self._decoded(name, self._watched_score(name, planes, features), None)

    def _fast(self, name: str, planes: Tensor, features: ImageFeatures) -> None:
        decoded = self._watched_score(name, planes, features, keep=int(name.rsplit("fast_top", 1)[1]))
        self._decoded(name, decoded, planes.shape[1])
        self.ours[f"{name}/kept"] = {f"after_stage_{i}": kept.tolist() for i, kept in enumerate(decoded.kept)}
        plain = self.ours[f"{name.split('/')[0]}/argmax"]
        self.ours[f"{name}/argmax_equal_to_full"] = _equal_part(self.ours[f"{name}/argmax"], plain)

    def _watched_score(self, name: str, planes: Tensor, features: ImageFeatures, keep: int | None = None) -> Decoded:
        with watched(self.model) as seen:
            decoded = self.model.score(features, planes, keep=keep)
        self.ours |= {f"{name}/{part}": value for part, value in seen.items()}
        return decoded

    def _decoded(self, name: str, decoded: Decoded, classes: int | None, crop: tuple[int, int] | None = None) -> None:
        self.ours |= {f"{name}/aux{step}": value[0] for step, value in enumerate(decoded.early)}
        self.ours[f"{name}/logits"] = decoded.logits[0]
        probabilities = combine_attributes(decoded.logits)
        kept = decoded.kept[-1].tolist()
        self._results(name, class_maps(probabilities, kept, classes or len(probabilities), self.size, crop))

    def _results(self, name: str, class_maps: ClassMaps) -> None:
        maps, labels = class_maps.scores(), class_maps.labels()
        best = maps.topk(min(2, len(maps)), dim=0).values
        self.ours |= {
            f"{name}/sem_seg": maps,
            f"{name}/sem_seg_stats": np.array([stats(one) for one in maps]),
            f"{name}/argmax": labels,
            f"{name}/argmax_margin_f16": (best[0] - best[-1]).half(),
            f"{name}/argmax_histogram": torch.bincount(labels.flatten(), minlength=len(maps)).tolist(),
        }

    def _other_pooling(self, planes: Tensor, features: ImageFeatures) -> None:
        layers = (self.model.decoder.decoder1, self.model.decoder.decoder2, self.model.decoder.decoder3)
        for layer in layers:
            layer.attention.pooling = 2
        self._decoded("inputs_pool2", self._watched_score("inputs_pool2", planes, features), None)
        for layer in layers:
            layer.attention.pooling = 1

    def _small(self, planes: Tensor, picture: np.ndarray) -> None:
        before = {key: value for key, value in self.ours.items() if key.startswith("clip")}
        features = self._encode(picture)
        self.ours |= before
        crop = (picture.shape[0], picture.shape[1])
        self._decoded("small", self.model.score(features, planes), None, crop)

    def _reason(self, features: ImageFeatures) -> None:
        names = [text.split(", ") for text in self.inputs.classes]
        reasons = parse_image(self.inputs.image_reason, where="inputs.json: image_reason").reasons
        facts: dict[str, Any] = {"attributes": self.inputs.num_des}
        for design in DESIGNS:
            prompts = reason_planes(
                names, reasons, self.inputs.num_des, design, "inputs.json", self.templates, self.inputs.synonyms
            )
            assert prompts is not None and prompts.class_index is not None
            if design == "passes":
                facts |= {"covered": list(prompts.class_index), "rows_as_class_names": _phrases(prompts)}
                planes = self._text("reason", prompts)
            elif design != "joint":
                planes = self.recorded.planes(prompts)
            logits = self.model.score(features, planes, joint=design == "joint").logits
            if design == "passes":
                self.ours |= {f"reason/attribute_{index}/logits": one for index, one in enumerate(logits)}
            probabilities = combine_attributes(logits)
            classes = len(probabilities)
            self._results(f"reason/{design}", class_maps(probabilities, range(classes), classes, self.size))
            equal = _equal_part(self.ours[f"reason/{design}/argmax"], self.ours["reason/passes/argmax"])
            self.ours[f"reason/{design}/argmax_equal_to_passes"] = equal
        self.ours["reason"] = facts


def _phrases(prompts: PlanePrompts) -> list[str]:
    """What fills the first template, a row each; the names of a class joined as its string joins them."""
    before, after = template_set("imagenet").templates[0].split("{}")
    phrases, start = [], 0
    for _ in range(prompts.groups):
        for names in prompts.names_per_class:
            filled = prompts.sentences[start : start + names]
            phrases.append(", ".join(text.removeprefix(before).removesuffix(after) for text in filled))
            start += names * prompts.templates
    return phrases


def _equal_part(a: Tensor, b: Tensor) -> float:
    return (a == b).double().mean().item()


def _part(key: str, recorded: np.ndarray, ours: Mapping[str, Any]) -> Any:
    """Our counterpart of a recorded array; None if the entry is not known."""
    whole, _, last = key.rpartition("/")
    if key in ours:
        return ours[key]
    if last == "slice" and whole in ours:
        return ours[whole][:8, :5, :7]
    if last == "stats" and whole in ours:
        return stats(ours[whole])
    name, _, stride = last.rpartition("_stride") if "_stride" in last else ("", "", last.removeprefix("stride"))
    source = f"{whole}/{name}" if name else whole
    if last.startswith("sem_seg_f16"):
        return ours[f"{whole}/sem_seg"].half()
    if source not in ours:
        return None
    value = ours[source]
    if stride.isdigit():
        return value[..., :: int(stride), :: int(stride)]
    if last == "strided" and value.dim() == recorded.ndim:
        return value[shape_steps(value.shape, recorded.shape)]
    return None


def _compare(case: Case, ours: Mapping[str, Any]) -> Report:
    report = Report()
    for key, recorded in case.arrays.items():
        if key == "image":
            continue
        value = _part(key, recorded, ours)
        last = key.rsplit("/", 1)[-1]
        if value is None:
            report.unknown(key)
        elif last.startswith(("sem_seg", "argmax_margin")):
            report.tensor(key, value, recorded, RESULT_BOUND)
        elif last == "argmax":
            report.pixels(key, value, recorded)
        elif recorded.dtype.kind in "iub":
            report.equal(key, np.asarray(value).tolist(), recorded.tolist())
        else:
            report.tensor(key, value, recorded)
    report.equal("resized", ours["resized"], case.facts["resized"])
    for key, value in case.facts.get("shapes", {}).items():
        report.equal(f"shape of {key}", _shape(key, ours), value)
    for key, value in case.facts.items():
        if key in _FACTS_OF_THE_RECORDING:
            continue
        if key not in ours:
            report.unknown(key)
        elif key.endswith("argmax_histogram"):
            moved = np.abs(np.subtract(ours[key], value)).sum() / 2 / sum(value)
            report.checks.append(Check(key, float(moved), PIXEL_BOUND, "pixels"))
        elif "argmax_equal_to" in key:
            report.checks.append(Check(key, abs(ours[key] - value), 2 * PIXEL_BOUND, "pixels"))
        elif key == "reason":
            plain = value | {"covered": [index for index, _ in value["covered"]]}
            report.equal(key, ours[key], plain)
        else:
            report.equal(key, ours[key], value)
    return report


def _shape(key: str, ours: Mapping[str, Any]) -> Sequence[int]:
    """A shape as the reference lays it out; entries of a vocabulary are those of `inputs`."""
    value = ours.get(key, ours.get(f"inputs/{key}"))
    shape = list(value.shape)
    if key.startswith(("aux", "logits")):
        return [shape[0], 1, *shape[1:]]
    if key.endswith("/class"):
        return [1, shape[1], shape[0], *shape[2:]]
    return [1, *shape] if key == "cost" or key.startswith("clip") else shape
