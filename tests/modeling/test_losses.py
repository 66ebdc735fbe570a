"""The losses of training against their definitions."""

from __future__ import annotations

import itertools
import math
import multiprocessing
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, distributed
from torch.nn import functional as F

from maft.modeling.losses import (
    Criterion,
    LossOptions,
    Targets,
    mask_aware_loss,
    match,
    representation_compensation,
    sample_at,
    uncertain_points,
)
from maft.modeling.losses.criterion import average_over_processes
from maft.modeling.losses.mask_aware import soft_iou
from tools.parity.parts import check_units

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 3.0}


def targets_of(counts: tuple[int, ...], classes: int, size: tuple[int, int], generator: torch.Generator) -> Targets:
    labels = [torch.randint(classes, (count,), generator=generator) for count in counts]
    masks = [torch.rand(count, *size, generator=generator) > 0.6 for count in counts]
    return Targets.collate(labels, masks, size, "cpu")


def predictions(
    batch: int, queries: int, classes: int, size: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    logits = torch.randn(batch, queries, classes + 1, generator=generator)
    return logits, 3 * torch.randn(batch, queries, *size, generator=generator)


@pytest.mark.usefixtures("in_repository")
def test_single_functions_equal_the_reference() -> None:
    report = check_units(ROOT / "tests/golden/units")
    assert not report.failures, "\n".join(check.line() for check in report.failures)
    assert {"mask-aware loss", "representation compensation, tall"} <= {check.name for check in report.checks}


def test_points_are_interpolated_between_cell_centres() -> None:
    maps = torch.tensor([[[[0.0, 4.0], [8.0, 12.0]]]])
    points = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.5, 0.25], [0.5, 0.5]]])  # (x, y)
    assert sample_at(maps, points)[0, 0].tolist() == pytest.approx([0.0, 4.0, 2.0, 6.0])


def test_no_map_gives_no_value_but_stays_in_the_graph() -> None:
    maps = torch.zeros(2, 3, 4, 4, requires_grad=True)
    values = sample_at(maps[:0], torch.rand(0, 5, 2))
    assert values.shape == (0, 3, 5)
    values.sum().backward()
    assert maps.grad is not None and not maps.grad.any()


def test_uncertain_points_lie_where_the_prediction_wavers() -> None:
    ramp = torch.linspace(-8, 8, 32).expand(2, 32, 32)  # zero in the middle column
    torch.manual_seed(3)
    points = uncertain_points(ramp, count=400, oversample=3.0, importance=0.75)
    assert points.shape == (2, 400, 2) and points.min() >= 0 and points.max() < 1
    distance = (points[..., 0] - 0.5).abs()
    inside = (points[..., 1] - 0.5).abs() < 0.5 - 1 / 64  # beyond the outermost centres values fade to zero
    # A quarter of the candidates spans about a quarter of the width.
    assert distance[:, :300][inside[:, :300]].max() < 0.14
    assert distance[:, 300:].max() > 0.45


@settings(max_examples=20, deadline=None)
@given(queries=st.integers(1, 5), counts=st.lists(st.integers(0, 5), min_size=1, max_size=3), seed=st.integers(0, 999))
def test_the_matching_is_the_cheapest_of_all(queries: int, counts: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    targets = targets_of(tuple(counts), 4, (12, 8), generator)
    class_logits, mask_logits = predictions(len(counts), queries, 4, (6, 4), generator)
    torch.manual_seed(seed)
    pairs = match(class_logits, mask_logits, targets, points=40, **WEIGHTS)
    torch.manual_seed(seed)
    for image, count in enumerate(counts):
        cost = costs_by_definition(class_logits[image], mask_logits[image], targets, image, count, points=40)
        mine = pairs.image == image
        chosen = cost[pairs.query[mine], pairs.target[mine]]
        assert len(chosen) == min(queries, count)
        assert pairs.query[mine].tolist() == sorted(set(pairs.query[mine].tolist()))
        assert len(set(pairs.target[mine].tolist())) == len(chosen)
        few, many = sorted((queries, count))
        table = cost if queries <= count else cost.T
        cheapest = min(
            sum(table[row, column].item() for row, column in enumerate(columns))
            for columns in itertools.permutations(range(many), few)
        )
        assert chosen.sum().item() == pytest.approx(cheapest, rel=1e-5, abs=1e-5)


def costs_by_definition(
    class_logits: Tensor, mask_logits: Tensor, targets: Targets, image: int, count: int, points: int
) -> Tensor:
    drawn = torch.rand(1, points, 2)
    predicted = sample_at(mask_logits[None], drawn)[0]
    cost = torch.zeros(len(class_logits), count)
    for query, index in itertools.product(range(len(class_logits)), range(count)):
        wanted = sample_at(targets.masks[image, index][None, None], drawn)[0, 0]
        logits = predicted[query]
        probability = class_logits[query].softmax(dim=0)[targets.labels[image, index]]
        dice = 1 - (2 * (logits.sigmoid() * wanted).sum() + 1) / (logits.sigmoid().sum() + wanted.sum() + 1)
        cost[query, index] = 2 * -probability + 5 * F.binary_cross_entropy_with_logits(logits, wanted) + 3 * dice
    return cost


def test_a_diverged_network_is_told_from_a_bad_matching() -> None:
    targets = targets_of((1,), 2, (4, 4), torch.Generator())
    with pytest.raises(FloatingPointError, match="diverged"):
        match(torch.zeros(1, 2, 3), torch.full((1, 2, 4, 4), math.nan), targets, points=4, **WEIGHTS)


def test_targets_of_unequal_numbers_and_sizes_stand_side_by_side() -> None:
    targets = Targets.collate(
        [torch.tensor([2]), torch.tensor([], dtype=torch.int64), torch.tensor([0, 1])],
        [torch.ones(1, 2, 3, dtype=torch.bool), torch.ones(0, 4, 4, dtype=torch.bool), torch.ones(2, 4, 2)],
        (4, 4),
        "cpu",
    )
    assert targets.total == 3 and targets.counts == (1, 0, 2)
    assert targets.masks.sum(dim=(-2, -1)).tolist() == [[6, 0], [0, 0], [8, 8]]
    assert targets.masks[0, 0, :2, :3].all()
    assert [part.tolist() for part in targets.members()] == [[0, 2, 2], [0, 0, 1]]
    with pytest.raises(ValueError, match="beyond"):
        Targets.collate([torch.tensor([0])], [torch.ones(1, 5, 4)], (4, 4), "cpu")
    with pytest.raises(ValueError, match="2 labels for 1"):
        Targets.collate([torch.tensor([0, 1])], [torch.ones(1, 4, 4)], (4, 4), "cpu")


def test_the_class_loss_weighs_void_down() -> None:
    """One instance: its query has the class, all others are void; a weighted mean of cross entropies."""
    criterion = Criterion(2, LossOptions(class_weight=1.0, void_weight=0.25, points=8))
    logits = torch.tensor([[[2.0, 0.0, 1.0], [0.0, 0.0, 3.0], [5.0, 1.0, 0.0]]])
    masks = torch.full((1, 3, 4, 4), -9.0)
    masks[0, 2] = 9.0  # fits the instance, which covers everything
    targets = Targets.collate([torch.tensor([0])], [torch.ones(1, 4, 4)], (4, 4), "cpu")
    losses = criterion([logits], [masks], targets)
    entropies = -logits[0].log_softmax(dim=-1)
    expected = (entropies[2, 0] + 0.25 * (entropies[0, 2] + entropies[1, 2])) / 1.5
    assert losses["loss_ce"].item() == pytest.approx(expected.item())
    assert set(losses) == {"loss_ce", "loss_mask", "loss_dice"}


def test_right_masks_cost_little_and_wrong_ones_much() -> None:
    """Not nothing: between the halves and beyond the outermost centres mask and logits are interpolated."""
    criterion = Criterion(2, LossOptions(points=256, importance=0.0, mask_weight=1.0, dice_weight=1.0))
    mask = torch.zeros(1, 8, 8)
    mask[0, :, :4] = 1
    targets = Targets.collate([torch.tensor([1])], [mask.bool()], (8, 8), "cpu")
    logits = torch.zeros(1, 1, 3)
    right = criterion([logits], [8 * (2 * mask[None] - 1)], targets)
    wrong = criterion([logits], [8 * (1 - 2 * mask[None])], targets)
    assert right["loss_mask"] < 0.6 and right["loss_dice"] < 0.15
    assert wrong["loss_mask"] > 5 and wrong["loss_dice"] > 0.85


def test_a_batch_without_instances_gives_zero_mask_losses_with_gradients() -> None:
    criterion = Criterion(3, LossOptions(points=16))
    targets = targets_of((0, 0), 3, (8, 8), torch.Generator())
    logits, masks = (value.requires_grad_() for value in predictions(2, 4, 3, (4, 4), torch.Generator()))
    losses = criterion([logits, logits], [masks, masks], targets)
    losses["ranking_loss"] = mask_aware_loss(logits, masks, targets)
    assert losses["loss_mask"] == losses["loss_dice_0"] == losses["ranking_loss"] == 0
    sum(losses.values()).backward()
    assert masks.grad is not None and not masks.grad.any()
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad.any()


@settings(max_examples=25, deadline=None)
@given(
    small=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    size=st.tuples(st.integers(1, 19), st.integers(1, 19)),
    seed=st.integers(0, 999),
)
def test_the_iou_of_masks_that_are_not_enlarged(small: tuple[int, int], size: tuple[int, int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    targets = targets_of((2, 3), 2, size, generator)
    masks = torch.rand(2, 4, *small, generator=generator)
    enlarged = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
    overlap = torch.einsum("bqhw,bnhw->bqn", enlarged, targets.masks)
    areas = enlarged.sum(dim=(2, 3))[:, :, None] + targets.masks.sum(dim=(2, 3))[:, None]
    torch.testing.assert_close(soft_iou(masks, targets), overlap / (areas - overlap + 1e-7), rtol=1e-4, atol=1e-6)


def test_the_mask_aware_loss_moves_classes_and_never_masks() -> None:
    generator = torch.Generator().manual_seed(1)
    targets = targets_of((2, 1), 3, (8, 8), generator)
    logits, masks = (value.requires_grad_() for value in predictions(2, 5, 3, (4, 4), generator))
    mask_aware_loss(logits, masks, targets).backward()
    assert masks.grad is None and logits.grad is not None
    assert logits.grad[..., :3].any() and not logits.grad[..., 3].any()


def test_compensation_is_zero_for_equals_and_takes_the_smallest_maps() -> None:
    features = torch.randn(2, 3, 1, 2, generator=torch.Generator().manual_seed(0))
    assert representation_compensation(features, features) == 0
    assert representation_compensation(features, features + 1) > 0
    assert representation_compensation(-features.abs(), -2 * features.abs()) == 0  # rectified first


@pytest.mark.parametrize("wrong", [{"points": 0}, {"oversample": 0.5}, {"importance": 1.5}])
def test_sampling_without_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="points"):
        LossOptions(**wrong)  # type: ignore[arg-type]


def _count(rank: int, store: str, results: SimpleQueue[tuple[float, float]]) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    cpu = torch.device("cpu")
    results.put((average_over_processes((5, 0)[rank], cpu), average_over_processes(0, cpu)))
    distributed.destroy_process_group()


def test_masks_are_counted_over_all_processes(tmp_path: Path) -> None:
    # Forked, not spawned: importing torch twice would take longer than all other tests here.
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    started = [context.Process(target=_count, args=(rank, str(tmp_path / "store"), results)) for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=60)
    assert [process.exitcode for process in started] == [0, 0]
    assert [results.get(), results.get()] == [(2.5, 1.0), (2.5, 1.0)]
    assert average_over_processes(7, torch.device("cpu")) == 7
