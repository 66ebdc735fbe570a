"""The subset against the real detectron2: the same probes in two processes, compared value for value.

The real one is the installed detectron2, or the source tree (a folder that holds the `detectron2` package) that the
environment variable OPENSEG_R_REAL_DETECTRON2 names.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COMPAT = ROOT / "compat"
SUBSET_SUFFIX = "+openseg_r.subset"
VARIABLE = "OPENSEG_R_REAL_DETECTRON2"


def _probe_names() -> list[str]:
    names = []
    for file in sorted(HERE.glob("probe_*.py")):
        functions = [
            node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)
        ]
        names += [f.name for f in functions if f.name.startswith("probe_") and not f.decorator_list]
    return names


def _environment(source: Path | None) -> dict[str, str]:
    """The environment of a process that finds `source` first, or only what is installed."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    paths = [str(source)] if source else []
    return {**kept, "PYTHONPATH": os.pathsep.join([*paths, str(HERE)]), "OMP_NUM_THREADS": "1"}


def _real_source() -> Path | None:
    """Where the real one is: a source tree, or None if it is installed. Skips where there is none."""
    named = os.environ.get(VARIABLE)
    if named:
        assert (Path(named) / "detectron2" / "__init__.py").is_file(), f"{VARIABLE}={named} holds no detectron2 package"
        return Path(named)
    question = "import detectron2; print(detectron2.__version__)"
    answer = subprocess.run([sys.executable, "-c", question], env=_environment(None), capture_output=True, text=True)
    version = answer.stdout.strip()
    if answer.returncode != 0 or version.endswith(SUBSET_SUFFIX):
        pytest.skip(f"the real detectron2 is not installed, and {VARIABLE} names no source tree of it")
    return None


def _run(source: Path | None, folder: Path) -> dict[str, Any]:
    result = folder / "result.json"
    done = forked.run([HERE / "probe.py", result, folder / "scratch"], env=_environment(source), cwd=folder)
    assert done.returncode == 0, done.stderr[-4000:]
    text = result.read_text(encoding="utf-8").replace(str(folder), "FOLDER")
    return json.loads(text)


@pytest.fixture(scope="module")
def subset(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _run(COMPAT, tmp_path_factory.mktemp("subset"))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _run(_real_source(), tmp_path_factory.mktemp("real"))


def test_the_two_are_two(subset: dict[str, Any], real: dict[str, Any]) -> None:
    assert subset["version"] == real["version"] + SUBSET_SUFFIX
    assert Path(subset["file"]).is_relative_to(COMPAT)
    assert subset["file"] != real["file"]


def test_every_probe_ran(subset: dict[str, Any]) -> None:
    assert set(subset["probes"]) == set(_probe_names())


@pytest.mark.parametrize("name", _probe_names())
def test_same(name: str, subset: dict[str, Any], real: dict[str, Any]) -> None:
    assert subset["probes"][name] == real["probes"][name]
