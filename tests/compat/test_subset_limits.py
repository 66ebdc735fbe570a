"""What holds for the subset alone: its size, what is absent, and the few differences on purpose (compat/README.md)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import forked
import pytest

COMPAT = Path(__file__).resolve().parents[2] / "compat"


def _with_subset(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` where `detectron2` is the subset, whatever is installed."""
    environment = {**os.environ, "PYTHONPATH": str(COMPAT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def test_it_stays_small() -> None:
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in COMPAT.rglob("*.py"))
    assert lines <= 1550, f"the subset has grown to {lines} lines: what it needs not cover belongs out"


def test_importing_it_does_nothing(tmp_path: Path) -> None:
    done = _with_subset("import detectron2, sys; print('torch' in sys.modules, detectron2.__version__)", tmp_path)
    assert done.stdout.split() == ["False", "0.6+openseg_r.subset"], done.stderr


def test_what_is_not_covered_is_absent(tmp_path: Path) -> None:
    code = """
import importlib
for module, name in [
    ("detectron2.solver", None), ("detectron2.model_zoo", None), ("detectron2.projects", None),
    ("detectron2.config", "LazyConfig"), ("detectron2.data", "build_detection_train_loader"),
    ("detectron2.data", "DatasetMapper"), ("detectron2.engine", "DefaultTrainer"), ("detectron2.layers", "Conv2d"),
    ("detectron2.evaluation", "COCOEvaluator"), ("detectron2.evaluation", "inference_on_dataset"),
    ("detectron2.structures", "PolygonMasks"), ("detectron2.data.transforms", "RandomFlip"),
]:
    try:
        found = importlib.import_module(module)
        assert name and not hasattr(found, name), (module, name)
    except ModuleNotFoundError:
        assert name is None, module
print("absent")
"""
    done = _with_subset(code, tmp_path)
    assert done.stdout.strip() == "absent", done.stderr


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (
            "open('v1.yaml', 'w').write('VERSION: 1'); from detectron2.config import get_cfg;"
            "get_cfg().merge_from_file('v1.yaml')",
            "ValueError: Config 'v1.yaml' is of version 1",
        ),
        (
            "open('tag.yaml', 'w').write('VERSION: 2\\nSEED: !!python/object/apply:os.getpid []');"
            "from detectron2.config import get_cfg; get_cfg().merge_from_file('tag.yaml')",
            "yaml.constructor.ConstructorError",
        ),
        (
            "from detectron2.data import get_detection_dataset_dicts as get; get('a', filter_empty=True)",
            "ValueError: filter_empty=True",
        ),
        (
            "from detectron2.config import get_cfg; from detectron2.data import build_detection_test_loader as build;"
            "build(get_cfg(), 'a')",
            "missing 1 required positional argument: 'mapper'",
        ),
        (
            "open('model.pkl', 'w'); from torch import nn; from detectron2.checkpoint import DetectionCheckpointer;"
            "DetectionCheckpointer(nn.Identity()).load('model.pkl')",
            "ValueError: model.pkl: Caffe2",
        ),
        (
            "from torch import nn; from detectron2.checkpoint import DetectionCheckpointer;"
            "DetectionCheckpointer(nn.Identity()).load('m.pth?matching_heuristics=True')",
            "ValueError: '?matching_heuristics=True'",
        ),
        (
            "from torch.utils.data.datapipes.iter import IterableWrapper as I;"
            "from detectron2.data import build_detection_test_loader as b; b(I([1]), mapper=None)",
            "TypeError: iterable data sets are not in this subset",
        ),
    ],
)
def test_what_is_refused_says_so(code: str, error: str, tmp_path: Path) -> None:
    done = forked.run(["-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(COMPAT)})
    assert done.returncode != 0
    assert error in done.stderr
