"""Results from scores and masks, against hand-computed ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from maft import inference


def log_scores(probabilities: list[list[float]]) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def test_class_maps_sum_class_probabilities_over_masks() -> None:
    scores = log_scores([[0.7, 0.1, 0.2], [0.2, 0.6, 0.2]])
    masks = torch.logit(torch.tensor([[[0.9, 0.5]], [[0.1, 0.5]]]))
    maps = inference.class_maps(scores, lambda: masks, None, 2, (1, 2)).scores()
    assert maps[0, 0].tolist() == pytest.approx([0.7 * 0.9 + 0.2 * 0.1, 0.7 * 0.5 + 0.2 * 0.5])
    assert maps[1, 0].tolist() == pytest.approx([0.1 * 0.9 + 0.6 * 0.1, 0.1 * 0.5 + 0.6 * 0.5])


@settings(max_examples=25, deadline=None)
@given(
    queries=st.integers(1, 5),
    attributes=st.integers(1, 3),
    classes=st.integers(1, 70),
    extra=st.integers(0, 4),
    size=st.sampled_from([(5, 11), (6, 7), (3, 4)]),
    seed=st.integers(0, 10_000),
)
def test_class_maps_equal_the_definition(
    queries: int, attributes: int, classes: int, extra: int, size: tuple[int, int], seed: int
) -> None:
    """Attribute by attribute, whole maps first, then scattered, cropped and resized: the order of docs/numerics.md."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(queries, attributes, classes + 1, generator=generator).log_softmax(dim=-1)
    masks = torch.randn(queries, 8, 9, generator=generator)
    vocabulary = classes + extra
    index = torch.randperm(vocabulary, generator=generator)[:classes].sort().values.tolist()
    ours = inference.class_maps(scores, lambda: masks[:, :6, :7], index, vocabulary, size).scores()
    by_attribute = [
        torch.einsum("qc,qhw->chw", scores[:, k].softmax(dim=-1)[:, :-1], masks.sigmoid()) for k in range(attributes)
    ]
    full = torch.zeros(vocabulary, 8, 9)
    full[index] = torch.stack(by_attribute).mean(dim=0)
    expected = F.interpolate(full[None, :, :6, :7], size=size, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_scatter_puts_covered_classes_in_their_places() -> None:
    values = torch.tensor([[1.0, 2.0]])
    assert inference.scatter_classes(values, (3, 1), 5, dim=1).tolist() == [[0.0, 2.0, 0.0, 1.0, 0.0]]
    assert inference.scatter_classes(values, None, 2, dim=1) is values


def test_upsampled_masks_are_resized_cropped_and_resized() -> None:
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    ours = inference.upsampled(logits, padded_size=(16, 20), image_size=(13, 18), size=(9, 30))
    full = F.interpolate(logits[None], size=(16, 20), mode="bilinear", align_corners=False)[:, :, :13, :18]
    expected = F.interpolate(full, size=(9, 30), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(inference.upsampled(logits, (16, 20), (13, 18)), full[0], atol=1e-6, rtol=1e-5)


def test_only_masks_that_count_are_resized() -> None:
    scores = log_scores([[0.9, 0.05, 0.03, 0.02], [0.02, 0.03, 0.05, 0.9], [0.05, 0.9, 0.03, 0.02]])
    masks = [rectangle(EVERYWHERE, columns) for columns in (slice(0, 3), EVERYWHERE, slice(3, 6))]
    seen: list[int] = []

    def enlarge(maps: torch.Tensor) -> torch.Tensor:
        seen.append(len(maps))
        return maps.repeat_interleave(2, dim=1)

    ids, segments = panoptic(scores, masks, resize=enlarge)
    assert seen == [2] and ids.shape == (8, 6)
    assert [segment["category_id"] for segment in segments] == [0, 1]
    assert ids.tolist() == [[1, 1, 1, 2, 2, 2]] * 8
    nothing, none = panoptic(log_scores([[0.1, 0.1, 0.1, 0.7]]), [masks[0]], resize=enlarge)
    assert nothing.shape == (8, 6) and not nothing.any() and none == []


def rectangle(rows: slice, columns: slice, logit: float = 6.0) -> torch.Tensor:
    mask = torch.full((4, 6), -6.0)
    mask[rows, columns] = logit
    return mask


EVERYWHERE = slice(None)


def panoptic(scores: torch.Tensor, masks: list[torch.Tensor], **options: object):  # type: ignore[no-untyped-def]
    settings_: dict = {"object_mask_threshold": 0.2, "overlap_threshold": 0.7, "class_index": None, "num_classes": 3}
    settings_ |= options
    index, number = settings_.pop("class_index"), settings_.pop("num_classes")
    return inference.panoptic_segments(scores, torch.stack(masks), index, number, {0}, **settings_)


def test_things_stay_apart_and_stuff_is_merged() -> None:
    thing, stuff = [0.8, 0.1, 0.05, 0.05], [0.1, 0.8, 0.05, 0.05]
    scores = log_scores([thing, thing, stuff, stuff])
    upper, lower = slice(0, 2), slice(2, 4)
    masks = [
        rectangle(upper, slice(0, 2)),
        rectangle(upper, slice(2, 4)),
        rectangle(lower, slice(0, 3)),
        rectangle(lower, slice(3, 6)),
    ]
    ids, segments = panoptic(scores, masks)
    assert segments == [
        {"id": 1, "isthing": True, "category_id": 0},
        {"id": 2, "isthing": True, "category_id": 0},
        {"id": 3, "isthing": False, "category_id": 1},
    ]
    assert ids.dtype == torch.int32
    assert ids.tolist() == [[1, 1, 2, 2, 0, 0], [1, 1, 2, 2, 0, 0], [3] * 6, [3] * 6]


def test_a_covered_query_and_an_unsure_one_are_dropped() -> None:
    scores = log_scores([[0.9, 0.05, 0.03, 0.02], [0.02, 0.5, 0.03, 0.45], [0.19, 0.19, 0.19, 0.43]])
    masks = [rectangle(EVERYWHERE, columns) for columns in (slice(0, 4), slice(1, 5), EVERYWHERE)]
    ids, segments = panoptic(scores, masks)
    assert segments == [{"id": 1, "isthing": True, "category_id": 0}]
    assert ids[:, :4].unique().tolist() == [1] and ids[:, 4:].unique().tolist() == [0]
    _, kept = panoptic(scores, masks, overlap_threshold=0.2)
    assert [segment["category_id"] for segment in kept] == [0, 1]


def test_without_reasons_a_void_query_is_dropped_even_if_a_class_passes_the_threshold() -> None:
    scores = log_scores([[0.4, 0.05, 0.05, 0.5]])
    masks = [rectangle(EVERYWHERE, EVERYWHERE)]
    assert panoptic(scores, masks)[1] == []
    # With reasons the reference drops void before the maximum: the same numbers leave a segment.
    assert panoptic(scores[:, None, :], masks)[1] == [{"id": 1, "isthing": True, "category_id": 0}]


def test_generic_reasons_cover_all_classes_where_the_reference_crashes() -> None:
    scores = log_scores([[0.1, 0.1, 0.7, 0.1]])[:, None, :].expand(-1, 3, -1)
    ids, segments = panoptic(scores, [rectangle(EVERYWHERE, EVERYWHERE)])
    assert segments == [{"id": 1, "isthing": False, "category_id": 2}] and ids.unique().tolist() == [1]


def test_image_specific_classes_are_mapped_to_the_vocabulary() -> None:
    scores = log_scores([[0.1, 0.8, 0.1]])[:, None, :]
    _, segments = panoptic(scores, [rectangle(EVERYWHERE, EVERYWHERE)], class_index=(1, 4), num_classes=6)
    assert segments == [{"id": 1, "isthing": False, "category_id": 4}]


def test_nothing_kept_gives_an_empty_result() -> None:
    ids, segments = panoptic(log_scores([[0.1, 0.1, 0.1, 0.7]]), [rectangle(EVERYWHERE, EVERYWHERE)])
    assert segments == [] and ids.unique().tolist() == [0]


def test_instances_are_the_best_countable_pairs() -> None:
    scores = log_scores([[0.6, 0.2, 0.1, 0.1], [0.3, 0.5, 0.1, 0.1]])
    masks = torch.stack([rectangle(slice(0, 2), EVERYWHERE), rectangle(slice(2, 4), EVERYWHERE, 1.0)])
    found = inference.instances(scores, masks, None, 3, {0, 2}, top=4)
    assert found["classes"].tolist() == [0, 0]
    inside = torch.sigmoid(torch.tensor([6.0, 1.0])).tolist()
    assert found["scores"].tolist() == pytest.approx([0.6 * inside[0], 0.3 * inside[1]], rel=1e-5)
    assert found["masks"][0].tolist() == (masks[0] > 0).tolist()


def test_instances_with_image_specific_reasons_give_covered_classes_only() -> None:
    scores = log_scores([[0.5, 0.4, 0.1]])[:, None, :]
    masks = rectangle(EVERYWHERE, EVERYWHERE)[None]
    found = inference.instances(scores, masks, (1, 4), 6, {0, 4, 5}, top=100)
    assert found["classes"].tolist() == [4]
