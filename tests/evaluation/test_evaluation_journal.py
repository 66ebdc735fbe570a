"""The journal: what counts after a kill, a changed set-up, a finished run."""

import json
import logging
import subprocess
import sys

import pytest

from maft.errors import UserError
from maft.evaluation.journal import (
    Entry,
    Header,
    JournalWriter,
    exclusive,
    mark_finished,
    open_journal,
    read_journal,
)

HEADER = Header("cats", "sem_seg", {"config": "1", "weights": "2"})


def write(folder, *images, rank=0, header=HEADER):
    with JournalWriter(folder, header, rank) as journal:
        journal.append([Entry(image, {"counts": [1]}, {"image": 1}) for image in images])


def lines(folder, rank=0):
    return (folder / "journal" / f"rank-{rank}.jsonl").read_text().splitlines()


def test_entries_come_back_and_a_reopened_file_has_one_header(tmp_path):
    write(tmp_path, "a", "b")
    write(tmp_path, "c")
    content = read_journal(tmp_path)
    assert content.headers == (HEADER.to_json(),)
    assert content.entries == {image: Entry(image, {"counts": [1]}, {"image": 1}) for image in "abc"}
    assert not content.finished
    assert len(lines(tmp_path)) == 4


def test_entries_are_on_file_before_the_journal_is_closed(tmp_path):
    with JournalWriter(tmp_path, HEADER, 0) as journal:
        journal.append([Entry("a", {})])
        assert set(read_journal(tmp_path).entries) == {"a"}


@pytest.mark.parametrize("lost", range(1, 40, 3))
def test_a_torn_last_line_is_ignored_and_cut_off(tmp_path, lost):
    write(tmp_path, "a", "b")
    path = tmp_path / "journal" / "rank-0.jsonl"
    path.write_bytes(path.read_bytes()[:-lost])
    assert set(open_journal(tmp_path, HEADER, 3, resume=False)) == {"a"}
    write(tmp_path, "b", "c")
    assert [json.loads(line).get("image") for line in lines(tmp_path)] == [None, "a", "b", "c"]


def test_a_torn_line_longer_than_what_follows_leaves_no_rest(tmp_path):
    write(tmp_path, "a", "b" * 500)
    path = tmp_path / "journal" / "rank-0.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    write(tmp_path, "c")
    assert [json.loads(line).get("image") for line in lines(tmp_path)] == [None, "a", "c"]


def test_a_torn_header_is_no_journal(tmp_path):
    write(tmp_path)
    path = tmp_path / "journal" / "rank-0.jsonl"
    path.write_bytes(path.read_bytes()[:20])
    assert read_journal(tmp_path) is None
    assert open_journal(tmp_path, HEADER, 3, resume=False) == {}
    write(tmp_path, "a")
    assert set(read_journal(tmp_path).entries) == {"a"}


def test_a_damaged_line_in_the_middle_costs_its_image_only(tmp_path, caplog):
    write(tmp_path, "a", "b", "c")
    path = tmp_path / "journal" / "rank-0.jsonl"
    damaged = lines(tmp_path)
    damaged[2] = damaged[2].replace('"image"', '"ima\x00')
    path.write_text("\n".join(damaged) + "\n")
    assert set(open_journal(tmp_path, HEADER, 3, resume=False)) == {"a", "c"}
    assert "1 damaged lines" in caplog.text


def test_the_union_over_ranks_counts_whatever_their_number(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for rank, images in enumerate(("ab", "c", "de")):
        write(tmp_path, *images, rank=rank)
    assert set(open_journal(tmp_path, HEADER, 9, resume=False)) == set("abcde")
    assert f"5 of 9 images were evaluated by an earlier run; delete {tmp_path / 'journal'} to start over" in caplog.text


@pytest.mark.parametrize(
    ("header", "named"),
    [
        (Header("cats", "sem_seg", {"config": "1", "weights": "3"}), "changed: weights"),
        (Header("cats", "panoptic_seg", {"config": "1", "weights": "2"}), "changed: what"),
        (Header("cats", "sem_seg", {"config": "9", "code": "2"}), "changed: code, config, weights"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_another_fingerprint_moves_everything_aside_and_says_what_changed(tmp_path, caplog, header, named, finished):
    write(tmp_path, "a")
    (tmp_path / "results.json").write_text("{}")
    if finished:
        mark_finished(tmp_path)
    assert open_journal(tmp_path, header, 1, resume=True) == {}
    assert named in caplog.text
    assert str(tmp_path / "earlier-1") in caplog.text
    assert (tmp_path / "earlier-1" / "results.json").exists()
    assert not (tmp_path / "results.json").exists()
    assert set(read_journal(tmp_path / "earlier-1").entries) == {"a"}
    write(tmp_path, "b", header=header)
    assert open_journal(tmp_path, HEADER, 1, resume=False) == {}
    assert set(read_journal(tmp_path / "earlier-2").entries) == {"b"}
    assert set(read_journal(tmp_path / "earlier-1").entries) == {"a"}


def test_files_of_ranks_that_disagree_are_not_mixed(tmp_path):
    write(tmp_path, "a")
    write(tmp_path, "b", rank=1, header=Header("cats", "sem_seg", {"config": "7", "weights": "2"}))
    assert open_journal(tmp_path, HEADER, 2, resume=False) == {}


def test_a_finished_journal_starts_over_unless_resumed(tmp_path):
    write(tmp_path, "a")
    mark_finished(tmp_path)
    assert set(open_journal(tmp_path, HEADER, 1, resume=True)) == {"a"}
    assert not read_journal(tmp_path).finished  # until the results are written again
    mark_finished(tmp_path)
    assert open_journal(tmp_path, HEADER, 1, resume=False) == {}
    assert read_journal(tmp_path) is None


def test_a_file_in_the_way_is_a_user_error(tmp_path):
    (tmp_path / "journal").write_text("")
    with pytest.raises(UserError, match="cannot be written"), JournalWriter(tmp_path, HEADER, 0):
        pass
    with pytest.raises(UserError, match="cannot be written"), exclusive(tmp_path / "journal"):
        pass


def test_two_processes_do_not_share_a_folder_and_a_killed_one_frees_it(tmp_path):
    holder = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import sys\nfrom maft.evaluation.journal import exclusive\n"
            "with exclusive(sys.argv[1]):\n    print('held', flush=True)\n    sys.stdin.read()",
            str(tmp_path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another evaluation is writing here"), exclusive(tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with exclusive(tmp_path):
        pass
