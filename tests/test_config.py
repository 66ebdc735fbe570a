"""What a user may write into a config or behind it: paths of the home folder, lists of names, an output folder."""

import argparse
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
    for nothing in ("", " "):  # not the current folder
        with pytest.raises(argparse.ArgumentTypeError, match="an empty path; name a file or a folder"):
            user_path(nothing)


@pytest.mark.parametrize("value", ["('openvocab_x')", "openvocab_x", '("openvocab_x")', "'openvocab_x'"])
def test_a_name_without_its_comma_is_told_how_to_write_it(value: str) -> None:
    with pytest.raises(UserError, match=r"DATASETS\.TEST .*write DATASETS\.TEST \"\('openvocab_x',\)\""):
        build_config(CONFIG, ["DATASETS.TEST", value])
    assert build_config(CONFIG, ["DATASETS.TEST", "('openvocab_x',)"]).DATASETS.TEST == ("openvocab_x",)


def test_environment_variables_are_expanded_in_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """A yaml file has no shell before it, and a folder named "$SCRATCH" is in nobody's mind."""
    monkeypatch.setenv("SCRATCH", "/fast")
    assert build_config(CONFIG, ["OUTPUT_DIR", "$SCRATCH/a"]).OUTPUT_DIR == "/fast/a"
    assert build_config(CONFIG, ["MODEL.WEIGHTS", "${SCRATCH}/w.pth"]).MODEL.WEIGHTS == "/fast/w.pth"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("OUTPUT_DIR", "None", "OUTPUT_DIR: empty"),
        ("OUTPUT_DIR", "", "OUTPUT_DIR: empty; name a folder"),
        ("OUTPUT_DIR", " ", "OUTPUT_DIR: empty; name a folder"),
        ("OUTPUT_DIR", "$NOSUCHVARIABLE/x", r"OUTPUT_DIR \$NOSUCHVARIABLE/x: \$NOSUCHVARIABLE is not set"),
        ("MODEL.WEIGHTS", "${NOSUCHVARIABLE}/w.pth", r"\$\{NOSUCHVARIABLE\} is not set in the environment"),
        ("MODEL.WEIGHTS", "None", "MODEL.WEIGHTS: empty"),
        ("SEED", "None", "SEED: empty"),
        ("OUTPUT_DIR", "a\0b", "OUTPUT_DIR: .* is no path"),
        ("DATASETS.TEST", "None", r'write DATASETS.TEST "\(\)" for none'),
        ("DATASETS.TEST", "('a', 5)", r"takes a list of names; write DATASETS.TEST"),
        ("DATASETS.TEST", "a,b", r"DATASETS.TEST: a,b is of type str, the key takes tuple; write DATASETS.TEST"),
        ("DATASETS.TRAIN", "\"('a','b')\"", r"DATASETS.TRAIN: .*the key takes tuple; write DATASETS.TRAIN"),
        ("TEST.BATCH_SIZE", "0", "TEST.BATCH_SIZE: 0; it must be at least 1"),
        ("DATALOADER.NUM_WORKERS", "-1", "DATALOADER.NUM_WORKERS: -1; it must be at least 0"),
        ("TEST.BATCH_SIZE", "2.5", "TEST.BATCH_SIZE: 2.5 is of type float, the key takes int"),
        ("MODEL.DEVICE", "gpu", "MODEL.DEVICE 'gpu': no device; write cuda, cuda:1 or cpu"),
        ("MODEL", "x", "MODEL: a section, not a key"),
    ],
)
def test_a_value_that_cannot_be_is_told_by_its_key(key: str, value: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        build_config(CONFIG, [key, value])
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# a remark\n", "holds no keys"),
        ("- OUTPUT_DIR\n", "holds no keys"),
        ("_BASE_: 5\n", "holds no keys"),
        ("_BASE_: own.yaml\n", "_BASE_ leads back to the file itself"),
        ("MODEL:\n", "MODEL: a section, not a key"),
        ("OUTPUT_DIR: ~\n", "OUTPUT_DIR: empty"),
        ("DATASETS: {TEST: ade150}\n", "the key takes tuple; write DATASETS.TEST"),
    ],
)
def test_a_config_that_is_none_is_told_by_its_name(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        build_config(str(tmp_path / "own.yaml"), [])


@pytest.mark.parametrize("path", sorted(Path("configs").rglob("*.yaml")), ids=str)
def test_every_config_of_the_project_is_accepted(path: Path) -> None:
    build_config(str(path), [])


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


def test_a_folder_that_no_file_system_takes_is_told_at_the_start() -> None:
    with pytest.raises(UserError, match="OUTPUT_DIR x+: File name too long; choose another folder"):
        check_folder("OUTPUT_DIR", "x" * 300)


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
