"""From photographs to a result: real vLLM writes the reasons, the segmentor evaluates with them.

The reasoning runs in its own environment, .venv-reason (OPENSEG_R_REASON_PYTHON names another interpreter).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reason.triplets import load_generic, load_image
from reason.vocabulary import load_vocabulary
from tools.examples.photographs import VOCABULARY, load_photographs, open_photograph

ROOT = Path(__file__).resolve().parents[1]
REASONING = Path(os.environ.get("OPENSEG_R_REASON_PYTHON") or ROOT / ".venv-reason" / "bin" / "python")
MODEL = "tiny"
DATASET = "own_photographs_val"
SHOWN = ("astronaut", "chelsea", "coffee", "rocket")
BY_HAND = "chelsea"
"""This photograph's generated file gives way to the one written by hand: a random model may name no class at all."""

OWN_DATA = """
from maft.data import register_custom

def register():
    register_custom("{name}", "{vocabulary}", "{folder}/images", "{folder}/labels")
"""

SMALL = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
"""Environment in which vLLM starts in seconds."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REASONING.is_file(), reason=f"{REASONING} is missing: bash install.sh reason"),
]


def run(*words: object, variables: dict[str, str] | None = None) -> str:
    """Run a command from the repository; what it printed. Fails with it where the command failed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (variables or {})
    command = [str(word) for word in words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, labels that know the upper half of each only, and the module that registers them."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    index_of = {name: index for index, name in enumerate(load_vocabulary(VOCABULARY).class_names)}
    for photograph in load_photographs():
        if photograph.name in SHOWN:
            image = open_photograph(photograph)
            image.save(folder / "images" / f"{photograph.name}.png")
            label = np.full((image.height, image.width), 255, dtype=np.uint8)
            label[: image.height // 2] = index_of[next(iter(load_image(photograph.reasons).reasons))]
            Image.fromarray(label).save(folder / "labels" / f"{photograph.name}.png")
    text = OWN_DATA.format(name=DATASET, vocabulary=VOCABULARY, folder=folder)
    (folder / "own_photographs.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def reasons(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a tiny random model wrote: `generic.json`, and `image_reason/<model>/photos/<stem>.json`."""
    folder = tmp_path_factory.mktemp("reasons")
    model = folder / "llm" / MODEL
    run(REASONING, ROOT / "tests" / "reason" / "tiny_qwen.py", model)
    common = ["--vocabulary", VOCABULARY, "--model", model, "--max-model-len", 8192, "--quiet"]
    common += ["--attributes", 2, 3]
    images = ["--images", photographs / "images", "--candidates", "closed", "--max-pixels", 64 * 28 * 28]
    output = folder / "image_reason" / MODEL / "photos"
    said = run(REASONING, "-m", "reason", "image", *common, *images, "--output", output, variables=SMALL)
    assert f"{len(SHOWN)} of {len(SHOWN)} images" in said
    run(REASONING, "-m", "reason", "generic", *common, "--output", folder / "generic.json", variables=SMALL)
    return folder


def evaluate(photographs: Path, output: Path, *keys: object) -> dict:  # type: ignore[type-arg]
    words = ["--config-file", "tests/assets/tiny.yaml", "--eval-only", "MODEL.DEVICE", "cpu"]
    words += ["DATASETS.REGISTER", "('own_photographs',)", "DATASETS.TEST", f"('{DATASET}',)"]
    words += ["OUTPUT_DIR", str(output), *map(str, keys)]
    run(sys.executable, "train_net.py", *words, variables={"PYTHONPATH": str(photographs)})
    return json.loads((output / "inference" / DATASET / "results.json").read_text())


def test_generated_reasons_are_what_the_segmentor_uses(photographs: Path, reasons: Path, tmp_path: Path) -> None:
    """Every photograph has a file of its own, and all of them take part in the evaluation."""
    folder = reasons / "image_reason" / MODEL
    files = sorted((folder / "photos").glob("*.json"))
    assert [path.stem for path in files] == sorted(SHOWN)
    triplets = [load_image(path) for path in files]
    for triplet in triplets:
        assert triplet.extra["provenance"]["engine"] == "vllm"
        assert all(2 <= len(reason.attributes) <= 3 for reason in triplet.reasons.values())
    by_hand = next(photograph for photograph in load_photographs() if photograph.name == BY_HAND)
    mixed = tmp_path / "image_reason"
    shutil.copytree(folder / "photos", mixed / "photos")
    shutil.copy(by_hand.reasons, mixed / "photos" / f"{BY_HAND}.json")
    covered = sum(bool(load_image(path).reasons) for path in (mixed / "photos").glob("*.json"))
    assert covered >= 1
    assert len(load_generic(reasons / "generic.json")) == len(load_vocabulary(VOCABULARY))
    keys = ["MODEL.TEST_CLASS_REASON_JSON", reasons / "generic.json", "MODEL.NUM_DES", 2]
    keys += ["MODEL.REASON_DIR", mixed, "MODEL.REASON_DATA", "photos"]
    found = evaluate(photographs, tmp_path / "out", *keys)
    assert found["images"]["total"] == len(SHOWN)
    assert found["usage"]["image"] == covered
    assert sum(value for key, value in found["usage"].items() if key.startswith("generic")) == len(SHOWN) - covered


def test_what_was_generated_is_scored(photographs: Path, reasons: Path, tmp_path: Path) -> None:
    """The label maps of the data set and the generated files meet in `python -m reason score`."""
    results = reasons / "image_reason" / MODEL / "photos"
    words = ["--results", results, "--labels", photographs / "labels", "--vocabulary", VOCABULARY]
    run(REASONING, "-m", "reason", "score", *words, "--json", tmp_path / "score.json")
    score = json.loads((tmp_path / "score.json").read_text())
    assert score["images"]["label_maps"] == score["images"]["scored"] == len(SHOWN)
    named = sum(len(load_image(path).reasons) for path in results.glob("*.json"))
    assert score["micro"]["named"] == named and score["micro"]["shown"] > 0
