"""Greedy answers of the network under training, many images at once, and how often they are right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from reason.jsonfile import JsonError, parse_json

from ..world import NEW
from .examples import Scribe, evaluated_list
from .looks import GRID, Look, read_description
from .network import EMBEDDING, Shape, Weights, patches, positions, read, see
from .pictures import Pictures
from .training import normalised, prefix, renamed

_LONGEST = 160


@torch.inference_mode()
def describe(
    weights: Weights, shape: Shape, scribe: Scribe, tokenizer: Any, pixels: np.ndarray[Any, Any], *, whole: bool
) -> list[list[Look]]:
    """What the network says of images under LOOK, with the validation's vocabulary.

    Args:
        weights: in the dtype of the arithmetic.
        shape: of the network.
        scribe: writes the question.
        tokenizer: reads the answer.
        pixels: (B, 252, 252, 3) uint8.
        whole: with the system turn of run time; else the list of classes alone.
    """
    system, length = prefix(weights, shape, scribe.system(evaluated_list().listed, whole=whole))
    tokens = see(weights, shape, patches(normalised(pixels)).to(weights[EMBEDDING].dtype))
    asked = scribe.asking()
    embedded = F.embedding(torch.tensor([asked] * len(pixels)), weights[EMBEDDING])
    embedded[:, scribe.image_at : scribe.image_at + GRID**2] = tokens
    past = [tuple(part.expand(len(pixels), -1, -1, -1) for part in pair) for pair in system]
    places = positions(length, scribe.image_at, len(asked) + _LONGEST)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    said = torch.zeros(len(pixels), 0, dtype=torch.int64)
    at = len(asked)
    new = embedded
    first = 0
    while said.shape[1] < _LONGEST and not (said == end).any(dim=1).all():
        hidden, made = read(weights, shape, new, places[:, first : first + new.shape[1]], past)  # type: ignore[arg-type]
        past = [
            tuple(torch.cat(pair, dim=2) for pair in zip(old, late, strict=True))
            for old, late in zip(past, made, strict=True)
        ]
        first, at = first + new.shape[1], at + 1
        best = F.linear(hidden[:, -1], weights[EMBEDDING]).argmax(dim=-1, keepdim=True)
        said = torch.cat((said, best), dim=1)
        new = F.embedding(best, weights[EMBEDDING])
    return [_parsed(tokenizer, row, end) for row in said]


def _parsed(tokenizer: Any, row: Tensor, end: int) -> list[Look]:
    ids = row.tolist()
    text = tokenizer.decode(ids[: ids.index(end)] if end in ids else ids)
    try:
        value = parse_json(text)
    except JsonError:
        return []
    return read_description(str(value.get("description", ""))) if isinstance(value, dict) else []


def judge(said: Sequence[Sequence[Look]], true: Sequence[Sequence[Look]]) -> dict[str, float]:
    """How good descriptions are.

    Args:
        said: what the network says of each image.
        true: what is there, under the names of the vocabulary.

    Returns:
        "recall" and "precision" of the names of an image, "new" and "known" recall apart; "phrases": the part of the
            things and grounds of which all is right, place included within one cell, "phrases new"; and of the things
            found at their place the part of right values per axis.
    """
    new = {kind.name for kind in NEW}
    counts: Counter[str] = Counter()
    for looks, there in zip(said, true, strict=True):
        names, wanted = {look.name for look in looks} - {"unknown"}, {look.name for look in there}
        counts["named"] += len(names)
        counts["named right"] += len(names & wanted)
        for group, members in (("new", wanted & new), ("known", wanted - new)):
            counts[group] += len(members)
            counts[f"{group} found"] += len(members & names)
        for look in there:
            group = "new" if look.name in new else "known"
            match = next((one for one in looks if _same_place(one, look)), None)
            counts[f"phrases {group}"] += 1
            counts[f"phrases {group} right"] += match is not None and match.attributes == look.attributes
            if match is not None:
                for axis, value in look.attributes.items():
                    name = f"{'thing' if look.thing else 'stuff'} {axis}"
                    counts[name] += 1
                    counts[f"{name} right"] += match.attributes[axis] == value
    found = counts["new found"] + counts["known found"]
    figures = {
        "recall": found / max(1, counts["new"] + counts["known"]),
        "precision": counts["named right"] / max(1, counts["named"]),
        "new": counts["new found"] / max(1, counts["new"]),
        "known": counts["known found"] / max(1, counts["known"]),
    }
    for name in sorted(counts):
        if f"{name} right" in counts and name != "named":
            figures[name] = counts[f"{name} right"] / counts[name]
    return figures


def look_figures(
    weights: Weights, shape: Shape, scribe: Scribe, tokenizer: Any, pictures: Pictures, *, whole: bool
) -> dict[str, float]:
    """`judge` on images as validation has them."""
    said: list[list[Look]] = []
    for start in range(0, len(pictures), 40):
        pixels = np.asarray(pictures.pixels[start : start + 40])
        said += describe(weights, shape, scribe, tokenizer, pixels, whole=whole)
    names = evaluated_list().names
    return judge(said, [renamed(looks, names) for looks in pictures.looks])


def _same_place(one: Look, other: Look) -> bool:
    if one.thing != other.thing:
        return False
    if one.cell is None or other.cell is None:
        return (
            one.attributes["color"] == other.attributes["color"]
            or one.attributes["pattern"] == other.attributes["pattern"]
        )
    return max(abs(a - b) for a, b in zip(one.cell, other.cell, strict=True)) <= 1
