"""Which kernel serves the deformable-attention operator: loads the compiled libraries, says what became of them.

Environment:
    OPENSEG_R_OP: `plain` leaves the compiled libraries alone; `compiled` makes it an error where one is missing; unset,
        a compiled kernel is used where there is one and plain PyTorch elsewhere, announced once.
    OPENSEG_R_OP_DIR: folder of the compiled libraries and their build report; unset, `lib` beside this file.
    OPENSEG_R_OP_INSTRUCTIONS: `portable`, `avx2` or `avx512`, what the compiled kernel on the CPU uses; unset,
        the best that the processor has. Read at every call.
The first two are read when the libraries are first asked for, once a process.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import torch

from maft.errors import UserError, one_line

logger = logging.getLogger(__name__)

NAMESPACE = "openseg_r"
OPERATOR = f"{NAMESPACE}::ms_deform_attn"
TARGETS = ("cpu", "cuda")
MODE_VARIABLE = "OPENSEG_R_OP"
FOLDER_VARIABLE = "OPENSEG_R_OP_DIR"
INSTRUCTIONS_VARIABLE = "OPENSEG_R_OP_INSTRUCTIONS"
BUILD_COMMAND = "sh maft/modeling/pixel_decoder/ops/make.sh"
SOURCE_FOLDER = Path(__file__).resolve().parent / "csrc"

_lock = threading.Lock()
_problems: dict[str, str] | None = None
_announced: set[str] = set()


def library_folder() -> Path:
    """Where the compiled libraries and their build report lie."""
    return Path(os.environ.get(FOLDER_VARIABLE) or Path(__file__).resolve().parent / "lib").expanduser()


def library_path(target: str) -> Path:
    """The compiled library of a target ("cpu" or "cuda"), whether it exists or not."""
    return library_folder() / f"libopenseg_r_{target}.so"


def report_path() -> Path:
    """The build report, whether it exists or not."""
    return library_folder() / "build_report.json"


def sources_digest() -> str:
    """SHA-256 over names and contents of the C++ and CUDA sources: tells a library of other sources."""
    digest = hashlib.sha256()
    for source in sorted(SOURCE_FOLDER.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()


def library_digest(target: str) -> str:
    """SHA-256 of a target's compiled library: the loader crashes the process over a truncated one.

    Raises:
        OSError: it cannot be read.
    """
    return hashlib.sha256(library_path(target).read_bytes()).hexdigest()


def build_report() -> dict[str, Any] | None:
    """What the last build wrote (see build.py for the fields), or None where nothing was built.

    Raises:
        UserError: the report is there but cannot be read.
    """
    path = report_path()
    if not path.exists():
        return None
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: unreadable build report ({one_line(error)}); build again: {BUILD_COMMAND}") from error
    if not isinstance(report, dict) or not isinstance(report.get("targets"), dict):
        raise UserError(f"{path}: not a build report; build again: {BUILD_COMMAND}")
    return report


def mode() -> str:
    """`auto`, `plain` or `compiled`, as OPENSEG_R_OP says.

    Raises:
        UserError: OPENSEG_R_OP is something else.
    """
    chosen = os.environ.get(MODE_VARIABLE) or "auto"
    if chosen not in ("auto", "plain", "compiled"):
        raise UserError(f"{MODE_VARIABLE}={chosen}: must be plain or compiled, or unset to use what is there")
    return chosen


def load_problems() -> dict[str, str]:
    """Load the compiled libraries if that was not done yet, and say why a target has none.

    Returns:
        One line for each target ("cpu", "cuda") that is not served by a compiled kernel; empty if all are.
    """
    global _problems
    with _lock:
        if _problems is None:
            chosen = mode()
            _problems = {}
            for target in TARGETS:
                problem = f"{MODE_VARIABLE}=plain" if chosen == "plain" else _load(target)
                if problem:
                    _problems[target] = problem
        return dict(_problems)


def has_compiled_kernel(device_type: str, operator: str = OPERATOR) -> bool:
    """Whether the dispatcher holds a kernel of the device's own (libraries not yet loaded do not count)."""
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device_type)
    return key is not None and torch._C._dispatch_has_kernel_for_dispatch_key(operator, key)


def cpu_instructions() -> str | None:
    """The instructions that the compiled CPU kernel uses: "portable", "avx2" or "avx512"; None where plain serves.

    Raises:
        UserError: OPENSEG_R_OP_INSTRUCTIONS names what this processor or the kernel does not have.
    """
    if active_backend("cpu") == "plain":
        return None
    function = ctypes.CDLL(str(library_path("cpu"))).openseg_r_instructions
    function.restype = ctypes.c_char_p
    name = function()
    if name is None:
        raise UserError(
            f"{INSTRUCTIONS_VARIABLE}={os.environ.get(INSTRUCTIONS_VARIABLE)}: not among portable, avx2, avx512, or "
            "this processor lacks it; unset it for the best"
        )
    return str(name.decode())


def active_backend(device_type: str) -> str:
    """Which kernel serves tensors of a device type: "cpu-compiled", "cuda-compiled" or "plain".

    Raises:
        UserError: OPENSEG_R_OP is neither plain nor compiled, or it is compiled and there is no such kernel.
    """
    problem = load_problems().get(device_type, "there is no compiled kernel for this device")
    if has_compiled_kernel(device_type):
        return f"{device_type}-compiled"
    if mode() == "compiled":
        raise UserError(
            f"{MODE_VARIABLE}=compiled, but deformable attention has no compiled kernel on {device_type}: {problem}; "
            f"build it ({BUILD_COMMAND}) or unset {MODE_VARIABLE}"
        )
    return "plain"


def load_for(device_type: str) -> bool:
    """Whether a compiled kernel serves the device; where not, say once that plain PyTorch does.

    Raises:
        UserError: as in `active_backend`.
    """
    if active_backend(device_type) != "plain":
        return True
    with _lock:
        first = device_type not in _announced
        _announced.add(device_type)
    if first:
        problem = load_problems().get(device_type, "there is no compiled kernel for this device")
        level = logging.INFO if mode() == "plain" else logging.WARNING
        logger.log(
            level,
            "deformable attention on %s is served by plain PyTorch, right but slower: %s",
            device_type,
            problem,
        )
    return False


def _load(target: str) -> str | None:
    """Load one library; what was wrong, or None. A library of other sources is not loaded."""
    path = library_path(target)
    try:
        report = build_report()
    except UserError as error:
        return str(error)
    entry = (report or {}).get("targets", {}).get(target, {})
    if not path.exists():
        return entry.get("problem") or f"{path} is missing; build it: {BUILD_COMMAND}"
    if entry.get("sources") != sources_digest():
        return f"{path} is stale, built from other sources than {SOURCE_FOLDER}; build again: {BUILD_COMMAND}"
    if target == "cuda" and torch.version.cuda is None:
        return f"torch {torch.__version__} has no CUDA"
    try:
        if entry.get("library") != library_digest(target):
            return f"{path} is not what the build wrote, truncated or replaced; build again: {BUILD_COMMAND}"
        torch.ops.load_library(str(path))
    except (OSError, RuntimeError) as error:
        return f"{path} does not load ({one_line(error)}); build again: {BUILD_COMMAND}"
    if not has_compiled_kernel(target):
        return f"{path} loads but registers no kernel; build again: {BUILD_COMMAND}"
    return None
