"""What is active here, what is missing, what each missing thing is needed for, and how to get it.

    python -m tools.doctor            for people
    python -m tools.doctor --json     for programs

Exit status: 0, or 1 where torch cannot be imported, or in a checkout detectron2, without which its commands do not run.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from maft.resources import checkout, config_folder, mini_weights
from reason.vocabulary import known_vocabularies

from .assets import checkpoint_problem, count_files
from .commands import command

State = Literal["ok", "missing", "problem", "broken"]
"""ok; missing: can be done without, or is the user's to bring; problem: there, but not as it should be; broken: nothing
runs."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        section: heading.
        name: the thing.
        state: see `State`.
        detail: what was found.
        needed_for: what does not work, or works differently, without it; "" where all is well.
        way_out: how to get it; "" where all is well.
    """

    section: str
    name: str
    state: State
    detail: str
    needed_for: str = ""
    way_out: str = ""


def examine() -> list[Finding]:
    """Everything that can be found out; later checks are left out where they need what is broken."""
    findings = [*_python()]
    torch, torch_finding = _imported("torch", "everything")
    findings.append(torch_finding)
    if torch is not None:
        findings += _cuda(torch)
    detectron2, detectron2_finding = _imported("detectron2", "configuration, data sets and launching: every command")
    findings.append(_which_detectron2(detectron2, detectron2_finding))
    findings += _guarded(_shipped)
    if torch is None:
        return findings
    findings += _guarded(_op)
    if detectron2 is None:
        return findings
    for check in (_weights, _datasets, _generic_reasons, _image_reasons, _features, reasoning):
        findings += _guarded(check)
    return findings


def _guarded(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """The findings of one check; an error that ends it early becomes one, so that the other checks still speak."""
    found: list[Finding] = []
    try:
        for finding in check():
            found.append(finding)
    except Exception as error:
        name = check.__name__.strip("_").replace("_", " ")
        found.append(Finding("Checks", name, "problem", f"{type(error).__name__}: {error}", "this part of the report"))
    return found


def _imported(name: str, needed_for: str) -> tuple[ModuleType | None, Finding]:
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as error:  # a broken shared library raises OSError
        detail = f"cannot be imported: {error}"
        return None, Finding("Environment", name, "broken", detail, needed_for, "bash install.sh")
    return module, Finding("Environment", name, "ok", str(getattr(module, "__version__", "")))


def _python() -> Iterator[Finding]:
    version, root = platform.python_version(), checkout()
    if root is None:
        yield Finding("Environment", "python", "ok", f"{version}, {sys.executable}; installed as a package")
    elif Path(sys.prefix).resolve() == (root / ".venv").resolve():
        yield Finding("Environment", "python", "ok", f"{version}, .venv")
    else:
        yield Finding(
            "Environment",
            "python",
            "problem",
            f"{version}, {sys.executable}: not the one that install.sh makes",
            "the versions that are proven together",
            "bash install.sh, then .venv/bin/python",
        )


def _which_detectron2(module: ModuleType | None, finding: Finding) -> Finding:
    root = checkout()
    if module is None and root is None:
        return Finding(
            "Environment",
            "detectron2",
            "missing",
            "not installed",
            "training and benchmarks",
            "a checkout with its install.sh, or detectron2's own source",
        )
    if module is None:
        return finding
    folder = Path(module.__file__ or "").resolve().parent
    if root and folder.parent == root / "compat":
        return Finding(
            "Environment",
            "detectron2",
            "ok",
            "the project's own subset, compat/: covers what this project imports",
            "parts of detectron2 that only your own code imports",
            "OPENSEG_R_DETECTRON2=real bash install.sh",
        )
    return Finding("Environment", "detectron2", "ok", f"the real one, {finding.detail}, {folder}")


def _cuda(torch: ModuleType) -> Iterator[Finding]:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        devices = ", ".join(f"{index}: {name}" for index, name in enumerate(names))
        yield Finding("Environment", "CUDA", "ok", f"{torch.version.cuda}, driver {_driver()}; {devices}")
        return
    needed_for = "speed: everything runs on the CPU, slowly"
    if not _driver():
        yield Finding("Environment", "CUDA", "missing", "no NVIDIA driver here: the CPU is used", needed_for)
    elif torch.version.cuda is None:
        yield Finding("Environment", "CUDA", "problem", "this torch is a CPU build", needed_for, "bash install.sh")
    else:
        detail = f"driver {_driver()} and torch's CUDA {torch.version.cuda} do not get along, or no GPU is visible"
        yield Finding("Environment", "CUDA", "problem", detail, needed_for, "a newer driver; CUDA_VISIBLE_DEVICES")


def _driver() -> str:
    """The NVIDIA driver's version, "" where there is no driver."""
    try:
        first = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
    except (OSError, IndexError):
        return "(of unknown version)" if os.path.exists("/dev/dxg") else ""
    return next((word for word in first.split() if word[:1].isdigit() and "." in word), first)


def _shipped() -> Iterator[Finding]:
    """What comes along with the packages; in a wheel, something of it may be left out by mistake."""
    ways = ("names of benchmarks as classes", "pip install openseg-r again")
    names = known_vocabularies()
    yield Finding("Package", "vocabularies", *(("ok", ", ".join(names)) if names else ("problem", "none", *ways)))
    for name, path, use in (
        ("configs", config_folder() / "base.yaml", "the networks' configurations"),
        ("CLIP architectures", config_folder() / "clip", "architectures that open_clip does not ship"),
        ("mini's weights", mini_weights(), "the model that needs no download"),
        ("sed-mini's weights", mini_weights("sed-mini"), "SED's model that needs no download"),
    ):
        if path.exists():
            yield Finding("Package", name, "ok", str(path))
        else:
            yield Finding("Package", name, "problem", f"{path}: not there", use, "pip install openseg-r again")


def _op() -> Iterator[Finding]:
    import torch

    from maft.modeling.pixel_decoder import ops

    problems = ops.load_problems()
    for device in ("cpu", "cuda"):
        if device == "cuda" and not torch.cuda.is_available():
            continue
        name, kernel = f"on {device}", ops.active_backend(device)
        if kernel != "plain":
            yield Finding("Deformable attention", name, "ok", kernel)
            continue
        yield Finding(
            "Deformable attention",
            name,
            "missing",
            f"plain PyTorch: {problems.get(device, 'no compiled kernel')}",
            "speed; results are the same",
            "bash install.sh, with a C++ compiler (and nvcc for a GPU)",
        )
    for target, entry in ((ops.build_report() or {}).get("targets") or {}).items():
        note = f": {entry['problem']}" if entry.get("problem") else f", {entry.get('seconds', '?')} s"
        state: State = "problem" if entry.get("state") == "failed" else "ok"
        yield Finding("Deformable attention", f"{target} build", state, f"{entry.get('state')}{note}")


def _weights() -> Iterator[Finding]:
    from .benchmarks import SUITES

    for suite in SUITES.values():
        problem = checkpoint_problem(suite.weights)
        if problem is None:
            size = Path(suite.weights).stat().st_size
            yield Finding("Weights", suite.weights, "ok", f"{size / 1e6:.0f} MB, CLIP's weights are part of it")
            continue
        state: State = "missing" if problem == "no such file" else "problem"
        script = suite.script
        yield Finding("Weights", suite.weights, state, problem, script, "pretrained/README.md")


def _datasets() -> Iterator[Finding]:
    from maft.data import dataset_status, register_all

    from .benchmarks import BY_NAME_ONLY, SUITES

    register_all()
    benchmarks = {entry.dataset: entry for suite in SUITES.values() for entry in suite.benchmarks}
    for name, benchmark in benchmarks.items():
        if benchmark.name in BY_NAME_ONLY:
            continue
        status = dataset_status(name)
        if status.present:
            images = "" if status.images is None else f"{status.images} images, "
            folder = status.paths.images if status.paths else status.root
            yield Finding("Data sets", name, "ok", f"{images}{folder}")
        else:
            detail = "; ".join(status.looked_at)
            yield Finding("Data sets", name, "missing", detail, f"benchmark {benchmark.name}", status.hint)


def _vocabularies() -> list[str]:
    from .benchmarks import BY_NAME_ONLY, SUITES

    return list(
        dict.fromkeys(b.name for suite in SUITES.values() for b in suite.benchmarks if b.name not in BY_NAME_ONLY)
    )


def _generic_reasons() -> Iterator[Finding]:
    from reason.shipped import NOT_THE_PAPERS, shipped_file
    from reason.triplets import TripletError, load_generic

    from .benchmarks import REASONS_HINT, generic_candidates, generic_file

    for vocabulary in _vocabularies():
        path = generic_file(vocabulary)
        if path is None:
            detail = f"none of {', '.join(str(candidate) for candidate in generic_candidates(vocabulary)[:2])}"
            use = f"benchmark {vocabulary} with reasons (not with --names-only)"
            yield Finding("Generic reasons", vocabulary, "missing", detail, use, REASONS_HINT)
            continue
        try:
            detail = f"{len(load_generic(path))} classes, {path}"
            if path == shipped_file(vocabulary):
                use = f"results that are the paper's: {NOT_THE_PAPERS}"
                yield Finding("Generic reasons", vocabulary, "ok", detail, use, REASONS_HINT)
            else:
                yield Finding("Generic reasons", vocabulary, "ok", detail)
        except TripletError as error:
            yield Finding("Generic reasons", vocabulary, "problem", str(error), f"benchmark {vocabulary}", REASONS_HINT)


def _image_reasons() -> Iterator[Finding]:
    from .benchmarks import REASONS_HINT, image_reason_folders

    for vocabulary in _vocabularies():
        counts = {folder: count_files(folder / vocabulary, ".json") for folder in dict.fromkeys(image_reason_folders())}
        found = [f"{count} images, {folder / vocabulary}" for folder, count in counts.items() if count]
        if found:
            yield Finding("Image-specific reasons", vocabulary, "ok", "; ".join(found))
        else:
            use = "the paper's method; generic reasons stand in, announced and counted"
            yield Finding("Image-specific reasons", vocabulary, "missing", "none", use, REASONS_HINT)


def reasoning() -> Iterator[Finding]:
    """What writes reasons: an environment of its own, and a model."""
    root = checkout() or Path()
    section, own = "Writing reasons", root / ".venv-reason" / "bin" / "python"
    use = "python -m reason: reasons for one's own images and vocabularies"
    if own.is_file():
        yield Finding(section, ".venv-reason", "ok", ".venv-reason/bin/python -m reason")
    else:
        yield Finding(section, ".venv-reason", "missing", "not installed", use, "bash install.sh reason")
    models = sorted(path.parent.name for path in (root / "llm").glob("*/config.json"))
    if models:
        yield Finding(section, "llm/", "ok", ", ".join(models))
    else:
        way_out = "python -m tools.fetch_llm, or put a model's folder there; a server needs none (llm/README.md)"
        yield Finding(section, "llm/", "missing", "no model in it", use, way_out)


def runs_now() -> list[str]:
    """The command lines of a checkout that have all they need here, the one that needs least first."""
    if checkout() is None or importlib.util.find_spec("detectron2") is None:
        return []
    from maft.data import register_all

    from .benchmarks import BY_NAME_ONLY, SUITES, plan

    register_all()
    commands: dict[str, bool] = {}
    for suite in SUITES.values():
        plans = [plan(suite, entry, names_only=False, overrides={}) for entry in suite.benchmarks]
        for by_name in (True, False):
            names = [entry.benchmark.name for entry in plans if entry.can_run]
            names = [name for name in names if (name in BY_NAME_ONLY) == by_name and not (by_name and commands)]
            if names:
                commands[f"bash eval_reason_{suite.name}.sh {' '.join(names)}"] = not by_name
    return sorted(commands, key=lambda command: commands[command])


def _features() -> Iterator[Finding]:
    folder = Path("reason_data/image_reason_feat")
    for sub in sorted(folder.glob("*/*")):
        if count := count_files(sub, ".json"):
            yield Finding("Text features", str(sub), "ok", f"{count} files of the reference's kind")
    bank = Path("reason_data/text_bank")
    size = sum(path.stat().st_size for path in bank.rglob("*") if path.is_file()) if bank.is_dir() else 0
    if size:
        yield Finding("Text features", str(bank), "ok", f"{size / 1e6:.1f} MB of encoded sentences")
    else:
        use = "speed: sentences are encoded when they are first met, once"
        way_out = f"filled by every run; ahead of time by {command('extract_text_features')}"
        yield Finding("Text features", str(bank), "missing", "empty", use, way_out)


def report(findings: Sequence[Finding]) -> str:
    """The findings for people, by section; a way out that several in a row share is printed once, below them."""
    marks = {"ok": "ok     ", "missing": "-      ", "problem": "PROBLEM", "broken": "BROKEN "}
    lines: list[str] = []
    section = ""
    for place, finding in enumerate(findings):
        if finding.section != section:
            section = finding.section
            lines += ["", section]
        lines.append(f"  {marks[finding.state]} {finding.name}: {finding.detail}")
        if finding.needed_for:
            lines.append(f"            {'needed for' if finding.state != 'ok' else 'lacks'} {finding.needed_for}")
        following = findings[place + 1] if place + 1 < len(findings) else None
        shared = following and (following.section, following.way_out) == (finding.section, finding.way_out)
        if finding.way_out and not shared:
            lines.append(f"            to get it: {finding.way_out}")
    return "\n".join(lines[1:])


def verdict(commands: Sequence[str]) -> str:
    """What can be done now, and what to type for it."""
    if not commands:
        return "Runs now: nothing; mend what is marked BROKEN or PROBLEM first"
    names = dict.fromkeys(name for command in commands for name in command.split()[2:])
    return "\n".join((f"Runs now: {', '.join(names)}", *(f"  {command}" for command in commands)))


def main(words: Sequence[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog=command("doctor"), description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="a list of findings, for programs")
    options = parser.parse_args(words)
    os.chdir(checkout() or ".")  # what the user brings is looked for where the commands look for it
    findings = examine()
    broken = any(finding.state == "broken" for finding in findings)
    commands = [] if broken else runs_now()
    if options.json:
        document = {"ok": not broken, "runs_now": commands, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(document, indent=1))
    else:
        print(report(findings) + (f"\n\n{verdict(commands)}" if checkout() else ""))
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
