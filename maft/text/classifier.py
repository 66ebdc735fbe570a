"""Classifier rows of a data set or an image, out of class names and reasons (docs/numerics.md, "Sentences", "Rows")."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from maft.errors import UserError
from maft.text.bank import FeatureBank
from maft.text.encoder import TextEncoder
from maft.text.feature_files import feature_file_path, read_feature_file
from maft.text.prompts import Prompts, check_mode, check_num_des, generic_prompts, image_prompts, plain_prompts
from maft.text.templates import TemplateSet, template_set
from reason.triplets import Reason, find_image_file, load_generic, load_image

logger = logging.getLogger(__name__)

Source = Literal["plain", "generic", "image"]
Synonyms = tuple[tuple[str, ...], ...]
FALLBACKS = ("generic", "error")
_WARM_UP_SENTENCES = 4096
_SECONDS_WITHOUT_BAR = 20
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
    source: Source


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


class ClassifierSource:
    """Classifier rows for every data set and image that a model meets.

    Plain and generic rows are made once per data set and vocabulary, image-specific ones per image. An image without
    reasons of its own (no file, or a file that names no class of the vocabulary) gets generic ones, announced once a
    run and counted, or stops the run, as `fallback` says.
    """

    def __init__(
        self,
        *,
        encoder: TextEncoder,
        bank: FeatureBank | None = None,
        templates: str | TemplateSet = "vild",
        mode: str = "reference",
        num_des: int = 3,
        reasons: bool = True,
        generic_file: str | Path | None = None,
        image_folders: Sequence[str | Path] = (),
        feature_dir: str | Path | None = None,
        fallback: str = "generic",
        clip_type: str = "Convnext-B",
        reason_data: str = "",
        device: str | torch.device = "cpu",
    ) -> None:
        """
        Args:
            encoder: CLIP's text tower.
            bank: features by sentence; one in memory is made if None.
            templates: name of a template set, or the set.
            mode: "reference" or "aligned".
            num_des: K, attributes a class.
            reasons: False gives class names only (META_ARCHITECTURE MAFT_Plus); what follows is then not looked at.
            generic_file: MODEL.TEST_CLASS_REASON_JSON; needed where generic reasons are.
            image_folders: where images' reason files lie (`reason.triplets.image_reason_folders`); without any, every
                image counts as one without a file.
            feature_dir: MODEL.REASON.FEATURE_DIR, JSON feature files used in `reference` mode where they exist.
            fallback: "generic" or "error".
            clip_type: folder below `feature_dir/<reason_data>`.
            reason_data: name of the vocabulary's folder.
            device: where the returned rows lie.

        Raises:
            UserError: a mode, fallback, template set or number of attributes that there is not.
        """
        if fallback not in FALLBACKS:
            raise UserError(f"MODEL.REASON.FALLBACK: {fallback!r} is no fallback; choose one of {', '.join(FALLBACKS)}")
        self._templates = template_set(templates) if isinstance(templates, str) else templates
        self._encoder = encoder
        self._bank = bank if bank is not None else FeatureBank(encoder, self._templates)
        self._mode = check_mode(mode)
        self._num_des = check_num_des(num_des)
        self._reasons = reasons
        self._generic_file = generic_file if generic_file and str(generic_file) else None
        self._image_folders = tuple(Path(folder) for folder in image_folders)
        self._feature_dir = feature_dir if feature_dir and str(feature_dir) else None
        self._fallback = fallback
        self._clip_type = clip_type
        self._reason_data = reason_data
        self._device = torch.device(device)
        self._generic_reasons: dict[str, Reason] | None = None
        self._per_dataset: dict[tuple[str, Synonyms], Classifier] = {}
        self._counts: Counter[str] = Counter()
        self._announced: set[str] = set()

    @property
    def bank(self) -> FeatureBank:
        """The bank in use."""
        return self._bank

    def classifier(self, dataset: str, synonyms: Sequence[Sequence[str]], image_file: str | None) -> Classifier:
        """The rows for one image.

        Args:
            dataset: name of the data set.
            synonyms: the names of every class of its vocabulary.
            image_file: the image's path or name; None for rows that belong to no image (counted as "generic").

        Raises:
            UserError: generic reasons are needed and missing or incomplete; `fallback` is "error" and the image has no
                reasons; a feature file does not fit.
            TripletError: a reason file is malformed.
        """
        names = _freeze(synonyms)
        if not self._reasons:
            self._counts["plain"] += 1
            return self._shared(dataset, names)
        if image_file is None:
            self._counts["generic"] += 1
            return self._shared(dataset, names)
        path = find_image_file(self._image_folders, image_file)
        prompts = None if path is None else self._image_prompts(names, path)
        if path is None or prompts is None:
            self._fall_back(image_file, path)
            return self._shared(dataset, names)
        self._count_reasons(prompts)
        self._counts["image"] += 1
        return self._build(prompts, names, "image", self._from_feature_file(path, prompts))

    def flush(self) -> None:
        """Write what the bank holds in memory only; call it at the end of a data set.

        Raises:
            UserError: it could not be written.
        """
        self._bank.flush()

    def usage(self) -> dict[str, int]:
        """Counts so far, to be shown beside results.

        "image", "plain", "generic" (asked for without an image), "generic_missing_file", "generic_no_class": images by
        what they got; they sum to the calls. Over image-specific files, and once for the generic one of a data set:
        "padded_attributes" (classes whose attributes were repeated to NUM_DES), "empty_attributes" (classes left out
        for want of any), "ignored_keys" (keys that are no class of the vocabulary). "feature_files": images whose rows
        were read; "feature_files_ignored": not read because of `aligned` mode. Counts of zero are left out.
        """
        return {key: count for key, count in sorted(self._counts.items()) if count}

    def warm_up(
        self, dataset: str, synonyms: Sequence[Sequence[str]], image_files: Iterable[str] = (), *, progress: bool = True
    ) -> int:
        """Encode what these images will ask for, in large batches; `usage` is not touched.

        Args:
            dataset, synonyms: as `classifier`.
            image_files: paths or names of the images; if there are none, the rows that all images share are meant.
            progress: show bars.

        Returns:
            How many sentences were encoded.

        Raises:
            UserError, TripletError: as `classifier`, and if the bank cannot be written.
        """
        names = _freeze(synonyms)
        images = list(image_files) if self._reasons else []
        encoded = 0
        shared_needed = not images
        pending: dict[str, None] = {}
        waiting = 0
        with tqdm(
            total=len(images), desc=f"reasons of {dataset}", unit="image", disable=not (progress and images)
        ) as bar:
            for number, image_file in enumerate(images, 1):
                sentences = self._sentences_of(names, image_file)
                shared_needed |= sentences is None
                pending.update(dict.fromkeys(sentences or ()))
                waiting += 1
                if len(pending) >= _WARM_UP_SENTENCES or number == len(images):
                    encoded += self._bank.prefetch(pending)
                    bar.update(waiting)
                    pending.clear()
                    waiting = 0
        if shared_needed:
            shared = dict.fromkeys(self._shared_prompts(names).sentences)
            with tqdm(total=len(shared), desc=f"classes of {dataset}", unit="sentence", disable=not progress) as bar:
                encoded += self._bank.prefetch(shared, bar.update)
        self._bank.flush()
        return encoded

    def _sentences_of(self, names: Synonyms, image_file: str) -> tuple[str, ...] | None:
        """What one image needs encoded; None if that is what all images share."""
        path = find_image_file(self._image_folders, image_file)
        prompts = None if path is None else self._image_prompts(names, path)
        if path is None or prompts is None:
            if self._fallback == "error":
                raise self._no_reasons(image_file, path)
            return None
        return () if self._feature_file(path) is not None else prompts.sentences

    def _shared(self, dataset: str, names: Synonyms) -> Classifier:
        """Plain or generic rows, made once per data set and vocabulary."""
        key = (dataset, names)
        if key not in self._per_dataset:
            prompts = self._shared_prompts(names)
            if self._reasons:
                self._count_reasons(prompts)
            self._per_dataset[key] = self._build(prompts, names, "generic" if self._reasons else "plain")
        return self._per_dataset[key]

    def _shared_prompts(self, names: Synonyms) -> Prompts:
        if not self._reasons:
            return plain_prompts(names, self._templates)
        if self._generic_file is None:
            raise UserError(
                "MODEL.TEST_CLASS_REASON_JSON: empty, but generic reasons are needed; name the vocabulary's file below "
                "reason_data/general_reason/"
            )
        if self._generic_reasons is None:
            self._generic_reasons = load_generic(self._generic_file)
        return generic_prompts(
            names, self._generic_reasons, self._num_des, self._mode, str(self._generic_file), self._templates
        )

    def _image_prompts(self, names: Synonyms, path: Path) -> Prompts | None:
        reasons = load_image(path).reasons
        return image_prompts(names, reasons, self._num_des, self._mode, str(path), self._templates)

    def _build(self, prompts: Prompts, names: Synonyms, source: Source, rows: Tensor | None = None) -> Classifier:
        if rows is None:
            distinct = len(set(prompts.sentences))
            with tqdm(
                total=distinct, desc="text features", unit="sentence", delay=_SECONDS_WITHOUT_BAR, leave=False
            ) as bar:
                rows = fold_rows(self._bank.get(prompts.sentences, bar.update), prompts.row_members)
        return Classifier(
            rows=rows.to(self._device),
            rows_per_class=prompts.rows_per_class,
            class_index=prompts.class_index,
            attributes=prompts.attributes,
            num_classes=len(names),
            source=source,
        )

    def _fall_back(self, image_file: str, path: Path | None) -> None:
        if self._fallback == "error":
            raise self._no_reasons(image_file, path)
        if path is None:
            self._counts["generic_missing_file"] += 1
            folders = ", ".join(str(folder) for folder in self._image_folders) or "no folder of them"
            self._announce(
                "missing",
                f"{image_file}: no reasons of its own ({folders}); generic ones are used for such images, and counted",
            )
        else:
            self._counts["generic_no_class"] += 1
            self._announce(
                "no class",
                f"{path}: names no class of the vocabulary; generic reasons are used for such images, and counted",
            )

    def _no_reasons(self, image_file: str, path: Path | None) -> UserError:
        way_out = "generate it, or set MODEL.REASON.FALLBACK to 'generic'"
        if path is not None:
            return UserError(f"{path}: names no class of the vocabulary; {way_out}")
        name = f"{PurePath(image_file).stem}.json"
        if not self._image_folders:
            return UserError(
                f"{image_file}: no reason file {name}, for there is no folder of image-specific reasons "
                f"(MODEL.REASON_DIR, MODEL.REASON_DATA); {way_out}"
            )
        places = ", ".join(str(folder / name) for folder in self._image_folders)
        return UserError(f"{image_file}: no reason file {places}; {way_out}")

    def _count_reasons(self, prompts: Prompts) -> None:
        for kind, classes, meaning in (
            ("padded_attributes", prompts.padded, f"fewer than {self._num_des} attributes (MODEL.NUM_DES), repeated"),
            ("empty_attributes", prompts.empty, "no attribute, the class counts as not seen"),
            ("ignored_keys", prompts.ignored, "no class of the vocabulary, ignored"),
        ):
            self._counts[kind] += len(classes)
            if classes:
                self._announce(kind, f"{prompts.source}: {classes[0]!r}: {meaning}; further cases are only counted")

    def _feature_file(self, path: Path) -> Path | None:
        """The feature file that stands in for the sentences of the reason file `path`, if there is one to use."""
        if self._feature_dir is None or self._mode != "reference":
            return None
        file = feature_file_path(self._feature_dir, self._reason_data, self._clip_type, path.stem)
        return file if file.is_file() else None

    def _from_feature_file(self, path: Path, prompts: Prompts) -> Tensor | None:
        file = self._feature_file(path)
        if file is None:
            self._note_ignored(path)
            return None
        rows = read_feature_file(file, prompts, self._encoder.dim)
        if "feature file" not in self._announced:
            self._announce("feature file", f"{file}: rows are read from such files, not encoded, and counted")
            self._compare_first_row(file, rows, prompts)
        self._counts["feature_files"] += 1
        return rows

    def _note_ignored(self, path: Path) -> None:
        if self._feature_dir is None or self._mode == "reference":
            return
        file = feature_file_path(self._feature_dir, self._reason_data, self._clip_type, path.stem)
        if file.is_file():
            self._counts["feature_files_ignored"] += 1
            self._announce("ignored", f"{file}: not read, since such files hold rows of 'reference' mode only")

    def _compare_first_row(self, file: Path, rows: Tensor, prompts: Prompts) -> None:
        """Feature files do not say which CLIP made them: hold one row against the text tower and tell if it differs."""
        members = prompts.row_members[:1]
        features = self._bank.get([prompts.sentences[number] for number in members[0]])
        own = fold_rows(features, np.arange(len(features), dtype=np.int64)[None])
        similarity = float(own[0] @ rows[0])
        if similarity < 1 - _FOREIGN_ROW_TOLERANCE:
            logger.warning(
                "%s: its first row is not what the loaded CLIP gives (cosine %.3f), other weights or templates did; "
                "remove the file, or set MODEL.REASON.FEATURE_DIR to '', if that is not meant",
                file,
                similarity,
            )

    def _announce(self, kind: str, text: str) -> None:
        """Warn once a run."""
        if kind not in self._announced:
            self._announced.add(kind)
            logger.warning("%s", text)


def _freeze(synonyms: Sequence[Sequence[str]]) -> Synonyms:
    return tuple(names if isinstance(names, tuple) else tuple(names) for names in synonyms)
