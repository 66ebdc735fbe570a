"""Files replaced whole or not at all, and locks that end with their process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reason.files import ASIDE_SUFFIX, FileBusyError, locked, remove_stale, replacing, write_bytes, write_text


def test_a_file_is_replaced_whole_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "some" / "where" / ("n" * 250 + ".txt")
    write_text(path, "ä\r\n")
    assert path.read_bytes() == b"\xc3\xa4\r\n"
    write_bytes(path, b"new", sync=True)
    assert [entry.read_bytes() for entry in path.parent.iterdir()] == [b"new"]


def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as stream:
        stream.write(b"half")
        raise KeyboardInterrupt
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("a.bin", b"old")]


def test_the_file_aside_may_lie_in_another_folder(tmp_path: Path) -> None:
    with replacing(tmp_path / "results" / "a", aside=tmp_path / "state" / "worker.tmp") as stream:
        stream.write(b"1")
    assert (tmp_path / "results" / "a").read_bytes() == b"1" and not list((tmp_path / "state").iterdir())


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write_text(tmp_path / "file" / "a", "")


def test_only_what_is_stale_is_removed(tmp_path: Path) -> None:
    old, young, other = tmp_path / f".1{ASIDE_SUFFIX}", tmp_path / f".2{ASIDE_SUFFIX}", tmp_path / "kept.aside"
    for path in (old, young, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (time.time() - 2 * 24 * 3600,) * 2)
    remove_stale(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([young, other])
    remove_stale(tmp_path / "nowhere")


HOLDER = """
import os, sys, time
from reason.files import locked
with locked(sys.argv[1]):
    if "fork" in sys.argv and os.fork() == 0:
        time.sleep(60)
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


@pytest.mark.usefixtures("in_repository")
def test_a_lock_has_one_holder_and_ends_with_it(tmp_path: Path) -> None:
    lock = tmp_path / "made" / ".lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, lock], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        with pytest.raises(FileBusyError, match="lock"), locked(lock):
            pass
        holder.kill()
        holder.wait()
        with locked(lock), pytest.raises(FileBusyError), locked(lock):
            pass
        with locked(lock):
            pass


@pytest.mark.usefixtures("in_repository")
def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "l", "fork"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        with pytest.raises(FileBusyError), locked(tmp_path / "l"):
            pass
        holder.kill()
        holder.wait()
        with locked(tmp_path / "l", wait=5.0):
            os.kill(int(children[0]), 9)


def test_what_is_no_file_is_written_into_and_stays_what_it_is(tmp_path: Path) -> None:
    """`--output /dev/null` of root, as in containers, would replace it for everybody."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for target in (pipe, link):
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        write_text(target, "text\n", sync=True)
        assert os.read(reader, 100) == b"text\n"
        os.close(reader)
    assert pipe.is_fifo() and link.is_symlink() and sorted(os.listdir(tmp_path)) == ["link", "pipe"]
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_text(full, "text\n")
    assert full.is_symlink() and full.is_char_device()
