"""The repository as a whole: every config builds, every path that is named exists, the packages keep to their rooms."""

from __future__ import annotations

import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

import pytest
import torch

from maft.config import CHOICES, KEYS, build_config
from maft.evaluation.sources import imports_of, modules_of
from maft.meta_arch import SED, MAFT_Plus, MAFT_Plus_Reason, SED_Reason, build_network
from maft.unread import ACCEPTED

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml"))


@pytest.mark.slow
@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize("config", CONFIGS)
def test_every_config_builds_its_model(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for drawing in ("uniform_", "normal_"):  # random weights: two thirds of the time, and nobody looks at them here
        monkeypatch.setattr(torch.Tensor, drawing, lambda self, *_, **__: self)
    cfg = build_config(config, ["MODEL.DEVICE", "cpu", "MODEL.REASON.BANK_DIR", ""])
    model = build_network(cfg)
    if "sed" in config:
        assert type(model) is (SED_Reason if "reason" in config else SED)
        assert model.decoder.decoder1.attention.pooling == (1 if "eval" in config or "mini" in config else 2)
        return
    assert type(model) is (MAFT_Plus_Reason if "reason" in config else MAFT_Plus)
    assert model.criterion.empty_weight.shape == (cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES + 1,)
    assert not any(name.startswith("backbone_t.") for name in model.state_dict())


def test_every_key_has_one_meaning() -> None:
    assert not set(KEYS) & set(ACCEPTED)
    assert set(CHOICES) <= set(KEYS)
    assert all(meaning for _, meaning in KEYS.values())


PACKAGES = ("maft", "reason", "tools", "compat")
SHARED = {
    f"reason.{name}"
    for name in "bars datasetfile files imagefile interrupts jsonfile shipped suggest triplets vocabulary".split()
}
"""The modules of reason/ that maft/ may import: they import neither torch nor an engine."""


def modules() -> dict[str, Path]:
    """Module name -> file, of the packages and of train_net.py."""
    found = {"train_net": ROOT / "train_net.py"}
    for package in PACKAGES:
        found |= modules_of(ROOT / package)
    return found


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    """Module -> full names of what it imports, relative imports resolved."""
    known = modules()
    return {name: imports_of(path, name, known) for name, path in known.items()}


def forbidden(module: str, imported: str) -> str | None:
    """Which rule of docs/design.md section 2 an import breaks; None if it breaks none."""
    root = imported.partition(".")[0]
    if root == "tools" and (module.startswith("maft.") or module in ("maft", "train_net")):
        return "maft/ and train_net.py do not import tools/"
    if module.startswith("reason") and root in ("maft", "detectron2", "tools"):
        return "reason/ imports neither maft/ nor detectron2 nor tools/"
    if module.startswith("reason") and root == "torch" and not module.startswith("reason.engines"):
        return "torch in reason/ is its engines' affair"
    without = ("maft.modeling", "maft.text", "maft.build", "maft.predictor", "maft.resources")
    if f"{module}.".startswith(tuple(f"{name}." for name in without)) and (
        root == "detectron2" or imported == "maft.config"
    ):
        return "the library works without detectron2 and without the config"
    if module.startswith("maft") and root == "reason" and imported not in SHARED:
        return f"maft/ imports of reason/ only {', '.join(sorted(SHARED))}"
    return None


def test_who_imports_whom(arrows: dict[str, set[str]]) -> None:
    assert len(arrows) > 150 and "maft.errors" in arrows["maft.run"]
    assert "maft.weights.checkpoint" in {name for found in arrows.values() for name in found}
    broken = [
        f"{module} imports {name}: {rule}"
        for module, found in sorted(arrows.items())
        for name in sorted(found)
        if (rule := forbidden(module, name))
    ]
    assert not broken


def test_rules_see_what_they_forbid(tmp_path: Path) -> None:
    """Relative imports, too, and those inside of functions."""
    folder = tmp_path / "maft" / "text"
    folder.mkdir(parents=True)
    for path in (tmp_path / "maft" / "__init__.py", tmp_path / "maft" / "config.py", folder / "__init__.py"):
        path.write_text("")
    (folder / "bad.py").write_text(
        "def f():\n    from ..config import KEYS\n    from .. import config\n    import tools.x\n"
    )
    found = imports_of(folder / "bad.py", "maft.text.bad", modules_of(tmp_path / "maft"))
    assert found == {"maft.config", "tools.x"}
    assert all(forbidden("maft.text.bad", name) for name in found)
    assert not forbidden("maft.run", "maft.config") and forbidden("reason.show", "maft.errors")
    assert forbidden("maft.run", "reason.show") and forbidden("train_net", "tools.mini")


def test_no_circle_of_imports(arrows: dict[str, set[str]]) -> None:
    """A package that gathers names of its own modules is none, and what it gathers does not reach back through it."""
    graph = {name: {other for other in found if other in arrows} for name, found in arrows.items()}
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"] and not circle_in({"a": {"b"}, "b": set()})
    packages = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert not circle_in({name: found - packages for name, found in graph.items() if name not in packages})


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other, directly or through others; empty if there are none."""
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return sorted(set(error.args[1]))
    return []


def test_files_are_short() -> None:
    """At most 400 lines each, half of them at most 150."""
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert not {name: length for name, length in lengths.items() if length > 400}
    assert median(lengths.values()) <= 150
    assert lengths["train_net"] <= 120


@pytest.mark.parametrize("name", ["FAST", "LONGEST"])
def test_modules_that_are_named_exist(name: str) -> None:
    text = (ROOT / "tests/conftest.py").read_text(encoding="utf-8")
    listed = text.partition(f"\n{name} = ")[2].split('"""')[1].split()
    assert len(listed) > 20
    assert not [name for name in listed if not (ROOT / "tests" / f"{name}.py").is_file()]


def test_light_modules_do_without_torch() -> None:
    light = ", ".join(sorted(SHARED))
    code = f"import sys, {light}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_built_network_is_in_evaluation_mode() -> None:
    """No dropout or stochastic depth is active in a model that build_network returns."""
    cfg = build_config(str(ROOT / "tests/assets/tiny.yaml"), ["MODEL.DEVICE", "cpu"])
    cfg.MODEL.FC_CLIP.CLIP_MODEL_NAME = str(ROOT / cfg.MODEL.FC_CLIP.CLIP_MODEL_NAME)
    model = build_network(cfg)
    assert not any(module.training for module in model.modules())
