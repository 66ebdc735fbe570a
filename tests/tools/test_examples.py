"""The example photographs: their reasons hang together, and the command that is printed segments them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from reason.triplets import load_generic, load_image
from reason.vocabulary import load_vocabulary
from tools.examples.__main__ import main
from tools.examples.photographs import (
    GENERIC_REASONS,
    IMAGE_REASONS,
    LONG_SIDE,
    VOCABULARY,
    Photograph,
    load_photographs,
    open_photograph,
)

PHOTOGRAPHS = load_photographs()
ATTRIBUTES = 5


def test_the_vocabulary_has_things_stuff_and_classes_in_no_photograph() -> None:
    vocabulary = load_vocabulary(VOCABULARY)
    visible = {name for photograph in PHOTOGRAPHS for name in load_image(photograph.reasons).reasons}
    things = {vocabulary.class_names[index] for index in vocabulary.thing_indices}
    assert len(PHOTOGRAPHS) == 8 and len(vocabulary) == 24 and len(things) == 14
    assert visible <= set(vocabulary.class_names)
    assert visible & things and visible - things
    assert {"dog", "car"} <= set(vocabulary.class_names) - visible
    prompted = [synonym for synonyms in vocabulary.synonyms for synonym in synonyms]
    assert len(set(prompted)) == len(prompted), "a name that serves two classes makes reasons ambiguous"


def test_every_class_has_a_generic_reason_in_the_published_answer_form() -> None:
    reasons = load_generic(GENERIC_REASONS)
    assert tuple(reasons) == load_vocabulary(VOCABULARY).class_names
    for name, reason in reasons.items():
        assert len(set(reason.attributes)) == ATTRIBUTES
        found = re.fullmatch(
            r"A1: This object belongs to \[(.+)\]\. A2: This '(.+)' is \[(.+)\]\. A3: This '(.+)' '(.+)' can be "
            r"recognized as (.+) because it contains visual attributes: \[(.+)\]\.",
            reason.raw_response or "",
        )
        assert found, name
        category, sub_category = reason.general_category, reason.sub_category
        assert found.groups()[:6] == (category, category, sub_category, sub_category, category, name)
        assert found.group(7) == ", ".join(reason.attributes)


@pytest.mark.parametrize("photograph", PHOTOGRAPHS, ids=lambda photograph: photograph.name)
def test_every_photograph_has_reasons_a_credit_and_its_size(photograph: Photograph) -> None:
    triplet = load_image(photograph.reasons)
    assert len(triplet.reasons) >= 2 and triplet.extra["description"] and photograph.credit
    for reason in triplet.reasons.values():
        assert reason.general_category and reason.sub_category
        assert len(set(reason.attributes)) == ATTRIBUTES
    image = open_photograph(photograph)
    assert image.mode == "RGB" and image.size == photograph.size and max(image.size) <= LONG_SIDE


@pytest.mark.usefixtures("in_repository")
def test_one_command_writes_them_and_names_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "photographs")]) == 0
    files = sorted((tmp_path / "photographs").iterdir())
    assert [path.stem for path in files] == [photograph.name for photograph in PHOTOGRAPHS]
    assert [Image.open(path).size for path in files] == [photograph.size for photograph in PHOTOGRAPHS]
    words = shlex.split(capsys.readouterr().out.partition("by hand:")[2].replace("\\\n", " "))
    assert words[:4] == ["python", "-m", "tools.segment", str(tmp_path / "photographs")]
    named = dict(zip(words[4::2], map(Path, words[5::2]), strict=True))
    assert {flag: path.resolve() for flag, path in named.items()} == {
        "--vocabulary": VOCABULARY,
        "--generic": GENERIC_REASONS,
        "--image-reasons": IMAGE_REASONS,
    }


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main([str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/file/astronaut.png: cannot be written")
