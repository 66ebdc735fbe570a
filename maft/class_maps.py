"""The class maps of one image, computed as far as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

_CLASSES_AT_ONCE = 64
"""Maps held at a time where a block of classes is resized: 64 of 800 x 1216 take 250 MB, all of A-847 3.3 GB."""
_PIXELS_AT_ONCE = {"cpu": 4096, "cuda": 2**18}
"""Pixels whose scores are held at a time: 847 classes of 4096 pixels take 14 MB, which stay in a CPU's cache."""

_KEPT_AT_MOST = 2**26
"""Numbers that are kept for an image's next class maps: 256 MB, 100 masks of 800 x 838 pixels."""


class ClassMaps:
    """Scores of every class at every pixel, kept as what they are mixed from.

    All of them at full size are needed by nobody who wants the best class of each pixel (`labels`) or the scores of a
    few classes (`scores`), and take gigabytes for a large vocabulary. Channels come last in memory: mixing, resizing
    and the arg-max then go over numbers that lie side by side. All is computed in float32, under autocast as well.

    Args:
        fields: gives (N, h, w) of the image without padding, not negative; asked once, when they are first needed.
        mixture: (C, N), not negative: class c's map is the sum of the fields times row c. None: the fields are the
            classes' maps, N = C.
        covered: the C classes in the vocabulary, ascending; None for all.
        num_classes: V; classes that are not covered score zero.
        size: (height, width) that the maps are resized to bilinearly.
        kept: where the fields of this image at a size are kept for its next class maps, if they are small enough; None
            for nowhere.
    """

    def __init__(
        self,
        fields: Callable[[], Tensor],
        mixture: Tensor | None,
        covered: Sequence[int] | None,
        num_classes: int,
        size: tuple[int, int],
        kept: MutableMapping[tuple[int, int], Tensor] | None = None,
    ) -> None:
        self._kept = kept
        self._make_fields, self._mixture = fields, None if mixture is None else mixture.float()
        self._covered = tuple(range(num_classes)) if covered is None else tuple(covered)
        self.num_classes, self.size = num_classes, size

    @property
    def shape(self) -> tuple[int, int, int]:
        """(V, height, width)."""
        return (self.num_classes, *self.size)

    @cached_property
    def _fields(self) -> Tensor:
        if self._kept is not None and self.size in self._kept:
            return self._kept[self.size]
        fields = self._make_fields().float()
        # Resizing and mixing are linear, so they may change places: the fields first where that leaves fewer pixels.
        if self._mixture is not None and self.size[0] * self.size[1] <= fields.shape[-2] * fields.shape[-1]:
            fields = resized_maps(fields, self.size)
        if self._kept is not None and fields.numel() <= _KEPT_AT_MOST:
            self._kept.clear()
            self._kept[self.size] = fields
        return fields

    def labels(self) -> Tensor:
        """(height, width) int64: the class with the largest score, the first one of equals."""
        if self._mixture is not None and tuple(self._fields.shape[-2:]) == self.size:
            best, places = self._best_by_pixels(self._mixture)
        else:
            best, places = self._best_by_classes()
        labels = torch.tensor(self._covered, device=places.device)[places]
        missing = set(range(self.num_classes)).difference(self._covered)
        if missing:  # they score zero, and of equals the first counts
            labels[(best == 0) & (labels > min(missing))] = min(missing)
        return labels

    def scores(self, classes: Sequence[int] | None = None) -> Tensor:
        """The maps of some classes, or of all.

        Args:
            classes: in the vocabulary; None for all, which takes V * height * width numbers.

        Returns:
            (len(classes) or V, height, width) float; not probabilities, the largest one counts.
        """
        wanted = range(self.num_classes) if classes is None else classes
        place_of = {number: place for place, number in enumerate(self._covered)}
        known = [(row, place_of[number]) for row, number in enumerate(wanted) if number in place_of]
        result = self._fields.new_zeros((len(wanted), *self.size))
        for start in range(0, len(known), _CLASSES_AT_ONCE):
            rows, places = torch.tensor(known[start : start + _CLASSES_AT_ONCE], device=result.device).T
            result.index_copy_(0, rows, self._maps(places))
        return result

    def _maps(self, places: Tensor | slice) -> Tensor:
        """Maps of covered classes at the size of the result."""
        if self._mixture is None:
            return resized_maps(self._fields[places], self.size)
        mixed = _product(_by_pixel(self._fields), self._mixture[places].T)
        return resized_maps(mixed.T.unflatten(1, self._fields.shape[-2:]), self.size)

    def _best_by_pixels(self, mixture: Tensor) -> tuple[Tensor, Tensor]:
        """(height, width) best scores and their places among the covered classes, pixels in strips."""
        step = _PIXELS_AT_ONCE.get(mixture.device.type, _PIXELS_AT_ONCE["cuda"])
        weights = mixture.T.contiguous()
        found = [_product(pixels, weights).max(dim=1) for pixels in _by_pixel(self._fields).split(step)]
        best, places = (torch.cat(parts).view(self.size) for parts in zip(*found, strict=True))
        return best, places

    def _best_by_classes(self) -> tuple[Tensor, Tensor]:
        """The same, classes in blocks, each of which is resized."""
        best = self._fields.new_full(self.size, -1.0)
        places = torch.zeros(self.size, dtype=torch.int64, device=best.device)
        for start in range(0, len(self._covered), _CLASSES_AT_ONCE):
            value, place = self._maps(slice(start, start + _CLASSES_AT_ONCE)).max(dim=0)
            better = value > best  # not >=: the first one of equals stays
            best = torch.where(better, value, best)
            places = torch.where(better, place + start, places)
        return best, places


def _product(left: Tensor, right: Tensor) -> Tensor:
    with torch.autocast(left.device.type, enabled=False):
        return left @ right


def _by_pixel(maps: Tensor) -> Tensor:
    """(N, H, W) -> (H * W, N), row after row."""
    return maps.permute(1, 2, 0).reshape(-1, maps.shape[0])


def resized_maps(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(N, h, w) maps resized bilinearly to (N, *size), channels last in memory; of that size already, as they are."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    images = maps[None].contiguous(memory_format=torch.channels_last)
    return F.interpolate(images, size=tuple(size), mode="bilinear", align_corners=False)[0]
