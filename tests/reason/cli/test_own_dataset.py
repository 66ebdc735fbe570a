"""A data set of one's own, from its yaml file to reason files and their score, with a model that knows its classes."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from reason.cli.main import main
from reason.triplets import load_image
from tools.mini.lmm.grading import present
from tools.mini.scenes import dev_scene
from tools.mini.world import VAL_CLASSES

CLASSES = [entry.name for entry in VAL_CLASSES]
LABELLED = ("scene_1000", "scene_1001", "scene_1002")


def test_from_the_file_to_a_score(
    drawn: Path, vllm_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four images of which three have a label map; all but the model stands in the file."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    there: dict[str, set[str]] = {}
    for stem in LABELLED:
        scene = dev_scene(int(stem.removeprefix("scene_")))
        there[stem] = set(present(scene))
        labels = np.full(scene.panoptic.shape, 255, np.uint8)
        for segment in scene.segments:
            if segment.class_index is not None:
                labels[scene.panoptic == segment.id] = segment.class_index
        shutil.copy(drawn / f"{stem}.png", tmp_path / "images")
        Image.fromarray(labels).save(tmp_path / f"masks/{stem}.png")
    shutil.copy(drawn / "scene_1003.png", tmp_path / "images")
    document = {"images": "images", "labels": "masks", "vocabulary": CLASSES, "reasons": {"images": "seen"}}
    path = tmp_path / "kitchen.yaml"
    path.write_text(yaml.safe_dump(document))
    words = ["image", "--dataset", str(path), "--engine", "server", "--url", vllm_server, "--quiet"]
    words += ["--aligner", "none", "--attributes", "3", "3"]
    assert main(words) == 0
    assert "3 of 3 images" in capsys.readouterr().out
    triplets = {file.stem: load_image(file) for file in sorted((tmp_path / "seen").glob("*.json"))}
    assert tuple(triplets) == LABELLED, "only images that have a label map"
    for triplet in triplets.values():
        assert all(len(reason.attributes) == 3 for reason in triplet.reasons.values())
        assert triplet.extra["provenance"]["parts"]["vocabulary"].startswith(f"kitchen, {len(CLASSES)} classes")
    assert main([*words, "--dry-run"]) == 0 and "3 done; 0 to do" in capsys.readouterr().out

    assert main(["score", "--dataset", str(path), "--json", str(tmp_path / "score.json")]) == 0
    score = json.loads((tmp_path / "score.json").read_text())
    assert score["images"]["label_maps"] == score["images"]["scored"] == 3
    counts = {entry["name"]: (entry["shown"], entry["named"], entry["both"]) for entry in score["classes"]}
    shown, named, both = Counter[str](), Counter[str](), Counter[str]()
    for stem, triplet in triplets.items():
        shown.update(there[stem])
        named.update(list(triplet.reasons))
        both.update(there[stem] & set(triplet.reasons))
    assert {name: count for name, count in counts.items() if any(count)} == {
        name: (shown[name], named[name], both[name]) for name in {*shown, *named}
    }
    assert both.total() >= 0.8 * shown.total() and both.total() >= 0.8 * named.total()
