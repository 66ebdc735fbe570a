"""Candidate recall and precision, against counts made by hand and by another way of counting."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reason.errors import ReasonError, run_command
from reason.names import named_classes
from reason.score import add_arguments, format_score, run, score_document, score_folder
from reason.vocabulary import load_vocabulary, parse_vocabulary, vocabulary_from_json

ANIMALS = parse_vocabulary("cat, dog, bird", name="animals")


def write_map(path: Path, values: object, dtype: type = np.uint8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, dtype=dtype)).save(path)
    return path


def write_reasons(folder: Path, stem: str, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    reasons = {name: {"reason1": "thing", "reason2": "", "reason3": ["part"]} for name in names}
    (folder / f"{stem}.json").write_text(json.dumps({"reasoning": {"map_class_reason": reasons}}))


@pytest.fixture
def animals(tmp_path: Path) -> tuple[Path, Path]:
    """Results and label maps: three images with both, one that failed, one without a file, one file of no image."""
    results, labels = tmp_path / "results", tmp_path / "labels"
    write_map(labels / "a.png", [[0, 0, 0, 1], [255, 255, 255, 255]])
    write_map(labels / "b.v2.png", [[0, 0], [0, 255]])
    write_map(labels / "c.png", [[1, 1], [2, 2]])
    write_map(labels / "failed.png", [[1, 1]])
    write_map(labels / "never.png", [[2, 2]])
    write_reasons(results, "a", ["cat"])
    write_reasons(results, "b", ["cat", "bird", "unicorn"])
    write_reasons(results, "c", ["dog", "bird", "cat"])
    write_reasons(results, "stranger", ["cat"])
    write_reasons(results / ".reason" / "failed", "failed", [])
    return results, labels


def test_by_hand(animals: tuple[Path, Path]) -> None:
    score = score_folder(*animals, ANIMALS)
    cat, dog, bird = score.classes
    assert (cat.shown, cat.named, cat.both) == (2, 3, 2)
    assert (dog.shown, dog.named, dog.both) == (2, 1, 1)
    assert (bird.shown, bird.named, bird.both) == (1, 2, 1)
    assert (score.total.recall, score.total.precision) == (4 / 5, 4 / 6)
    assert score.macro_recall == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert score.macro_precision == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    assert (score.label_maps, score.scored, score.failed, score.complete, score.unlabelled) == (5, 3, 1, 2, 1)
    assert score.missing == ("failed", "never")
    assert score.outside == {"unicorn": 1}
    text = format_score(score)
    assert "3 of 5 images have a triplet file; 2 without (1 of them failed)" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["cat", "2", "3", "2", "100.0%", "66.7%"] in rows
    assert ["micro", "80.0%", "66.7%"] in rows
    assert "'unicorn' (1)" in text and "without a triplet file: failed, never" in text


def test_small_classes_are_neither_asked_for_nor_held_against_a_file(tmp_path: Path) -> None:
    """One dog pixel of eight: below a share of 0.2 naming the dog is neither right nor wrong."""
    write_map(tmp_path / "labels" / "a.png", [[0, 0, 0, 1], [255, 255, 255, 255]])
    write_reasons(tmp_path / "results", "a", ["cat", "dog", "bird"])
    strict = score_folder(tmp_path / "results", tmp_path / "labels", ANIMALS, min_share=0.2)
    assert [(entry.shown, entry.named, entry.both) for entry in strict.classes] == [(1, 1, 1), (0, 0, 0), (0, 1, 0)]
    assert strict.classes[1].recall is None and strict.classes[1].precision is None
    exact = score_folder(tmp_path / "results", tmp_path / "labels", ANIMALS, min_share=0.125)
    assert exact.classes[1].shown == 1, "the share itself is enough"


def test_sixteen_bit_maps_of_many_classes(tmp_path: Path) -> None:
    """A-847: 255 is a class, 65535 is ignored, PNG and TIFF."""
    vocabulary = load_vocabulary("ade847")
    write_map(tmp_path / "labels" / "a.tif", [[255, 846], [65535, 65535]], np.uint16)
    write_map(tmp_path / "labels" / "b.png", [[300, 65535]], np.uint16)
    names = vocabulary.class_names
    write_reasons(tmp_path / "results", "a", [names[255], names[3]])
    write_reasons(tmp_path / "results", "b", [names[300]])
    score = score_folder(tmp_path / "results", tmp_path / "labels", vocabulary, ignore=65535)
    assert score.classes == score_folder(tmp_path / "results", tmp_path / "labels", vocabulary).classes
    found = {index for index, entry in enumerate(score.classes) if entry.both}
    assert found == {255, 300}
    assert score.classes[846].recall == 0 and score.classes[3].precision == 0
    assert score.total.shown == 3


def test_another_way_of_counting(tmp_path: Path) -> None:
    """Random maps and files, counted again by pairs."""
    chance = random.Random(59)
    vocabulary = load_vocabulary("pc59")
    pairs_shown, pairs_named = set(), set()
    for image in range(12):
        shown = chance.sample(range(59), 4)
        named = chance.sample(range(59), 5) + chance.sample(shown, 2)
        write_map(tmp_path / "labels" / f"{image}.png", [[*shown, 255]])
        write_reasons(tmp_path / "results", str(image), [vocabulary.class_names[index] for index in named])
        pairs_shown |= {(image, index) for index in shown}
        pairs_named |= {(image, index) for index in named}
    score = score_folder(tmp_path / "results", tmp_path / "labels", vocabulary)
    both = pairs_shown & pairs_named
    assert score.total.recall == len(both) / len(pairs_shown)
    assert score.total.precision == len(both) / len(pairs_named)
    for index, entry in enumerate(score.classes):
        counted = [sum(pair[1] == index for pair in pairs) for pairs in (pairs_shown, pairs_named, both)]
        assert [entry.shown, entry.named, entry.both] == counted


def test_names_are_read_as_the_segmentor_reads_them() -> None:
    entries = [("building, edifice", ["building", "edifice"]), ("screen", ["screen", "door"]), ("door", ["door"])]
    document = {"classes": [{"name": name, "synonyms": synonyms} for name, synonyms in entries]}
    vocabulary = vocabulary_from_json(document, where="here")
    assert named_classes(["edifice"], vocabulary) == ({0}, [])
    assert named_classes(["building, edifice"], vocabulary) == ({0}, [])
    assert named_classes(["door", "Door"], vocabulary) == ({1, 2}, ["Door"])


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda results, labels: write_map(labels / "a.png", [[0, 3]]), "a.png: holds 3, outside the vocabulary of 3"),
        (lambda results, labels: write_map(labels / "a.png", np.zeros((2, 2, 3))), "a.png: has mode RGB"),
        (lambda results, labels: _as_tiff(labels / "a.png", [[0, 65537]]), "a.tif: holds 65537; labels are 0 to 65535"),
        (lambda results, labels: _as_tiff(labels / "a.png", [[0, -1]]), "a.tif: holds -1; labels are 0 to 65535"),
        (lambda results, labels: _as_tiff(labels / "a.png", [[0.0, 1.0]]), "a.tif: has mode F"),
        (lambda results, labels: (labels / "a.png").write_bytes(b"PNG"), "a.png: not readable as a label map"),
        (lambda results, labels: write_map(labels / "a.tif", [[0]]), "a.png and a.tif are label maps of one image"),
        (lambda results, labels: (results / "a.json").write_text("{"), "a.json: not valid JSON"),
        (lambda results, labels: [path.unlink() for path in results.glob("*.json")], "has no file for any of the 5"),
        (lambda results, labels: [path.unlink() for path in labels.iterdir()], "no .png, .tif, .tiff file in it"),
    ],
)
def test_errors_are_one_line(animals: tuple[Path, Path], spoil, problem: str, capsys) -> None:  # type: ignore[no-untyped-def]
    results, labels = animals
    spoil(results, labels)
    assert command("--results", results, "--labels", labels, "--vocabulary", "cat, dog, bird") == 2
    lines = capsys.readouterr().err.splitlines()
    (error,) = (line for line in lines if not line.startswith("label maps: "))  # those are the progress
    assert problem in error and len(lines) <= 3


def _as_tiff(path: Path, labels: list[list[float]]) -> None:
    """In the place of a label map, one whose values do not fit into 16 bits, as some programs write them."""
    path.unlink()
    values = np.array(labels)
    Image.fromarray(values.astype(np.float32 if values.dtype.kind == "f" else np.int32)).save(path.with_suffix(".tif"))


def command(*words: object) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args([str(word) for word in words])
    return run_command(lambda: run(args), debug=False)


def test_command_line(animals: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "score.json"
    words = ("--results", animals[0], "--labels", animals[1], "--vocabulary", "cat, dog, bird")
    assert command(*words, "--json", output) == 0
    document = json.loads(output.read_text())
    assert document == score_document(score_folder(*animals, ANIMALS)) | {"vocabulary": "cat-dog-bird"}
    assert document["micro"] == {"recall": 0.8, "precision": 4 / 6, "shown": 5, "named": 6, "both": 4}
    assert "80.0%" in capsys.readouterr().out
    assert command(*words, "--min-share", 1.5) == 2
    assert command("--results", tmp_path / "none", *words[2:]) == 2
    with pytest.raises(ReasonError, match="--labels"):
        score_folder(animals[0], tmp_path / "nowhere", ANIMALS)
