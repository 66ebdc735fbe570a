"""Build the compiled kernels of deformable attention: `python -m maft.modeling.pixel_decoder.ops.build`.

Two shared libraries against libtorch's stable ABI, free of Python: one build serves every torch from 2.10 on and every
Python. They go to `lib` beside this file (or OPENSEG_R_OP_DIR) together with `build_report.json`:

    {"torch": version, "time": ISO 8601, "targets": {"cpu": ENTRY, "cuda": ENTRY}}
    ENTRY: {"state": "built" | "failed" | "skipped", "problem": one line or null, "output": first error lines,
            "command": the compiler's command line, "seconds": float,
            "sources", "library": SHA-256 of what it was built from, and of the result (null where there is none)}

"skipped" is a target that this machine cannot need: torch without CUDA, or neither a GPU nor a CUDA compiler. Where a
build fails, an older library of that target goes too, so that folder and report agree, and plain PyTorch serves.

Environment: CXX (compiler), CUDA_HOME (toolkit), TORCH_CUDA_ARCH_LIST (e.g. "8.0;9.0+PTX").
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from maft.errors import UserError, run_command
from maft.modeling.pixel_decoder.ops import backend

TORCH_ROOT = Path(torch.__file__).resolve().parent
# The oldest torch whose stable ABI has all that the sources use (2.10.0).
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000ull"
DEFAULT_ARCHITECTURES = ("7.5", "8.0", "9.0")
TIME_LIMIT_S = 1800
ERROR_LINES = 5


class NotBuilt(Exception):
    """Why a target is not built; `skipped` if this machine cannot need it."""

    def __init__(self, reason: str, *, skipped: bool = False, output: str = "") -> None:
        super().__init__(reason)
        self.skipped = skipped
        self.output = output


def find_compiler() -> str:
    """The C++ compiler: CXX, or the first of c++, g++, clang++ on the path.

    Raises:
        NotBuilt: there is none.
    """
    chosen = os.environ.get("CXX")
    if chosen:
        return chosen
    for name in ("c++", "g++", "clang++"):
        found = shutil.which(name)
        if found:
            return found
    raise NotBuilt("no C++ compiler on the path (install g++, or set CXX)")


def nvcc_release(nvcc: Path) -> str:
    """The toolkit's version, such as "13.0"; empty if nvcc does not say."""
    match = re.search(r"release (\d+\.\d+)", _output_of([str(nvcc), "--version"]))
    return match[1] if match else ""


def find_nvcc() -> tuple[Path, str] | None:
    """nvcc and its release: of CUDA_HOME if that is set, else of the path, /usr/local/cuda or pip's CUDA packages.

    The first of torch's major version comes before those of another.
    """
    if os.environ.get("CUDA_HOME"):
        places = [Path(os.environ["CUDA_HOME"]).expanduser() / "bin" / "nvcc"]
    else:
        on_path = shutil.which("nvcc")
        places = [Path(on_path)] if on_path else []
        places.append(Path("/usr/local/cuda/bin/nvcc"))
        places += sorted(Path(sysconfig.get_paths()["platlib"]).glob("nvidia/cu*/bin/nvcc"))
    found = [(place, nvcc_release(place)) for place in places if os.access(place, os.X_OK)]
    return next((entry for entry in found if _same_major(entry[1], torch.version.cuda)), found[0] if found else None)


def _same_major(release: str, other: str | None) -> bool:
    return other is not None and release.split(".")[0] == other.split(".")[0]


def cuda_architectures(nvcc: Path) -> list[str]:
    """nvcc's -gencode options: for TORCH_CUDA_ARCH_LIST, else this machine's GPUs, else a portable set.

    Raises:
        NotBuilt: TORCH_CUDA_ARCH_LIST is malformed.
    """
    supported = set(re.findall(r"sm_(\d+a?)", _output_of([str(nvcc), "--list-gpu-code"])))
    wanted = re.split(r"[;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip())
    if wanted == [""]:
        if torch.cuda.is_available():
            found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
            wanted = [f"{major}.{minor}" for major, minor in sorted(found)]
        else:
            wanted = [name for name in DEFAULT_ARCHITECTURES if name.replace(".", "") in supported]
            if not wanted:
                known = ", ".join(DEFAULT_ARCHITECTURES)
                raise NotBuilt(f"{nvcc} compiles for none of {known}: set TORCH_CUDA_ARCH_LIST")
            wanted[-1] += "+PTX"  # later GPUs compile it when they load the library
    options = []
    for name in wanted:
        match = re.fullmatch(r"(\d+)\.(\d+)(a?)(\+PTX)?", name)
        if not match:
            raise NotBuilt(f"TORCH_CUDA_ARCH_LIST: {name!r} is not like 8.0 or 9.0+PTX")
        number = match[1] + match[2] + match[3]
        options.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match[4]:
            options.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return options


def cpu_command(output: Path) -> list[str]:
    """The command line that builds the CPU library.

    Raises:
        NotBuilt: no compiler.
    """
    flags = ["-O3", "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", "-fopenmp-simd", "-Wall", "-Wextra"]
    torch_flags = [STABLE_ABI, "-isystem", str(TORCH_ROOT / "include"), "-L", str(TORCH_ROOT / "lib"), "-ltorch_cpu"]
    compiler = shlex.split(find_compiler())
    sources = sorted(map(str, backend.SOURCE_FOLDER.glob("*.cpp")))
    return [*compiler, *flags, *sources, *torch_flags, "-o", str(output)]


def cuda_command(output: Path) -> list[str]:
    """The command line that builds the CUDA library.

    Raises:
        NotBuilt: torch has no CUDA, or there is no CUDA compiler of torch's major version.
    """
    if torch.version.cuda is None:
        raise NotBuilt(f"torch {torch.__version__} has no CUDA", skipped=True)
    toolkit = find_nvcc()
    if toolkit is None:
        gpu = torch.cuda.is_available()
        raise NotBuilt(
            f"no nvcc (install the CUDA toolkit {torch.version.cuda} and set CUDA_HOME)"
            + ("" if gpu else "; this machine shows no GPU either"),
            skipped=not gpu,
        )
    nvcc, release = toolkit
    if not _same_major(release, torch.version.cuda):
        raise NotBuilt(
            f"{nvcc} is of CUDA {release or '(unknown)'}, torch of {torch.version.cuda}: "
            "set CUDA_HOME to a toolkit of torch's version"
        )
    host = ["-ccbin", shlex.split(find_compiler())[0], "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra"]
    flags = ["-O3", "-std=c++17", "-shared", "-DUSE_CUDA", "--expt-relaxed-constexpr", "-cudart", "static"]
    torch_flags = [STABLE_ABI, "-isystem", str(TORCH_ROOT / "include"), "-L", str(TORCH_ROOT / "lib")]
    torch_flags += ["-ltorch_cpu", "-ltorch_cuda"]
    pip_libraries = nvcc.resolve().parent.parent / "lib"  # where nvcc does not look by itself
    if (pip_libraries / "libcudart_static.a").exists():
        torch_flags += ["-L", str(pip_libraries)]
    source = str(backend.SOURCE_FOLDER / "cuda.cu")
    return [str(nvcc), *flags, *cuda_architectures(nvcc), *host, source, *torch_flags, "-o", str(output)]


COMMANDS = {"cpu": cpu_command, "cuda": cuda_command}


def build_target(target: str, previous: dict[str, Any], *, force: bool) -> dict[str, Any]:
    """Build one library, unless sources and command are those of the last build; the report's entry."""
    library = backend.library_path(target)
    sources = backend.sources_digest()
    entry: dict[str, Any] = {"state": "built", "problem": None, "output": [], "command": None}
    entry |= {"sources": sources, "library": None}
    started = time.monotonic()
    try:
        command = COMMANDS[target](library)
        entry["command"] = shlex.join(command)
        same = all(previous.get(key) == entry[key] for key in ("state", "command", "sources"))
        if same and library.exists() and previous.get("library") == backend.library_digest(target) and not force:
            return previous
        _say(f"building {library.name} ...")
        _compile(command, library)
        entry["library"] = backend.library_digest(target)
    except NotBuilt as reason:
        library.unlink(missing_ok=True)
        entry["state"] = "skipped" if reason.skipped else "failed"
        entry["problem"] = str(reason)
        entry["output"] = reason.output.splitlines()
    entry["seconds"] = round(time.monotonic() - started, 1)
    return entry


def build(targets: Sequence[str] = backend.TARGETS, *, force: bool = False) -> dict[str, Any]:
    """Build the libraries, and write and return the report described above.

    Args:
        targets: "cpu", "cuda" or both; the report keeps its entry of a target that is not asked for.
        force: build again what is up to date.

    Raises:
        UserError: the folder of the libraries cannot be written.
    """
    folder = backend.library_folder()
    try:
        entries = (backend.build_report() or {"targets": {}})["targets"]
    except UserError:
        entries = {}  # an unreadable report says nothing; a new one replaces it
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for target in targets:
            entries[target] = build_target(target, entries.get(target, {}), force=force)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        report = {"torch": torch.__version__, "time": now, "targets": entries}
        aside = folder / f".build_report.{os.getpid()}"
        aside.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        aside.replace(backend.report_path())
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); set {backend.FOLDER_VARIABLE}") from error
    return report


def _compile(command: list[str], library: Path) -> None:
    """Run the command with its output file written aside, and rename it into place.

    Raises:
        NotBuilt: the compiler is missing, fails or runs out of time.
    """
    aside = library.with_name(f".{library.name}.{os.getpid()}")
    command = [*command[:-1], str(aside)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)
        if done.returncode == 0:
            aside.replace(library)
            return
    except (FileNotFoundError, PermissionError) as error:
        raise NotBuilt(f"{command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise NotBuilt(f"{command[0]} did not end within {TIME_LIMIT_S} s") from error
    finally:
        aside.unlink(missing_ok=True)
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\berror\b|fatal|undefined|cannot find", line)] or lines
    reason = errors[0].strip() if errors else "without a word"
    output = "\n".join(errors[:ERROR_LINES])
    raise NotBuilt(f"{command[0]} failed with status {done.returncode}: {reason}", output=output)


def _output_of(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def describe(report: dict[str, Any], targets: Sequence[str]) -> list[str]:
    """The report for a person: one line a target, and the compiler's first error lines under a failure."""
    lines = []
    for target in targets:
        entry = report["targets"][target]
        if entry["state"] == "built":
            lines.append(f"deformable attention, {target}: built: {backend.library_path(target)}")
        else:
            state = entry["state"].upper()
            lines.append(f"deformable attention, {target}: {state}: {entry['problem']}; plain PyTorch serves, slower")
            lines += [f"    {line}" for line in entry["output"]]
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Command line; exit status 0 if everything that this machine can use was built, 1 if a build failed."""
    parser = argparse.ArgumentParser(prog="maft.modeling.pixel_decoder.ops.build", description=__doc__.splitlines()[0])
    parser.add_argument("--target", choices=backend.TARGETS, action="append", help="build this one only")
    parser.add_argument("--force", action="store_true", help="build again what is up to date")
    options = parser.parse_args(arguments)

    def body() -> int:
        targets = options.target or backend.TARGETS
        report = build(targets, force=options.force)
        for line in describe(report, targets):
            _say(line)
        return int(any(report["targets"][target]["state"] == "failed" for target in targets))

    return run_command(body)


if __name__ == "__main__":
    sys.exit(main())
