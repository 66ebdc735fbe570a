"""Class maps as far as they are asked for, against all of them at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from maft.class_maps import ClassMaps


def of(value: Tensor) -> Callable[[], Tensor]:
    return lambda: value


def all_maps(fields: Tensor, mixture: Tensor | None, covered: list[int], classes: int, size: tuple[int, int]) -> Tensor:
    """The definition: mix, spread over the vocabulary, resize."""
    mixed = fields if mixture is None else torch.einsum("cn,nhw->chw", mixture, fields)
    maps = torch.zeros(classes, *fields.shape[-2:], dtype=fields.dtype)
    maps[covered] = mixed
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


@settings(max_examples=60, deadline=None)
@given(
    fields=st.integers(1, 6),
    classes=st.integers(1, 150),
    uncovered=st.integers(0, 3),
    mixed=st.booleans(),
    size=st.sampled_from([(6, 7), (4, 5), (9, 8), (2, 20), (60, 90)]),
    seed=st.integers(0, 10_000),
)
def test_labels_and_scores_equal_the_definition(
    fields: int, classes: int, uncovered: int, mixed: bool, size: tuple[int, int], seed: int
) -> None:
    """Whole numbers make ties common; of equal classes, the first one counts, whether it is covered or not."""
    generator = torch.Generator().manual_seed(seed)
    number = fields if mixed else classes
    # Small multiples of powers of two are exact in every order of summation.
    maps = torch.randint(0, 3, (number, 6, 7), generator=generator).float()
    mixture = torch.randint(0, 2, (classes, fields), generator=generator).float() if mixed else None
    vocabulary = classes + uncovered
    covered = torch.randperm(vocabulary, generator=generator)[:classes].sort().values.tolist()
    ours = ClassMaps(of(maps), mixture, covered, vocabulary, size)
    expected = all_maps(maps, mixture, covered, vocabulary, size)
    torch.testing.assert_close(ours.scores(), expected, atol=1e-5, rtol=1e-5)
    labels = ours.labels()
    assert labels.dtype == torch.int64 and tuple(labels.shape) == size and ours.shape == (vocabulary, *size)
    if size == (6, 7):
        assert torch.equal(labels, expected.argmax(dim=0))
    # Resized, equal classes may differ by rounding: the label's score is the best one, and no equal map comes first.
    best = expected.max(dim=0).values
    torch.testing.assert_close(expected.gather(0, labels[None])[0], best, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(12, 9), (40, 30)])
def test_of_classes_with_the_same_rows_the_first_wins(size: tuple[int, int]) -> None:
    """A block of classes and a strip of pixels end somewhere: equal rows must give equal scores on both sides."""
    generator = torch.Generator().manual_seed(3)
    fields = torch.rand(100, 20, 15, generator=generator)
    rows = torch.rand(70, 100, generator=generator)
    mixture = torch.cat((rows, rows, rows))
    labels = ClassMaps(of(fields), mixture, None, len(mixture), size).labels()
    assert int(labels.max()) < len(rows) and labels.unique().numel() > 5


def test_scores_of_some_classes_are_rows_of_all() -> None:
    fields, mixture = torch.rand(4, 6, 7), torch.rand(3, 4)
    maps = ClassMaps(of(fields), mixture, [1, 2, 5], 6, (9, 9))
    torch.testing.assert_close(maps.scores([5, 0, 1]), maps.scores()[[5, 0, 1]])
    assert maps.scores([0]).eq(0).all() and maps.scores([]).shape == (0, 9, 9)


def test_nothing_is_computed_before_it_is_asked_for_and_once_then() -> None:
    calls = []

    def fields() -> Tensor:
        calls.append(1)
        return torch.rand(2, 3, 3)

    maps = ClassMaps(fields, torch.rand(4, 2), None, 4, (3, 3))
    assert maps.shape == (4, 3, 3) and not calls
    maps.labels()
    maps.scores([0])
    assert len(calls) == 1


def test_scores_keep_float32_under_autocast() -> None:
    fields, mixture = torch.rand(8, 5, 5), torch.rand(3, 8)
    expected = ClassMaps(of(fields), mixture, None, 3, (5, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = ClassMaps(of(fields), mixture, None, 3, (5, 5))
        assert torch.equal(ours.scores(), expected.scores()) and torch.equal(ours.labels(), expected.labels())


def test_fields_are_kept_for_the_next_question() -> None:
    """They are made once per size, and the results stay; of another size, and above the bound, they are made anew."""
    made: list[int] = []

    def fields() -> torch.Tensor:
        made.append(1)
        return torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))

    kept: dict[tuple[int, int], torch.Tensor] = {}
    for seed in (1, 2):
        mixture = torch.rand(4, 3, generator=torch.Generator().manual_seed(seed))
        first = ClassMaps(fields, mixture, None, 4, (5, 7))
        again = ClassMaps(fields, mixture, None, 4, (5, 7), kept)
        assert torch.equal(first.labels(), again.labels()) and torch.equal(first.scores(), again.scores())
    assert len(made) == 3 and set(kept) == {(5, 7)}
    ClassMaps(fields, mixture, None, 4, (6, 6), kept).labels()
    assert len(made) == 4 and set(kept) == {(6, 6)}
