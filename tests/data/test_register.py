"""DATASETS.REGISTER: a user's own module makes a data set known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from maft.config import build_config
from maft.data import dataset_names, register_modules
from maft.errors import UserError
from maft.run import check_datasets, register_datasets

ROOT = Path(__file__).resolve().parents[2]

MODULE = """
from maft.data import register_custom
from reason.vocabulary import parse_vocabulary

def register():
    register_custom("{name}", parse_vocabulary("cat, sofa"), "{folder}/images", "{folder}/labels")
"""


def write_module(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.py").write_text(text)
    return name


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules are found in the current folder, and forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_a_module_of_the_config_makes_a_data_set_known(tmp_path: Path) -> None:
    for folder, mode in (("images", "RGB"), ("labels", "L")):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((4, 6, 3) if mode == "RGB" else (4, 6), dtype=np.uint8)).save(
            tmp_path / folder / "one.png"
        )
    write_module(tmp_path, "own_pets", MODULE.format(name="own_pets_val", folder=tmp_path))
    write_module(tmp_path, "own_plants", MODULE.format(name="own_plants_val", folder=tmp_path))
    keys = ["DATASETS.REGISTER", "('own_pets', 'own_plants')", "DATASETS.TEST", "('own_pets_val',)"]
    cfg = build_config(str(ROOT / "tests/assets/tiny.yaml"), keys)
    with pytest.raises(UserError, match="'own_pets_val' is not registered; .*DATASETS.REGISTER"):
        check_datasets(cfg, "TEST")
    for _ in range(2):  # every process does it, and main does it once more
        register_datasets(cfg)
        check_datasets(cfg, "TEST")
    assert {"own_pets_val", "own_plants_val"} <= set(dataset_names())
    assert MetadataCatalog.get("own_pets_val").stuff_classes == ["cat", "sofa"]
    (record,) = DatasetCatalog.get("own_pets_val")
    assert record["file_name"] == str(tmp_path / "images" / "one.png")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("nowhere", None, "no module nowhere; it is looked for in the current folder"),
        ("own_data.py", None, "'own_data.py' is no module name"),
        ("./own_data", None, "is no module name; write 'my_data'"),
        ("own_silent", "x = 1", "module own_silent has no function register"),
        ("own_needy", "import not_there_at_all", "module own_needy needs not_there_at_all"),
        ("own_broken", "def register(:", r"module own_broken cannot be imported \(SyntaxError"),
        ("own_thief", MODULE.format(name="openvocab_ade20k_sem_seg_val", folder="."), "the name is taken"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, name: str, text: str | None, words: str) -> None:
    if text is not None:
        write_module(tmp_path, name, text)
    with pytest.raises(UserError, match=words):
        register_modules([name])
    assert "" not in sys.path
