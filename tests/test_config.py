"""What a user may write into a config or behind it: paths of the home folder, lists of names, an output folder."""

from pathlib import Path

import pytest

from maft.config import PATHS, REFUSED, build_config
from maft.errors import UserError
from maft.files import check_folder, user_path
from maft.run import check_datasets, register_datasets

CONFIG = "tests/assets/tiny.yaml"


def value_of(cfg, key):
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


@pytest.mark.parametrize("key", PATHS)
def test_the_home_folder_is_expanded_in_every_path(key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert value_of(build_config(CONFIG, [key, "~/x"]), key) == str(tmp_path / "x")
    assert user_path("~/y") == tmp_path / "y"


@pytest.mark.parametrize("value", ["('openvocab_x')", "openvocab_x", '("openvocab_x")', "'openvocab_x'"])
def test_a_name_without_its_comma_is_told_how_to_write_it(value: str) -> None:
    with pytest.raises(UserError, match=r"DATASETS\.TEST .*write DATASETS\.TEST \"\('openvocab_x',\)\""):
        build_config(CONFIG, ["DATASETS.TEST", value])
    assert build_config(CONFIG, ["DATASETS.TEST", "('openvocab_x',)"]).DATASETS.TEST == ("openvocab_x",)


def test_an_empty_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text(" \n")
    with pytest.raises(UserError, match=r"empty\.yaml: an empty file"):
        build_config(str(tmp_path / "empty.yaml"), [])


def test_an_output_folder_that_cannot_be_is_found_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_folder("OUTPUT_DIR", tmp_path / "new" / "folder")
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"OUTPUT_DIR .*file is a file, not a folder"):
            check_folder("OUTPUT_DIR", folder)
    monkeypatch.setattr("os.access", lambda *_: False)  # for root, everything can be written
    with pytest.raises(UserError, match="cannot be written"):
        check_folder("OUTPUT_DIR", tmp_path / "new")


def test_an_unknown_key_names_the_one_that_is_meant(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"MODEL\.WEIGTHS; did you mean MODEL\.WEIGHTS"):
        build_config(CONFIG, ["MODEL.WEIGTHS", "x"])
    (tmp_path / "bad.yaml").write_text("VERSION: 2\nMODEL:\n  NUM_DESS: 3\n")
    with pytest.raises(UserError, match=r"bad\.yaml: .*MODEL\.NUM_DESS; did you mean MODEL\.NUM_DES"):
        build_config(str(tmp_path / "bad.yaml"), [])


def test_an_unknown_data_set_names_the_one_that_is_meant() -> None:
    cfg = build_config(CONFIG, ["DATASETS.TEST", "('openvocab_ade20k_sem_seg_vall',)"])
    register_datasets(cfg)
    with pytest.raises(UserError, match=r"not registered; did you mean openvocab_ade20k_sem_seg_val"):
        check_datasets(cfg, "TEST")


@pytest.mark.parametrize(("key", "value"), [("TEST.AUG.ENABLED", "True"), ("TEST.PRECISE_BN.ENABLED", "True")])
def test_a_key_that_nobody_reads_is_refused_by_name(key: str, value: str) -> None:
    assert key in REFUSED and build_config(CONFIG, [key, str(REFUSED[key][0])])
    with pytest.raises(UserError, match=rf"^{key} {value}: read by no part of this version"):
        build_config(CONFIG, [key, value])
