"""Texts that CLIP's tokenizer does not tell apart, and sentences that it cuts."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest

from maft import load_segmentor
from maft.text.bank import FeatureBank
from maft.text.plane_fold import PlaneFold
from maft.text.rows import RowFold
from maft.text.source import TextSource
from maft.text.tokens import Tokens, describe_cut, doubles
from reason.vocabulary import load_vocabulary

LONG = "a very long and winding handle of dark wood " * 9


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return Tokens(open_clip.get_tokenizer("convnext_base_w_320"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Cat", "cat"),
        ("rock &amp; roll", "Rock & Roll"),
        ("tennis  racket", "tennis racket"),
        ("tennis\u00a0racket", "tennis racket"),
        ("ice-cream", "ice - cream"),
        ("caf\u00c3\u00a9", "café"),
        (f"{LONG} red", f"{LONG} blue"),
    ],
)
def test_one_text_to_clip(tokens: Tokens, one: str, other: str) -> None:
    assert tokens.key(one) == tokens.key(other)
    found = doubles([("dog",), (one,), (other,)], tokens, averaged=False)
    assert found.hidden == ((1, 2),) and found.shared == ()


def test_a_class_is_hidden_only_if_earlier_ones_have_all_its_names(tokens: Tokens) -> None:
    names = [("cat", "kitten"), ("Kitten",), ("kitten", "puppy"), ("puppy", "CAT"), ("lion",)]
    found = doubles(names, tokens, averaged=False)
    assert found.hidden == ((0, 1), (2, 3)) and found.shared == ((0, 2),)
    # The shorter list first: it wins where both have the best name, and the longer one has another.
    assert doubles([("kitten",), ("cat", "kitten")], tokens, averaged=False).shared == ((0, 1),)
    # SED averages the names of a class, whatever their order.
    assert doubles(names, tokens, averaged=True).hidden == ()
    assert doubles([("cat", "kitten"), ("Kitten", "Cat")], tokens, averaged=True).hidden == ((0, 1),)


@pytest.mark.parametrize("fold", [RowFold(), PlaneFold()])
def test_a_vocabulary_is_said_once(fold: Any, counting, caplog: pytest.LogCaptureFixture) -> None:
    source: TextSource[Any, Any] = TextSource(fold, FeatureBank(counting, fold.templates), reasons=False)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            source.classifier([("Cat",), ("dog",), ("cat",)], "a.jpg")
    assert caplog.text.count("one text to CLIP") == 1
    assert "'Cat' (class 0) and 'cat' (class 2)" in caplog.text
    caplog.clear()
    source.classifier([("cat",), ("dog",)], "a.jpg")
    assert not caplog.records


def test_many_are_one_line_and_847_classes_take_no_time(tokens: Tokens, counting, caplog) -> None:
    names = load_vocabulary("ade847").synonyms
    doubles(names[:1], tokens, averaged=False)
    start = time.process_time()
    found = doubles(names, tokens, averaged=False)
    assert time.process_time() - start < 3
    assert (
        len(found.hidden) == 27 and len(doubles(load_vocabulary("pc459").synonyms, tokens, averaged=False).hidden) == 2
    )
    source: TextSource[Any, Any] = TextSource(RowFold(), FeatureBank(counting), reasons=False)
    source._look_at(names)
    assert 1 <= len(caplog.records) <= 2 and "in all)" in caplog.text


@pytest.mark.parametrize("name", ["pc59", "voc20", "ade150", "coco_panoptic133", "coco_stuff171"])
def test_published_vocabularies_without_doubles(tokens: Tokens, name: str) -> None:
    vocabulary = load_vocabulary(name)
    assert doubles(vocabulary.synonyms, tokens, averaged=False).hidden == ()
    assert doubles(vocabulary.sed_names, tokens, averaged=True).hidden == ()


def test_77_tokens_are_read_and_78_are_cut(tokens: Tokens) -> None:
    assert tokens.most == 77
    whole, cut = " ".join(["dog"] * 75), " ".join(["dog"] * 76)
    assert tokens.cut([whole, cut, "dog", cut]) == [cut, cut]
    # Words of many tokens, signs and entities count as the tokenizer counts them.
    for text in ("ab12 " * 40, "é東京 " * 20, "&amp;" * 75, "&amp;" * 76, "!?" * 40, "a-b " * 26):
        ids = [*open_clip.get_tokenizer("convnext_base_w_320").encode(text)]
        assert (tokens.cut([text]) == [text]) == (len(ids) > 75), text


def test_cut_sentences_are_counted_and_said_once(tmp_path: Path, counting, caplog: pytest.LogCaptureFixture) -> None:
    bank = FeatureBank(counting, "vild", tmp_path / "bank")
    for run in range(2):  # the second time, features come from the disk
        caplog.clear()
        source: TextSource[Any, Any] = TextSource(RowFold(), bank, reasons=False)
        source.warm_up("two", [("dog",), (LONG,)], progress=False)
        assert source.cut == 14
        assert source.usage() == {}
        for image in ("a.jpg", "b.jpg"):
            source.classifier([("dog",), (LONG,)], image)
        assert source.usage() == {"cut_sentences": 14, "plain": 2}
        assert caplog.text.count("14 of 28 sentences are cut after 77 CLIP tokens") == 1, run
    assert "winding handle" in caplog.text


def test_the_line_stays_short() -> None:
    assert len(describe_cut([LONG], 1, 77)) < 300


def test_the_python_interface_says_both_once(caplog: pytest.LogCaptureFixture) -> None:
    segmentor = load_segmentor("mini", device="cpu")
    seen = segmentor.look(np.zeros((32, 32, 3), np.uint8))
    for _ in range(2):
        seen.segment(["Cat", "cat", LONG])
        seen.segment(["Cat", "cat", LONG], {"Cat": ["fur"]})
    assert caplog.text.count("'Cat' (class 0) and 'cat' (class 1)") == 1
    assert caplog.text.count("cut after 48 CLIP tokens") == 1
