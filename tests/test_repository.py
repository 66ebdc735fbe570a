"""The repository as a whole: every config builds, every path that is named exists, the packages keep to their rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from maft.config import ACCEPTED, CHOICES, KEYS, build_config
from maft.meta_arch import MAFT_Plus, MAFT_Plus_Reason, build_network

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml"))


@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize("config", CONFIGS)
def test_every_config_builds_its_model(config: str) -> None:
    cfg = build_config(config, ["MODEL.DEVICE", "cpu", "MODEL.REASON.BANK_DIR", ""])
    model = build_network(cfg)
    assert type(model) is (MAFT_Plus_Reason if "reason" in config else MAFT_Plus)
    assert model.criterion.empty_weight.shape == (cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES + 1,)
    assert not any(name.startswith("backbone_t.") for name in model.state_dict())


def test_every_key_has_one_meaning() -> None:
    assert not set(KEYS) & set(ACCEPTED)
    assert set(CHOICES) <= set(KEYS)
    assert all(meaning for _, meaning in KEYS.values())


def imports_of(package: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in (ROOT / package).rglob("*.py"):
        modules: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(node.module or "")
        found[path.relative_to(ROOT).as_posix()] = modules
    return found


def test_who_imports_whom() -> None:
    """reason/ knows nothing of the segmentor; the network knows neither detectron2 nor the config."""
    for file, modules in imports_of("reason").items():
        assert not {name for name in modules if name.split(".")[0] in {"maft", "detectron2", "torch"}}, file
    for file, modules in imports_of("maft/modeling").items():
        assert not {name for name in modules if name.startswith(("detectron2", "maft.config"))}, file
    light = {"reason.triplets", "reason.vocabulary", "reason.files", "reason.imagefile"}
    for file, modules in imports_of("maft").items():
        assert {name for name in modules if name.split(".")[0] == "reason"} <= light, file


def test_light_modules_do_without_torch() -> None:
    light = "reason.files, reason.imagefile, reason.triplets, reason.vocabulary"
    code = f"import sys, {light}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_built_network_is_in_evaluation_mode() -> None:
    """No dropout or stochastic depth is active in a model that build_network returns."""
    cfg = build_config(str(ROOT / "tests/assets/tiny.yaml"), ["MODEL.DEVICE", "cpu"])
    cfg.MODEL.FC_CLIP.CLIP_MODEL_NAME = str(ROOT / cfg.MODEL.FC_CLIP.CLIP_MODEL_NAME)
    model = build_network(cfg)
    assert not any(module.training for module in model.modules())
