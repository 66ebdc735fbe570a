"""install.sh, its lock files, and the shell scripts that call it."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements", "requirements-dev", "requirements-cuda")
SCRIPTS = (
    "install.sh",
    "tests/run.sh",
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
@pytest.mark.parametrize("lock", LOCKS)
def test_every_wanted_package_is_pinned_for_every_python(lock: str, python: str) -> None:
    pinned = pins(ROOT / f"{lock}.txt", python)
    assert all(re.fullmatch(r"==[^*,]+", version) for version in pinned.values())
    for wanted in requirements(ROOT / f"{lock}.in"):
        version = pinned[canonicalize_name(wanted.name)].removeprefix("==")
        assert wanted.specifier.contains(version), f"{wanted} against {version}"


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_files_agree_with_each_other(python: str) -> None:
    main, *others = (pins(ROOT / f"{lock}.txt", python) for lock in LOCKS)
    for other in others:
        assert {name: main[name] for name in main.keys() & other.keys()} == {
            name: other[name] for name in main.keys() & other.keys()
        }


def test_lock_files_name_no_index() -> None:
    for lock in LOCKS:
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


def test_help() -> None:
    done = install("--help")
    assert done.returncode == 0 and "OPENSEG_R_DETECTRON2" in done.stdout


def copy_of_installer(folder: Path) -> Path:
    """A folder that holds what install.sh needs to begin, and nothing else."""
    for name in ("install.sh", *(f"{lock}.txt" for lock in LOCKS)):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


def test_a_virtual_environment_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    own = copy_of_installer(tmp_path) / ".venv" / "precious"
    own.mkdir(parents=True)
    done = subprocess.run(["bash", "install.sh"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1 and "not made by install.sh" in done.stderr
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
    started = time.monotonic()
    done = install(PYTHON="", OPENSEG_R_DETECTRON2="")
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ready ") and done.stdout.count("\n") == 1
    assert seconds < 10
    assert {path.name: path.stat().st_mtime_ns for path in (ROOT / ".venv/.openseg-r").iterdir()} == before
