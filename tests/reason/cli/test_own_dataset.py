"""A data set of one's own, from its yaml file to reason files and their score, with a real if tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from reason.cli.main import main
from reason.triplets import load_image

CLASSES = ["cat, kitten", "cup", "table"]
SHOWN = {"astronaut": "cat", "coins": "cup", "motorcycle_left": "table"}
"""Image -> the only class of its label map."""


def test_from_the_file_to_a_score(
    photos: Path, vllm_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four images of which three have a label map; all but the model stands in the file."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number, stem in enumerate(SHOWN):
        shutil.copy(photos / f"{stem}.jpg", tmp_path / "images")
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(tmp_path / f"masks/{stem}.png")
    shutil.copy(photos / "rocket.jpg", tmp_path / "images")
    document = {"images": "images", "labels": "masks", "vocabulary": CLASSES, "reasons": {"images": "seen"}}
    path = tmp_path / "kitchen.yaml"
    path.write_text(yaml.safe_dump(document))
    words = ["image", "--dataset", str(path), "--engine", "server", "--url", vllm_server, "--quiet"]
    words += ["--aligner", "none", "--candidates", "closed", "--max-pixels", "25088"]
    assert main(words) == 0
    assert "3 of 3 images" in capsys.readouterr().out
    triplets = {file.stem: load_image(file) for file in sorted((tmp_path / "seen").glob("*.json"))}
    assert list(triplets) == list(SHOWN), "only images that have a label map"
    for triplet in triplets.values():
        assert set(triplet.reasons) <= set(SHOWN.values())
        assert all(reason.attributes for reason in triplet.reasons.values())
        assert triplet.extra["provenance"]["parts"]["vocabulary"].startswith("kitchen, 3 classes")
    assert any(triplet.reasons for triplet in triplets.values()), "kept to the classes, random weights choose some"
    assert main([*words, "--dry-run"]) == 0 and "3 done; 0 to do" in capsys.readouterr().out

    assert main(["score", "--dataset", str(path), "--json", str(tmp_path / "score.json")]) == 0
    score = json.loads((tmp_path / "score.json").read_text())
    assert score["images"]["label_maps"] == score["images"]["scored"] == 3
    counts = {entry["name"]: (entry["shown"], entry["named"], entry["both"]) for entry in score["classes"]}
    assert counts == {
        name: (
            1,
            sum(name in triplet.reasons for triplet in triplets.values()),
            int(name in triplets[stem].reasons),
        )
        for stem, name in SHOWN.items()
    }
