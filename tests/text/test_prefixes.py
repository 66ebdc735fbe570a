"""The tree of shared beginnings, against a dictionary of them."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maft.text.prefixes import prefix_tree

END = 9
SEQUENCES = st.lists(st.lists(st.integers(1, 3), max_size=6), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(bodies=SEQUENCES)
def test_every_beginning_is_one_node(bodies: list[list[int]]) -> None:
    length = 8
    rows = sorted([*body, END] + [0] * (length - len(body) - 1) for body in bodies)
    tokens = torch.tensor(rows)
    ends = tokens.argmax(dim=1)
    tree = prefix_tree(tokens, ends)
    lasts = ends.tolist()
    beginnings = {tuple(row[: place + 1]) for row, end in zip(rows, lasts, strict=True) for place in range(end + 1)}
    assert len(tree.opened_at) == len(beginnings)
    opened = {}
    for number, position in enumerate(tree.opened_at.tolist()):
        row, place = divmod(position, length)
        opened[number] = tuple(rows[row][: place + 1])
    assert set(opened.values()) == beginnings
    for row, end in enumerate(lasts):
        for place in range(end + 1):
            assert opened[int(tree.node[row, place])] == tuple(rows[row][: place + 1])
