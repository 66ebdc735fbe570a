"""Which reasons an image gets, and the features of their sentences; how these fold is the network's own (`Fold`)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from maft.errors import UserError
from maft.text.bank import FeatureBank
from maft.text.notes import Notes
from maft.text.rows import Origin
from maft.text.shipped import ShippedReasons, shipped_reasons
from maft.text.templates import TemplateSet
from maft.text.tokens import describe_cut, describe_doubles, doubles
from reason.bars import Bar
from reason.shipped import GENERIC
from reason.triplets import Reason, find_image_file, load_generic, load_image
from reason.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

Synonyms = tuple[tuple[str, ...], ...]
FALLBACKS = ("generic", "error")
_WARM_UP_SENTENCES = 4096
_SECONDS_WITHOUT_BAR = 20


class Sentences(Protocol):
    """What a fold asks to be encoded, and what it noticed about the reasons; see `maft.text.prompts.Prompts`."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """What to encode."""

    @property
    def padded(self) -> tuple[str, ...]:
        """Classes whose attributes were fewer than asked for, and repeated."""

    @property
    def empty(self) -> tuple[str, ...]:
        """Classes left out because their reason has no attribute."""

    @property
    def ignored(self) -> tuple[str, ...]:
        """Keys of the reason file that name no class."""

    @property
    def by_other_names(self) -> tuple[str, ...]:
        """Classes whose reason only a name of another list of names found."""

    @property
    def source(self) -> str:
        """The reason file's name."""


P = TypeVar("P", bound=Sentences)
C = TypeVar("C")
C_co = TypeVar("C_co", covariant=True)


class Fold(Protocol[P, C_co]):
    """How a network turns names and reasons into sentences, and their features into its text input."""

    num_des: int
    averages_names: bool

    @property
    def templates(self) -> TemplateSet:
        """What the sentences are made with."""

    def names(self, vocabulary: Vocabulary) -> Synonyms:
        """By which names the classes of a vocabulary are asked for."""

    def find(self, synonyms: Sequence[Sequence[str]], reasons: Mapping[str, Reason]) -> list[str | None]:
        """The key of `reasons` that every class takes, or None."""

    def plain(self, synonyms: Sequence[Sequence[str]]) -> P:
        """The sentences of class names alone."""

    def generic(self, synonyms: Sequence[Sequence[str]], reasons: Mapping[str, Reason], source: str) -> P:
        """The sentences of generic reasons, which must cover every class."""

    def image(self, synonyms: Sequence[Sequence[str]], reasons: Mapping[str, Reason], source: str) -> P | None:
        """The sentences of image-specific reasons; None where they cover no class."""

    def mixed(self, synonyms: Sequence[Sequence[str]], reasons: Mapping[str, Reason], source: str) -> P:
        """The sentences of reasons for some classes and of the names of all others."""

    def fold(self, features: Tensor, prompts: P, num_classes: int, origin: Origin) -> C_co:
        """The network's text input from the (N, E) un-normalised features of the sentences."""

    def is_stored(self, path: Path) -> bool:
        """Whether the text input of the reason file `path` is on disk, so that nothing need be encoded."""

    def stored(self, path: Path, prompts: P, num_classes: int, bank: FeatureBank, notes: Notes) -> C_co | None:
        """That text input; None where there is none."""


class TextSource(Generic[P, C]):
    """A network's text input for every vocabulary and image that it meets.

    Plain and generic input is made once per vocabulary, image-specific input once per image. An image without reasons
    of its own (no file, or a file that names no class of the vocabulary) gets generic ones, announced once per run and
    counted, or stops the run, as `fallback` says.

    Args:
        fold: the network's.
        bank: features by sentence.
        reasons: False asks by class names only; what follows is then not looked at.
        generic_file: generic reasons of the vocabulary, which must cover it, or "generic" for those that come along,
            which need not; needed where generic reasons are.
        image_folders: where images' reason files lie (`reason.triplets.image_reason_folders`); without any, every
            image counts as one without a file.
        image_specific: False where nobody asks for reasons of images, so that generic ones need no announcement.
        fallback: "generic" or "error".

    Raises:
        UserError: unknown fallback.
    """

    def __init__(
        self,
        fold: Fold[P, C],
        bank: FeatureBank,
        *,
        reasons: bool = True,
        generic_file: str | Path | None = None,
        image_folders: Sequence[str | Path] = (),
        image_specific: bool = True,
        fallback: str = "generic",
    ) -> None:
        if fallback not in FALLBACKS:
            known = ", ".join(FALLBACKS)
            raise UserError(f"MODEL.REASON.FALLBACK: unknown fallback {fallback!r}; choose one of {known}")
        self._fold = fold
        self._bank = bank
        self._reasons = reasons
        self._generic_file = generic_file if generic_file and str(generic_file) else None
        self._image_folders = tuple(Path(folder) for folder in image_folders)
        self._image_specific = image_specific
        self._fallback = fallback
        self._generic_reasons: dict[str, Reason] | None = None
        self._shipped: dict[Synonyms, ShippedReasons] = {}
        self._per_vocabulary: dict[Synonyms, C] = {}
        self._looked_at: set[Synonyms] = set()
        self._cut: set[str] = set()
        self.notes = Notes()

    @property
    def bank(self) -> FeatureBank:
        """The bank in use."""
        return self._bank

    def classifier(self, synonyms: Sequence[Sequence[str]], image_file: str | None) -> C:
        """The text input for one image.

        Args:
            synonyms: the names of every class of the vocabulary.
            image_file: the image's path or name; None for input that belongs to no image (counted as "generic").

        Raises:
            UserError: generic reasons are needed and missing or incomplete; `fallback` is "error" and the image has no
                reasons; a feature file does not fit.
            TripletError: a reason file is malformed.
        """
        names, counts = _freeze(synonyms), self.notes.counts
        self._look_at(names)
        if not self._reasons or image_file is None:
            counts["generic" if self._reasons else "plain"] += 1
            return self._shared(names)
        path = find_image_file(self._image_folders, image_file)
        prompts = None if path is None else self._image_prompts(names, path)
        if path is None or prompts is None:
            self._fall_back(image_file, path)
            return self._shared(names)
        self._count_reasons(prompts)
        counts["image"] += 1
        stored = self._fold.stored(path, prompts, len(names), self._bank, self.notes)
        return self._build(prompts, names, "image") if stored is None else stored

    @property
    def cut(self) -> int:
        """Different sentences so far that are longer than CLIP reads."""
        return len(self._cut)

    def flush(self) -> None:
        """Write what the bank holds in memory only; call it at the end of a data set.

        Raises:
            UserError: it could not be written.
        """
        self._bank.flush()

    def usage(self) -> dict[str, int]:
        """Counts so far, to be shown beside results.

        "image", "plain", "generic" (asked for without an image), "generic_missing_file", "generic_no_class": images by
        what they got; they sum to the calls. Over image-specific files, and once for the generic one of a vocabulary:
        "padded_attributes" (classes whose attributes were repeated to NUM_DES), "empty_attributes" (classes left out
        for want of any), "ignored_keys" (keys that are no class of the vocabulary), "matched_by_other_names" (classes
        of SED that MAFT+'s names found), "classes_by_name" (without one among the reasons that come along),
        "cut_sentences" (longer than CLIP reads). "feature_files": images whose rows were read; "feature_files_ignored":
        not read because of `aligned` mode. Counts of zero are left out.
        """
        return self.notes.usage()

    def needs(self, synonyms: Sequence[Sequence[str]], image_files: Iterable[str] = ()) -> Iterator[tuple[str, ...]]:
        """What `warm_up` would see to: the sentences of every image, and what images share, once, where one needs it.

        Arguments and errors as of `warm_up`; sentences may repeat.
        """
        names = _freeze(synonyms)
        images = list(image_files) if self._reasons else []
        shared_needed = not images
        for image_file in images:
            sentences = self._sentences_of(names, image_file)
            shared_needed |= sentences is None
            yield sentences or ()
        if shared_needed:
            yield self._shared_prompts(names).sentences

    def warm_up(
        self, title: str, synonyms: Sequence[Sequence[str]], image_files: Iterable[str] = (), *, progress: bool = True
    ) -> int:
        """Encode what these images will ask for, in large batches; `usage` is not touched.

        Args:
            title: of the vocabulary or data set, for the progress bars.
            synonyms: as `classifier`.
            image_files: paths or names of the images; if there are none, what all images share is meant.
            progress: show bars.

        Returns:
            How many sentences were encoded.

        Raises:
            UserError, TripletError: as `classifier`, and if the bank cannot be written.
        """
        names = _freeze(synonyms)
        self._look_at(names)
        images = list(image_files) if self._reasons else []
        encoded = 0
        shared_needed = not images
        pending: dict[str, None] = {}
        waiting = 0
        with Bar(total=len(images), desc=f"reasons of {title}", unit="image", disable=not (progress and images)) as bar:
            for number, image_file in enumerate(images, 1):
                sentences = self._sentences_of(names, image_file)
                shared_needed |= sentences is None
                pending.update(dict.fromkeys(sentences or ()))
                waiting += 1
                if len(pending) >= _WARM_UP_SENTENCES or number == len(images):
                    self._say_cut(list(pending))
                    encoded += self._bank.prefetch(pending)
                    bar.update(waiting)
                    pending.clear()
                    waiting = 0
        if shared_needed:
            shared = dict.fromkeys(self._shared_prompts(names).sentences)
            self._say_cut(list(shared))
            with Bar(total=len(shared), desc=f"classes of {title}", unit="sentence", disable=not progress) as bar:
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
        return () if self._fold.is_stored(path) else prompts.sentences

    def _shared(self, names: Synonyms) -> C:
        """Plain or generic input, made once per vocabulary."""
        if names not in self._per_vocabulary:
            prompts = self._shared_prompts(names)
            if self._reasons:
                self._count_reasons(prompts)
                if names in self._shipped:
                    self.notes.counts["classes_by_name"] += len(self._shipped[names].without)
            self._per_vocabulary[names] = self._build(prompts, names, "generic" if self._reasons else "plain")
        return self._per_vocabulary[names]

    def _shared_prompts(self, names: Synonyms) -> P:
        if not self._reasons:
            return self._fold.plain(names)
        if self._generic_file is None:
            raise UserError(
                "MODEL.TEST_CLASS_REASON_JSON: empty, but generic reasons are needed; name the vocabulary's file below "
                "reason_data/general_reason/"
            )
        if str(self._generic_file) == GENERIC:
            return self._shipped_prompts(names)
        if self._generic_reasons is None:
            self._generic_reasons = load_generic(self._generic_file)
            logger.info("generic reasons: %s", self._generic_file)
        return self._fold.generic(names, self._generic_reasons, str(self._generic_file))

    def _shipped_prompts(self, names: Synonyms) -> P:
        """The sentences of the generic reasons that come along; a class without one is asked for by its names."""
        if names not in self._shipped:
            self._shipped[names] = shipped_reasons(names, self._fold.find)
            logger.warning("%s", self._shipped[names].note)
        found = self._shipped[names]
        prompts = self._fold.mixed if found.without else self._fold.generic
        return prompts(names, found.reasons, "the generic reasons that come along")

    def _image_prompts(self, names: Synonyms, path: Path) -> P | None:
        return self._fold.image(names, load_image(path).reasons, str(path))

    def _look_at(self, names: Synonyms) -> None:
        """Say, once a vocabulary, which classes CLIP cannot tell apart by their names."""
        if names in self._looked_at:
            return
        self._looked_at.add(names)
        for line in describe_doubles(
            names, doubles(names, self._bank.encoder.tokens, averaged=self._fold.averages_names)
        ):
            logger.warning("%s", line)

    def _say_cut(self, sentences: Sequence[str]) -> int:
        """How many of these sentences are longer than CLIP reads; the first time there are any, that is said."""
        tokens = self._bank.encoder.tokens
        cut = tokens.cut(sentences)
        self._cut.update(cut)
        if cut:
            self.notes.announce(
                "cut", f"{describe_cut(cut, len(sentences), tokens.most)}; further cases are only counted"
            )
        return len(cut)

    def _build(self, prompts: P, names: Synonyms, origin: Origin) -> C:
        self.notes.counts["cut_sentences"] += self._say_cut(prompts.sentences)
        distinct = len(set(prompts.sentences))
        with Bar(total=distinct, desc="text features", unit="sentence", delay=_SECONDS_WITHOUT_BAR, leave=False) as bar:
            features = self._bank.get(prompts.sentences, bar.update)
        return self._fold.fold(features, prompts, len(names), origin)

    def _fall_back(self, image_file: str, path: Path | None) -> None:
        if self._fallback == "error":
            raise self._no_reasons(image_file, path)
        if path is None:
            self.notes.counts["generic_missing_file"] += 1
            if not self._image_specific:
                return
            folders = ", ".join(str(folder) for folder in self._image_folders) or "no folder of them"
            self.notes.announce(
                "missing",
                f"{image_file}: no reasons of its own ({folders}); generic ones are used for such images, and counted",
            )
        else:
            self.notes.counts["generic_no_class"] += 1
            self.notes.announce(
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

    def _count_reasons(self, prompts: P) -> None:
        few = f"fewer than {self._fold.num_des} attributes (MODEL.NUM_DES), repeated"
        for kind, classes, meaning in (
            ("padded_attributes", prompts.padded, few),
            ("empty_attributes", prompts.empty, "no attribute, the class counts as not seen"),
            ("ignored_keys", prompts.ignored, "no class of the vocabulary, ignored"),
            ("matched_by_other_names", prompts.by_other_names, "found by a name of MAFT+'s list, not SED's"),
        ):
            self.notes.counts[kind] += len(classes)
            if classes:
                text = f"{prompts.source}: {classes[0]!r}: {meaning}; further cases are only counted"
                self.notes.announce(kind, text)


def _freeze(synonyms: Sequence[Sequence[str]]) -> Synonyms:
    return tuple(names if isinstance(names, tuple) else tuple(names) for names in synonyms)
