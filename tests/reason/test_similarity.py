"""How near classes lie to one another: worked out by hand, and measured on the shipped reasons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from reason.cli.main import main
from reason.similarity import nearness
from reason.triplets import Reason, load_generic
from reason.vocabulary import load_vocabulary, parse_vocabulary

WRITTEN = Path(__file__).resolve().parents[2] / "reason_data/general_reason/written"


def test_a_small_case_by_hand() -> None:
    """Two attributes pull cup and mug apart; a class without an entry does not count, the fourth attribute neither."""
    rows = {
        "cup": (1.0, 0.0),
        "mug": (0.8, 0.6),
        "cup that has a saucer": (1.0, 0.0),
        "cup that has a foot": (0.0, 1.0),
        "mug that has a handle": (-0.6, 0.8),
    }

    def embed(texts: Sequence[str]) -> np.ndarray:
        return np.array([rows[text] for text in texts], dtype=np.float32)

    reasons = {"cup": Reason("cup", "", "", ("a saucer", "a foot")), "mug": Reason("mug", "", "", ("a handle",))}
    found = nearness(parse_vocabulary("cup, mug, plate"), reasons, embed)
    assert found is not None and found.classes == 2
    half = 0.5**0.5
    assert found.names == pytest.approx(0.8) and found.reasons == pytest.approx(-0.6 * half + 0.8 * half)
    assert [pair[:2] for pair in found.pairs] == [("cup", "mug"), ("mug", "cup")]
    assert nearness(parse_vocabulary("cup, plate"), reasons, embed) is None


def test_the_command_needs_a_vocabulary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(WRITTEN / "voc20_class_reason.json"), "--similarity"]) == 2
    assert "--similarity: name the classes with --vocabulary" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["voc20", "pc59"])
def test_the_shipped_reasons_as_the_aligner_reads_them(name: str) -> None:
    pytest.importorskip("sentence_transformers")
    from reason.asking.aligner import sentence_embedding

    found = nearness(load_vocabulary(name), load_generic(WRITTEN / f"{name}_class_reason.json"), sentence_embedding())
    assert found is not None and found.classes == len(load_vocabulary(name))
    assert 0 < found.reasons < 1 and 0 < found.names < 1
