"""From scores and masks to results: pure functions on one image (docs/numerics.md, "Results").

Shapes: Q queries, K attributes, C covered classes, V classes of the vocabulary. With plain class names C is V and there
is no K; with image-specific reasons the covered classes are those that the reasons name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, MutableMapping, Sequence
from typing import TypedDict

import torch
from torch import Tensor

from maft.class_maps import ClassMaps, resized_maps


class Segment(TypedDict):
    """One segment of a panoptic result, as detectron2 names its fields."""

    id: int
    isthing: bool
    category_id: int


def upsampled(
    mask_logits: Tensor, padded_size: Sequence[int], image_size: Sequence[int], size: Sequence[int] | None = None
) -> Tensor:
    """Mask logits at the size of the network's input without its padding, and from there at that of the result.

    Args:
        mask_logits: (N, h, w) of the padded input.
        padded_size, image_size: (height, width) of the network's input with and without padding.
        size: (height, width) of the result; None stays at `image_size`.

    Returns:
        (N, *size), channels last in memory.
    """
    cropped = resized_maps(mask_logits, padded_size)[:, : image_size[0], : image_size[1]]
    return cropped if size is None else resized_maps(cropped, size)


def scatter_classes(values: Tensor, class_index: Sequence[int] | None, num_classes: int, dim: int) -> Tensor:
    """Spread the covered classes over the vocabulary; classes that are not covered get zeros.

    Args:
        values: any shape with C at `dim`.
        class_index: the C covered classes in the vocabulary, or None where all are covered.
        num_classes: V.
        dim: the axis of the classes.
    """
    if class_index is None:
        return values
    shape = list(values.shape)
    shape[dim] = num_classes
    index = torch.as_tensor(class_index, device=values.device)
    return values.new_zeros(shape).index_copy_(dim, index, values)


def class_maps(
    log_scores: Tensor,
    mask_logits: Callable[[], Tensor],
    class_index: Sequence[int] | None,
    num_classes: int,
    size: tuple[int, int],
    kept: MutableMapping[tuple[int, int], Tensor] | None = None,
) -> ClassMaps:
    """Class maps: every query spreads its class probabilities over its mask.

    Args:
        log_scores: (Q, K, C + 1) or (Q, C + 1), void last.
        mask_logits: gives (Q, H, W) of the image without padding.
        class_index, num_classes: see `scatter_classes`; class_index ascending.
        size: (height, width) of the result.
        kept: where the masks at that size are kept for the image's next class maps; None for nowhere.
    """
    probabilities = log_scores.softmax(dim=-1)[..., :-1]
    if probabilities.dim() == 3:
        # Averaging over attributes before or after the sum over queries is the same; before, it costs one K-th.
        probabilities = probabilities.mean(dim=1)
    return ClassMaps(lambda: mask_logits().sigmoid(), probabilities.T, class_index, num_classes, size, kept)


def query_probabilities(log_scores: Tensor) -> Tensor:
    """Class probabilities of every query, void last: with reasons, softmax of the mean over attributes.

    Args:
        log_scores: (Q, K, C + 1) or (Q, C + 1).

    Returns:
        (Q, C + 1).
    """
    mean = log_scores.mean(dim=1) if log_scores.dim() == 3 else log_scores
    return mean.softmax(dim=-1)


def panoptic_segments(
    log_scores: Tensor,
    mask_logits: Tensor,
    class_index: Sequence[int] | None,
    num_classes: int,
    things: Collection[int],
    *,
    object_mask_threshold: float,
    overlap_threshold: float,
    resize: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, list[Segment]]:
    """Panoptic assembly of Mask2Former (section 3.3 of MaskFormer).

    Args:
        log_scores: (Q, K, C + 1) with reasons or (Q, C + 1) without.
        mask_logits: (Q, H, W) of the result's size, or such that `resize` makes them so.
        class_index, num_classes: see `scatter_classes`.
        things: indices of the countable classes; the others are merged into one segment a class.
        object_mask_threshold: a query counts if its best class is likelier than this.
        overlap_threshold: a segment stays if at least this part of its own mask is left to it.
        resize: brings (N, H, W) masks to the result's size; it sees those of the queries that count.

    Returns:
        (H, W) int32 of segment ids, 0 where there is none, and the segments in the order of their ids.
    """
    probabilities = query_probabilities(log_scores)
    if log_scores.dim() == 3:
        probabilities = scatter_classes(probabilities[:, :-1], class_index, num_classes, dim=1)
    scores, classes = probabilities.max(dim=-1)
    # Without reasons void takes part in the maximum, as class number V, and its queries are dropped.
    kept = (scores > object_mask_threshold) & (classes != num_classes)
    # One mask at least, which says the size where no query counts.
    chosen = mask_logits[kept] if kept.any() else mask_logits[:1]
    masks = (chosen if resize is None else resize(chosen)).sigmoid()
    panoptic = torch.zeros(masks.shape[-2:], dtype=torch.int32, device=mask_logits.device)
    segments: list[Segment] = []
    if not kept.any():
        return panoptic, segments
    owner = (scores[kept][:, None, None] * masks).argmax(dim=0)
    stuff_ids: dict[int, int] = {}
    for query, category in enumerate(classes[kept].tolist()):
        own, mask = owner == query, masks[query] >= 0.5
        area, mask_area = int(own.sum()), int(mask.sum())
        visible = own & mask
        if not mask_area or not visible.any() or area / mask_area < overlap_threshold:
            continue
        if category in stuff_ids:
            panoptic[visible] = stuff_ids[category]
            continue
        segment = Segment(id=len(segments) + 1, isthing=category in things, category_id=category)
        segments.append(segment)
        panoptic[visible] = segment["id"]
        if not segment["isthing"]:
            stuff_ids[category] = segment["id"]
    return panoptic, segments


class InstanceArrays(TypedDict):
    """Instances of one image, best first.

    masks: (N, H, W) bool; scores: (N,) float in [0, 1]; classes: (N,) int64 indices of the vocabulary.
    """

    masks: Tensor
    scores: Tensor
    classes: Tensor


def instances(
    log_scores: Tensor,
    mask_logits: Tensor,
    class_index: Sequence[int] | None,
    num_classes: int,
    things: Collection[int],
    *,
    top: int,
) -> InstanceArrays:
    """The `top` best (query, class) pairs whose class is countable.

    A pair's score is its class probability (`query_probabilities`, void dropped) times the mean mask probability inside
    the mask. With reasons the reference's own code fails here; ours takes the mean over attributes, as for segments.

    Args:
        log_scores, mask_logits, class_index, num_classes, things: as in `panoptic_segments`.
        top: how many pairs are looked at, at most.
    """
    probabilities = scatter_classes(query_probabilities(log_scores)[:, :-1], class_index, num_classes, dim=1)
    best, pairs = probabilities.flatten().topk(min(top, probabilities.numel()))
    queries, classes = pairs // num_classes, pairs % num_classes
    countable = torch.tensor([c in things for c in classes.tolist()], dtype=torch.bool, device=classes.device)
    # Classes that the reasons do not cover have probability zero and are no detections.
    countable &= best > 0
    queries, classes, best = queries[countable], classes[countable], best[countable]
    masks = mask_logits[queries] > 0
    inside = (mask_logits[queries].sigmoid() * masks).flatten(1).sum(dim=1) / (masks.flatten(1).sum(dim=1) + 1e-6)
    return InstanceArrays(masks=masks, scores=best * inside, classes=classes)
