"""Parts of the network against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from maft.modeling.backbone import build_clip
from maft.modeling.classify import class_log_scores, row_logits
from maft.modeling.grids import cell_centres, sine_positions
from maft.modeling.layers import MLP, NormedConv, mask_pool
from maft.modeling.pixel_decoder.msdeformattn import MSDeformAttnPixelDecoder
from maft.modeling.transfer import ContentDependentTransfer
from maft.modeling.transformer_decoder import MultiScaleMaskedTransformerDecoder


def test_sine_positions_follow_the_formula() -> None:
    height, width, features = 3, 5, 4
    ours = sine_positions(height, width, features)
    assert ours.shape == (2 * features, height, width)
    for row in range(height):
        for column in range(width):
            expected = []
            for place, cells in ((row, height), (column, width)):
                angle = (place + 1) / (cells + 1e-6) * 2 * math.pi
                for pair in range(features // 2):
                    scaled = angle / 10000 ** (2 * pair / features)
                    expected += [math.sin(scaled), math.cos(scaled)]
            assert ours[:, row, column].tolist() == pytest.approx(expected, abs=1e-6)


def test_mask_pool_averages_positive_cells_and_gives_zeros_without_any() -> None:
    features = torch.arange(2 * 3 * 4, dtype=torch.float32).reshape(1, 2, 3, 4)
    masks = torch.full((1, 2, 3, 4), -1.0)
    masks[0, 0, 0, :2] = 3.0
    pooled = mask_pool(features, masks)
    assert pooled[0, 0].tolist() == pytest.approx([0.5, 12.5])
    assert pooled[0, 1].tolist() == [0.0, 0.0]


def test_mask_pool_lets_no_gradient_through_the_masks() -> None:
    features = torch.randn(1, 2, 3, 4, requires_grad=True)
    masks = torch.randn(1, 2, 3, 4, requires_grad=True)
    mask_pool(features, masks).sum().backward()
    assert masks.grad is None and features.grad is not None


def test_plain_logits_take_the_best_synonym() -> None:
    rows = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]]), dim=-1)
    logits = row_logits(torch.tensor([[0.0, 5.0]]), rows, torch.tensor(0.0), (2, 1), None)
    assert logits[0].tolist() == pytest.approx([1.0, math.sqrt(0.5), 0.0])


def test_the_temperature_is_clamped() -> None:
    rows = torch.eye(2)
    assert row_logits(rows[:1], rows, torch.tensor(9.0), (1,), None)[0].tolist() == pytest.approx([100.0, 0.0])


@settings(max_examples=30, deadline=None)
@given(
    attributes=st.integers(1, 4),
    synonyms=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
)
def test_logits_with_reasons_fold_rows_as_stated(attributes: int, synonyms: list[int], seed: int) -> None:
    """A class's rows, read as (K, S) in their order, leave the best of every line; void is the same for all."""
    generator = torch.Generator().manual_seed(seed)
    counts = [attributes * number for number in synonyms]
    rows = F.normalize(torch.randn(sum(counts) + 1, 6, generator=generator), dim=-1)
    x = torch.randn(2, 3, 6, generator=generator)
    scale = torch.tensor(1.5)
    ours = row_logits(x, rows, scale, counts, attributes)
    assert ours.shape == (2, 3, attributes, len(synonyms) + 1)
    flat = scale.exp() * F.normalize(x, dim=-1) @ rows.T
    start = 0
    for index, number in enumerate(synonyms):
        for attribute in range(attributes):
            members = [start + attribute * number + s for s in range(number)]
            torch.testing.assert_close(ours[..., attribute, index], flat[..., members].max(dim=-1).values)
        start += attributes * number
    for attribute in range(attributes):
        torch.testing.assert_close(ours[..., attribute, -1], flat[..., -1])


def test_logits_refuse_rows_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="4 rows for 4 of 1 classes"):
        row_logits(torch.zeros(1, 2), torch.zeros(4, 2), torch.tensor(0.0), (4,), None)
    with pytest.raises(ValueError, match="do not divide"):
        row_logits(torch.zeros(1, 2), torch.zeros(6, 2), torch.tensor(0.0), (5,), 3)


def test_scores_are_probabilities_with_the_void_of_the_decoder() -> None:
    generator = torch.Generator().manual_seed(0)
    decoder, clip = torch.randn(2, 4, 3, 6, generator=generator), torch.randn(2, 4, 3, 6, generator=generator)
    scores = class_log_scores(decoder, clip).exp()
    torch.testing.assert_close(scores.sum(dim=-1), torch.ones(2, 4, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(scores[..., -1], decoder.softmax(dim=-1)[..., -1], atol=1e-6, rtol=0)
    order = scores[..., :-1].argsort(dim=-1)
    assert torch.equal(order, clip[..., :-1].argsort(dim=-1))


@pytest.mark.parametrize("panoptic", [False, True])
def test_the_transfer_normalises_where_the_model_kind_says(panoptic: bool) -> None:
    torch.manual_seed(0)
    transfer = ContentDependentTransfer(16, 2, panoptic=panoptic)
    rows = F.normalize(torch.randn(5, 16), dim=-1)
    changed = transfer(torch.randn(2, 16, 3, 4), rows)
    assert changed.shape == (2, 5, 16)
    if panoptic:
        # Zero weights at the start: the fresh panoptic transfer leaves the rows alone.
        torch.testing.assert_close(changed[0], rows)
    else:
        torch.testing.assert_close(changed.mean(dim=-1), torch.zeros(2, 5), atol=1e-5, rtol=0)


def test_cell_centres_run_through_levels_in_order() -> None:
    centres = cell_centres([(1, 2), (2, 1)])
    assert centres.tolist() == [[0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [0.5, 0.75]]


@pytest.fixture(scope="module")
def decoder() -> MultiScaleMaskedTransformerDecoder:
    torch.manual_seed(0)
    return MultiScaleMaskedTransformerDecoder(
        embed_dim=8, width=32, mask_dim=32, queries=6, layers=4, heads=2, feedforward=16
    ).eval()


def test_the_decoder_gives_one_prediction_or_all_of_them(decoder: MultiScaleMaskedTransformerDecoder) -> None:
    torch.manual_seed(1)
    maps = [torch.randn(2, 32, *size) for size in ((2, 3), (4, 6), (8, 12))]
    features = torch.randn(2, 32, 16, 24)
    (last,) = decoder(maps, features)
    every = decoder(maps, features, every_layer=True)
    assert len(every) == 5 and all(output.class_embeddings is not None for output in every)
    assert last.mask_logits.shape == (2, 6, 16, 24) and last.class_embeddings.shape == (2, 6, 8)
    torch.testing.assert_close(last.mask_logits, every[-1].mask_logits)
    torch.testing.assert_close(last.class_embeddings, every[-1].class_embeddings)


def test_a_query_whose_mask_forbids_everything_looks_everywhere() -> None:
    features = torch.full((1, 2, 2, 2), -5.0)
    features[0, 1, 0, 0] = 5.0
    forbidden = MultiScaleMaskedTransformerDecoder._forbidden(torch.eye(2)[None], features)
    assert forbidden[0].tolist() == [[False] * 4, [False, True, True, True]]


@pytest.mark.parametrize("size", [(8, 10), (7, 5), (16, 20)])
def test_attention_masks_are_those_of_the_resized_full_size_masks(size: tuple[int, int]) -> None:
    """Resizing features and then multiplying equals multiplying and then resizing, but for rounding at the edge."""
    generator = torch.Generator().manual_seed(3)
    embeddings = torch.randn(2, 5, 6, generator=generator, dtype=torch.float64)
    features = torch.randn(2, 6, 32, 40, generator=generator, dtype=torch.float64)
    logits = torch.einsum("bqc,bchw->bqhw", embeddings, features)
    masks = F.interpolate(logits, size=size, mode="bilinear", align_corners=False).flatten(2)
    resized = F.interpolate(features, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(torch.einsum("bqc,bcn->bqn", embeddings, resized.flatten(2)), masks)
    assert torch.equal(MultiScaleMaskedTransformerDecoder._forbidden(embeddings, resized), masks < 0)


def test_the_decoder_refuses_mask_features_of_another_width() -> None:
    with pytest.raises(ValueError, match="adds pooled mask features"):
        MultiScaleMaskedTransformerDecoder(embed_dim=8, width=32, mask_dim=16)


def test_the_pixel_decoder_wants_one_fine_and_three_coarse_features() -> None:
    with pytest.raises(ValueError, match="three for its encoder"):
        MSDeformAttnPixelDecoder({"res3": 8, "res4": 8, "res5": 8})


def test_small_layers() -> None:
    assert MLP(3, 5, 2)(torch.zeros(4, 3)).shape == (4, 2)
    conv = NormedConv(8, 32, 3, relu=True)
    out = conv(torch.randn(2, 8, 5, 7))
    assert out.shape == (2, 32, 5, 7) and bool((out >= 0).all())


@pytest.mark.parametrize(("name", "words"), [("no_such_clip", "knows"), ("ViT-B-32", "no ConvNeXt")])
def test_other_architectures_are_refused(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_clip(name)
