"""Images without a class are counted and said, wherever a run is summed up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reason.cli.main import main
from reason.runs.tally import Tally, tally


def write_results(folder: Path, counts: list[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, count in enumerate(counts):
        reasons = {f"class {index}": {"reason3": ["a part"]} for index in range(count)}
        (folder / f"{number}.json").write_text(json.dumps({"reasoning": {"map_class_reason": reasons}}))


def test_classes_are_counted(tmp_path: Path) -> None:
    write_results(tmp_path, [0, 3, 0, 2])
    (tmp_path / "cut.json").write_text('{"reasoning": {"map_class')
    (tmp_path / "other.json").write_text('{"reasoning": []}')
    counts = tally(sorted(tmp_path.iterdir()))
    assert counts == Tally(4, 2, 5) and counts.mean == 1.25
    assert str(counts) == "2 of 4 name no class, 1.2 classes an image"
    assert tally([]).mean is None and str(tally([])) == ""


def test_status_says_how_many_name_no_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path, [0, 0, 0])
    assert main(["status", str(tmp_path)]) == 0
    assert "(3 name no class, 0.0 classes an image)" in capsys.readouterr().out
    assert main(["status", str(tmp_path), "--json"]) == 0
    (status,) = json.loads(capsys.readouterr().out)
    assert (status["done"], status["without_class"], status["mean_classes"]) == (3, 3, 0.0)
