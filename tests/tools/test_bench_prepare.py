"""The benchmark of the preparation measures what it says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reason.vocabulary import load_vocabulary
from tools.bench import prepare as bench_prepare


def test_report_and_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--images", "12", "--rounds", "1", "--workers", "2", "--folder", str(tmp_path)]
    assert bench_prepare.main(bench_prepare.parse_arguments([*arguments, "--least", "0"])) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 12 and report["memory_peak_mib"] > 10
    codec, preparation = report["codec_seconds"][0], report["preparation_seconds"][0]
    assert report["ratio"] == pytest.approx(codec / preparation, rel=0.1)
    assert bench_prepare.main(bench_prepare.parse_arguments([*arguments, "--least", "1000"])) == 1
    assert not list(tmp_path.iterdir())


def test_generated_images_are_like_the_release(tmp_path: Path) -> None:
    paths = bench_prepare.generate(tmp_path / "release", 10)
    assert len(list((tmp_path / "release").iterdir())) == 20
    known = {entry.dataset_id for entry in load_vocabulary("ade847").classes} | {0}
    for path in paths[:3]:
        classes = np.asarray(Image.open(path.with_name(f"{path.stem}_seg.png"))).astype(int)
        assert classes.shape[:2] == np.asarray(Image.open(path)).shape[:2]
        assert set(np.unique(classes[..., 0] // 10 * 256 + classes[..., 1])) <= known


def test_growth() -> None:
    assert bench_prepare.growth([100.0] * 40) == 1.0
    assert bench_prepare.growth([100.0] * 20 + [150.0] * 20) == 1.5
