"""The facts fit the registered data sets, and --list and --download say and do what they promise."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from maft.data.specs import ALIASES, BUILTIN
from maft.errors import UserError
from reason.vocabulary import load_vocabulary
from tools import dataset_facts
from tools.dataset_facts import ARCHIVES, DATASETS, archives_of, chosen, split_facts
from tools.prepare_datasets.listing import run_download, run_list

SPECS = {spec.name: spec for spec in BUILTIN}


def test_every_registered_data_set_has_its_facts_once() -> None:
    listed = [split.dataset for facts in DATASETS.values() for split in facts.splits]
    assert len(listed) == len(set(listed))
    # Second names of the same files: MAFT+'s of COCO's training panoptics, and SED's.
    assert set(SPECS) - set(listed) == {"coco_seg_pan_voab", *ALIASES}
    assert set(listed) <= set(SPECS)


def test_numbers_are_sourced_and_possible() -> None:
    for facts in DATASETS.values():
        for split in facts.splits:
            assert split.images.values and split.images.source and split.images.verified
            if split.occurring is not None:
                assert split.occurring.source
                assert max(split.occurring.values) <= len(load_vocabulary(SPECS[split.dataset].vocabulary))


def test_archives_are_complete() -> None:
    assert {key for facts in DATASETS.values() for key in (*facts.archives, *facts.instead)} == set(ARCHIVES)
    for archive in ARCHIVES.values():
        assert archive.licence and archive.content and archive.page.startswith("http")
        assert bool(archive.urls) != bool(archive.registration)
        if archive.digest:
            assert len(archive.digest[1]) == {"md5": 32, "sha256": 64}[archive.digest[0]]


def test_choosing() -> None:
    assert [facts.name for facts in chosen(["voc20", "ade150"])] == ["ade150", "voc20"]
    assert [facts.name for facts in chosen([])] == list(DATASETS)
    assert [archive.key for archive in archives_of(chosen(["pc59", "pc459"]))] == [
        "voc2010",
        "context_merged",
        "context_mats",
    ]
    assert split_facts("openvocab_pascal20_sem_seg_val") is DATASETS["voc20"].splits[0]
    assert split_facts("mine") is None
    with pytest.raises(UserError, match="voc21"):
        chosen(["voc21"])


def test_the_list_names_source_size_licence_and_registration(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_list([]) == 0
    text = capsys.readouterr().out
    for archive in ARCHIVES.values():
        assert archive.file_name in text and archive.licence in text and archive.size_shown in text
        assert all(url in text for url in archive.urls or (archive.page,))
    assert "register on the page" in text
    assert run_list(["pc59"], as_json=True) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert [archive["key"] for archive in record["archives"]] == ["voc2010", "context_merged"]
    assert "trainval.tar.gz" in record["instead"]


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """The address of a server that has small stand-ins for two archives."""
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "VOCtrainval_03-May-2010.tar").write_bytes(b"voc" * 1000)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_downloading_goes_on_after_a_failure_and_says_what_to_bring(
    tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    local = {
        key: dataclasses.replace(
            archive, urls=(f"{mirror}/{archive.file_name}",) if archive.urls else (), size=None, digest=None
        )
        for key, archive in ARCHIVES.items()
    }
    monkeypatch.setattr(dataset_facts, "ARCHIVES", local)
    folder = tmp_path / "archives"
    assert run_download(["ade150", "ade847", "pc59"], folder) == 1
    text = capsys.readouterr().out
    assert (folder / "VOCtrainval_03-May-2010.tar").read_bytes() == b"voc" * 1000
    assert "FAILED: ADEChallengeData2016.zip" in text and "404" in text
    assert "by hand: " in text and "register on the page" in text
    (tmp_path / "server" / "trainval_merged.json").write_bytes(b"{}")
    assert run_download(["pc59"], folder) == 0
    assert {path.name for path in folder.iterdir() if not path.name.endswith(".part")} == {
        "VOCtrainval_03-May-2010.tar",
        "trainval_merged.json",
    }
