"""Results, claims and provenance: whole files, one owner an image, nothing mixed, whatever dies."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reason.asking.messages import TaskOptions
from reason.errors import ReasonError
from reason.runs.claims import Claims, living_workers
from reason.runs.provenance import Provenance, changes, digest, model_name, task_parts, vocabulary_part
from reason.runs.store import ResultStore
from reason.vocabulary import parse_vocabulary

FIRST = Provenance({"model": "tiny (1)", "prompts": "v1 (a)"}, {"engine": "vllm"})
SECOND = Provenance({"model": "tiny (1)", "prompts": "v2 (b)"})
FAILURE = {"step": "image", "attempt": 1, "problem": "cut off", "answer_text": ""}


def begin(folder: Path, names: list[str], provenance: Provenance = FIRST, *, resume: bool = False) -> ResultStore:
    store = ResultStore(folder, provenance)
    store.begin(store.survey(names), resume=resume, note={"unit": "image"})
    return store


def finish(folder: Path, names: list[str], provenance: Provenance = FIRST) -> None:
    with begin(folder, names, provenance, resume=True) as store:
        for name in names:
            assert store.claim(name) == "mine"
            store.write(name, {"reasoning": {"map_class_reason": {}}, "name": name})


# provenance


def test_a_provenance_is_its_parts() -> None:
    assert FIRST.hash == Provenance(dict(reversed(FIRST.parts.items())), {"engine": "server"}).hash != SECOND.hash
    assert changes(FIRST.parts, SECOND.parts) == "prompts: v1 (a) -> v2 (b)"
    assert changes({"seed": "0"}, {}) == "seed: 0 -> none"
    assert [model_name(model) for model in ("llm/A/", "org/B", "C", "")] == ["A", "B", "C", "model"]
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})


def test_what_has_an_effect_is_part_of_it_and_nothing_else() -> None:
    options = TaskOptions()
    parts = task_parts(options, images=True)
    assert parts == task_parts(TaskOptions(attempts=9), images=True)
    for changed in (
        TaskOptions(seed=1),
        TaskOptions(candidates="closed"),
        TaskOptions(answer_form="text"),
        TaskOptions(temperatures=(0.5,)),
        TaskOptions(attributes=(2, 3)),
    ):
        assert parts != task_parts(changed, images=True)
    assert task_parts(TaskOptions(candidates="closed"), images=False) == task_parts(options, images=False)
    one, other = parse_vocabulary("cat, dog"), parse_vocabulary("cat, kitten; dog")
    assert vocabulary_part(one) != vocabulary_part(other)
    assert vocabulary_part(one) == vocabulary_part(parse_vocabulary("cat,dog"))


# results


def test_results_are_written_once_and_found_again(tmp_path: Path) -> None:
    names = ["a", "b.v2", "ü c"]
    finish(tmp_path / "out", names[:2])
    store = ResultStore(tmp_path / "out", FIRST)
    survey = store.survey(names)
    assert survey.done == {"a", "b.v2"} and survey.todo(retry_failed=False) == ["ü c"]
    document = json.loads(store.result_file("a").read_text())
    assert document["name"] == "a" and document["provenance"]["hash"] == FIRST.hash
    assert document["provenance"]["engine"] == "vllm" and document["provenance"]["parts"] == FIRST.parts
    assert [path.name for path in (tmp_path / "out" / ".reason" / "workers").iterdir()] == []
    assert list((tmp_path / "out" / ".reason" / "claims").iterdir()) == []


def test_other_settings_are_refused_named_and_with_resume_done_again(tmp_path: Path) -> None:
    finish(tmp_path, ["a", "b", "elsewhere"])
    before = (tmp_path / "b.json").read_bytes()
    with pytest.raises(ReasonError, match=r"2 of these 3 .* 1 that are not.*prompts: v1 \(a\) -> v2 \(b\).*--resume"):
        begin(tmp_path, ["a", "b", "c"], SECOND)
    with begin(tmp_path, ["a", "b", "c"], SECOND, resume=True) as store:
        assert store.survey(["a", "b", "c"]).todo(retry_failed=False) == ["a", "b", "c"]
        assert store.claim("a") == "mine"
        store.write("a", {"name": "a"})
        assert (tmp_path / "b.json").read_bytes() == before
    # Half of it is done again: without --resume it is a mixture still, with it only the rest is to be done.
    with pytest.raises(ReasonError, match="1 of these 2"):
        begin(tmp_path, ["a", "b"], SECOND)
    assert ResultStore(tmp_path, SECOND).survey(["a", "b"]).todo(retry_failed=False) == ["b"]


def test_published_files_are_never_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"reasoning": {"map_class_reason": {}}}')
    with pytest.raises(ReasonError, match="say nothing of where they come from"):
        begin(tmp_path, ["a"])
    with begin(tmp_path, ["a"], resume=True) as store:
        assert store.claim("a") == "mine"


@pytest.mark.parametrize("content", ["", '{"name": "a", "provenance": {"hash": "', "\0" * 40])
def test_a_result_that_was_cut_off_is_done_again(tmp_path: Path, content: str) -> None:
    finish(tmp_path, ["a", "b"])
    (tmp_path / "a.json").write_text(content.replace('"hash": "', f'"hash": "{FIRST.hash}"'))
    with begin(tmp_path, ["a", "b"]) as store:
        assert store.survey(["a", "b"]).damaged.keys() == {"a"}
        assert store.claim("a") == "mine"
        store.write("a", {"name": "a"})
    assert ResultStore(tmp_path, FIRST).survey(["a", "b"]).done == {"a", "b"}


def test_failures_are_kept_left_alone_and_tried_again_when_asked(tmp_path: Path) -> None:
    with begin(tmp_path, ["a", "b"]) as store:
        assert store.claim("a") == "mine"
        store.fail("a", [FAILURE])
        assert store.claim("a") == "finished"
        assert store.reason_of_failure("a") == "image: cut off"
    survey = ResultStore(tmp_path, FIRST).survey(["a", "b"])
    assert survey.todo(retry_failed=False) == ["b"] and survey.todo(retry_failed=True) == ["a", "b"]
    assert not ResultStore(tmp_path, SECOND).survey(["a", "b"]).failed, "it failed with other settings"
    with begin(tmp_path, ["a"]) as again:
        assert again.claim("a") == "mine"
        again.write("a", {"name": "a"})
    survey = ResultStore(tmp_path, FIRST).survey(["a", "b"])
    assert not survey.failed and survey.done == {"a"}


def test_a_survey_parses_nothing_that_its_hash_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By which 20,000 results take about a second."""
    names = [f"{number:05d}" for number in range(2_000)]
    finish(tmp_path, names[:1])
    text = (tmp_path / "00000.json").read_text()
    for name in names[1:]:
        (tmp_path / f"{name}.json").write_text(text)
    monkeypatch.setattr("reason.runs.store.parse_json", None)
    assert len(ResultStore(tmp_path, FIRST).survey(names).done) == 2_000


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ReasonError, match=r"file.*cannot be.*--output"):
        begin(tmp_path / "file" / "out", ["a"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here ({made.stderr.strip()})")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_stops_with_everything_whole(small_disk: Path) -> None:
    names = [f"{number:03d}" for number in range(100)]
    text = "x" * 20_000
    written = []
    with (
        begin(small_disk, names) as store,
        pytest.raises(ReasonError, match="no space left .* the same command continues"),
    ):
        for name in names:
            assert store.claim(name) == "mine"
            store.write(name, {"name": name, "text": text})
            written.append(name)
    assert 10 < len(written) < 100
    for name in written:
        assert json.loads((small_disk / f"{name}.json").read_text())["text"] == text
    assert sorted(path.stem for path in small_disk.glob("*.json")) == written
    (small_disk / "000.json").unlink()
    (small_disk / "001.json").unlink()
    with begin(small_disk, names) as store:
        assert store.survey(names).todo(retry_failed=False)[:2] == ["000", "001"]
        assert store.claim("000") == "mine"
        store.write("000", {"name": "000", "text": text})


# claims


def test_a_claim_has_one_owner_until_it_is_dropped(tmp_path: Path) -> None:
    with Claims(tmp_path, {}) as one, Claims(tmp_path, {"images": "here"}) as other:
        assert one.take("a") and not other.take("a") and not one.take("a")
        assert other.take("b")
        one.drop("a", finished=False)
        assert other.take("a")
        (seen,) = one.others()
        assert seen.pid == os.getpid() and seen.note == {"images": "here"}
    assert not living_workers(tmp_path)
    with Claims(tmp_path, {}) as third:
        assert third.take("a") and third.take("b")


def claim_and_wait(folder: Path, names: list[str]) -> subprocess.Popen[str]:
    """A process that claims `names`, says so, and waits to be killed."""
    code = f"""
        import time
        from pathlib import Path
        from reason.runs.claims import Claims
        claims = Claims(Path({str(folder)!r}), {{}})
        print(all([claims.take(name) for name in {names!r}]), flush=True)
        time.sleep(600)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "True\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_the_claims_of_a_killed_process_pass_on_at_once(tmp_path: Path, in_repository: None) -> None:
    process = claim_and_wait(tmp_path, ["a", "b"])
    with Claims(tmp_path, {}) as claims:
        assert not claims.take("a")
        kill(process)
        assert claims.take("a")
        # It dies again, with the claim that it took over.
        heir = claim_and_wait(tmp_path, ["b"])
        assert not claims.take("b")
        kill(heir)
        assert claims.take("b")
        for name in "ab":
            claims.drop(name, finished=True)
        claims.clear({"a", "b"})
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink() or path.is_file()]


def test_a_stopped_process_on_this_machine_keeps_its_claims(tmp_path: Path, in_repository: None) -> None:
    process = claim_and_wait(tmp_path, ["a"])
    process.send_signal(signal.SIGSTOP)
    try:
        with Claims(tmp_path, {}, lapse=0.0) as claims:
            assert not claims.take("a")
    finally:
        kill(process)


def test_a_forked_child_does_not_keep_a_dead_process_alive(tmp_path: Path, in_repository: None) -> None:
    code = f"""
        import os, time
        from pathlib import Path
        from reason.runs.claims import Claims
        claims = Claims(Path({str(tmp_path)!r}), {{}})
        claims.take("a")
        child = os.fork()
        if child:
            print(child, flush=True)
        time.sleep(600)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        with Claims(tmp_path, {}) as claims:
            assert not claims.take("a")
            process.kill()
            process.wait()
            assert claims.take("a")
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def move_to_another_machine(folder: Path) -> Path:
    """Make the one worker of the folder look like one of another machine; its file."""
    (file,) = (folder / "workers").iterdir()
    about = json.loads(file.read_text())
    file.write_text(json.dumps({**about, "node": "another boot"}))
    return file


def test_processes_of_other_machines_live_by_their_heartbeat(tmp_path: Path, in_repository: None) -> None:
    process = claim_and_wait(tmp_path, ["a"])
    file = move_to_another_machine(tmp_path)
    kill(process)  # which shows nowhere but in the heartbeat
    with Claims(tmp_path, {}, lapse=60.0) as claims:
        assert not claims.take("a")
        long_ago = time.time() - 61
        os.utime(file, (long_ago, long_ago))
        assert claims.take("a")


def test_a_heartbeat_goes_on(tmp_path: Path) -> None:
    with Claims(tmp_path, {}, beat=0.05):
        (file,) = (tmp_path / "workers").iterdir()
        long_ago = time.time() - 1000
        os.utime(file, (long_ago, long_ago))
        deadline = time.monotonic() + 20
        while file.stat().st_mtime < time.time() - 100:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def work_through(folder: str, names: list[str], seed: int) -> None:
    """Claim and finish names in an order of one's own; note each beginning in a file that must not exist yet."""
    chance = random.Random(seed)
    chance.shuffle(names)
    store = ResultStore(Path(folder, "out"), FIRST)
    store.begin(store.survey(names), resume=False, note={})
    with store:
        left = list(names)
        while left:
            name = left.pop(0)
            state = store.claim(name)
            if state == "mine":
                Path(folder, "begun", name).open("x").close()
                time.sleep(chance.random() * 0.002)
                store.write(name, {"name": name})
            elif state == "taken":
                left.append(name)


def work_in_processes(folder: Path, names: list[str], count: int) -> None:
    """`work_through` in several processes at once."""
    (folder / "begun").mkdir()
    code = f"""
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("test_store", {__file__!r})
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.work_through({str(folder)!r}, {names!r}, int(sys.argv[1]))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    processes = [subprocess.Popen([*command, str(seed)]) for seed in range(count)]
    assert [process.wait(60) for process in processes] == [0] * count
    assert sorted(os.listdir(folder / "begun")) == names
    assert ResultStore(folder / "out", FIRST).survey(names).done == set(names)


def test_processes_share_a_folder_without_doing_anything_twice(tmp_path: Path, in_repository: None) -> None:
    work_in_processes(tmp_path, [f"{number:03d}" for number in range(150)], 3)


def test_a_dead_claim_has_one_heir_only(tmp_path: Path, in_repository: None) -> None:
    names = [f"{number:03d}" for number in range(60)]
    kill(claim_and_wait(tmp_path / "out" / ".reason", names))
    work_in_processes(tmp_path, names, 3)


def test_a_process_with_other_settings_keeps_out(tmp_path: Path) -> None:
    with begin(tmp_path, ["a"]), pytest.raises(ReasonError, match=r"process \d+ on .* with other settings"):
        begin(tmp_path, ["b"], SECOND)
    begin(tmp_path, ["b"], SECOND).close()
