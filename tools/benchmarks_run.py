"""Evaluate a model on its benchmarks, one after the other: what eval_reason_base.sh, _large.sh and _pano.sh call.

    python -m tools.run_benchmarks base                     all five semantic benchmarks
    python -m tools.run_benchmarks base pc59 voc20          these two
    python -m tools.run_benchmarks large --names-only       plain MAFT+, without reasons
    python -m tools.run_benchmarks base --model sed         OpenSeg-R with SED
    python -m tools.run_benchmarks pano -- TEST.BATCH_SIZE 4
    python -m tools.run_benchmarks base mini                the drawn world that ships with the repository
    python -m tools.run_benchmarks base mini --reason       the same, its reasons made anew by its own model under vLLM

What is missing is listed first, for every chosen benchmark; the rest still runs. A benchmark that was interrupted goes
on where it stopped. Exit status: 0 everything chosen ran; 1 a run failed; 2 something chosen could not be started.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tabulate import tabulate

from maft.data import register_all
from maft.errors import UserError, run_command
from maft.evaluation.results import summary
from reason.interrupts import deaf_children, end_children
from reason.suggest import did_you_mean

from .benchmarks import GONE, MINI, SUITES, Benchmark, Plan, Suite, parse_overrides, plan
from .commands import described

ROOT = Path(__file__).resolve().parent.parent
CANNOT_RUN = 2
FAILED = 1


class Terminated(Exception):
    """SIGTERM came: `subprocess.run` then ends the evaluation that is running, instead of leaving it behind."""


def _terminate(signum: int, frame: object) -> None:
    raise Terminated


def parse_arguments(words: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Options, and the KEY VALUE pairs after "--".

    Raises:
        UserError: a benchmark that the model does not have, or a key without value.
    """
    words = list(words)
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        prog="run_benchmarks", description=described(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", choices=tuple(name for name in SUITES if not name.startswith("sed-")))
    parser.add_argument("--model", choices=("maft", "sed"), default="maft", help="the network: MAFT+ or SED")
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help="default: all but mini")
    parser.add_argument("--names-only", action="store_true", help="the plain network: class names, no reasons")
    parser.add_argument("--reason", action="store_true", help="of mini: make the reasons anew, under vLLM")
    parser.add_argument("--num-gpus", type=int, help="default: all there are; without one, the CPU")
    parser.add_argument("--resume", action="store_true", help="reuse finished evaluations, too")
    parser.add_argument("--list", action="store_true", help="only list what would run and what is missing")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(words[:cut])
    try:
        return options, parse_overrides(words[cut + 1 :])
    except ValueError as error:
        raise UserError(f"after --: {error}") from error


def choose_suite(size: str, model: str) -> Suite:
    """The suite of a size and a network.

    Raises:
        UserError: SED has no model of that size.
    """
    name = size if model == "maft" else f"{model}-{size}"
    if name not in SUITES:
        raise UserError(f"--model {model}: gives class maps only, there is no {size}; take base or large")
    return SUITES[name]


def choose(suite: Suite, names: Sequence[str]) -> tuple[Benchmark, ...]:
    """The benchmarks that the user named, in the suite's order; its default where none is named.

    Raises:
        UserError: an unknown name.
    """
    known = {benchmark.name: benchmark for benchmark in suite.benchmarks}
    for name in names:
        if name in GONE:
            raise UserError(f"benchmark '{name}': there is none any more; {GONE[name]}")
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(f"benchmark '{name}': unknown to '{suite.name}'{hint}; choose from {', '.join(known)}")
    return tuple(known[name] for name in known if name in names) if names else suite.default


def list_plans(plans: Sequence[Plan], typed: str) -> None:
    """Print what runs and what to type for it, what cannot, and how to get what is missing; each thing once.

    Args:
        plans: of one model.
        typed: the command that runs benchmarks of this model, without their names.
    """
    for entry in plans:
        head = f"{entry.benchmark.name} ({entry.benchmark.title})"
        print(f"will run: {head}: {typed} {entry.benchmark.name}" if entry.can_run else f"CANNOT RUN: {head}")
    found: dict[tuple[str, str, bool], list[str]] = {}
    for entry in plans:
        for missing in entry.missing:
            found.setdefault((missing.what, missing.way_out, missing.needed), []).append(entry.benchmark.name)
    for (what, way_out, needed), names in found.items():
        head = "MISSING" if needed else "not there, and something stands in"
        print(f"\n{head}, for {', '.join(names)}:\n  {what}\n  {way_out}")
    print(flush=True)


def train_net_command(entry: Plan, num_gpus: int, resume: bool) -> list[str]:
    """The command line of one evaluation."""
    words = [sys.executable, "train_net.py", "--config-file", entry.config, "--num-gpus", str(num_gpus), "--eval-only"]
    if resume:
        words.append("--resume")
    for key, value in entry.keys.items():
        words += [key, value]
    return words


def mini_command(entry: Plan, resume: bool, reason: bool = False) -> list[str]:
    """The command line that evaluates the drawn world in every way, and writes its report."""
    words = [sys.executable, "-m", f"{__package__}.mini", "evaluate", "--output", str(entry.output)]
    words += [*(["--resume"] if resume else []), *(["--reason"] if reason else [])]
    return [*words, "--", *(word for pair in entry.keys.items() for word in pair)]


def run_one(entry: Plan, num_gpus: int, resume: bool, reason: bool = False) -> int:
    """Run one benchmark and return the exit status of its evaluation."""
    if entry.benchmark.name == MINI:
        return _wait_for(mini_command(entry, resume, reason))
    command = train_net_command(entry, num_gpus, resume)
    print(f"== {entry.benchmark.name}: {shlex.join(command[1:])}", flush=True)
    return _wait_for(command)


def _wait_for(command: Sequence[str]) -> int:
    """Run a command to its end. It does not hear Ctrl-C itself, or it would speak of it, too; it is ended with us."""
    with deaf_children():
        process = subprocess.Popen(command, cwd=ROOT)
    try:
        return process.wait()
    except (KeyboardInterrupt, Terminated):
        end_children()
        raise


def outcome(status: int | None) -> str:
    """A word for the table: None stands for a benchmark that was not started."""
    if status is None:
        return "not started: see what is missing, above"
    if status == 0:
        return "done"
    return f"failed, killed by signal {-status}" if status < 0 else f"failed, exit status {status}"


def print_summary(plans: Sequence[Plan], statuses: Mapping[str, int | None], seconds: Mapping[str, float]) -> None:
    """The table at the end: what became of every benchmark, then the results of those that ran."""
    rows = [
        [entry.benchmark.name, outcome(statuses[entry.benchmark.name]), seconds.get(entry.benchmark.name)]
        for entry in plans
        if entry.benchmark.name in statuses
    ]
    print("\n" + tabulate(rows, headers=["benchmark", "outcome", "seconds"], floatfmt=".0f", tablefmt="github"))
    results = {
        entry.benchmark.dataset: json.loads(entry.results_file.read_text(encoding="utf-8"))
        for entry in plans
        if statuses.get(entry.benchmark.name) == 0 and entry.results_file.is_file()  # mini has a table of its own
    }
    if results:
        print("\n" + summary(results))


def run_all(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """List, run, sum up; returns the exit status."""
    suite = choose_suite(options.size, options.model)
    register_all()
    plans = [
        plan(suite, benchmark, names_only=options.names_only, overrides=overrides)
        for benchmark in choose(suite, options.benchmarks)
    ]
    if options.reason and MINI not in options.benchmarks:
        raise UserError("--reason: of mini alone; for other benchmarks see python -m reason image --help")
    names_only = " --names-only" if options.names_only else ""
    list_plans(plans, f"bash {suite.script}{names_only}")
    ready = [entry for entry in plans if entry.can_run]
    if options.list:
        # Not at the top: every run would load what examines the machine.
        from .doctor import reasoning, report, runs_now, verdict

        print(f"{report(list(reasoning()))}\n\n{verdict(runs_now())}")
        return 0 if len(ready) == len(plans) else CANNOT_RUN
    num_gpus = torch.cuda.device_count() if options.num_gpus is None else options.num_gpus
    statuses: dict[str, int | None] = {entry.benchmark.name: None for entry in plans if not entry.can_run}
    seconds: dict[str, float] = {}
    try:
        for entry in ready:
            started = time.monotonic()
            statuses[entry.benchmark.name] = run_one(entry, max(num_gpus, 1), options.resume, options.reason)
            seconds[entry.benchmark.name] = time.monotonic() - started
    except (KeyboardInterrupt, Terminated) as stop:
        print("\ninterrupted; the same command goes on where it stopped")
        return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
    finally:
        print_summary(plans, statuses, seconds)
    if any(status for status in statuses.values()):
        return FAILED
    return CANNOT_RUN if None in statuses.values() else 0


def main(words: Sequence[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    arguments = sys.argv[1:] if words is None else words
    signal.signal(signal.SIGTERM, _terminate)

    def body() -> int:
        options, overrides = parse_arguments(arguments)
        return run_all(options, overrides)

    return run_command(body, debug="--debug" in arguments)
