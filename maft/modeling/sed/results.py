"""From logits to probabilities, and from K attributes' maps to one (docs/numerics_sed.md sections 7, 10)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from maft.class_maps import ClassMaps

COMBINE = ("mean", "max")
COMBINE_SPACE = ("probability", "logit")


def check_combination(combine: str, space: str) -> tuple[str, str]:
    """Both, if there are such.

    Raises:
        ValueError: there is no such `combine` or `space`.
    """
    if combine not in COMBINE or space not in COMBINE_SPACE:
        raise ValueError(f"combine is one of {', '.join(COMBINE)}, space one of {', '.join(COMBINE_SPACE)}")
    return combine, space


def combine_attributes(logits: Tensor, combine: str = "mean", space: str = "probability") -> Tensor:
    """One map of probabilities a class out of its K maps of logits.

    Args:
        logits: (K, n, H, W).
        combine: "mean", or "max", which favours classes with one very common attribute.
        space: "probability" combines probabilities, so that one attribute's certain "no" is no veto; "logit" logits.

    Returns:
        (n, H, W) in [0, 1].

    Raises:
        ValueError: another `combine` or `space`.
    """
    check_combination(combine, space)
    values = logits if space == "logit" else logits.sigmoid()
    values = values.mean(dim=0) if combine == "mean" else values.amax(dim=0)
    return values.sigmoid() if space == "logit" else values


def class_maps(
    probabilities: Tensor,
    classes: Sequence[int],
    num_classes: int,
    size: tuple[int, int],
    crop: tuple[int, int] | None = None,
) -> ClassMaps:
    """Probabilities at the original size, zero for every class that is not among `classes`.

    Args:
        probabilities: (n, S, S), of the whole image whatever its aspect ratio.
        classes: n vocabulary indices, ascending.
        num_classes: size of the vocabulary.
        size: (height, width) of the result.
        crop: cut the map to so many rows and columns first. The reference does so with the size of the resized image,
            which means something only for a side below S (quirk 4); None leaves the map whole.
    """
    if crop is not None:
        probabilities = probabilities[:, : crop[0], : crop[1]]
    return ClassMaps(lambda: probabilities, None, classes, num_classes, size)
