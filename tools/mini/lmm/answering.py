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
from .looks import GRID, UNKNOWN, VAL_NAMES, Look, paired, read_description, renamed
from .network import EMBEDDING, Shape, Weights, patches, positions, read, see
from .pictures import Pictures
from .training import normalised, prefix

_LONGEST = 160


@torch.inference_mode()
def describe(
    weights: Weights, shape: Shape, scribe: Scribe, tokenizer: Any, pixels: np.ndarray[Any, Any]
) -> list[list[Look]]:
    """What the network says of images under LOOK, with the validation's vocabulary and the system turn of run time.

    Args:
        weights: in the dtype of the arithmetic.
        shape: of the network.
        scribe: writes the question.
        tokenizer: reads the answer.
        pixels: (B, 252, 252, 3) uint8.
    """
    system, length = prefix(weights, shape, scribe.system(evaluated_list().listed, whole=True))
    tokens = see(weights, shape, patches(normalised(pixels)).to(weights[EMBEDDING].dtype))
    asked = scribe.asking()
    embedded = F.embedding(torch.tensor([asked] * len(pixels)), weights[EMBEDDING])
    embedded[:, scribe.image_at : scribe.image_at + GRID**2] = tokens
    past = [tuple(part.expand(len(pixels), -1, -1, -1) for part in pair) for pair in system]
    places = positions(length, scribe.image_at, len(asked) + _LONGEST)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    said = torch.zeros(len(pixels), 0, dtype=torch.int64)
    new = embedded
    first = 0
    while said.shape[1] < _LONGEST and not (said == end).any(dim=1).all():
        hidden, made = read(weights, shape, new, places[:, first : first + new.shape[1]], past)  # type: ignore[arg-type]
        past = [
            tuple(torch.cat(pair, dim=2) for pair in zip(old, late, strict=True))
            for old, late in zip(past, made, strict=True)
        ]
        first += new.shape[1]
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
        "recall" and "precision" of the names of an image, "new" and "known" recall apart; "phrases known" and "phrases
            new": the part of the things and grounds of which all is right, a thing's place within one cell; and of what
            is said about a place the part of right values per axis.
    """
    new = {kind.name for kind in NEW}
    counts: Counter[str] = Counter()
    for looks, there in zip(said, true, strict=True):
        names, wanted = {look.name for look in looks} - {UNKNOWN}, {look.name for look in there}
        counts["named"] += len(names)
        counts["named right"] += len(names & wanted)
        for group, members in (("new", wanted & new), ("known", wanted - new)):
            counts[group] += len(members)
            counts[f"{group} found"] += len(members & names)
        for look, match in zip(there, paired(looks, there), strict=True):
            group = "new" if look.name in new else "known"
            counts[f"phrases {group}"] += 1
            if match is not None:
                counts[f"phrases {group} right"] += match.attributes == look.attributes
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
    weights: Weights, shape: Shape, scribe: Scribe, tokenizer: Any, pictures: Pictures
) -> dict[str, float]:
    """`judge` on images as validation has them."""
    said: list[list[Look]] = []
    for start in range(0, len(pictures), 40):
        pixels = np.asarray(pictures.pixels[start : start + 40])
        said += describe(weights, shape, scribe, tokenizer, pixels)
    return judge(said, [renamed(looks, VAL_NAMES) for looks in pictures.looks])
