"""Which images each step sees: every one once an epoch, the same from any step on, for any number of processes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maft.training.order import BatchOrder, RankBatches, Stream, generator, portraits, torch_seed


def test_an_epoch_has_every_image_once_in_an_order_of_its_own() -> None:
    order = BatchOrder(10, 4, seed=3)
    stream = [index for number in range(10) for index in order(number)]  # four epochs, across batches
    epochs = [stream[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert [BatchOrder(10, 4, seed=3)(number) for number in (7, 2)] == [order(7), order(2)]
    assert BatchOrder(10, 4, seed=4)(0) != order(0)


def test_a_batch_may_be_larger_than_the_data_set() -> None:
    assert Counter(BatchOrder(3, 7, seed=0)(0)).most_common(1)[0][1] == 3
    with pytest.raises(ValueError, match="0 images"):
        BatchOrder(0, 2, seed=0)


def test_portraits_and_landscapes_apart() -> None:
    portrait = [index % 3 == 0 for index in range(31)]
    order = BatchOrder(31, 4, seed=1, portrait=portrait)
    mixed, seen = 0, Counter()
    for epoch in range(20):
        batches = [order(epoch * 7 + place) for place in range(7)]
        assert len({index for batch in batches for index in batch}) == 28
        mixed += sum(len({portrait[index] for index in batch}) == 2 for batch in batches)
        seen.update(index for batch in batches for index in batch)
    assert mixed <= 20, "one batch an epoch at most"
    assert len(seen) == 31 and min(seen.values()) > 10, "what is left out changes from epoch to epoch"


def test_processes_share_what_one_would_see() -> None:
    order = BatchOrder(11, 2, seed=5)
    alone = RankBatches(BatchOrder(11, 4, seed=5), first=3, last=9)
    shared = [RankBatches(order, first=3, last=9, rank=rank, world=2) for rank in range(2)]
    assert len(alone) == 6
    for together, *parts in zip(alone, *shared, strict=True):
        assert together == [item for part in parts for item in part]
    accumulated = RankBatches(order, first=3, last=9, accumulate=2)
    assert [item for batch in accumulated for item in batch] == [item for batch in alone for item in batch]


def test_a_run_continues_with_what_would_have_come() -> None:
    order = BatchOrder(7, 3, seed=0)
    whole = list(RankBatches(order, first=0, last=8))
    assert list(RankBatches(order, first=5, last=8)) == whole[5:]


def test_random_numbers_of_their_own() -> None:
    drawn = {generator(1, stream, number).random() for stream in Stream for number in range(5)}
    assert len(drawn) == 15 and generator(1, Stream.IMAGE, 2).random() in drawn
    assert len({torch_seed(seed, number) for seed in (1, 2) for number in range(10)}) == 20


def test_portraits_by_record_or_file(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 4, 3), np.uint8)).save(tmp_path / "high.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    records = [
        {"file_name": str(tmp_path / "high.png")},
        {"file_name": "unread.png", "height": 3, "width": 4},
        {"file_name": str(tmp_path / "broken.png")},
    ]
    assert portraits(records) == [True, False, False]
