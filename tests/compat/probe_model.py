"""Probes of registries, structures and checkpoints."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    Backbone,
    build_backbone,
    build_model,
    build_sem_seg_head,
)
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.registry import Registry
from probe import outcome
from torch import nn


def probe_registry(folder: Path) -> Any:
    registry = Registry("PROBE")

    @registry.register()
    class Thing:
        pass

    registry.register(len)
    return (
        registry.get("Thing") is Thing,
        registry.get("len") is len,
        "Thing" in registry,
        outcome(lambda: registry.register(len)),
        outcome(lambda: registry.get("Nothing")),
        sorted(name for name, _ in registry),
    )


@BACKBONE_REGISTRY.register()
class ProbeBackbone(Backbone):
    def __init__(self, cfg: Any, input_shape: ShapeSpec) -> None:
        super().__init__()
        self.conv = nn.Conv2d(input_shape.channels, 4, 1)
        self._out_features = ["res2", "res3"]
        self._out_feature_channels = {"res2": 4, "res3": 8, "res4": 16}
        self._out_feature_strides = {"res2": 4, "res3": 8, "res4": 16}

    def forward(self, images: torch.Tensor) -> Any:
        return {"res2": self.conv(images)}


@BACKBONE_REGISTRY.register()
def probe_not_a_backbone(cfg: Any, input_shape: ShapeSpec | None = None) -> nn.Module:
    return nn.Identity()


@SEM_SEG_HEADS_REGISTRY.register()
class ProbeHead(nn.Module):
    def __init__(self, cfg: Any, input_shape: dict[str, ShapeSpec]) -> None:
        super().__init__()
        self.names = sorted(input_shape)


@META_ARCH_REGISTRY.register()
class ProbeArch(nn.Module):
    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.backbone = build_backbone(cfg)
        self.head = build_sem_seg_head(cfg, self.backbone.output_shape())


def _model_config(**changes: str) -> Any:
    cfg = get_cfg()
    pairs = {"MODEL.DEVICE": "cpu", "MODEL.META_ARCHITECTURE": "ProbeArch", "MODEL.BACKBONE.NAME": "ProbeBackbone"}
    pairs |= {"MODEL.SEM_SEG_HEAD.NAME": "ProbeHead", **changes}
    cfg.merge_from_list([part for pair in pairs.items() for part in pair])
    return cfg


def probe_built_models(folder: Path) -> Any:
    model = build_model(_model_config())
    shapes = {name: [s.channels, s.height, s.width, s.stride] for name, s in model.backbone.output_shape().items()}
    wide = build_backbone(_model_config(), ShapeSpec(channels=7))
    return (
        model.backbone.conv.in_channels,
        wide.conv.in_channels,
        model.backbone.size_divisibility,
        shapes,
        model.head.names,
        ShapeSpec(channels=1) == ShapeSpec(1),
        outcome(lambda: build_model(_model_config(**{"MODEL.META_ARCHITECTURE": "Nothing"}))),
        outcome(lambda: build_model(_model_config(**{"MODEL.BACKBONE.NAME": "Nothing"}))),
        outcome(lambda: build_backbone(_model_config(**{"MODEL.BACKBONE.NAME": "probe_not_a_backbone"}))),
        outcome(lambda: Backbone()),
    )


del probe_not_a_backbone  # registered by that name, and no probe itself


def probe_image_list(folder: Path) -> Any:
    torch.manual_seed(0)
    images = [torch.rand(3, 5, 7), torch.rand(3, 6, 4), torch.rand(3, 64, 3)]
    results = []
    for count in (1, 2, 3):
        for divisibility in (0, 1, 4, 32):
            made = ImageList.from_tensors(images[:count], divisibility, pad_value=-1.5)
            results.append([made.tensor, made.image_sizes, len(made), made[count - 1]])
    grey = ImageList.from_tensors([torch.ones(4, 4, dtype=torch.uint8)], 8)
    results += [grey.tensor, grey.to(torch.float64).tensor, str(grey.device), grey.to("cpu").image_sizes]
    results += [
        outcome(lambda: ImageList.from_tensors([])),
        outcome(lambda: ImageList.from_tensors(torch.ones(1, 2, 2))),
    ]
    results.append(outcome(lambda: ImageList.from_tensors([torch.ones(3, 2, 2), torch.ones(1, 2, 2)])))
    return results


def _contents(instances: Instances) -> Any:
    return (
        instances.image_size,
        len(instances),
        {name: getattr(value, "tensor", value) for name, value in instances.get_fields().items()},
    )


def probe_instances(folder: Path) -> Any:
    one = Instances((10, 20), scores=torch.tensor([0.5, 0.25, 0.75]))
    one.pred_classes = torch.tensor([1, 2, 3])
    one.pred_boxes = Boxes(torch.arange(12.0).reshape(3, 4))
    one.pred_masks = BitMasks(torch.eye(3).reshape(3, 3, 1))
    plain = Instances((10, 20), scores=torch.tensor([1.0]), words=["a"])
    empty = Instances((1, 2))
    again = pickle.loads(pickle.dumps(plain))
    results = [
        _contents(one[item]) for item in (0, -1, slice(1, 3), torch.tensor([True, False, True]), torch.tensor([2, 0]))
    ]
    results += [_contents(one), _contents(one.to(torch.device("cpu"))), _contents(Instances.cat([plain, plain, again]))]
    results += [one.has("scores"), one.has("nothing"), "scores" in one.get_fields(), Instances.cat([one]) is one]
    results += [
        outcome(call)
        for call in (
            lambda: one.nothing,
            lambda: one.get("nothing"),
            lambda: one.remove("nothing"),
            lambda: one[3],
            lambda: one[-4],
            lambda: one.set("short", [1]),
            lambda: list(one),
            lambda: len(empty),
            lambda: Instances.cat([]),
            lambda: Instances.cat([plain, Instances((9, 9), scores=torch.ones(1), words=["b"])]),
        )
    ]
    one.remove("scores")
    return [*results, one.has("scores"), one.image_size]


def probe_boxes_and_masks(folder: Path) -> Any:
    boxes = Boxes(torch.tensor([[0, 0, 2, 3], [1, 1, 1, 5], [4.5, 2.0, 8.0, 3.0]]))
    bits = torch.zeros(4, 5, 6)
    bits[0, 1, 2] = bits[1, 0, 0] = bits[1, 4, 5] = 1
    bits[2, 2:4, 1:3] = 1
    masks = BitMasks(bits)
    picks = (0, -1, slice(0, 2), torch.tensor([True, False, True]))
    return [
        [boxes.tensor, boxes.area(), len(boxes), Boxes([[1, 2, 3, 4]]).tensor, Boxes(torch.zeros(0)).tensor],
        [boxes[item].tensor for item in picks],
        [boxes.to("cpu").tensor, outcome(lambda: Boxes(torch.ones(3, 5))), outcome(lambda: boxes[torch.tensor(1), 1])],
        [masks.tensor, len(masks), list(masks.image_size), masks.get_bounding_boxes().tensor],
        [masks[item].tensor for item in (0, -1, slice(0, 2), torch.tensor([True, False, True, False]))],
        [BitMasks(bits.numpy()).tensor, outcome(lambda: BitMasks(bits[0])), masks.to("cpu").tensor],
        BitMasks(torch.zeros(0, 3, 3)).get_bounding_boxes().tensor,
    ]


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 1)
        self.register_buffer("pixel_mean", torch.zeros(3, 1, 1))
        self.register_buffer("pixel_std", torch.ones(3, 1, 1), persistent=False)


class _Keeping(DetectionCheckpointer):
    """Keeps what _load_model reports."""

    report: Any = None

    def _load_model(self, checkpoint: Any) -> Any:
        self.report = super()._load_model(checkpoint)
        return self.report


class _Code:
    def __reduce__(self) -> Any:
        return (print, ("code from a checkpoint ran",))


def _weights() -> dict[str, torch.Tensor]:
    return {name: torch.full_like(value, 0.5) for name, value in _Net().state_dict().items()}


def _write_checkpoints(folder: Path) -> list[str]:
    full = _weights()
    lacking = {name: value for name, value in full.items() if name not in ("second.bias", "pixel_mean")}
    unexpected = {**full, "third.weight": torch.ones(2), "teacher.a.b": torch.ones(1)}
    torch.save({"model": full, "iteration": 9, "note": "text"}, folder / "full.pth")
    torch.save(full, folder / "bare.pth")
    torch.save({"model": lacking}, folder / "lacking.pth")
    torch.save({"model": unexpected}, folder / "unexpected.pth")
    torch.save({"model": {**full, "first.weight": torch.ones(4, 2)}}, folder / "shape.pth")
    torch.save({"model": {f"module.{name}": value for name, value in full.items()}}, folder / "wrapped.pth")
    torch.save({"model": {**full, "first.bias": "text"}}, folder / "text.pth")
    torch.save({"model": full, "code": _Code()}, folder / "code.pth")
    whole = (folder / "full.pth").read_bytes()
    (folder / "truncated.pth").write_bytes(whole[: len(whole) // 2])
    (folder / "words.pth").write_text("no checkpoint", encoding="utf-8")
    return [*sorted(file.name for file in folder.iterdir()), "nowhere.pth"]


def probe_load_checkpoints(folder: Path) -> Any:
    def loaded(name: str) -> Any:
        torch.manual_seed(1)
        checkpointer = _Keeping(_Net())
        rest = checkpointer.load(str(folder / name))
        report = checkpointer.report
        weights = dict(checkpointer.model.state_dict())
        return rest, sorted(report.missing_keys), sorted(report.unexpected_keys), report.incorrect_shapes, weights

    return {name: outcome(lambda name=name: loaded(name)) for name in _write_checkpoints(folder)}


def probe_checkpoint_queries(folder: Path) -> Any:
    torch.save(_weights(), folder / "bare.pth")
    return outcome(lambda: DetectionCheckpointer(_Net()).load(f"{folder}/bare.pth?strange=1"))


def probe_checkpoint_warnings(folder: Path) -> Any:
    """How many warnings each file gives."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("fvcore.common.checkpoint").addHandler(handler)
    names = _write_checkpoints(folder)
    counts = {}
    for name in ("full.pth", "lacking.pth", "unexpected.pth", "shape.pth"):
        assert name in names
        messages.clear()
        DetectionCheckpointer(_Net()).load(str(folder / name))
        counts[name] = list(messages)
    return counts


def probe_save_and_resume(folder: Path) -> Any:
    torch.manual_seed(2)
    model, optimizer_model = _Net(), nn.Linear(1, 1)
    checkpointer = DetectionCheckpointer(model, str(folder), extra=optimizer_model)
    before = checkpointer.has_checkpoint(), checkpointer.get_checkpoint_file(), checkpointer.load("")
    checkpointer.save("model_0001", iteration=1)
    fresh = DetectionCheckpointer(_Net(), str(folder), extra=nn.Linear(1, 1))
    rest = fresh.resume_or_load("ignored.pth", resume=True)
    other = DetectionCheckpointer(_Net(), "", extra=nn.Linear(1, 1))
    kept = other.resume_or_load(str(folder / "model_0001.pth"), resume=True)
    disk = DetectionCheckpointer(_Net(), str(folder), save_to_disk=False)
    disk.save("model_0002")
    return (
        [before[0], before[1], before[2]],
        fresh.has_checkpoint(),
        Path(fresh.get_checkpoint_file()).name,
        dict(fresh.model.state_dict()),
        dict(fresh.checkpointables["extra"].state_dict()),
        rest,
        sorted(kept),
        sorted(file.name for file in folder.iterdir()),
        outcome(lambda: fresh.add_checkpointable("extra", nn.Linear(1, 1))),
    )
