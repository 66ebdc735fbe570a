"""The names that classes are asked about by, and that files are keyed by."""

from __future__ import annotations

import pytest

from reason.names import VocabularyNames, bare, fold, singulars
from reason.vocabulary import Vocabulary, known_vocabularies, load_vocabulary, parse_vocabulary


def test_fold_and_singulars() -> None:
    assert fold("  The Traffic_Light ") == "traffic light"
    assert fold("a") == "a"
    assert fold("T-shirt") == fold("t shirt")
    assert "bench" in singulars("benches")
    assert "shelf" in singulars("shelves")
    assert "berry" in singulars("berries")
    assert singulars("glass") == ("glass",)
    assert bare("crane (machine)") == "crane"
    assert bare("(odd)") == "(odd)"


def served_classes(vocabulary: Vocabulary, key: str) -> list[int]:
    """The classes that the segmentor gives a key's reasons to, by the rule of docs/numerics.md."""
    parts = {part.strip() for part in key.split(",")}
    return [entry.index for entry in vocabulary.classes if parts & set(entry.synonyms)]


@pytest.mark.parametrize("name", known_vocabularies())
def test_names_of_the_benchmarks(name: str) -> None:
    vocabulary = load_vocabulary(name)
    names = VocabularyNames.of(vocabulary)
    assert len({fold(label) for label in names.labels}) == len(vocabulary)
    assert not any("," in label or label != label.strip() for label in names.labels)
    assert len(set(names.keys)) == len(vocabulary)
    assert sorted(names.file_order) == list(range(len(vocabulary)))
    # Alone in a file, a key reaches its class, and no other one where a class has a name of its own.
    for entry, key in zip(vocabulary.classes, names.keys, strict=True):
        served = served_classes(vocabulary, key)
        assert entry.index in served
        others = {other for row in vocabulary.classes if row is not entry for other in row.synonyms}
        if set(entry.synonyms) - others:
            assert served == [entry.index]


def test_keys_are_class_names_where_those_will_do() -> None:
    for name in ("pc59", "pc459", "voc20"):
        vocabulary = load_vocabulary(name)
        assert VocabularyNames.of(vocabulary).keys == vocabulary.class_names
    panoptic = load_vocabulary("coco_panoptic133")
    keys = dict(zip(panoptic.class_names, VocabularyNames.of(panoptic).keys, strict=True))
    assert keys["person"] == "person"
    assert keys["door-stuff"] == "door, doors"


def test_names_of_vocabularies_that_repeat_themselves() -> None:
    vocabulary = parse_vocabulary("y, z\nx, y\nw, y\nY")
    names = VocabularyNames.of(vocabulary)
    assert len({fold(label) for label in names.labels}) == 4
    assert len(set(names.keys)) == 4
    assert names.lines[0].startswith(names.labels[0])
