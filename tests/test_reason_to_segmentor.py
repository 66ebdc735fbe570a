"""From photographs to a result: real vLLM writes the reasons, the segmentor evaluates with them.

The reasoning runs in its own environment, .venv-reason (OPENSEG_R_REASON_PYTHON names another interpreter).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reason.triplets import load_generic, load_image
from reason.vocabulary import load_vocabulary
from tools.photos.prepare import Layout, prepare

ROOT = Path(__file__).resolve().parents[1]
REASONING = Path(os.environ.get("OPENSEG_R_REASON_PYTHON") or ROOT / ".venv-reason" / "bin" / "python")
MODEL = "tiny"
DATASETS = "('photos_sem_seg_val',)"

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
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """The photographs as a data set, without the reasons written by hand."""
    layout = prepare(tmp_path_factory.mktemp("photos"))
    layout.generic_reason.unlink()
    for path in layout.image_reason.iterdir():
        path.unlink()
    return layout


@pytest.fixture(scope="module")
def reasons(photographs: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a tiny random model wrote: `generic.json`, and `image_reason/<model>/photos/<stem>.json`."""
    folder = tmp_path_factory.mktemp("reasons")
    model = folder / "llm" / MODEL
    run(REASONING, ROOT / "tests" / "reason" / "tiny_qwen.py", model)
    common = ["--vocabulary", photographs.vocabulary, "--model", model, "--max-model-len", 8192, "--quiet"]
    common += ["--attributes", 2, 3]
    images = ["--images", photographs.images, "--candidates", "closed", "--max-pixels", 64 * 28 * 28]
    output = folder / "image_reason" / MODEL / "photos"
    said = run(REASONING, "-m", "reason", "image", *common, *images, "--output", output, variables=SMALL)
    assert "8 of 8 images" in said
    run(REASONING, "-m", "reason", "generic", *common, "--output", folder / "generic.json", variables=SMALL)
    return folder


def evaluate(photographs: Layout, output: Path, *keys: object) -> dict:  # type: ignore[type-arg]
    words = ["--config-file", "tests/assets/tiny.yaml", "--eval-only", "MODEL.DEVICE", "cpu"]
    words += ["DATASETS.REGISTER", "('tools.photos.datasets',)"]
    words += ["DATASETS.TEST", DATASETS, "OUTPUT_DIR", str(output), *map(str, keys)]
    run(sys.executable, "train_net.py", *words, variables={"OPENSEG_R_PHOTOS": str(photographs.root)})
    return json.loads((output / "inference" / "photos_sem_seg_val" / "results.json").read_text())


def test_generated_reasons_are_what_the_segmentor_uses(photographs: Layout, reasons: Path, tmp_path: Path) -> None:
    """Every photograph has a file of its own, and all of them take part in the evaluation."""
    folder = reasons / "image_reason" / MODEL
    files = sorted((folder / "photos").glob("*.json"))
    assert [path.stem for path in files] == sorted(path.stem for path in photographs.images.iterdir())
    triplets = [load_image(path) for path in files]
    covered = sum(bool(triplet.reasons) for triplet in triplets)
    assert covered, "a random model names some class of the vocabulary for some photograph"
    for triplet in triplets:
        assert triplet.extra["provenance"]["engine"] == "vllm"
        assert all(2 <= len(reason.attributes) <= 3 for reason in triplet.reasons.values())
    assert len(load_generic(reasons / "generic.json")) == len(load_vocabulary(photographs.vocabulary))
    keys = ["MODEL.TEST_CLASS_REASON_JSON", reasons / "generic.json", "MODEL.NUM_DES", 2]
    keys += ["MODEL.REASON_DIR", folder, "MODEL.REASON_DATA", "photos"]
    found = evaluate(photographs, tmp_path, *keys)
    assert found["images"]["total"] == 8
    assert found["usage"]["image"] == covered
    assert sum(value for key, value in found["usage"].items() if key.startswith("generic")) == 8 - covered


def test_what_was_generated_is_scored(photographs: Layout, reasons: Path, tmp_path: Path) -> None:
    """The label maps of the data set and the generated files meet in `python -m reason score`."""
    results = reasons / "image_reason" / MODEL / "photos"
    words = ["--results", results, "--labels", photographs.annotations, "--vocabulary", photographs.vocabulary]
    run(REASONING, "-m", "reason", "score", *words, "--json", tmp_path / "score.json")
    score = json.loads((tmp_path / "score.json").read_text())
    assert score["images"]["label_maps"] == score["images"]["scored"] == 8
    named = sum(len(load_image(path).reasons) for path in results.glob("*.json"))
    assert score["micro"]["named"] == named and score["micro"]["shown"] > 0
