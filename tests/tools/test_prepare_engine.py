"""Archives that are not trusted, and a preparation that survives being killed."""

from __future__ import annotations

import io
import os
import random
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maft.errors import UserError
from tools.prepare_datasets import engine
from tools.prepare_datasets.archives import Member, checked_name, open_nested, open_source
from tools.prepare_datasets.engine import Item, Plan, copies, execute, run_items
from tools.prepare_datasets.pool import Pool

CONTENT = {"a/images/1.jpg": b"one" * 1000, "a/images/2.jpg": bytes(range(256)) * 40, "a/empty.txt": b""}


def tar_of(path: Path, entries: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in entries.items():
            information = tarfile.TarInfo(name)
            information.size = len(data)
            archive.addfile(information, io.BytesIO(data))
    return path


def zip_of(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def folder_of(path: Path, entries: dict[str, bytes]) -> Path:
    for name, data in entries.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["deflated", "stored", "tar", "tar.gz", "folder", "nested"])
def test_every_kind_of_source_gives_its_members(tmp_path: Path, kind: str) -> None:
    given, spool = tmp_path / "given", tmp_path / "spool"
    if kind == "folder":
        source = open_source(folder_of(given, CONTENT), spool)
    elif kind == "nested":
        inner = zip_of(tmp_path / "inner.zip", CONTENT).read_bytes()
        outer = open_source(zip_of(given, {"x/inner.zip": inner}), spool)
        source = open_nested(outer.member("x/inner.zip"), spool)
    elif kind.startswith("tar"):
        source = open_source(tar_of(given, CONTENT, "w:gz" if kind == "tar.gz" else "w"), spool)
    else:
        source = open_source(zip_of(given, CONTENT, zipfile.ZIP_DEFLATED if kind == "deflated" else 0), spool)
    assert sorted(source.names()) == sorted(CONTENT)
    assert {name: source.read(name) for name in CONTENT} == CONTENT


@pytest.mark.parametrize(
    "name", ["../evil.txt", "a/../../evil.txt", "/evil.txt", "C:\\evil.txt", "a\\..\\..\\evil.txt"]
)
@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_members_outside_the_archive_are_refused(tmp_path: Path, name: str, make) -> None:  # type: ignore[no-untyped-def]
    path = make(tmp_path / "archive", {"good.txt": b"good", name: b"evil"})
    with pytest.raises(UserError, match=r"evil\.txt.*(absolute path|leads out)"):
        open_source(path, tmp_path / "spool")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "archive.tar"
    with tarfile.open(path, "w") as archive:
        information = tarfile.TarInfo("images/link.jpg")
        information.type, information.linkname = kind, "/etc/passwd"
        archive.addfile(information)
    with pytest.raises(UserError, match=r"images/link\.jpg.*(link|no regular file)"):
        open_source(path, tmp_path)


def test_links_in_a_zip_and_links_out_of_a_folder_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        information = zipfile.ZipInfo("images/link.jpg")
        information.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(information, "/etc/passwd")
    with pytest.raises(UserError, match=r"images/link\.jpg.*link"):
        open_source(path, tmp_path)
    folder = folder_of(tmp_path / "folder", {"images/real.jpg": b"real"})
    (folder / "images" / "inside.jpg").symlink_to("real.jpg")
    assert open_source(folder, tmp_path).read("images/inside.jpg") == b"real"
    (folder / "outside").symlink_to(tmp_path)
    with pytest.raises(UserError, match="'outside' is a link out of the folder"):
        open_source(folder, tmp_path)


def test_bombs_are_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "bomb.zip", {"images/bomb.png": bytes(30 << 20)})
    with pytest.raises(UserError, match=r"images/bomb\.png.*bomb"):
        open_source(path, tmp_path)
    spool = tmp_path / "spool"
    with pytest.raises(UserError, match=r"bomb\.tgz is a bomb"):
        open_source(tar_of(tmp_path / "bomb.tgz", {"bomb.png": bytes(30 << 20)}, "w:gz"), spool)
    assert not list(spool.iterdir())


def test_a_member_that_holds_more_than_it_declares_is_refused(tmp_path: Path) -> None:
    """The directory of the archive says 1000 bytes; the data would become thirty times that."""
    data = os.urandom(30000)
    path = zip_of(tmp_path / "liar.zip", {"images/liar.png": data})
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"images/liar\.png.*more than the 1000 bytes"):
        open_source(path, tmp_path).read("images/liar.png")


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    """Many directory entries for one piece of data: how small archives become petabytes."""
    path = zip_of(tmp_path / "quilt.zip", {"first.png": os.urandom(500), "second.png": os.urandom(500)}, 0)
    content = bytearray(path.read_bytes())
    second = content.rindex(b"PK\x01\x02")
    content[second + 42 : second + 46] = (10).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(UserError, match="overlap|second.png"):
        open_source(path, tmp_path)


@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.97])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_archives_that_are_cut_off_are_refused(tmp_path: Path, kind: str, part: float) -> None:
    entries = {f"images/{number}.jpg": os.urandom(3000) for number in range(6)}
    path = tmp_path / f"cut.{kind}"
    if kind == "zip":
        zip_of(path, entries)
    else:
        tar_of(path, entries, "w:gz" if kind == "tar.gz" else "w")
    whole = path.read_bytes()
    # A tar ends in blocks of zeros, up to 10 KiB; the content is what counts.
    length = len(whole) if kind != "tar" else 6 * (512 + 3072)
    path.write_bytes(whole[: int(length * part)])
    with pytest.raises(UserError, match=rf"cut\.{kind}"):
        open_source(path, tmp_path / "spool")
    assert not list(tmp_path.glob("spool/*"))


def test_damage_is_found_by_the_check_sum(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "archive.zip", {"images/1.jpg": os.urandom(3000)}, 0)
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"images/1\.jpg.*check sum"):
        open_source(path, tmp_path).read("images/1.jpg")


def test_a_web_page_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_text("<!DOCTYPE html><html>sign in</html>")
    with pytest.raises(UserError, match="web page"):
        open_source(tmp_path / "data.zip", tmp_path)


def test_the_pool_finds_by_content_across_sources(tmp_path: Path) -> None:
    zip_of(tmp_path / "downloads" if (tmp_path / "downloads").mkdir() else tmp_path / "downloads" / "x.zip", CONTENT)
    folder_of(tmp_path / "unpacked", {"images/3.jpg": b"three", "__MACOSX/images/9.jpg": b"", "images/.8.jpg": b""})
    pool = Pool([tmp_path / "downloads", tmp_path / "unpacked"], tmp_path / "spool")
    assert [key for (key,) in pool.find(r"images/([^/]+)\.jpg")] == ["1", "2", "3"]
    with pytest.raises(UserError, match=r"unpacked: no label maps in it"):
        pool.need("label maps", r"labels/([^/]+)\.png")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.prepare_datasets", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_line_refuses_in_one_line_and_writes_nothing(tmp_path: Path, in_repository: None) -> None:
    base = tmp_path / "base"
    base.mkdir()
    good = {"annotations/validation/1.png": b"", "images/validation/1.jpg": b""}
    tar_of(base / "evil.tgz", {**good, "../../images/validation/evil.jpg": b"evil"}, "w:gz")
    before = sorted(tmp_path.rglob("*"))
    done = run("ade150", "--from", base / "evil.tgz", "--root", base / "root")
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "evil.tgz" in line and "../../images/validation/evil.jpg" in line
    assert sorted(tmp_path.rglob("*")) == sorted([*before, base / "root"])
    done = run("ade151", "--from", base)
    assert done.returncode == 2 and "no data set 'ade151'" in done.stderr and "ade150_panoptic" in done.stderr


# The engine


def doubled(member: Member) -> bytes:
    return member.read() * 2


def broken(text: str) -> bytes:
    raise UserError(text)


def test_finished_files_stay_and_half_made_ones_go(tmp_path: Path) -> None:
    source = open_source(folder_of(tmp_path / "in", {"1": b"x", "2": b"y"}), tmp_path)
    items = [Item(f"out/{name}", doubled, (source.member(name),)) for name in ("1", "2")]
    out = tmp_path / "out"
    out.mkdir()
    (out / "1").write_bytes(b"finished before")
    (out / "2").touch()  # as a crash of the machine may leave it
    (out / ".77-2.aside").write_bytes(b"half")
    summary = run_items(tmp_path, items, workers=2, description="test")
    assert (summary.made, summary.found, summary.written) == (1, 1, 2)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {"1": b"finished before", "2": b"yy"}


def test_what_fails_is_named_and_the_rest_is_made(tmp_path: Path) -> None:
    source = open_source(folder_of(tmp_path / "in", {"1": b"x"}), tmp_path)
    items = [Item("bad.png", broken, ("in.zip: 1.png: damaged",)), *copies({"good.png": source.member("1")})]
    with pytest.raises(UserError, match=r"1 of 2 files .*bad\.png: in\.zip: 1\.png: damaged"):
        run_items(tmp_path, items, workers=1, description="test")
    assert (tmp_path / "good.png").read_bytes() == b"x"


def test_targets_outside_and_full_disks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="outside"):
        run_items(tmp_path / "a", [Item("../evil", broken, ("",))], workers=1, description="test")
    with pytest.raises(UserError, match=r"needs about 1000000\.0 GB .*make room"):
        run_items(tmp_path, [Item("big", broken, ("",), space=10**15)], workers=1, description="test")
    assert not (tmp_path / "evil").exists() and not (tmp_path / "big").exists()


def test_other_choices_are_not_mixed_and_two_runs_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(choice: str) -> Plan:
        return Plan("x", "base", [], {"labels from": choice})

    execute(plan("merged"), tmp_path, workers=1, sources=[])
    execute(plan("merged"), tmp_path, workers=1, sources=[])
    with pytest.raises(UserError, match=r"x\.provenance\.json.*'merged', now it is 'mat'"):
        execute(plan("mat"), tmp_path, workers=1, sources=[])
    monkeypatch.setattr(engine, "_LOCK_WAIT_S", 0.2)
    with engine._only_run(tmp_path / "base"), pytest.raises(UserError, match="another run"):
        execute(plan("merged"), tmp_path, workers=1, sources=[])


# Killed


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def panoptic_release(folder: Path, images: int) -> Path:
    """A challenge release with instance maps, large enough to be killed in the middle of."""
    generator = np.random.default_rng(0)
    for number in range(images):
        labels = np.repeat(np.repeat(generator.integers(0, 151, (9, 12), dtype=np.uint8), 20, 0), 20, 1)
        things = np.zeros((180, 240, 3), dtype=np.uint8)
        for instance in range(1, 6):
            row, column = generator.integers(0, 150), generator.integers(0, 200)
            things[row : row + 25, column : column + 30] = (int(generator.integers(1, 101)), instance, 0)
        image = generator.integers(0, 255, (180, 240, 3), dtype=np.uint8)
        split = "training" if number % 3 else "validation"
        kinds = (("images", image, "jpg"), ("annotations", labels, "png"), ("annotations_instance", things, "png"))
        for kind, array, extension in kinds:
            path = folder / kind / split / f"ADE_{number:08}.{extension}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return folder


def start(source: Path, root: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tools.prepare_datasets", "ade150_panoptic", "--from", str(source)]
    command += ["--root", str(root), "--workers", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=subprocess.STDOUT)


def count(root: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(root))


@pytest.mark.slow
def test_killed_ten_times_the_result_is_the_same(tmp_path: Path, in_repository: None) -> None:
    source = panoptic_release(tmp_path / "release", 200)
    calm = run("ade150_panoptic", "--from", source, "--root", tmp_path / "calm", "--workers", 2)
    assert calm.returncode == 0, calm.stderr
    whole, root = count(tmp_path / "calm"), tmp_path / "killed"
    chance, killed = random.Random(5), 0
    for number in range(10):
        # At a random place of what is left: after some more files than there are, in the middle of one or another.
        until = count(root) + chance.randrange(1, max(2, whole // 12))
        process = start(source, root)
        while process.poll() is None and count(root) < until:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate(timeout=60)
        assert number > 5 or process.returncode == -signal.SIGKILL
    assert killed >= 8
    last = start(source, root)
    output = last.communicate(timeout=120)
    assert last.returncode == 0, output
    assert tree(root) == tree(tmp_path / "calm")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b-1_2.jpg", "a/b-1_2.jpg"),
        ("./a//b/./c.png", "a/b/c.png"),
        ("a\\b.png", "a/b.png"),
        ("à/b c.png", "à/b c.png"),
    ],
)
def test_names_are_put_straight(name: str, expected: str) -> None:
    assert checked_name(name, "x.zip") == expected


@pytest.mark.parametrize("name", ["..", "a/..", "ab/../c", "/a", "C:/a", "c:a", "", "a/\n.png", "ab/..\\c"])
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"x\.zip: member"):
        checked_name(name, "x.zip")
