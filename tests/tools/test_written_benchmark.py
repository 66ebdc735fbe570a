"""A benchmark with the shipped reasons, from the official release to the table: a miniature ADE20K, a small network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from tools.benchmarks import generic_candidates
from tools.prepare_datasets.__main__ import prepare
from tools.results_table.__main__ import main as results_table

ROOT = Path(__file__).resolve().parents[2]
DATASET = "openvocab_ade20k_sem_seg_val"
SMALL = {
    "MODEL.WEIGHTS": "seeded",
    "MODEL.DEVICE": "cpu",
    "MODEL.NUM_DES": "1",
    "MODEL.FC_CLIP.CLIP_MODEL_NAME": "tests/assets/tiny_clip.json",
    "MODEL.FC_CLIP.EMBED_DIM": "64",
    "MODEL.cdt_params": "[64, 4]",
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": "1",
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": "12",
    "MODEL.MASK_FORMER.DEC_LAYERS": "4",
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": "64",
    "MODEL.REASON.BANK_DIR": "",
    "INPUT.MIN_SIZE_TEST": "96",
    "INPUT.MAX_SIZE_TEST": "160",
    "DATALOADER.NUM_WORKERS": "0",
}
"""What makes a network of base's config that runs in seconds."""

NOT_THE_PAPERS = "written for this repository, not by Qwen2.5-VL-72B; not the paper's"


def release(folder: Path) -> Path:
    """ADEChallengeData2016 as it is published, with two images a split; sky above, wall below, 0 is no class."""
    photographs = (skimage.data.chelsea(), skimage.data.coffee())
    for split, name in (("training", "train"), ("validation", "val")):
        for number, photograph in enumerate(photographs, 1):
            stem = f"ADE_{name}_{number:08d}"
            labels = np.zeros((80, 120), np.uint8)
            labels[:30], labels[40:] = 3, 1
            image = Image.fromarray(photograph).resize((120, 80))
            for kind, ending, drawn in (("images", "jpg", image), ("annotations", "png", Image.fromarray(labels))):
                path = folder / f"ADEChallengeData2016/{kind}/{split}/{stem}.{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                drawn.save(path)
    return folder


def run(root: Path, *words: object) -> str:
    command = [sys.executable, "-m", *map(str, words)]
    variables = {**os.environ, "DETECTRON2_DATASETS": str(root), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.skipif(
    any((ROOT / path).exists() for path in generic_candidates("ade150")), reason="this checkout has reasons of its own"
)
def test_ade150_runs_with_the_shipped_reasons_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets, out = tmp_path / "sets", tmp_path / "out"
    sets.mkdir()
    prepare(["ade150"], [release(tmp_path / "given")], sets, ("train", "val"), 1)
    keys = [word for pair in (SMALL | {"OUTPUT_DIR": str(out)}).items() for word in pair]
    said = run(sets, "tools.run_benchmarks", "base", "ade150", "--", *keys)
    shipped = "reason_data/general_reason/written/ade150_class_reason.json"
    own = "reason_data/general_reason/ade150_class_reason.json"
    announced = f"generic reasons {own}: no such file; {shipped} stands in ({NOT_THE_PAPERS})"
    assert said.count(announced) == 1, "announced once"
    assert f"generic reasons of {DATASET}: {NOT_THE_PAPERS}" in said, "and named beside the result"
    folder = out / "inference" / DATASET
    results = json.loads((folder / "results.json").read_text())
    assert results["images"]["total"] == 2 and results["usage"]["generic_missing_file"] == 2
    reasons = results["provenance"]["reasons"]
    assert (reasons["generic"], reasons["generic_origin"]) == (shipped, NOT_THE_PAPERS)
    assert f"generic reasons: {NOT_THE_PAPERS}" in (folder / "results.md").read_text()
    capsys.readouterr()
    assert results_table([str(out)]) == 0
    table = capsys.readouterr().out.replace("\\", "")
    (row,) = (line for line in table.splitlines() if "measured, random weights, shipped generic reasons" in line)
    number = row[row.index("[") : row.index("]")].strip("[]")
    (origin,) = (line for line in table.splitlines() if line.startswith(f"| {number} |"))
    assert f"generic reasons: {NOT_THE_PAPERS}" in origin
