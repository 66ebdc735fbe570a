"""Networks that are about to be loaded are built without random values, and nothing stays without a value."""

from __future__ import annotations

from functools import partial
from itertools import chain

import pytest
import torch
from torch import Tensor, nn

from maft import build, load_segmentor
from maft.resources import mini_weights
from maft.weights.loading import build_for_evaluation, load_for_evaluation
from maft.weights.undrawn import Undrawn, build_and_fill


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Every tensor by name, those outside the state dict as well."""
    return dict(chain(module.named_parameters(), module.named_buffers()))


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    ours, theirs = tensors(one), tensors(other)
    assert list(ours) == list(theirs)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("name", ["mini", "sed-mini"])
def test_a_loaded_network_is_the_same(name: str) -> None:
    changes = {"clip_weights": mini_weights()} if name == "sed-mini" else {}
    torch.manual_seed(0)
    drawn = build.build_network(name, **changes)
    load_for_evaluation(drawn, mini_weights(name))
    before = torch.random.get_rng_state()
    undrawn = build_for_evaluation(partial(build.build_network, name, **changes), mini_weights(name))
    assert torch.equal(torch.random.get_rng_state(), before)  # nothing was drawn
    assert_equal(undrawn, drawn)


@pytest.mark.parametrize("name", ["base", "large"])
def test_what_a_published_model_keeps_outside_its_weights_is_set(name: str) -> None:
    drawn = build.build_network(name)
    state = drawn.state_dict()
    before = torch.random.get_rng_state()
    undrawn = build_and_fill(partial(build.build_network, name), lambda network: network.load_state_dict(state))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert_equal(undrawn, drawn)


def test_what_nobody_fills_is_refused() -> None:
    def fill(network: nn.Sequential) -> None:
        network[0].load_state_dict(nn.Linear(2, 3).state_dict())

    def build() -> nn.Sequential:
        return nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 2, bias=False))

    with pytest.raises(RuntimeError, match=r"1 entries were built without values.*: 2\.weight$"):
        build_and_fill(build, fill)


def test_constants_are_set_and_drawing_returns() -> None:
    with Undrawn():
        norm = nn.BatchNorm2d(3)
        assert nn.init.normal_(norm.weight, mean=5.0) is norm.weight
        nn.init.constant_(norm.bias, 2.0)
    assert norm.weight.tolist() == [1.0] * 3 and norm.bias.tolist() == [2.0] * 3
    assert nn.Linear(64, 64).weight.std() > 0  # afterwards all is as before


def test_in_inference_mode_a_network_is_loaded_as_well() -> None:
    with torch.inference_mode():
        inside = load_segmentor("mini", device="cpu").network
    assert_equal(inside, load_segmentor("mini", device="cpu").network)
