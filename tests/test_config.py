"""What a user may write into a config or behind it: paths of the home folder, lists of names, an output folder."""

import re
from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg

from maft.config import KEYS, PATHS, add_maft_config, build_config, check_unread
from maft.errors import UserError
from maft.files import check_folder, user_path
from maft.run import check_datasets, register_datasets
from maft.unread import ACCEPTED, HARMLESS, IN_COMMANDS, INSTEAD, READ, is_harmless

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


@pytest.mark.parametrize(("key", "value"), [("TEST.AUG.ENABLED", "True"), ("MODEL.RPN.NMS_THRESH", "0.5")])
def test_a_key_that_nobody_reads_is_refused_by_name(key: str, value: str) -> None:
    assert build_config(CONFIG, [key, str(value_of(get_cfg(), key))])
    with pytest.raises(UserError, match=rf"^{key} {value}: read by no part of this version"):
        build_config(CONFIG, [key, value])


def test_a_key_of_the_published_files_is_refused_on_the_command_line_only(tmp_path: Path, caplog) -> None:
    key = "MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_ALPHA"
    (tmp_path / "own.yaml").write_text(f"_BASE_: {Path(CONFIG).resolve()}\nMODEL: {{FC_CLIP: {{{key[14:]}: 0.3}}}}\n")
    assert value_of(build_config(str(tmp_path / "own.yaml"), [key, "0.3"]), key) == 0.3
    with pytest.raises(UserError, match=rf"^{key} 0\.7: read by no part"):
        build_config(str(tmp_path / "own.yaml"), [key, "0.7"])
    # The published evaluation scripts set this one.
    caplog.clear()
    build_config(CONFIG, ["MODEL.CLASS_NAME_JSON", "datasets/pc59.json"])
    assert "MODEL.CLASS_NAME_JSON: without effect" in caplog.text


def keys_below(node, before: str = "") -> list[str]:
    return [
        key
        for name, value in node.items()
        for key in (keys_below(value, f"{before}{name}.") if isinstance(value, CfgNode) else [f"{before}{name}"])
    ]


def every_key() -> list[str]:
    cfg = get_cfg()
    add_maft_config(cfg)
    return keys_below(cfg)


@pytest.fixture(scope="module")
def sources() -> str:
    """What may read a key: everything but the lists of keys."""
    lists = {Path("maft/config.py"), Path("maft/unread.py")}
    files = [path for top in ("maft", "compat") for path in Path(top).rglob("*.py") if path not in lists]
    return "\n".join(path.read_text() for path in files)


def other_value(value):
    """Some value of the same type that is not `value`."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, (list, tuple)):
        return type(value)([*value, 1])
    return f"{value or ''}x"


@pytest.mark.parametrize("key", every_key())
def test_every_key_is_read_or_refused_or_argued_for(key: str, sources: str) -> None:
    leaf = key.rpartition(".")[2]
    read = key in KEYS or key in READ
    assert not (read and (key in ACCEPTED or is_harmless(key))), "in two lists"
    cfg = build_config(CONFIG, [])
    *parents, _ = key.split(".")
    node = value_of(cfg, ".".join(parents)) if parents else cfg
    node[leaf] = other_value(node[leaf])
    if read:
        assert re.search(rf"[.\"'\[]{leaf}\b", sources), f"listed as read, but {leaf} stands nowhere"
        check_unread(cfg)
    elif key in ACCEPTED or is_harmless(key):
        check_unread(cfg)
    else:
        with pytest.raises(UserError, match=rf"^{re.escape(key)} .*: read by no part of this version, .*; \w+"):
            check_unread(cfg)


def test_the_lists_name_no_key_that_there_is_not() -> None:
    keys = every_key()
    assert set(READ) <= set(keys) and set(INSTEAD) <= set(keys) and set(IN_COMMANDS) <= set(ACCEPTED)
    assert all(any(f"{key}.".startswith(f"{part}.") for key in keys) for part in HARMLESS)
    assert not set(INSTEAD) & {*READ, *KEYS, *ACCEPTED, *HARMLESS}
