"""SED's network: equal to the reference's tensors, and what must hold for every input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from maft.modeling.sed import GradualFusionDecoder, class_maps, combine_attributes, kept_classes, layers
from maft.modeling.sed.layers import ChannelNorm
from maft.modeling.sed.losses import class_losses
from maft.modeling.sed.training import FINETUNE, learns
from tools.parity.sed.parts import checks

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "sed"


@pytest.mark.parametrize("part", ["state_dict_sed_base", "trainable_sed_base", "units"])
def test_equals_the_reference(part: str) -> None:
    report = dict(checks(GOLDEN))[part]()
    assert report.checks
    assert not report.failures, "\n".join(check.line() for check in report.failures)


@pytest.fixture(scope="module")
def decoder() -> GradualFusionDecoder:
    """A small decoder with drawn weights, in which classes differ."""
    torch.manual_seed(0)
    decoder = GradualFusionDecoder(
        templates=4, width=32, widths=(16, 16, 16), guidance=(8, 8, 8), image_channels=(6, 5, 4), heads=2
    )
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return decoder.eval()


def _inputs(groups: int, classes: int, images: int = 1) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(groups * 100 + classes)
    cost = torch.randn(groups, classes, 4, 6, 6, generator=generator)
    maps = [torch.randn(images, c, s, s, generator=generator) for c, s in ((6, 12), (5, 24), (4, 48))]
    return cost, maps


@torch.inference_mode()
def test_two_images_in_a_batch_give_what_each_gives_alone(decoder: GradualFusionDecoder) -> None:
    cost, maps = _inputs(2, 5, images=2)
    both = decoder(cost, decoder.image_guidance(maps))
    for index in range(2):
        one = slice(index, index + 1)
        alone = decoder(cost[one], decoder.image_guidance([values[one] for values in maps]))
        torch.testing.assert_close(both.logits[one], alone.logits)
        for ours, own in zip(both.early, alone.early, strict=True):
            torch.testing.assert_close(ours[one], own)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("keep", [None, 2])
def test_pieces_of_any_size_change_nothing(decoder: GradualFusionDecoder, joint: bool, keep: int | None) -> None:
    """With gradients everything is one step, without them rows go through a few at a time, in place."""
    cost, maps = _inputs(3, 7)
    whole = decoder(cost, decoder.image_guidance(maps), keep=keep, joint=joint)
    before = cost.clone()
    for rows in (1, 4, 100):
        decoder.rows_at_once = rows
        with torch.inference_mode():
            pieces = decoder(cost, decoder.image_guidance(maps), keep=keep, joint=joint)
        torch.testing.assert_close(pieces.logits, whole.logits.detach(), rtol=1e-4, atol=1e-5)
        assert all(torch.equal(a, b) for a, b in zip(pieces.kept, whole.kept, strict=True))
    decoder.rows_at_once = None
    assert torch.equal(cost, before)


@torch.inference_mode()
def test_keeping_as_many_as_there_are_rejects_nothing(decoder: GradualFusionDecoder) -> None:
    cost, maps = _inputs(1, 5)
    guidance = decoder.image_guidance(maps)
    plain = decoder(cost, guidance)
    for keep in (5, 9):
        fast = decoder(cost, guidance, keep=keep)
        torch.testing.assert_close(fast.logits, plain.logits)
        assert fast.kept[-1].tolist() == list(range(5))


@torch.inference_mode()
def test_rejection_narrows_and_treats_a_class_as_a_whole(decoder: GradualFusionDecoder) -> None:
    cost, maps = _inputs(3, 12)
    # Some classes are a little better everywhere, in another order for every attribute.
    bias = torch.stack([torch.linspace(-1, 1, 12), torch.linspace(1, -1, 12), torch.linspace(-1, 1, 12)])
    decoded = decoder(cost * 0.02 + bias[:, :, None, None, None], decoder.image_guidance(maps), keep=1)
    first, second, third = (set(kept.tolist()) for kept in decoded.kept)
    assert third <= second <= first and len(third) < 12
    assert decoded.logits.shape[:2] == (3, len(third))
    alone = [set(kept_classes(decoded.early[0][k : k + 1], 1).nonzero()[:, 0].tolist()) for k in range(3)]
    assert first == set.union(*alone)


class _Live(TorchDispatchMode):
    """The most bytes that tensors made meanwhile had at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._known: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                self._known[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        self._known = {at: entry for at, entry in self._known.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._known.values()))
        return result


@torch.no_grad()
def test_attributes_under_rejection_are_not_held_twice(
    decoder: GradualFusionDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three attributes and every class kept, the most there is: A-847 with generic reasons depends on it."""
    monkeypatch.setattr(layers, "CELLS_AT_ONCE", 1)
    monkeypatch.setattr(decoder, "rows_at_once", 1)
    classes = 40
    cost, maps = _inputs(3, classes)
    guidance = decoder.image_guidance(maps)
    with _Live() as live:
        decoder(cost, guidance, keep=classes)
    states = 4 * 3 * classes * 16 * 24 * 24  # float32 of the last step, the largest
    assert states < live.peak < 1.6 * states, live.peak / states


@torch.inference_mode()
def test_joint_attention_sees_the_other_attributes(decoder: GradualFusionDecoder) -> None:
    cost, maps = _inputs(2, 4)
    guidance = decoder.image_guidance(maps)
    apart, joint = decoder(cost, guidance).logits, decoder(cost, guidance, joint=True).logits
    assert (apart - joint).abs().max() > 1e-3
    changed = cost.clone()
    changed[1] = -changed[1]
    torch.testing.assert_close(decoder(changed, guidance).logits[0], apart[0])
    assert (decoder(changed, guidance, joint=True).logits[0] - joint[0]).abs().max() > 1e-3


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 12))
@settings(deadline=None, max_examples=40)
def test_every_cell_keeps_its_best_classes(groups: int, classes: int, keep: int) -> None:
    scores = torch.rand(groups, classes, 3, 4, generator=torch.Generator().manual_seed(classes))
    wanted = {
        index
        for group in scores
        for cell in group.flatten(1).T
        for index in cell.argsort(descending=True)[:keep].tolist()
    }
    assert set(kept_classes(scores, keep).nonzero()[:, 0].tolist()) == wanted


def test_attributes_are_combined_as_asked() -> None:
    logits = torch.tensor([0.0, 2.0, -50.0]).view(3, 1, 1, 1)
    certain = torch.tensor([0.5, 0.8807970779778823, 0.0])
    assert combine_attributes(logits).item() == pytest.approx(certain.mean().item())
    assert combine_attributes(logits, "max").item() == pytest.approx(certain.max().item())
    assert combine_attributes(logits, "mean", "logit").item() == pytest.approx(torch.tensor(-16.0).sigmoid().item())
    with pytest.raises(ValueError, match="combine is one of"):
        combine_attributes(logits, "median")


def test_a_class_that_is_not_scored_is_exactly_zero() -> None:
    maps = class_maps(torch.rand(2, 8, 8) + 0.1, [1, 3], 5, (6, 9)).scores()
    assert maps.shape == (5, 6, 9)
    assert (maps[[0, 2, 4]] == 0).all() and (maps[[1, 3]] > 0).all()
    cut = class_maps(torch.arange(64.0).view(1, 8, 8), [0], 1, (4, 8), crop=(4, 8)).scores()
    assert torch.equal(cut[0], torch.arange(32.0).view(4, 8))


def test_ignored_pixels_are_negatives_or_left_out() -> None:
    logits = torch.tensor([[[[2.0, -1.0]], [[0.5, 3.0]]]])
    labels = torch.tensor([[[1, 255]]])
    no, yes = torch.nn.functional.softplus, lambda x: torch.nn.functional.softplus(-x)
    value = logits.flatten()
    counted = (no(value[0]) + no(value[1]) + yes(value[2]) + no(value[3])) / 4
    left_out = (no(value[0]) + yes(value[2])) / 2
    assert class_losses([logits], labels)[0].item() == pytest.approx(counted.item())
    assert class_losses([logits], labels, ignored_are_negatives=False)[0].item() == pytest.approx(left_out.item())
    nothing = torch.full((1, 1, 2), 255)
    assert class_losses([logits], nothing, ignored_are_negatives=False)[0].item() == 0


def test_the_early_heads_teach_nobody_else(decoder: GradualFusionDecoder) -> None:
    cost, maps = _inputs(1, 3)
    decoder.zero_grad()
    decoded = decoder(cost, decoder.image_guidance(maps))
    torch.stack([value.square().mean() for value in decoded.early]).sum().backward()
    taught = {name.split(".")[0] for name, parameter in decoder.named_parameters() if parameter.grad is not None}
    assert taught == {"head0", "head1", "head2"}
    decoder.zero_grad()


def test_modes_of_finetuning() -> None:
    clip = "sem_seg_head.predictor.clip_model."
    assert not any(learns(f"{clip}transformer.resblocks.0.mlp.c_fc.weight", mode) for mode in FINETUNE)
    assert learns(f"{clip}visual.trunk.stages.0.blocks.0.mlp.fc1.weight", "mlp")
    assert not learns("sem_seg_head.predictor.transformer.head.weight", "fast_infer")
    with pytest.raises(ValueError, match="'half' is not one of"):
        learns("anything", "half")


def test_the_decoders_own_norm_is_no_norm_of_torch() -> None:
    norm = ChannelNorm(6)
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(norm(x), torch.nn.LayerNorm(6, eps=1e-6)(x))
    assert not isinstance(norm, torch.nn.LayerNorm)
