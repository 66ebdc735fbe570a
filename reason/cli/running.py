"""From a plan to its end: what `image` and `generic` have in common."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reason import interrupts
from reason.engines.checks import check_fits
from reason.engines.interface import Engine, EngineInfo, EngineKind, EngineOptions
from reason.engines.opening import model_info, open_engine
from reason.errors import ReasonError
from reason.runs.pipeline import Summary, Work, failure_lines, run_work
from reason.runs.progress import several
from reason.runs.provenance import Provenance
from reason.runs.store import ResultStore, Survey
from reason.runs.tally import Tally, tally
from reason.vocabulary import Vocabulary, dump_vocabulary

_SIGNAL_STATUS = 128


@dataclass(frozen=True)
class Plan:
    """What is to be done, with which model, and where the results go.

    Attributes:
        kind, options: of the engine.
        work: all names, and how each is done.
        vocabulary: written beside the results.
        provenance: of the results, with the model's part known.
        place: folder of the results and folder of the state, for a model.
        constant_text, answer_tokens: of a conversation, to see beforehand whether it fits.
        note: what `status` shows.
    """

    kind: EngineKind
    options: EngineOptions
    work: Work
    vocabulary: Vocabulary
    provenance: Callable[[EngineInfo], Provenance]
    place: Callable[[EngineInfo], tuple[Path, Path]]
    constant_text: str
    answer_tokens: int
    note: Mapping[str, Any]


def carry_out(plan: Plan, arguments: argparse.Namespace, *, finish: Callable[[ResultStore], None] | None = None) -> int:
    """Do what is left of a plan and say what came of it.

    Everything that can be known beforehand is checked before a model is loaded, which takes minutes.

    Args:
        plan: the plan.
        arguments: flags of `add_run`.
        finish: what to do once every name has a result.

    Returns:
        The exit status: 0, 1 if something failed, 128 and the signal's number if a signal ended the run.

    Raises:
        ReasonError, EngineGone: see `reason.errors`.
    """
    _say(plan.vocabulary.summary)
    with ExitStack() as stack:
        engine, info = _first_look(plan, stack)
        folder, state = plan.place(info)
        store = ResultStore(folder, plan.provenance(info), state=state)
        survey = store.survey(plan.work.names)
        names = survey.todo(retry_failed=arguments.retry_failed)
        say_plan(plan.work.unit, store, survey, arguments)
        if arguments.dry_run:
            return 0
        summary = Summary()
        if names:
            store.begin(survey, resume=arguments.resume, note=plan.note)
            stack.enter_context(store)
            keep_vocabulary(plan.vocabulary, store)
            engine = engine or _opened(plan, stack)
            store.describe(engine=engine.info.engine, engine_version=engine.info.engine_version)
            summary = run_work(plan.work, names, engine, store, quiet=arguments.quiet)
            survey = store.survey(plan.work.names)
            _say(summary.report)
        if finish is not None and len(survey.done) == len(survey.names):
            finish(store)
        return say_end(plan.work.unit, store, survey, summary)


def _first_look(plan: Plan, stack: ExitStack) -> tuple[Engine | None, EngineInfo]:
    if plan.kind == "server":  # only it knows what it serves
        engine = _opened(plan, stack)
        return engine, engine.info
    info = model_info(plan.kind, plan.options)
    check_fits(plan.options, plan.constant_text, plan.answer_tokens)
    return None, info


def _opened(plan: Plan, stack: ExitStack) -> Engine:
    with interrupts.deaf_children():
        engine = open_engine(plan.kind, plan.options)
    stack.callback(engine.close)
    return engine


def keep_vocabulary(vocabulary: Vocabulary, store: ResultStore) -> None:
    """Write the vocabulary beside the results.

    Raises:
        ReasonError: the folder cannot be written.
    """
    try:
        dump_vocabulary(vocabulary, store.state / "vocabulary.json")
    except OSError as error:
        raise ReasonError(f"{store.state}: cannot be written ({error.strerror}); name another --output") from error


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def say_plan(unit: str, store: ResultStore, survey: Survey, arguments: argparse.Namespace) -> None:
    """Say what there is already, and what is left to do."""
    left = len(survey.todo(retry_failed=arguments.retry_failed))
    parts = [f"{len(survey.done)} done"]
    if survey.failed:
        what = "to be tried again" if arguments.retry_failed else "which --retry-failed tries again"
        parts.append(f"{len(survey.failed)} failed, {what}")
    _say(f"{store.folder}: {several(len(survey.names), unit)}: {', '.join(parts)}; {left} to do")
    if survey.damaged:
        _say(
            f"{several(len(survey.damaged), 'result')} cut off, to be done again: {', '.join(list(survey.damaged)[:3])}"
        )
    refusal = store.refusal(survey)
    if refusal and (arguments.resume or arguments.dry_run):
        how = "they are done again" if arguments.resume else "nothing is done without --resume, which does them again"
        _say(f"{refusal}: {how}; each old file stays until its replacement is ready")


def _say_classes(counts: Tally) -> None:
    if counts.images:
        _say(str(counts))
    if counts.images and counts.empty == counts.images:
        sys.stderr.write(
            "warning: no image names any class: look at some with 'show', and check --vocabulary, --threshold and the "
            "model\n"
        )


def say_end(unit: str, store: ResultStore, survey: Survey, summary: Summary) -> int:
    """Say what came of it, each failure with its reason; the exit status (see `carry_out`)."""
    total = several(len(survey.names), unit)
    if summary.signal:
        name = signal.Signals(summary.signal).name
        interrupts.say(f"stopped by {name}: {len(survey.done)} of {total} are on disk; the same command continues")
        return _SIGNAL_STATUS + summary.signal
    _say(f"{len(survey.done)} of {total} in {store.folder}")
    if unit == "image":
        _say_classes(tally(store.result_file(name) for name in survey.done))
    if not survey.failed:
        return 0
    reasons = {name: summary.failed.get(name) or store.reason_of_failure(name) for name in survey.failed}
    lines = "\n".join(failure_lines(reasons))
    where = store.state / "failed"
    sys.stderr.write(f"failed: {several(len(reasons), unit)} (every answer in {where}; --retry-failed tries again)\n")
    sys.stderr.write(f"{lines}\n")
    return 1
