"""The benchmark of the pipeline apart from the model runs, and says so when it is too slow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.bench.reason_pipeline import Measured, generate, main, make_pipeline, parse_arguments


def test_it_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--images", "24", "--parts", "2", "--folder", str(tmp_path)]
    assert main(parse_arguments([*words, "--least", "0.1"])) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 24 and report["images_per_second"] > 0.1 and report["bytes_of_a_result"] > 1000
    assert main(parse_arguments([*words, "--least", "1e9"])) == 1
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_the_pipeline_does_its_whole_work(tmp_path: Path) -> None:
    """What is measured ends in triplet files that are the same as those of a run."""
    paths = generate(tmp_path / "images", 3)
    make_pipeline(paths, tmp_path / "results")(paths)
    files = sorted((tmp_path / "results").glob("*.json"))
    assert [path.stem for path in files] == [path.stem for path in paths]
    document = json.loads(files[0].read_text())
    assert len(document["reasoning"]["map_class_reason"]) == 4
    assert document["provenance"]["parts"] and [one["how"] for one in document["alignment"]] == ["exact"] * 4


def test_growth() -> None:
    assert Measured(memory=[100, 110, 105, 108]).growth == 108 / 110
    assert Measured(memory=[100, 110, 120, 140]).growth == 140 / 110
    assert Measured(memory=[100]).growth == 1
