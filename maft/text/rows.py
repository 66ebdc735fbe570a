"""The fold of MAFT+: sentence features become classifier rows (docs/numerics.md, "Rows")."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maft.text.bank import FeatureBank
from maft.text.feature_files import feature_file_path, read_feature_file
from maft.text.notes import Notes
from maft.text.prompts import (
    Prompts,
    check_mode,
    check_num_des,
    generic_prompts,
    image_prompts,
    match_reasons,
    mixed_prompts,
    plain_prompts,
)
from maft.text.templates import TemplateSet, template_set
from reason.triplets import Reason
from reason.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

Origin = Literal["plain", "generic", "image"]
"""What rows were made from: names alone, generic reasons, image-specific reasons."""

_FOREIGN_ROW_TOLERANCE = 0.02


@dataclass(frozen=True, eq=False)
class Classifier:
    """The rows that class features are compared with, void not included.

    Attributes:
        rows: (R, E) float32, L2-normalised.
        rows_per_class: rows of every covered class, in order; sums to R.
        class_index: ascending vocabulary indices of the covered classes; None = all classes in order.
        attributes: K = NUM_DES; None for plain class names.
        num_classes: size of the vocabulary.
        source: what the rows were made from.
    """

    rows: Tensor
    rows_per_class: tuple[int, ...]
    class_index: tuple[int, ...] | None
    attributes: int | None
    num_classes: int
    source: Origin


def fold_rows(features: Tensor, row_members: np.ndarray) -> Tensor:
    """Normalise, average the members of every row, normalise again (docs/numerics.md, "Rows").

    Args:
        features: (N, E) text features, not normalised.
        row_members: (R, T) int64 indices into them.

    Returns:
        (R, E) in the features' type, L2-normalised.
    """
    sentences = F.normalize(features, dim=-1)
    return F.normalize(sentences[torch.from_numpy(row_members).to(features.device)].mean(dim=1), dim=-1)


class RowFold:
    """Sentences of MAFT+ and the rows that their features fold into.

    Args:
        templates: name of a template set, or the set.
        mode: "reference" or "aligned".
        num_des: K, attributes per class.
        feature_dir: JSON feature files of the reference, used in `reference` mode where they exist; None for none.
        clip_type, reason_data: the files lie in `feature_dir/<reason_data>/<clip_type>`.
        device: where the rows lie.

    Raises:
        UserError: unknown mode or template set, or a bad number of attributes.
    """

    averages_names = False

    def __init__(
        self,
        *,
        templates: str | TemplateSet = "vild",
        mode: str = "reference",
        num_des: int = 3,
        feature_dir: str | Path | None = None,
        clip_type: str = "Convnext-B",
        reason_data: str = "",
        device: str | torch.device = "cpu",
    ) -> None:
        self.templates = template_set(templates) if isinstance(templates, str) else templates
        self.mode = check_mode(mode)
        self.num_des = check_num_des(num_des)
        self._feature_dir = feature_dir if feature_dir and str(feature_dir) else None
        self._clip_type, self._reason_data = clip_type, reason_data
        self._device = torch.device(device)

    def names(self, vocabulary: Vocabulary) -> tuple[tuple[str, ...], ...]:
        """By which names the classes of a vocabulary are asked for: all their synonyms."""
        return vocabulary.synonyms

    def find(self, synonyms: Sequence[Sequence[str]], reasons: Mapping[str, Reason]) -> list[str | None]:
        """See `prompts.match_reasons`."""
        return match_reasons(synonyms, reasons)

    def plain(self, synonyms: Sequence[Sequence[str]]) -> Prompts:
        """See `prompts.plain_prompts`."""
        return plain_prompts(synonyms, self.templates)

    def generic(self, synonyms: Sequence[Sequence[str]], reasons: Mapping[str, Reason], source: str) -> Prompts:
        """See `prompts.generic_prompts`."""
        return generic_prompts(synonyms, reasons, self.num_des, self.mode, source, self.templates)

    def image(self, synonyms: Sequence[Sequence[str]], reasons: Mapping[str, Reason], source: str) -> Prompts | None:
        """See `prompts.image_prompts`."""
        return image_prompts(synonyms, reasons, self.num_des, self.mode, source, self.templates)

    def mixed(self, synonyms: Sequence[Sequence[str]], reasons: Mapping[str, Reason], source: str) -> Prompts:
        """See `prompts.mixed_prompts`."""
        return mixed_prompts(synonyms, reasons, self.num_des, self.mode, source, self.templates)

    def fold(self, features: Tensor, prompts: Prompts, num_classes: int, origin: Origin) -> Classifier:
        """Rows from the (N, E) features of `prompts.sentences`."""
        return self._classifier(fold_rows(features, prompts.row_members), prompts, num_classes, origin)

    def is_stored(self, path: Path) -> bool:
        """Whether a feature file stands in for the sentences of the reason file `path`."""
        return self._feature_file(path) is not None

    def stored(
        self, path: Path, prompts: Prompts, num_classes: int, bank: FeatureBank, notes: Notes
    ) -> Classifier | None:
        """The rows of the feature file that belongs to the reason file `path`; None where there is none to use.

        Raises:
            UserError: the file is malformed or does not fit.
        """
        file = self._feature_file(path)
        if file is None:
            self._note_ignored(path, notes)
            return None
        rows = read_feature_file(file, prompts, bank.encoder.dim)
        if notes.first("feature file"):
            logger.warning("%s: rows are read from such files, not encoded, and counted", file)
            _compare_first_row(file, rows, prompts, bank)
        notes.counts["feature_files"] += 1
        return self._classifier(rows, prompts, num_classes, "image")

    def _classifier(self, rows: Tensor, prompts: Prompts, num_classes: int, origin: Origin) -> Classifier:
        return Classifier(
            rows=rows.to(self._device),
            rows_per_class=prompts.rows_per_class,
            class_index=prompts.class_index,
            attributes=prompts.attributes,
            num_classes=num_classes,
            source=origin,
        )

    def _feature_file(self, path: Path) -> Path | None:
        if self._feature_dir is None or self.mode != "reference":
            return None
        file = feature_file_path(self._feature_dir, self._reason_data, self._clip_type, path.stem)
        return file if file.is_file() else None

    def _note_ignored(self, path: Path, notes: Notes) -> None:
        if self._feature_dir is None or self.mode == "reference":
            return
        file = feature_file_path(self._feature_dir, self._reason_data, self._clip_type, path.stem)
        if file.is_file():
            notes.counts["feature_files_ignored"] += 1
            notes.announce("ignored", f"{file}: not read, since such files hold rows of 'reference' mode only")


def _compare_first_row(file: Path, rows: Tensor, prompts: Prompts, bank: FeatureBank) -> None:
    """Feature files do not say which CLIP made them: compare one row with the text tower's, and warn if it differs."""
    members = prompts.row_members[:1]
    features = bank.get([prompts.sentences[number] for number in members[0]])
    own = fold_rows(features, np.arange(len(features), dtype=np.int64)[None])
    similarity = float(own[0] @ rows[0])
    if similarity < 1 - _FOREIGN_ROW_TOLERANCE:
        logger.warning(
            "%s: its first row is not what the loaded CLIP gives (cosine %.3f), other weights or templates did; "
            "remove the file, or set MODEL.REASON.FEATURE_DIR to '', if that is not meant",
            file,
            similarity,
        )
