"""The pipeline with real vLLM: bad images, refusals, signals, and images that another process has."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reason.asking.messages import Answer, Request, TaskOptions
from reason.asking.prompts import load_prompts
from reason.engines.interface import Engine, EngineInfo
from reason.errors import ReasonError
from reason.runs.jobs import NO_ALIGNER, ImageJob
from reason.runs.pipeline import Summary, failure_lines, run_work
from reason.runs.progress import Bar, Progress, Usage, duration, plural, several
from reason.runs.store import ResultStore, Survey
from reason.triplets import load_image
from reason.vocabulary import parse_vocabulary

if TYPE_CHECKING:
    from reason.engines.vllm import VllmEngine

OPTIONS = TaskOptions(candidates="closed", description_tokens=400, reason_tokens=400)


def job_of(images: list[Path], classes: str = "cat, dog, sofa") -> ImageJob:
    vocabulary = parse_vocabulary(classes, name="few")
    files = {path.stem: path for path in images}
    return ImageJob(files, vocabulary, load_prompts(), OPTIONS, NO_ALIGNER, 0.7, max_pixels=32 * 784)


def run_job(
    job: ImageJob, engine: Engine, folder: Path, *, retry_failed: bool = False
) -> tuple[Summary, ResultStore, Survey]:
    aligner = job.open_aligner()
    work = job.work(aligner)
    store = ResultStore(folder, job.provenance(engine.info, aligner))
    survey = store.survey(work.names)
    store.begin(survey, resume=False, note={})
    with store:
        summary = run_work(work, survey.todo(retry_failed=retry_failed), engine, store, quiet=True)
    return summary, store, store.survey(work.names)


def test_bad_images_cost_themselves_only(vllm_engine: VllmEngine, photos: Path, tmp_path: Path) -> None:
    images = sorted(photos.iterdir())[:3]
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(images[0].read_bytes()[:900])
    job = job_of([images[0], bad, images[1], tmp_path / "missing.jpg", images[2]])
    summary, store, survey = run_job(job, vllm_engine, tmp_path / "out")
    assert summary.done == 3 and summary.failed.keys() == survey.failed.keys() == {"bad", "missing"}
    assert "bad.jpg" in summary.failed["bad"] and "missing.jpg" in store.reason_of_failure("missing")
    for image in images:
        triplet = load_image(store.result_file(image.stem))
        assert set(triplet.reasons) <= {"cat", "dog", "sofa"}
        assert triplet.extra["image"]["tokens"] <= 32
        assert triplet.extra["provenance"]["engine"] == "vllm" and triplet.extra["provenance"]["time"]
    # What failed is left alone, and done when the file is mended and that is asked for.
    assert run_job(job, vllm_engine, tmp_path / "out")[0].done == 0
    shutil.copy(images[0], bad)
    summary, _, survey = run_job(job, vllm_engine, tmp_path / "out", retry_failed=True)
    assert summary.done == 1 and survey.failed.keys() == {"missing"}


def test_what_the_engine_refuses_fails_with_its_words(vllm_engine: VllmEngine, photos: Path, tmp_path: Path) -> None:
    images = sorted(photos.iterdir())[:2]
    job = job_of(images, ", ".join(f"class {number} of too many" for number in range(900)))
    summary, store, _ = run_job(job, vllm_engine, tmp_path)
    assert summary.failed.keys() == {image.stem for image in images}
    assert all("description: the engine refused" in reason for reason in summary.failed.values())
    assert "refused" in store.reason_of_failure(images[0].stem)


class Refuser:
    """An engine that refuses what it is told to, and otherwise says something of no use."""

    info = EngineInfo("server", "0", "refuser", "0")
    capacity = 2

    def __init__(self, refuses: Callable[[Request], bool]) -> None:
        self.refuses = refuses
        self.waiting: list[Request] = []

    def submit(self, request: Request) -> None:
        self.waiting.append(request)

    def collect(self, timeout: float | None = None) -> list[Answer]:
        done, self.waiting = self.waiting, []
        return [
            Answer(request.key, "", "error", 0, None, 0, error="repetition above 128")
            if self.refuses(request)
            else Answer(request.key, "no", "stop", 1, None, 1)
            for request in done
        ]

    def close(self) -> None:
        """Nothing."""


def test_a_refusal_that_repeats_itself_stops_the_run(photos: Path, tmp_path: Path) -> None:
    images = sorted(photos.iterdir())
    with pytest.raises(ReasonError, match=r"every request of the step 'description': repetition above 128.*5 in a row"):
        run_job(job_of(images), Refuser(lambda request: True), tmp_path / "a")
    # What is refused now and then costs its images only.
    third = iter(range(100))
    summary, _, _ = run_job(job_of(images), Refuser(lambda request: next(third) % 3 == 0), tmp_path / "b")
    assert len(summary.failed) == len(images)


def test_an_interrupt_stops_with_what_is_finished(vllm_engine: VllmEngine, photos: Path, tmp_path: Path) -> None:
    images = sorted(photos.iterdir())
    many = [tmp_path / f"{number}-{image.name}" for number in range(4) for image in images]
    for path in many:
        shutil.copy(photos / path.name.split("-", 1)[1], path)
    job = job_of(many)

    def interrupt() -> None:
        while not any((tmp_path / "out").glob("*.json")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    summary, store, survey = run_job(job, vllm_engine, tmp_path / "out")
    thread.join()
    while vllm_engine.collect():  # what was under way
        pass
    assert signal.getsignal(signal.SIGTERM) is before
    assert summary.signal == signal.SIGTERM and 0 < summary.done == len(survey.done) < len(many)
    stamps = {name: store.result_file(name).stat().st_mtime_ns for name in survey.done}
    job = job_of([path for path in many if path.stem in survey.done] + many[-4:])
    summary, store, after = run_job(job, vllm_engine, tmp_path / "out")
    assert not summary.signal and len(after.done) == len(job.images)
    assert all(store.result_file(name).stat().st_mtime_ns == stamp for name, stamp in stamps.items())


def test_images_of_another_process_are_waited_for_and_inherited(
    vllm_engine: VllmEngine, photos: Path, tmp_path: Path, in_repository: None
) -> None:
    images = sorted(photos.iterdir())[:2]
    code = f"""
        import time
        from pathlib import Path
        from reason.runs.claims import Claims
        job = {job_of(images).provenance(vllm_engine.info, job_of(images).open_aligner()).hash!r}
        claims = Claims(Path({str(tmp_path / ".reason")!r}), {{"provenance": job}})
        print(claims.take({images[0].stem!r}), flush=True)
        time.sleep(600)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "True\n"
    begun = threading.Event()

    def end() -> None:
        while not (tmp_path / f"{images[1].stem}.json").exists():
            time.sleep(0.01)
        begun.set()
        time.sleep(0.7)
        process.kill()

    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    summary, _, survey = run_job(job_of(images), vllm_engine, tmp_path)
    thread.join()
    process.communicate()
    assert begun.is_set() and summary.done == 2 and len(survey.done) == 2


def test_progress_counts_and_says_what_it_counts(capsys: pytest.CaptureFixture[str]) -> None:
    usage = Usage()
    assert usage.cached_share is None
    usage.add(Answer("a", "", "stop", 100, 75, 10))
    usage.add(Answer("b", "", "stop", 50, None, 5))
    assert (usage.requests, usage.prompt, usage.completion, usage.cached_share) == (2, 150, 15, 0.75)
    progress = Progress(3, "class")
    progress.answered(Answer("a", "", "stop", 100, 75, 10))
    progress.finished()
    progress.finished(failed=True)
    progress.elsewhere()
    progress.close()
    assert "75% of prompts cached, 1 failed" in progress.rates() and progress.report().startswith("1 class in")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("3/3 classes, ") and lines[0].endswith("1 failed")
    assert (several(1, "image"), several(2, "class"), plural("image")) == ("1 image", "2 classes", "images")


def test_progress_without_a_terminal_is_whole_lines_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar(100, "image", pause=0.0)
    for count in (25, 50):
        bar.move_to(count, "2 failed")
    bar.close()
    text = capsys.readouterr().err
    assert "\r" not in text and text.endswith("\n")
    assert [line.split(",")[0] for line in text.splitlines()] == ["25/100 images", "50/100 images", "50/100 images"]
    assert all(line.endswith("less than a minute left, 2 failed") for line in text.splitlines())
    rare = Bar(100, "image")
    for count in range(100):
        rare.move_to(count)
    rare.close()
    Bar(3, "image", quiet=True).close()
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert (duration(20), duration(200), duration(7500)) == ("less than a minute", "3 min", "2 h 5 min")


def test_failures_are_listed_up_to_a_number() -> None:
    lines = list(failure_lines({f"{number}": "a\nb" for number in range(5)}, shown=2))
    assert lines == ["  0: a b", "  1: a b", "  and 3 more"]
