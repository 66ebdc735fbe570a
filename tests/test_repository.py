"""The repository as a whole: every config builds, every path that is named exists, the packages keep to their rooms."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from maft.config import ACCEPTED, CHOICES, KEYS
from maft.meta_arch import MAFT_Plus, MAFT_Plus_Reason, build_network
from train_net import build_config

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml"))
BROUGHT_OR_MADE = {"pretrained", "datasets", "reason_data", "llm", "out"}
"""Folders whose content a user brings, or a run makes; each but out/ has a README that says what."""


@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize("config", CONFIGS)
def test_every_config_builds_its_model(config: str) -> None:
    cfg = build_config(config, ["MODEL.DEVICE", "cpu", "MODEL.REASON.BANK_DIR", ""])
    model = build_network(cfg)
    assert type(model) is (MAFT_Plus_Reason if "reason" in config else MAFT_Plus)
    assert model.criterion.empty_weight.shape == (cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES + 1,)
    assert not any(name.startswith("backbone_t.") for name in model.state_dict())


def documents() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "--cached"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = listed.stdout.splitlines()
    return [ROOT / name for name in names if name.endswith((".md", ".yaml", ".sh")) and (ROOT / name).is_file()]


def named_paths(text: str) -> set[str]:
    """What looks like a path inside the repository: a slash, no protocol, no placeholder."""
    found = re.findall(r"(?<![\w/.:<>{}*$-])(?:\./|\.\./)*[A-Za-z_][\w.-]*(?:/[\w.-]+)+/?", text)
    tops = "maft|configs|reason|tools|tests|compat|datasets|reason_data|pretrained|llm|out"
    return {path for path in found if re.match(rf"^(\.\.?/)*({tops})/", path)}


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_path_named_exists_or_is_brought_by_the_user(document: Path) -> None:
    for path in sorted(named_paths(document.read_text())):
        clean = path.rstrip("./").removeprefix("./")
        places = [ROOT / clean, (document.parent / clean).resolve()]
        top = clean.lstrip("./").split("/")[0]
        assert any(place.exists() for place in places) or top in BROUGHT_OR_MADE, f"{document}: names {path}"


def test_folders_that_users_fill_say_with_what() -> None:
    for folder in BROUGHT_OR_MADE - {"out"}:
        assert (ROOT / folder / "README.md").is_file(), folder


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
    light = {"reason.triplets", "reason.vocabulary"}
    for file, modules in imports_of("maft").items():
        assert {name for name in modules if name.split(".")[0] == "reason"} <= light, file


def test_light_modules_do_without_torch() -> None:
    code = "import sys, reason.triplets, reason.vocabulary; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_built_network_is_in_evaluation_mode() -> None:
    """No dropout or stochastic depth is active in a model that build_network returns."""
    cfg = build_config(str(ROOT / "tests/assets/tiny.yaml"), ["MODEL.DEVICE", "cpu"])
    cfg.MODEL.FC_CLIP.CLIP_MODEL_NAME = str(ROOT / cfg.MODEL.FC_CLIP.CLIP_MODEL_NAME)
    model = build_network(cfg)
    assert not any(module.training for module in model.modules())
