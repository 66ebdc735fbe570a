"""Embeddings against classifier rows: the logits of a vocabulary, with and without reasons."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_LOGIT_SCALE = 100.0
"""CLIP's bound on the exponential of its temperature."""


def row_logits(
    embeddings: Tensor, rows: Tensor, logit_scale: Tensor, rows_per_class: Sequence[int], attributes: int | None
) -> Tensor:
    """Scaled cosine-like similarity of embeddings with the rows, folded into classes (docs/numerics.md, "Logits").

    Args:
        embeddings: (..., E), of any length; L2-normalised here.
        rows: (sum(rows_per_class) + 1, E), or (B, sum(rows_per_class) + 1, E) for (B, Q, E) embeddings; used as they
            are; the last one stands for void.
        logit_scale: logarithm of the temperature, a scalar.
        rows_per_class: how many consecutive rows belong to each of the C classes.
        attributes: None: plain class names, a class scores its best row. K: a class's rows are read as (K, rows / K)
            in their order and the best of every line counts, so that K values remain.

    Returns:
        (..., C + 1) where `attributes` is None, otherwise (..., K, C + 1); void last, equal for all attributes.

    Raises:
        ValueError: the number of rows does not fit rows_per_class, or a class's rows do not divide by K.
    """
    if rows.shape[-2] != sum(rows_per_class) + 1:
        raise ValueError(f"{rows.shape[-2]} rows for {sum(rows_per_class)} of {len(rows_per_class)} classes and void")
    scale = logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
    similarity = scale * F.normalize(embeddings, dim=-1) @ rows.mT
    if attributes is None and all(count == 1 for count in rows_per_class):
        return similarity
    *of_classes, void = similarity.split([*rows_per_class, 1], dim=-1)
    if attributes is None:
        return torch.cat([of_class.amax(dim=-1, keepdim=True) for of_class in of_classes] + [void], dim=-1)
    if any(count % attributes for count in rows_per_class):
        raise ValueError(f"rows a class {tuple(rows_per_class)} do not divide by {attributes} attributes")
    folded = [of_class.unflatten(-1, (attributes, -1)).amax(dim=-1) for of_class in of_classes]
    return torch.stack([*folded, void.expand(*void.shape[:-1], attributes)], dim=-1)


def class_log_scores(decoder_logits: Tensor, clip_logits: Tensor) -> Tensor:
    """The scores that results are made of (docs/numerics.md, "Scores").

    The decoder only says how likely a query is void; which class it is, CLIP says.

    Args:
        decoder_logits, clip_logits: (..., C + 1), void last.

    Returns:
        (..., C + 1): logarithms of probabilities that sum to one, void last.
    """
    void = decoder_logits.softmax(dim=-1)[..., -1:]
    classes = clip_logits[..., :-1].softmax(dim=-1) * (1.0 - void)
    return torch.log(torch.cat((classes, void), dim=-1) + 1e-8)
