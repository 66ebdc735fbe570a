"""Building the compiled kernels, and what the operator says and does when they are missing, broken or stale.

Every case runs in a process and a library folder of its own, since a library once loaded stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import forked
import pytest
import torch

from maft.errors import UserError
from maft.modeling.pixel_decoder.ops import active_backend, backend, build

ROOT = Path(__file__).resolve().parents[2]
OPS = ROOT / "maft" / "modeling" / "pixel_decoder" / "ops"
COMPILER = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)

# Two calls of the operator, and what the process says about it.
CALL_TWICE = """
import logging, torch
from maft.modeling.pixel_decoder.ops import active_backend, load_problems, ms_deform_attn
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
inputs = torch.ones(1, 4, 1, 2), [(2, 2)], torch.full((1, 1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1, 1)
for _ in range(2):
    assert ms_deform_attn(*inputs).tolist() == [[[1.0, 1.0]]]
print(active_backend("cpu"), load_problems().get("cpu"), sep="|")
"""


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Of a process with `folder` as the libraries' folder."""
    kept = {name: text for name, text in os.environ.items() if name not in ("OPENSEG_R_OP", "CXX")}
    return kept | {"OPENSEG_R_OP_DIR": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **variables}


def run(*command: str, folder: Path, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command with `folder` as the libraries' folder."""
    variables = environment(folder, **variables)
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)


def call_twice(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return forked.run(["-c", CALL_TWICE], env=environment(folder, **variables))


def run_build(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return forked.run(["-m", build.__name__, *arguments], env=environment(folder, **variables))


def write_report(folder: Path, *, sources: str) -> None:
    """The report of a build that wrote just the library that lies in the folder."""
    library = hashlib.sha256((folder / "libopenseg_r_cpu.so").read_bytes()).hexdigest()
    entry = {"state": "built", "problem": None, "sources": sources, "library": library}
    (folder / "build_report.json").write_text(json.dumps({"torch": torch.__version__, "targets": {"cpu": entry}}))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the CPU library, built once for this file."""
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("compiled")
    done = run(sys.executable, "-m", build.__name__, "--target", "cpu", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["compiled", "plain"])
def test_the_operator_passes_its_tests_on_each_kernel(compiled, mode):
    """test_deformable_op.py and test_deformable_kernels.py, whole, on the library just built and on plain PyTorch."""
    if mode == ("plain" if active_backend("cpu") == "plain" else "compiled"):
        pytest.skip("the kernel that serves here: these files themselves test it")
    tests = [str(ROOT / "tests" / "modeling" / f"test_deformable_{name}.py") for name in ("op", "kernels")]
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not gpu", *tests)
    done = run(*command, folder=compiled, OPENSEG_R_OP=mode)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_a_build_reports_and_is_used(compiled):
    entry = json.loads((compiled / "build_report.json").read_text())["targets"]["cpu"]
    assert (entry["state"], entry["problem"], entry["sources"]) == ("built", None, backend.sources_digest())
    assert sorted(path.name for path in compiled.iterdir()) == ["build_report.json", "libopenseg_r_cpu.so"]
    done = call_twice(compiled)
    assert (done.stdout.strip(), done.stderr) == ("cpu-compiled|None", "")


def test_a_second_build_does_nothing(compiled):
    library = compiled / "libopenseg_r_cpu.so"
    before = library.stat().st_mtime_ns
    done = run_build(compiled, "--target", "cpu")
    assert done.returncode == 0 and "building" not in done.stdout
    assert library.stat().st_mtime_ns == before


def test_the_libraries_are_free_of_python(compiled):
    """So that one build serves every Python."""
    done = run("nm", "-D", "--undefined-only", str(compiled / "libopenseg_r_cpu.so"), folder=compiled)
    assert "torch_library_impl" in done.stdout
    assert not [line for line in done.stdout.splitlines() if line.split()[-1].startswith(("Py", "_Py"))]


def test_missing_library_is_announced_once_and_plain_serves(tmp_path):
    done = call_twice(tmp_path)
    warnings = [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 1
    assert "on cpu is served by plain PyTorch" in warnings[0] and "libopenseg_r_cpu.so is missing" in warnings[0]
    assert done.stdout.startswith("plain|")


def test_missing_library_is_an_error_where_the_compiled_one_is_asked_for(tmp_path):
    done = call_twice(tmp_path, OPENSEG_R_OP="compiled")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("maft.errors.UserError: OPENSEG_R_OP=compiled, but") and "make.sh" in last


def test_plain_can_be_chosen(compiled):
    done = call_twice(compiled, OPENSEG_R_OP="plain")
    assert done.stdout.strip() == "plain|OPENSEG_R_OP=plain"
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("INFO")


def test_a_mode_that_does_not_exist_is_an_error(tmp_path):
    done = call_twice(tmp_path, OPENSEG_R_OP="fast")
    assert "UserError: OPENSEG_R_OP=fast: must be plain or compiled" in done.stderr


def test_corrupt_library_is_reported(tmp_path):
    (tmp_path / "libopenseg_r_cpu.so").write_bytes(b"\x7fELF and no more")
    write_report(tmp_path, sources=backend.sources_digest())
    done = call_twice(tmp_path)
    assert done.stdout.startswith("plain|") and "libopenseg_r_cpu.so does not load" in done.stdout
    assert "does not load" in done.stderr and "build again" in done.stderr


def test_truncated_library_is_reported(compiled, tmp_path):
    """The loader maps such a file and dies, so it must not get that far; ."""
    for path in compiled.iterdir():
        shutil.copy(path, tmp_path)
    library = tmp_path / "libopenseg_r_cpu.so"
    os.truncate(library, library.stat().st_size // 8)
    done = call_twice(tmp_path)
    assert done.stdout.startswith("plain|") and "not what the build wrote, truncated or replaced" in done.stderr


def test_stale_library_is_not_loaded(compiled, tmp_path):
    shutil.copy(compiled / "libopenseg_r_cpu.so", tmp_path)
    write_report(tmp_path, sources="of another version")
    done = call_twice(tmp_path)
    assert done.stdout.startswith("plain|") and "is stale, built from other sources" in done.stdout


def test_unreadable_report_is_reported(compiled, tmp_path, monkeypatch):
    shutil.copy(compiled / "libopenseg_r_cpu.so", tmp_path)
    (tmp_path / "build_report.json").write_text('{"targets": ')
    assert "unreadable build report" in call_twice(tmp_path).stderr
    monkeypatch.setenv("OPENSEG_R_OP_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"build_report.json: unreadable build report .*make.sh"):
        backend.build_report()
    (tmp_path / "build_report.json").write_text("[]")
    with pytest.raises(UserError, match="not a build report"):
        backend.build_report()
    (tmp_path / "build_report.json").unlink()
    assert backend.build_report() is None


@pytest.mark.parametrize("compiler", ["false", "/nowhere/c++"])
def test_failing_build_is_loud_and_plain_serves(tmp_path, compiler):
    (tmp_path / "libopenseg_r_cpu.so").write_bytes(b"an older library")
    done = run_build(tmp_path, "--target", "cpu", CXX=compiler)
    assert done.returncode == 1
    assert f"deformable attention, cpu: FAILED: {compiler}" in done.stdout and "plain PyTorch serves" in done.stdout
    entry = json.loads((tmp_path / "build_report.json").read_text())["targets"]["cpu"]
    assert entry["state"] == "failed" and entry["problem"].startswith(compiler)
    assert [path.name for path in tmp_path.iterdir()] == ["build_report.json"]
    called = call_twice(tmp_path)
    assert called.stdout.startswith("plain|") and entry["problem"] in called.stderr


def test_failing_compilation_shows_the_compilers_error(tmp_path):
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    done = run_build(tmp_path, "--target", "cpu", CXX=f"{COMPILER} -include missing_header.h")
    assert done.returncode == 1
    entry = json.loads((tmp_path / "build_report.json").read_text())["targets"]["cpu"]
    assert "missing_header.h" in entry["problem"] and "missing_header.h" in entry["output"][0]


def test_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = run_build(tmp_path / "file" / "lib", "--target", "cpu")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "OPENSEG_R_OP_DIR" in done.stderr and done.stderr.count("\n") == 1


def test_the_references_build_steps_reach_the_build(tmp_path):
    """`sh make.sh` and `python setup.py build install` from the folder, with a compiler that fails at once."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python3"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    script = run("sh", "make.sh", "--target", "cpu", folder=tmp_path / "a", cwd=OPS, CXX="false", PATH=path)
    assert "deformable attention, cpu: FAILED: false" in script.stdout, script.stderr
    command = (sys.executable, "setup.py", "build", "install")
    setup = run(*command, folder=tmp_path / "b", cwd=OPS, CXX="false", CUDA_HOME="/nowhere")
    assert "deformable attention, cpu: FAILED: false" in setup.stdout, setup.stderr
    assert (tmp_path / "a" / "build_report.json").exists() and (tmp_path / "b" / "build_report.json").exists()


def fake_nvcc(folder: Path, release: str) -> Path:
    """A toolkit whose nvcc only answers questions."""
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = --version ] && echo "Cuda compilation tools, release {release}, V{release}.1"\n'
        '[ "$1" = --list-gpu-code ] && printf "sm_80\\nsm_90\\nsm_90a\\n"\n'
        "exit 0\n"
    )
    nvcc.chmod(0o755)
    return nvcc


def test_cuda_architectures(tmp_path, monkeypatch):
    nvcc = fake_nvcc(tmp_path, "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    assert build.cuda_architectures(nvcc) == [  # 7.5 is not among what this nvcc knows
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6 9.0a+PTX")
    assert build.cuda_architectures(nvcc) == [
        "-gencode=arch=compute_86,code=sm_86",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_90a,code=compute_90a",
    ]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Ampere")
    with pytest.raises(build.NotBuilt, match="TORCH_CUDA_ARCH_LIST: 'Ampere' is not like"):
        build.cuda_architectures(nvcc)


def test_cuda_toolkit_that_does_not_go_with_torch(tmp_path, monkeypatch):
    output = tmp_path / "library.so"
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(build.NotBuilt, match="has no CUDA") as caught:
        build.cuda_command(output)
    assert caught.value.skipped
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(build.NotBuilt, match=r"no nvcc .*no GPU either") as caught:
        build.cuda_command(output)
    assert caught.value.skipped
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(build.NotBuilt, match=r"no nvcc \(install the CUDA toolkit 13.0") as caught:
        build.cuda_command(output)
    assert not caught.value.skipped  # there is a GPU that goes without its kernel
    fake_nvcc(tmp_path / "toolkit", "11.8")
    with pytest.raises(build.NotBuilt, match=r"is of CUDA 11.8, torch of 13.0: set CUDA_HOME"):
        build.cuda_command(output)


def test_cuda_toolkit_of_torchs_version_is_preferred(tmp_path, monkeypatch):
    """An older nvcc on the path does not hide pip's CUDA packages."""
    old = fake_nvcc(tmp_path / "old", "11.8")
    matching = fake_nvcc(tmp_path / "nvidia" / "cu99", "99.1")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{old.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"platlib": str(tmp_path)})
    monkeypatch.setattr(torch.version, "cuda", "99.0")
    assert build.find_nvcc() == (matching, "99.1")
    monkeypatch.setattr(torch.version, "cuda", "98.0")
    assert build.find_nvcc() == (old, "11.8")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    assert build.find_nvcc() is None


@pytest.mark.slow
def test_cuda_kernel_compiles_and_registers(tmp_path):
    """Needs nvcc and torch with CUDA, but no GPU: the kernel is compiled and loaded, not run."""
    if torch.version.cuda is None:
        pytest.skip("torch has no CUDA")
    if build.find_nvcc() is None or COMPILER is None:
        pytest.skip("no CUDA compiler")
    done = run_build(tmp_path, "--target", "cuda", TORCH_CUDA_ARCH_LIST="9.0")
    if "is of CUDA" in done.stdout:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    script = "from maft.modeling.pixel_decoder.ops import active_backend; print(active_backend('cuda'))"
    assert forked.run(["-c", script], env=environment(tmp_path)).stdout.strip() == "cuda-compiled"
