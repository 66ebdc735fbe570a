"""Positions and reference points are computed once a size, and are the same to the bit ever after."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from maft import build
from maft.modeling import grids
from maft.modeling.grids import KEPT, Kept, cell_centres, sine_positions
from maft.modeling.maft_plus import MAFTPlus
from maft.weights.seeding import seed_module

DEVICE = torch.device("cpu")


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    KEPT.clear()
    yield
    KEPT.clear()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was computed, in order."""
    calls: list[object] = []
    sines, centres = grids._sine_positions, grids._cell_centres

    def noted_sines(*size: object) -> torch.Tensor:
        calls.append(size)
        return sines(*size)

    def noted_centres(*sizes: object) -> torch.Tensor:
        calls.append(sizes)
        return centres(*sizes)

    monkeypatch.setattr(grids, "_sine_positions", noted_sines)
    monkeypatch.setattr(grids, "_cell_centres", noted_centres)
    return calls


def network() -> MAFTPlus:
    found = seed_module(build.build_network("mini"))
    assert isinstance(found, MAFTPlus)
    return found


def image(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_images_of_one_size_share_their_grids(made: list[object]) -> None:
    model = network()
    with torch.inference_mode():
        first = model.look([image(64, 96)])[0].regions
        # Three levels, which pixel decoder and decoder share, and the centres of all of them.
        assert len(made) == len(set(made)) == 4
        again = model.look([image(64, 96)])[0].regions
        assert len(made) == 4
        model.look([image(96, 64)])
        assert len(made) == 8
    assert torch.equal(first.mask_logits, again.mask_logits)
    assert torch.equal(first.class_embeddings, again.class_embeddings)


def test_kept_values_are_those_computed() -> None:
    for _ in range(2):
        kept = sine_positions(5, 7, 8)
        assert torch.equal(kept, grids._sine_positions(5, 7, 8, DEVICE)) and kept.is_contiguous()
        assert torch.equal(cell_centres([(2, 3), (4, 6)]), grids._cell_centres(((2, 3), (4, 6)), DEVICE))
    assert sine_positions(5, 7, 8) is kept
    assert sine_positions(7, 5, 8) is not kept and sine_positions(5, 7, 16) is not kept
    assert sine_positions(5, 7, 8, "meta").is_meta


def test_what_an_inference_leaves_serves_a_training_and_bfloat16() -> None:
    model = network()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        low = model.look([image(64, 64)])[0].regions.mask_logits
    outcomes = []
    for clear in (False, True):
        if clear:
            KEPT.clear()
        model.zero_grad()
        pixels = model.pad(image(64, 64))[None]
        model.find_regions(pixels).mask_logits.square().mean().backward()
        gradient = model.sem_seg_head.pixel_decoder.transformer.level_embed.grad
        assert gradient is not None and gradient.abs().sum() > 0
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            outcomes.append((gradient.clone(), model.look([image(64, 64)])[0].regions.mask_logits))
    assert torch.equal(outcomes[0][0], outcomes[1][0])
    assert torch.equal(outcomes[0][1], outcomes[1][1]) and torch.equal(outcomes[0][1], low)
    assert sine_positions(2, 2, 4).dtype == torch.float32


def test_memory_is_bounded_and_the_last_asked_for_stay() -> None:
    kept = Kept(most=100 * 4)
    made = [kept.get(size, lambda size=size: torch.zeros(size)) for size in (40, 50)]
    assert kept.get(40, lambda: torch.ones(40)) is made[0]
    kept.get(30, lambda: torch.zeros(30))
    assert kept.bytes == 70 * 4
    assert kept.get(40, lambda: torch.ones(40)) is made[0]  # 50 was asked for longest ago
    assert kept.get(50, lambda: torch.ones(50))[0] == 1
    large = kept.get(101, lambda: torch.zeros(101))
    assert len(large) == 101 and kept.bytes <= 400
