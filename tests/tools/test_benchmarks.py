"""The table of benchmarks, what is listed as missing, and the doctor."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from maft.data import dataset_spec
from maft.errors import UserError
from reason.shipped import is_shipped, shipped_file
from reason.vocabulary import known_vocabularies
from tools.assets import checkpoint_problem, count_files
from tools.benchmarks import BY_NAME_ONLY, MINI, SUITES, parse_overrides, plan
from tools.benchmarks_run import choose, choose_suite, mini_command, outcome, parse_arguments, train_net_command

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_names_what_exists() -> None:
    for suite in SUITES.values():
        assert (ROOT / suite.config).is_file() and (ROOT / suite.config_plain).is_file()
        assert (ROOT / suite.weights).name in (ROOT / "pretrained/README.md").read_text(encoding="utf-8")
        for benchmark in suite.benchmarks:
            if benchmark.name not in BY_NAME_ONLY:
                assert dataset_spec(benchmark.dataset).vocabulary == benchmark.name
                assert (ROOT / "datasets/vocabularies" / f"{benchmark.name}.json").is_file()
    assert [benchmark.name for benchmark in SUITES["base"].default] == ["voc20", "pc59", "ade150", "pc459", "ade847"]
    assert [benchmark.name for benchmark in SUITES["pano"].default] == ["ade150"]


def test_choosing_keeps_the_suites_order_and_refuses_unknown_names() -> None:
    assert [entry.name for entry in choose(SUITES["large"], ["ade847", "pc59"])] == ["pc59", "ade847"]
    assert choose(SUITES["large"], []) == SUITES["large"].default
    with pytest.raises(UserError, match="'pc60': unknown to 'base'; choose from voc20, pc59"):
        choose(SUITES["base"], ["pc60"])
    for suite in SUITES.values():
        with pytest.raises(UserError, match="'photos': there is none any more; bash eval_reason_base.sh mini runs"):
            choose(suite, ["pc59", "photos"] if suite.name != "pano" else ["photos"])


def test_arguments_after_two_dashes_are_keys() -> None:
    options, keys = parse_arguments(["base", "pc59", "--names-only", "--", "TEST.BATCH_SIZE", "4"])
    assert (options.size, options.benchmarks, options.names_only) == ("base", ["pc59"], True)
    assert keys == {"TEST.BATCH_SIZE": "4"}
    options, _ = parse_arguments(["large", "--model", "sed"])
    suite = choose_suite(options.size, options.model)
    assert (suite.name, suite.script) == ("sed-large", "eval_reason_large.sh --model sed")
    with pytest.raises(UserError, match="there is no pano; take base or large"):
        choose_suite("pano", "sed")
    with pytest.raises(UserError, match="'4' stands alone"):
        parse_arguments(["base", "--", "TEST.BATCH_SIZE", "4", "4"])
    with pytest.raises(ValueError):
        parse_overrides(["MODEL.NUM_DES"])


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder without any data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    return tmp_path


def plausible_checkpoint(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(200_000_000)  # sparse


def what(entry_missing: object) -> str:
    return " | ".join(missing.what for missing in entry_missing)  # type: ignore[attr-defined]


def test_in_an_empty_folder_all_is_missing_but_the_shipped_reasons(workplace: Path) -> None:
    entry = plan(SUITES["base"], SUITES["base"].benchmarks[1], names_only=False, overrides={})
    assert not entry.can_run
    assert [missing.needed for missing in entry.missing] == [True, True, False, False]
    assert "pretrained/maftp_b.pth: no such file" in what(entry.missing)
    assert "openvocab_pascal_ctx59_sem_seg_val" in what(entry.missing)
    shipped = ROOT / "reason_data/general_reason/written/pc59_class_reason.json"
    own = "reason_data/general_reason/pc59_class_reason.json"
    assert f"{own}: no such file; {shipped} stands in" in what(entry.missing)
    assert "not by Qwen2.5-VL-72B; not the paper's" in what(entry.missing)
    assert entry.keys["MODEL.TEST_CLASS_REASON_JSON"] == str(shipped)
    assert all(missing.way_out for missing in entry.missing)


@pytest.mark.parametrize("ending", ["_class_reason.json", "_class_des.json"])
def test_own_or_published_reasons_come_before_the_shipped_ones(workplace: Path, ending: str) -> None:
    own = Path("reason_data/general_reason") / f"pc59{ending}"
    own.parent.mkdir(parents=True)
    own.write_text("{}", encoding="utf-8")
    entry = plan(SUITES["base"], SUITES["base"].benchmarks[1], names_only=False, overrides={})
    assert entry.keys["MODEL.TEST_CLASS_REASON_JSON"] == str(own) and "stands in" not in what(entry.missing)
    other = {"MODEL.TEST_CLASS_REASON_JSON": "mine.json"}
    named = plan(SUITES["base"], SUITES["base"].benchmarks[1], names_only=False, overrides=other)
    assert "mine.json: no such file" in what(named.missing) and not named.can_run, "what is named must be there"


def test_every_benchmark_has_shipped_reasons_under_a_short_name_in_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for name in known_vocabularies():
        shipped = Path("reason_data/general_reason/written") / f"{name}_class_reason.json"
        assert shipped_file(name) == shipped and is_shipped(shipped)
        copy = tmp_path / "pc59_class_reason.json"
        copy.write_bytes(shipped.read_bytes())
        assert is_shipped(copy), "a copy is what it was"
        copy.write_text(copy.read_text(encoding="utf-8").replace("a", "b", 1), encoding="utf-8")
        assert not is_shipped(copy)
    assert shipped_file("mini_val") is None and not is_shipped(tmp_path / "nowhere.json")


def test_names_only_needs_no_reasons_and_uses_the_plain_configuration(workplace: Path) -> None:
    entry = plan(SUITES["base"], SUITES["base"].benchmarks[1], names_only=True, overrides={})
    assert "reasons" not in what(entry.missing)
    assert entry.config == "configs/semantic/eval_base.yaml"
    assert not any(key.startswith("MODEL.REASON") for key in entry.keys)


def test_what_lies_there_is_found_and_ends_up_in_the_keys(workplace: Path) -> None:
    plausible_checkpoint(workplace / "pretrained/maftp_l.pth")
    generic = workplace / "reason_data/general_reason/voc20_class_des.json"
    generic.parent.mkdir(parents=True)
    generic.write_text("{}", encoding="utf-8")
    own = workplace / "reason_data/image_reason/some-model/voc20"
    own.mkdir(parents=True)
    (own / "2007_000033.json").write_text("{}", encoding="utf-8")
    for folder, ending in (("images_detectron2", "jpg"), ("annotations_ovs", "png")):
        target = workplace / "datasets/VOCdevkit/VOC2012" / folder
        target.mkdir(parents=True)
        (target / f"2007_000033.{ending}").write_bytes(b"")
    entry = plan(SUITES["large"], SUITES["large"].benchmarks[0], names_only=False, overrides={"MODEL.NUM_DES": "2"})
    assert entry.can_run and entry.missing == ()
    assert entry.keys["MODEL.TEST_CLASS_REASON_JSON"] == "reason_data/general_reason/voc20_class_des.json"
    assert entry.keys["MODEL.REASON_DIR"] == "reason_data/image_reason/some-model"
    assert (entry.keys["MODEL.REASON_DATA"], entry.keys["MODEL.NUM_DES"]) == ("voc20", "2")
    words = train_net_command(entry, 2, resume=True)
    assert words[1:8] == ["train_net.py", "--config-file", entry.config, "--num-gpus", "2", "--eval-only", "--resume"]
    assert dict(zip(words[8::2], words[9::2], strict=True)) == entry.keys


def test_the_users_keys_are_what_is_looked_for(workplace: Path) -> None:
    overrides = {"MODEL.WEIGHTS": "mine.pth", "OUTPUT_DIR": "elsewhere"}
    entry = plan(SUITES["pano"], SUITES["pano"].benchmarks[0], names_only=False, overrides=overrides)
    assert "weights mine.pth: no such file" in what(entry.missing)
    assert entry.results_file == Path("elsewhere/inference/openvocab_ade20k_panoptic_val/results.json")
    seeded = plan(SUITES["pano"], SUITES["pano"].benchmarks[0], names_only=True, overrides={"MODEL.WEIGHTS": "seeded"})
    assert "weights" not in what(seeded.missing)


@pytest.mark.parametrize("suite", ["base", "pano"])
def test_mini_runs_when_named_with_its_own_weights_and_without_names_only(workplace: Path, suite: str) -> None:
    (mini,) = choose(SUITES[suite], [MINI])
    missing = plan(SUITES[suite], mini, names_only=True, overrides={})
    assert "weights tools/mini/weights/mini.safetensors: no such file" in what(missing.missing)
    assert "mini does not take --names-only" in what(missing.missing)
    weights = workplace / "tools/mini/weights/mini.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"small, as it should be")
    entry = plan(SUITES[suite], mini, names_only=False, overrides={"OUTPUT_DIR": "elsewhere", "TEST.BATCH_SIZE": "2"})
    assert entry.can_run and entry.missing == ()
    command = mini_command(entry, resume=True)
    assert command[1:] == ("-m tools.mini evaluate --output elsewhere --resume -- TEST.BATCH_SIZE 2".split())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "no such file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"once upon a time", "not a PyTorch checkpoint"),
        (b"PK\x03\x04 and little more", "broke off"),
    ],
)
def test_what_is_no_checkpoint_is_told_by_its_content(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "maftp_b.pth"
    if content is not None:
        path.write_bytes(content)
    found = checkpoint_problem(path)
    assert found is not None and problem in found


def test_a_plausible_checkpoint_has_no_problem(tmp_path: Path) -> None:
    plausible_checkpoint(tmp_path / "maftp_b.pth")
    assert checkpoint_problem(tmp_path / "maftp_b.pth") is None


def test_counting_files(tmp_path: Path) -> None:
    for name in ("a.json", ".b.json", "c.txt"):
        (tmp_path / name).touch()
    assert count_files(tmp_path, ".json") == 1
    assert count_files(tmp_path / "nowhere", ".json") == 0


def test_outcomes_have_words() -> None:
    assert [outcome(status) for status in (0, 1, -9)] == ["done", "failed, exit status 1", "failed, killed by signal 9"]
    assert outcome(None).startswith("not started")


def run_module(module: str, *words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment.pop("DETECTRON2_DATASETS", None)
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=folder or ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_line_lists_all_that_is_missing_before_anything_runs(tmp_path: Path) -> None:
    done = run_module("tools.run_benchmarks", "base", "pc59", "ade847", folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout.count("CANNOT RUN") == 2
    assert done.stdout.count("weights pretrained/maftp_b.pth: no such file") == 1
    assert "for pc59, ade847" in done.stdout and "not started" in done.stdout
    assert done.stdout.count("not there, and something stands in, for ade847:\n  generic reasons") == 1
    assert "Traceback" not in done.stderr


def test_the_list_ends_with_what_to_type() -> None:
    done = run_module("tools.run_benchmarks", "base", "--list")
    assert done.returncode == 2, done.stderr
    assert ".venv-reason" in done.stdout and "llm/" in done.stdout
    assert re.search(r"\nRuns now: mini.*\n  bash eval_reason_base\.sh mini\n", done.stdout)


def test_training_mini_says_what_makes_its_clip() -> None:
    """configs/mini/train.yaml begins with a file that another command writes."""
    if (ROOT / "out" / "mini" / "clip.safetensors").is_file():
        pytest.skip("the file is there")
    words = ["train_net.py", "--config-file", "configs/mini/train.yaml"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "python -m tools.mini.train_clip' writes it" in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    train_clip = importlib.import_module("tools.mini.train_clip")
    assert train_clip.parse_arguments([]).output == Path("out/mini/clip.safetensors")


def test_command_line_refuses_an_unknown_benchmark() -> None:
    done = run_module("tools.run_benchmarks", "pano", "pc59")
    assert done.returncode == 2
    assert done.stderr == "error: benchmark 'pc59': unknown to 'pano'; choose from ade150, mini\n"


def test_doctor_speaks_json() -> None:
    done = run_module("tools.doctor", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] is True
    assert "bash eval_reason_base.sh mini" in report["runs_now"]
    names = {finding["name"] for finding in report["findings"]}
    assert {".venv-reason", "llm/"} <= names
    assert {"python", "torch", "detectron2", "CUDA", "on cpu", "pretrained/maftp_b.pth", "pc59"} <= names
    assert {"openvocab_ade20k_panoptic_val", "openvocab_pascal20_sem_seg_val"} <= names
    for finding in report["findings"]:
        assert finding["section"] != "Checks", finding
        if finding["state"] == "missing":
            assert finding["needed_for"], finding


def test_doctor_says_what_is_broken_instead_of_failing(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart is not there')\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "tools.doctor"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    # The current folder comes first on the path and holds no torch, so that the broken one is found.
    assert done.returncode == 1
    assert "BROKEN  torch: cannot be imported: libcudart is not there" in done.stdout
    assert "bash install.sh" in done.stdout and "Traceback" not in done.stderr
