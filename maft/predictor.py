"""The Python interface: load a segmentor, look at an image, ask for classes (see docs/own_data.md)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from torch import Tensor

from maft import build, drawing
from maft.class_maps import ClassMaps
from maft.errors import UserError
from maft.inputs import ClassesLike, GivenReasons, ImageLike, ReasonsLike, read_classes, read_image, read_reasons
from maft.memory import keep_freed_memory
from maft.modeling.network import SegmentingNetwork
from maft.modeling.results import Results
from maft.resources import MINI_MODELS, mini_weights
from maft.result import FoundClass, Result
from maft.sizes import resized
from maft.text.bank import FeatureBank
from maft.text.encoder import CLIPTextEncoder, TextPrecision
from maft.text.planes import DESIGNS
from maft.text.prompts import MODES
from maft.text.rows import Origin
from maft.text.source import Fold, Sentences, Synonyms
from maft.text.tokens import describe_cut, describe_doubles, doubles
from maft.weights.loading import build_for_evaluation
from reason.triplets import Reason
from reason.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

RESULT_PIXELS = 2**21
"""Larger images are labelled at this many pixels; their label map is enlarged to full size."""
_DTYPES = (torch.float32, torch.bfloat16)
Progress = Callable[[int, int], object]
"""Called with how much is done, and of how much."""


def load_segmentor(
    name: str,
    weights: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    text_dtype: torch.dtype = torch.float32,
    attributes: int = 3,
    mode: str = "reference",
    design: str | None = None,
    bank: str | Path | None = None,
    clip: str | Path | None = None,
) -> Segmentor:
    """A segmentor that is ready for use.

    Args:
        name: "base", "large", "panoptic"; "sed-base", "sed-large"; or "mini", "sed-mini", which need no weight file.
        weights: the checkpoint, or "seeded": random weights, whose results mean nothing.
        device: default: a GPU where there is one; on a CPU the process keeps memory that is free (`maft.memory`).
        dtype: float32, or bfloat16 for autocast: faster, with results that differ in a few pixels.
        text_dtype: the same for sentences; `bank` keeps both kinds apart.
        attributes: K, the attributes of each reason that are used.
        mode: "reference", or "aligned", which averages each attribute over its own templates (MAFT+) and does not cut
            maps of very long images (SED).
        design: of SED's models alone, how K attributes meet: "passes" (the default), "joint", "mean" or "spread"; see
            docs/numerics_sed.md section 10.
        bank: folder that keeps text features for the next time; None keeps them in memory.
        clip: CLIP's own weights, for a checkpoint that leaves out parts of it, such as its text tower: a file, or a
            tag of open_clip's; default: those that the model was trained from, which are downloaded.

    Raises:
        UserError: unknown name, mode, design or dtype, or weights that are missing or of another model.
    """
    for argument, given in (("dtype", dtype), ("text_dtype", text_dtype)):
        if given not in _DTYPES:
            raise UserError(f"{argument} {given}: choose torch.float32 or torch.bfloat16")
    if mode not in MODES:
        raise UserError(f"mode: unknown mode {mode!r}; choose one of {', '.join(MODES)}")
    if design is not None and design not in DESIGNS:
        raise UserError(f"design: unknown design {design!r}; choose one of {', '.join(DESIGNS)}")
    if isinstance(attributes, bool) or not isinstance(attributes, int) or attributes < 1:
        raise UserError(f"attributes: {attributes!r}; give a whole number, at least 1")
    if weights is None and name in MINI_MODELS:
        weights = mini_weights(name)
    clip = mini_weights() if clip is None and name == "sed-mini" else clip
    if weights is None and name in build.MODELS:
        raise UserError(f"load_segmentor('{name}', …): name its weight file; pretrained/README.md says where to get it")

    def built() -> SegmentingNetwork[Any, Any, Any]:
        made = build.build_network(name, **({} if clip is None else {"clip_weights": os.path.expanduser(clip)}))
        made.text_fold(attributes=attributes, mode=mode, design=design)  # a design that cannot be, before the weights
        return made

    network = build_for_evaluation(built, os.path.expanduser(weights or ""))
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        network = network.to(torch.device(chosen))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {str(chosen)!r} cannot be used here ({reason}); 'cpu' always can") from error
    if network.device.type == "cpu":
        keep_freed_memory()
    return Segmentor(
        network,
        build.SIZES[name],
        dtype=dtype,
        text_precision="bfloat16" if text_dtype == torch.bfloat16 else "float32",
        attributes=attributes,
        mode=mode,
        design=design,
        bank=bank,
    )


class Segmentor:
    """A network with its text tower: images and classes in, results out.

    Args:
        network: in evaluation mode, weights loaded.
        size: (short side, longest side) that images are resized to, in pixels.
        dtype, attributes, mode, design, bank: see `load_segmentor`.
        fold: what makes the network's text input, in place of its own by `attributes`, `mode` and `design`.
        bank_dtype, text_precision: how `bank` stores features, and what they are encoded in.
        channels: the order in which the network takes an image's colours.
    """

    def __init__(
        self,
        network: SegmentingNetwork[Any, Any, Any],
        size: tuple[int, int],
        *,
        dtype: torch.dtype = torch.float32,
        attributes: int = 3,
        mode: str = "reference",
        design: str | None = None,
        bank: str | Path | None = None,
        fold: Fold[Any, Any] | None = None,
        bank_dtype: Literal["float32", "float16"] = "float32",
        text_precision: TextPrecision = "float32",
        channels: Literal["RGB", "BGR"] = "RGB",
    ) -> None:
        self.network, self.size, self.dtype = network, size, dtype
        self._reversed = channels == "BGR"
        self._fold: Fold[Any, Any] = fold or network.text_fold(attributes=attributes, mode=mode, design=design)
        clip = network.clip
        tokenizer = open_clip.get_tokenizer(clip.model_name)
        encoder = CLIPTextEncoder(clip.clip_model, tokenizer, precision=text_precision)
        folder = os.path.expanduser(bank) if bank else None
        self._bank = FeatureBank(encoder, self._fold.templates, folder, storage_dtype=bank_dtype)
        self._kept: dict[str, tuple[object, Any]] = {}
        self._said: set[object] = set()

    @overload
    def __call__(
        self, image: list[ImageLike], classes: ClassesLike, reasons: ReasonsLike = ..., *, things: Sequence[str] = ...
    ) -> list[Result]: ...

    @overload
    def __call__(
        self, image: ImageLike, classes: ClassesLike, reasons: ReasonsLike = ..., *, things: Sequence[str] = ...
    ) -> Result: ...

    def __call__(
        self,
        image: ImageLike | list[ImageLike],
        classes: ClassesLike,
        reasons: ReasonsLike = None,
        *,
        things: Sequence[str] = (),
    ) -> Result | list[Result]:
        """Segment one image, or several.

        Args:
            image: see `inputs.read_image`; a list gives a list of results, each as if it were alone.
            classes: see `inputs.read_classes`.
            reasons: see `inputs.read_reasons`.
            things: names of the countable classes, for a panoptic model.

        Raises:
            UserError, TripletError: an input that cannot be used; the message says why and what can.
        """
        vocabulary = read_classes(classes, things)
        if isinstance(image, list):
            return [seen.segment(vocabulary, reasons) for seen in self.look(image)]
        return self.look(image).segment(vocabulary, reasons)

    @overload
    def look(self, image: list[ImageLike]) -> list[Seen]: ...

    @overload
    def look(self, image: ImageLike) -> Seen: ...

    def look(self, image: ImageLike | list[ImageLike]) -> Seen | list[Seen]:
        """Run the network on an image, or on several, before any classes; ask the result as often as you like.

        Raises:
            UserError: an image that cannot be used.
        """
        given = image if isinstance(image, list) else [image]
        pixels = [read_image(one) for one in given]
        with torch.inference_mode(), self._precision():
            views = self.network.look([resized(self._ordered(one), *self.size) for one in pixels])
        names = [str(one) if isinstance(one, (str, Path)) else None for one in given]
        seen = [Seen(self, *parts) for parts in zip(pixels, views, names, strict=True)]
        return seen if isinstance(image, list) else seen[0]

    def _ordered(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The colours in the order that the network takes them in."""
        return np.ascontiguousarray(pixels[..., ::-1]) if self._reversed else pixels

    def _precision(self) -> torch.autocast | nullcontext[None]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.network.device.type, dtype=self.dtype)

    def read_reasons(self, reasons: ReasonsLike, vocabulary: Vocabulary, image_name: str | None) -> GivenReasons:
        """Reasons as the network finds them; see `maft.inputs.read_reasons`."""
        names = self._fold.names(vocabulary)
        return read_reasons(reasons, vocabulary, image_name, partial(self._fold.find, names))

    def used(self, vocabulary: Vocabulary, given: GivenReasons) -> dict[str, Reason]:
        """The reasons that classes take, by the classes' first names."""
        keys = self._fold.find(self._fold.names(vocabulary), given.reasons)
        return {
            entry.synonyms[0]: given.reasons[key]
            for entry, key in zip(vocabulary.classes, keys, strict=True)
            if key is not None
        }

    def classifier(self, vocabulary: Vocabulary, given: GivenReasons, on_progress: Progress | None = None) -> Any:
        """The network's text input for a vocabulary and reasons; the last one of each kind of reasons is kept.

        Args:
            vocabulary: the classes.
            given: of `read_reasons`.
            on_progress: called with the sentences whose features are there and with how many there are to be.

        Raises:
            UserError: the classes or attributes cannot be used, or the bank cannot be written.
        """
        names = self._fold.names(vocabulary)
        key = (names, vocabulary.synonyms, tuple(given.reasons.items()))
        if given.kind not in self._kept or self._kept[given.kind][0] != key:
            prompts, origin = self._prompts(names, given)
            self._warn(names, prompts.sentences)
            features = self._features(prompts.sentences, on_progress)
            self._kept[given.kind] = (key, self._fold.fold(features, prompts, len(vocabulary), origin))
            if given.kind != "image":  # what the next run asks for as well
                self.flush()
        return self._kept[given.kind][1]

    def sentence_feature(self, class_name: str, attribute: str) -> Tensor:
        """CLIP's feature of "CLASS that has ATTRIBUTE": the mean over the network's templates, (E,), L2-normalised.

        Raises:
            UserError: the class or the attribute is empty.
        """
        if not class_name.strip() or not attribute.strip():
            raise UserError("a sentence needs a class and an attribute; give both")
        sentences = self._fold.templates.fill(f"{class_name} that has {attribute}")
        features = torch.nn.functional.normalize(self._bank.get(sentences).float(), dim=-1)
        return torch.nn.functional.normalize(features.mean(dim=0), dim=0).to(self.network.device)

    def flush(self) -> None:
        """Write the text features that are only in memory so far to the bank's folder, where there is one.

        Raises:
            UserError: they could not be written; they stay in memory.
        """
        self._bank.flush()

    def _features(self, sentences: Sequence[str], on_progress: Progress | None) -> Tensor:
        if on_progress is None:
            return self._bank.get(sentences)
        total, done = len(set(sentences)), 0

        def report(count: int) -> None:
            nonlocal done
            done += count
            on_progress(done, total)

        return self._bank.get(sentences, report)

    def _warn(self, synonyms: tuple[tuple[str, ...], ...], sentences: tuple[str, ...]) -> None:
        """Say which classes and sentences CLIP does not read as they are meant, once each."""
        tokens = self._bank.encoder.tokens
        if synonyms not in self._said:
            self._said.add(synonyms)
            for line in describe_doubles(synonyms, doubles(synonyms, tokens, averaged=self._fold.averages_names)):
                logger.warning("classes: %s", line)
        cut = [text for text in tokens.cut(sentences) if text not in self._said]
        self._said.update(cut)
        if cut:
            logger.warning("%s", describe_cut(cut, len(sentences), tokens.most))

    def _prompts(self, names: Synonyms, given: GivenReasons) -> tuple[Sentences, Origin]:
        if given.kind == "image":
            prompts = self._fold.image(names, given.reasons, given.source)
            if prompts is not None:
                return prompts, "image"
        elif given.kind == "generic":
            return self._fold.generic(names, given.reasons, given.source), "generic"
        elif given.kind == "some":
            return self._fold.mixed(names, given.reasons, given.source), "generic"
        return self._fold.plain(names), "plain"


@dataclass(frozen=True, eq=False)
class Seen:
    """An image that the network has looked at; see `Segmentor.look`.

    segmentor: what looked.
    image: (H, W, 3) uint8 RGB.
    view: what the network made of it.
    name: the image's path, or None.
    """

    segmentor: Segmentor
    image: NDArray[np.uint8]
    view: Any
    name: str | None = None

    def segment(self, classes: ClassesLike, reasons: ReasonsLike = None, *, things: Sequence[str] = ()) -> Result:
        """Segment the image by these classes; arguments and errors are those of `Segmentor.__call__`."""
        vocabulary = read_classes(classes, things)
        given = self.segmentor.read_reasons(reasons, vocabulary, self.name)
        if given.note and given.kind == "names":
            logger.warning("%s", given.note)
        classifier = self.segmentor.classifier(vocabulary, given)
        size = result_size(*self.image.shape[:2])
        with torch.inference_mode(), self.segmentor._precision():
            results = self.segmentor.network.results(self.view, classifier, size, vocabulary.thing_indices)
        return self._result(vocabulary, given, classifier.source, results)

    def _result(self, vocabulary: Vocabulary, given: GivenReasons, origin: Origin, results: Results) -> Result:
        maps = results["class_maps"]
        segments, segment_map = None, None
        if "panoptic_seg" in results:
            ids, found = results["panoptic_seg"]
            segments, segment_map = tuple(found), self._full(ids.cpu().numpy())
            category_of = {info["id"]: info["category_id"] for info in found}
            small = drawing.panoptic_maps(ids.cpu().numpy(), category_of).classes
        else:
            small = maps.labels().cpu().numpy().astype(np.int32)
        labels = self._full(small)
        names: dict[Literal["plain", "generic", "image"], Literal["names", "generic", "image"]] = {
            "plain": "names",
            "generic": "generic",
            "image": "image",
        }
        return Result(
            image=self.image,
            vocabulary=vocabulary,
            label_map=labels,
            classes=_found(vocabulary, labels, small, maps),
            segments=segments,
            segment_map=segment_map,
            reasons=self.segmentor.used(vocabulary, given),
            origin=names[origin],
            note=given.note,
        )

    def _full(self, labels: NDArray[Any]) -> NDArray[np.int32]:
        """A label map at the image's size: the nearest label."""
        height, width = self.image.shape[:2]
        small = labels.astype(np.int32, copy=False)
        if small.shape == (height, width):
            return small
        rows, columns = (np.arange(size) * has // size for size, has in zip((height, width), small.shape, strict=True))
        return small[rows[:, None], columns]


def result_size(height: int, width: int) -> tuple[int, int]:
    """The size that an image of (height, width) pixels is labelled at."""
    pixels = height * width
    if pixels <= RESULT_PIXELS:
        return height, width
    scale = (RESULT_PIXELS / pixels) ** 0.5
    return max(1, round(height * scale)), max(1, round(width * scale))


def _found(
    vocabulary: Vocabulary, labels: NDArray[np.int32], small: NDArray[np.int32], class_maps: ClassMaps
) -> tuple[FoundClass, ...]:
    maps = drawing.Maps(labels, labels)
    found = []
    for index, share in drawing.shares(maps):
        inside = small == index
        score = float(class_maps.scores([index])[0].cpu().numpy()[inside].mean()) if inside.any() else 0.0
        found.append(FoundClass(index, vocabulary.classes[index].synonyms[0], share, score))
    return tuple(found)
