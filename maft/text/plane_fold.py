"""How SED's text is made: the `Fold` that `maft.text.source.TextSource` asks for planes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from maft.text.bank import FeatureBank
from maft.text.notes import Notes
from maft.text.planes import (
    PlanePrompts,
    check_design,
    find_reasons,
    fold_planes,
    generic_planes,
    mixed_planes,
    plain_planes,
    reason_planes,
)
from maft.text.prompts import check_mode, check_num_des
from maft.text.rows import Origin
from maft.text.templates import template_set
from reason.triplets import Reason
from reason.vocabulary import Vocabulary

Names = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, eq=False)
class Planes:
    """What an image's cells are compared with.

    Attributes:
        planes: (K, n, T, E) float32, L2-normalised; K attributes that are kept apart, n covered classes, T templates.
        class_index: ascending vocabulary indices of the covered classes; None = all classes in order.
        num_classes: size of the vocabulary.
        source: what they were made from.
        joint: let a class attend to all its attributes' rows, not only to those of the same attribute.
        crop: cut the map as the reference does (quirk 4).
    """

    planes: Tensor
    class_index: tuple[int, ...] | None
    num_classes: int
    source: Origin
    joint: bool = False
    crop: bool = True


class PlaneFold:
    """Sentences of SED and the planes that their features fold into.

    Args:
        design: one of `maft.text.planes.DESIGNS`.
        num_des: K, attributes per class.
        mode: "reference", or "aligned", which leaves small images' maps whole (quirk 4).
        templates: name of the template set.
        device: where the planes lie.

    Raises:
        UserError: unknown design, mode or template set, or a bad number of attributes.
    """

    averages_names = True

    def __init__(
        self,
        *,
        design: str = "passes",
        num_des: int = 3,
        mode: str = "reference",
        templates: str = "imagenet",
        device: str | torch.device = "cpu",
    ) -> None:
        self.design = check_design(design)
        self.num_des = check_num_des(num_des)
        self.mode = check_mode(mode)
        self.templates = template_set(templates)
        self._device = torch.device(device)
        self._other_names: dict[Names, Names] = {}

    def know_other_names(self, names: Names, others: Names) -> None:
        """Say by which names of the other list the classes of a vocabulary go: reason files may be written for them."""
        self._other_names[names] = others

    def names(self, vocabulary: Vocabulary) -> Names:
        """By which names the classes of a vocabulary are asked for: SED's; the synonyms find reasons as well."""
        self.know_other_names(vocabulary.sed_names, vocabulary.synonyms)
        return vocabulary.sed_names

    def find(self, synonyms: Sequence[Sequence[str]], reasons: Mapping[str, Reason]) -> list[str | None]:
        """See `planes.find_reasons`."""
        return find_reasons(synonyms, reasons, self._others(synonyms))

    def plain(self, synonyms: Sequence[Sequence[str]]) -> PlanePrompts:
        """See `planes.plain_planes`."""
        return plain_planes(synonyms, self.templates)

    def generic(self, synonyms: Sequence[Sequence[str]], reasons: Mapping[str, Reason], source: str) -> PlanePrompts:
        """See `planes.generic_planes`."""
        others = self._others(synonyms)
        return generic_planes(synonyms, reasons, self.num_des, self.design, source, self.templates, others)

    def image(
        self, synonyms: Sequence[Sequence[str]], reasons: Mapping[str, Reason], source: str
    ) -> PlanePrompts | None:
        """See `planes.reason_planes`."""
        others = self._others(synonyms)
        return reason_planes(synonyms, reasons, self.num_des, self.design, source, self.templates, others)

    def mixed(self, synonyms: Sequence[Sequence[str]], reasons: Mapping[str, Reason], source: str) -> PlanePrompts:
        """See `planes.mixed_planes`."""
        others = self._others(synonyms)
        return mixed_planes(synonyms, reasons, self.num_des, self.design, source, self.templates, others)

    def _others(self, synonyms: Sequence[Sequence[str]]) -> Names | None:
        return self._other_names.get(tuple(tuple(names) for names in synonyms))

    def fold(self, features: Tensor, prompts: PlanePrompts, num_classes: int, origin: Origin) -> Planes:
        """Planes from the (N, E) features of `prompts.sentences`."""
        planes = fold_planes(features, prompts).to(self._device)
        return Planes(
            planes,
            prompts.class_index,
            num_classes,
            origin,
            joint=self.design == "joint",
            crop=self.mode == "reference",
        )

    def is_stored(self, path: Path) -> bool:
        """Never: feature files are MAFT+'s."""
        return False

    def stored(
        self, path: Path, prompts: PlanePrompts, num_classes: int, bank: FeatureBank, notes: Notes
    ) -> Planes | None:
        """None: feature files are MAFT+'s."""
        return None
