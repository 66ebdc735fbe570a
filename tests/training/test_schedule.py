"""Learning rates, parameter groups and clipping against values worked out by hand."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import CfgNode
from torch import nn

from maft.config import build_config
from maft.errors import UserError
from maft.meta_arch import build_network
from maft.modeling.maft_plus import MAFTPlus
from maft.training.optimizer import GradientClipper, build_optimizer, parameter_groups, set_rate
from maft.training.schedule import Schedule


class OneWeight(nn.Linear):
    """The smallest network that has learning-rate groups."""

    rate_group = staticmethod(MAFTPlus.rate_group)

    def __init__(self) -> None:
        super().__init__(1, 1)


def test_polynomial_of_the_published_runs() -> None:
    schedule = Schedule("WarmupPolyLR", 60000, warmup_factor=1.0)
    # (1 - 1/2) ** 0.9, (1 - 59999/60000) ** 0.9
    found = [schedule.factor(step) for step in (0, 30000, 59999)]
    assert found == pytest.approx([1.0, 0.5358867, 5.008e-05], rel=1e-4)


def test_polynomial_with_warm_up_and_constant_ending() -> None:
    schedule = Schedule("WarmupPolyLR", 100, 10, 0.1, power=1.0, constant_ending=0.3)
    # the warm-up multiplies the polynomial: 0.1, then (0.1 + 0.9 * 5 / 10) * 0.95
    assert [schedule.factor(step) for step in (0, 5, 10, 50, 90)] == pytest.approx([0.1, 0.5225, 0.9, 0.5, 0.3])


def test_steps_and_cosine() -> None:
    steps = Schedule("WarmupMultiStepLR", 100, 10, 0.5, milestones=(40, 80), gamma=0.1)
    found = [steps.factor(step) for step in (0, 5, 10, 39, 40, 80)]
    assert found == pytest.approx([0.5, 0.75, 1.0, 1.0, 0.1, 0.01])
    constant = Schedule("WarmupMultiStepLR", 100, 10, 0.5, "constant", milestones=(40,))
    assert [constant.factor(step) for step in (0, 9, 10)] == pytest.approx([0.5, 0.5, 1.0])
    cosine = Schedule("WarmupCosineLR", 100, end=0.2)
    assert [cosine.factor(step) for step in (0, 50, 100)] == pytest.approx([1.0, 0.6, 0.2])


class Parts(nn.Module):
    """One parameter of every kind that is treated apart."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 1, 1), nn.LayerNorm(2), nn.Linear(2, 2))
        self.head = nn.ModuleDict({"linear": nn.Linear(2, 2), "norm": nn.GroupNorm(1, 2), "query": nn.Embedding(3, 2)})
        self.level = nn.Parameter(torch.zeros(2))
        self.backbone[2].requires_grad_(False)
        self.head["tied"] = self.head["linear"]


def test_groups_by_hand() -> None:
    groups = parameter_groups(
        Parts(),
        rate_group=MAFTPlus.rate_group,
        rate=1.0,
        multipliers={"clip": 0.1},
        decay=0.05,
        decay_norm=0.0,
        decay_embed=0.01,
    )
    found = {(group["lr"], group["weight_decay"]): sorted(group["names"]) for group in groups}
    assert found == {
        (1.0, 0.05): ["head.linear.bias", "head.linear.weight", "level"],
        (0.1, 0.05): ["backbone.0.bias", "backbone.0.weight"],
        (0.1, 0.0): ["backbone.1.bias", "backbone.1.weight"],
        (1.0, 0.0): ["head.norm.bias", "head.norm.weight"],
        (1.0, 0.01): ["head.query.weight"],
    }


def test_groups_of_the_network(small_config: CfgNode) -> None:
    """All that learns is in one group; the image tower at a tenth of the rate; norms and queries do not decay."""
    model = build_network(small_config, training=True)
    optimizer = build_optimizer(small_config, model)
    grouped = {name: group for group in optimizer.param_groups for name in group["names"]}
    assert grouped.keys() == model.trainable_parameters().keys()
    for name, group in grouped.items():
        assert group["lr"] == pytest.approx(1e-5 if name.startswith("backbone.") else 1e-4)
    trunk, predictor = "backbone.clip_model.visual.trunk.stages.0.blocks.0", "sem_seg_head.predictor"
    undecayed = (f"{trunk}.norm.weight", f"{predictor}.query_feat.weight", f"{predictor}.level_embed.weight")
    undecayed += (f"{predictor}.decoder_norm.bias", "void_embedding.weight")
    assert [grouped[name]["weight_decay"] for name in undecayed] == [0.0] * 5
    decayed = (f"{trunk}.conv_dw.weight", f"{trunk}.gamma", f"{predictor}.mask_embed.layers.0.weight")
    decayed += ("sem_seg_head.pixel_decoder.transformer.level_embed",)  # a bare parameter, no embedding
    assert [grouped[name]["weight_decay"] for name in decayed] == [2e-5] * 4
    set_rate(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {5e-5, 5e-6}


def parameters(*gradients: list[float]) -> list[nn.Parameter]:
    made = [nn.Parameter(torch.zeros(len(values))) for values in gradients]
    for parameter, values in zip(made, gradients, strict=True):
        parameter.grad = torch.tensor(values)
    return made


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (None, [[3.0, 4.0], [12.0]]),
        ("full_model", [[3 / 13, 4 / 13], [12 / 13]]),  # the whole norm is 13
        ("norm", [[0.6, 0.8], [1.0]]),
        ("value", [[1.0, 1.0], [1.0]]),
    ],
)
def test_clipping_by_hand(kind: str | None, expected: list[list[float]]) -> None:
    clipped = parameters([3.0, 4.0], [12.0])
    assert GradientClipper(kind, 1.0)(clipped).item() == pytest.approx(13.0)
    for parameter, values in zip(clipped, expected, strict=True):
        assert parameter.grad is not None and parameter.grad.tolist() == pytest.approx(values, rel=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("SOLVER.OPTIMIZER", "LION", "ADAMW"),
        ("SOLVER.LR_SCHEDULER_NAME", "Poly", "WarmupPolyLR"),
        ("SOLVER.WARMUP_METHOD", "slow", "linear"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "some", "full_model"),
    ],
)
def test_values_that_mean_nothing(small_config: CfgNode, key: str, value: str, words: str) -> None:
    small_config.merge_from_list([key, value])
    with pytest.raises(UserError, match=words):
        Schedule.from_config(small_config)
        GradientClipper.from_config(small_config)
        build_optimizer(small_config, OneWeight())


@pytest.mark.usefixtures("small_config")
def test_published_values() -> None:
    """Of MAFT+'s training configurations."""
    expected = {
        "semantic/train_semantic_base.yaml": (171, 60000, "mask_former_semantic", "convnext_base_w_320"),
        "semantic/train_semantic_large.yaml": (171, 55000, "mask_former_semantic", "convnext_large_d_320"),
        "panoptic/train_panoptic_large.yaml": (133, 55000, "coco_panoptic_lsj", "convnext_large_d_320"),
    }
    for name, values in expected.items():
        cfg = build_config(f"configs/{name}", [])
        former, solver, clip = cfg.MODEL.MASK_FORMER, cfg.SOLVER, cfg.SOLVER.CLIP_GRADIENTS
        found = (cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, solver.MAX_ITER, cfg.INPUT.DATASET_MAPPER_NAME)
        assert (*found, cfg.MODEL.FC_CLIP.CLIP_MODEL_NAME) == values
        assert (solver.BASE_LR, solver.BACKBONE_MULTIPLIER, solver.WEIGHT_DECAY, solver.IMS_PER_BATCH) == (
            1e-4,
            0.1,
            2e-5,
            8,
        )
        assert (solver.WEIGHT_DECAY_NORM, solver.WEIGHT_DECAY_EMBED, solver.AMP.ENABLED) == (0, 0, True)
        assert (solver.LR_SCHEDULER_NAME, solver.POLY_LR_POWER, solver.WARMUP_ITERS) == ("WarmupPolyLR", 0.9, 0)
        assert (clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE) == (True, "full_model", 0.01)
        assert (former.CLASS_WEIGHT, former.MASK_WEIGHT, former.DICE_WEIGHT, cfg.MODEL.rc_weights) == (2, 5, 5, 0.1)
        assert (cfg.INPUT.IMAGE_SIZE, cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE, cfg.TEST.EVAL_PERIOD) == (
            1024,
            0.1,
            2,
            5000,
        )
