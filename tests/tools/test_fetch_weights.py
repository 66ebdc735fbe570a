"""Fetching weights: a real server, real gdown, real checkpoints of a small model, and everything by hand as well."""

from __future__ import annotations

import http.server
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from maft.config import build_config
from maft.errors import UserError
from maft.meta_arch import build_network
from tools.fetch_weights import transfer
from tools.fetch_weights.__main__ import main
from tools.fetch_weights.catalogue import CATALOGUE, Checkpoint, Clip
from tools.fetch_weights.check import expected_entries, identify

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = "tests/assets/tiny.yaml"
WIDE = """_BASE_: {base}
MODEL: {{MASK_FORMER: {{NUM_OBJECT_QUERIES: 13}}}}
"""

pytestmark = pytest.mark.usefixtures("in_repository")


@dataclass
class Server:
    """Serves one file as a drive does, with byte ranges; may break off, or answer with a page instead."""

    content: bytes = b""
    breaks_after: int | None = None
    starts: list[int] = field(default_factory=list)
    port: int = 0


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            state.starts.append(start)
            self.send_response(206 if "Range" in self.headers else 200)
            self.send_header("Content-Length", str(len(state.content) - start))
            self.send_header("Content-Disposition", 'attachment; filename="other name.pth"')
            if "Range" in self.headers:
                size = len(state.content)
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.end_headers()
            self.wfile.write(state.content[start : state.breaks_after])

        def log_message(self, *_: object) -> None:
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = running.server_address[1]
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    yield state
    running.shutdown()
    running.server_close()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training of the small model would have published, teacher included."""
    model = build_network(build_config(str(REPOSITORY / CONFIG), clip_key()))
    state = model.state_dict() | {"backbone_t.clip_model.logit_scale": torch.tensor(1.0)}
    path = tmp_path_factory.mktemp("published") / "model_final.pth"
    torch.save({"model": state, "iteration": 3}, path)
    return path


def clip_key() -> list[str]:
    return ["MODEL.DEVICE", "cpu", "MODEL.FC_CLIP.CLIP_MODEL_NAME", str(REPOSITORY / "tests/assets/tiny_clip.json")]


@pytest.fixture
def catalogue(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two small models in the place of the published ones; downloads do not try again."""
    wide = tmp_path / "wide.yaml"
    wide.write_text(WIDE.format(base=REPOSITORY / CONFIG))
    url = f"http://127.0.0.1:{server.port}/tiny"
    clip = Clip("clip-tiny", "clip_tiny.bin", "tiny_clip", "of_a_test", url, "training only")
    monkeypatch.setitem(CATALOGUE, "base", Checkpoint("base", "maftp_b.pth", CONFIG, url, "tests"))  # type: ignore[arg-type]
    monkeypatch.setitem(CATALOGUE, "large", Checkpoint("large", "maftp_l.pth", str(wide), url, "tests"))  # type: ignore[arg-type]
    monkeypatch.setitem(CATALOGUE, "clip-tiny", clip)  # type: ignore[arg-type]
    for name in ("pano", "sed-base", "sed-large", "clip-base", "clip-large"):
        monkeypatch.delitem(CATALOGUE, name)  # type: ignore[arg-type]
    monkeypatch.setattr(transfer, "_RETRIES", 0)
    build_network(build_config(CONFIG, ["MODEL.DEVICE", "cpu"]))  # makes tiny_clip known to open_clip


def run(tmp_path: Path, *words: object) -> int:
    return main([*(str(word) for word in words), "--folder", str(tmp_path / "pretrained")])


def needs_gdown() -> None:
    pytest.importorskip("gdown", reason="gdown is not installed: bash install.sh")


def test_the_catalogue_and_the_page_of_the_folder_agree() -> None:
    page = (REPOSITORY / "pretrained/README.md").read_text(encoding="utf-8")
    for entry in CATALOGUE.values():
        if isinstance(entry, Checkpoint):
            assert f"`{entry.file}`" in page and entry.url in page and entry.use in page
            assert (REPOSITORY / entry.config).is_file()
        else:
            settings = open_clip.get_pretrained_cfg(entry.architecture, entry.tag)
            assert settings["hf_hub"].strip("/") == entry.url.removeprefix("https://huggingface.co/")


@pytest.mark.usefixtures("catalogue")
def test_a_download_that_broke_off_goes_on_where_it_stopped(
    tmp_path: Path, server: Server, checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    needs_gdown()
    server.content = checkpoint.read_bytes()
    server.breaks_after = 3_000_000
    assert run(tmp_path, "base") == 2
    error = capfd.readouterr().err
    assert "error: base: could not be fetched" in error and "--from FILE" in error and "Traceback" not in error
    assert not (tmp_path / "pretrained/maftp_b.pth").exists()
    server.breaks_after = None
    assert run(tmp_path, "base") == 0
    assert 2_000_000 < server.starts[-1] <= 3_000_000, "the part that had arrived was not fetched again"
    assert (tmp_path / "pretrained/maftp_b.pth").read_bytes() == server.content
    assert "1 of the teacher left out" in capfd.readouterr().out
    requests = len(server.starts)
    assert run(tmp_path, "base") == 0
    assert len(server.starts) == requests, "what is in place is checked, not fetched"
    assert [path.name for path in (tmp_path / "pretrained").glob("*.*") if path.is_file()] == ["maftp_b.pth"]


@pytest.mark.usefixtures("catalogue")
@pytest.mark.parametrize("what", ["page", "another model"])
def test_what_arrives_and_is_no_such_model_gets_no_place(
    tmp_path: Path, server: Server, checkpoint: Path, capfd: pytest.CaptureFixture[str], what: str
) -> None:
    needs_gdown()
    page = b"<!DOCTYPE html><html><body>Sorry, you can't view or download this file at this time.</body></html>"
    server.content = page if what == "page" else checkpoint.read_bytes()
    assert run(tmp_path, "large") == 2
    error = capfd.readouterr().err
    assert ("a web page" if what == "page" else "of another size") in error
    assert "maftp_l.pth.rejected" in error
    assert not (tmp_path / "pretrained/maftp_l.pth").exists()
    assert (tmp_path / "pretrained/.incoming/maftp_l.pth.rejected").read_bytes() == server.content
    server.content = checkpoint.read_bytes()
    assert run(tmp_path, "base") == 0, "a refused file does not block the next download"


@pytest.mark.usefixtures("catalogue")
def test_a_pointer_in_place_is_named_and_kept_aside(
    tmp_path: Path, server: Server, checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    needs_gdown()
    place = tmp_path / "pretrained/maftp_b.pth"
    place.parent.mkdir()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    place.write_bytes(pointer)
    server.content = checkpoint.read_bytes()
    assert run(tmp_path, "base") == 0
    assert "a git-lfs pointer" in capfd.readouterr().out
    assert place.read_bytes() == server.content
    assert place.with_name("maftp_b.pth.set-aside").read_bytes() == pointer


@pytest.mark.usefixtures("catalogue")
def test_a_full_disk_is_noticed_before_it_is_full(
    tmp_path: Path, server: Server, checkpoint: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_gdown()
    server.content = checkpoint.read_bytes()
    usage = type(transfer.shutil.disk_usage(tmp_path))(10**9, 10**9 - 1000, 1000)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: usage)
    assert run(tmp_path, "base") == 2
    assert "make room" in capfd.readouterr().err
    assert run(tmp_path, "--from", checkpoint) == 2
    assert "make room" in capfd.readouterr().err
    assert not (tmp_path / "pretrained/maftp_b.pth").exists()


@pytest.mark.usefixtures("catalogue")
def test_without_a_network_the_way_out_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_gdown()
    gone = replace(CATALOGUE["base"], url="http://127.0.0.1:9/nobody-listens")
    monkeypatch.setitem(CATALOGUE, "base", gone)  # type: ignore[arg-type]
    assert run(tmp_path, "base") == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: base: could not be fetched") and "with a browser" in error


@pytest.mark.usefixtures("catalogue")
def test_files_are_recognised_by_content_and_copied(
    tmp_path: Path, checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever the file is called; in --check nothing is copied."""
    misleading = tmp_path / "maftp_l.pth"
    misleading.write_bytes(checkpoint.read_bytes())
    assert run(tmp_path, "--check", misleading) == 0
    assert not (tmp_path / "pretrained").exists()
    assert run(tmp_path, "--from", misleading) == 0
    assert (tmp_path / "pretrained/maftp_b.pth").read_bytes() == checkpoint.read_bytes()
    assert capfd.readouterr().out.count("'base'") == 2
    assert run(tmp_path, "large", "--from", misleading) == 2
    assert "not the weights of 'large'" in capfd.readouterr().err
    assert run(tmp_path, "--check") == 0, "what is in place"
    assert run(tmp_path, "--from", tmp_path / "pretrained/maftp_b.pth") == 0, "a file that is in place already"


@pytest.mark.usefixtures("catalogue")
def test_safetensors_keep_their_ending_and_the_key_is_named(
    tmp_path: Path, checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(checkpoint, weights_only=True)["model"]
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "converted.safetensors")
    assert run(tmp_path, "--from", tmp_path / "converted.safetensors") == 0
    assert (tmp_path / "pretrained/maftp_b.safetensors").is_file()
    assert "pretrained/maftp_b.safetensors" in capfd.readouterr().out.splitlines()[-1]
    assert run(tmp_path, "base", "--check") == 0


@pytest.mark.usefixtures("catalogue")
def test_one_bad_file_does_not_stop_the_others(
    tmp_path: Path, checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--check", tmp_path / "none.pth", checkpoint) == 2
    captured = capfd.readouterr()
    assert "none.pth: no such weight file" in captured.err and "ok: " in captured.out


@pytest.mark.usefixtures("catalogue")
def test_a_single_wrong_byte_is_found(tmp_path: Path, checkpoint: Path) -> None:
    """As after a download in which two processes wrote into one file."""
    content = bytearray(checkpoint.read_bytes())
    with zipfile.ZipFile(checkpoint) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    content[largest.header_offset + 200 + largest.file_size // 2] ^= 1
    damaged = tmp_path / "maftp_b.pth"
    damaged.write_bytes(content)
    with pytest.raises(UserError, match="checksum"):
        identify(damaged, [CATALOGUE["base"]])


@pytest.mark.usefixtures("catalogue")
def test_clip_comes_from_open_clips_cache_and_from_a_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network: what the hub's cache holds is found and checked; a file stands in for it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny_clip", {"of_a_test": {"hf_hub": "someone/tiny/"}})
    state = {name: torch.rand(value.shape) for name, value in expected_entries(CATALOGUE["clip-tiny"]).items()}
    assert run(tmp_path, "clip-tiny") == 2
    assert "not in open_clip's cache" in capfd.readouterr().err

    revision = tmp_path / "hub/models--someone--tiny/snapshots/abc"
    revision.mkdir(parents=True)
    (tmp_path / "hub/models--someone--tiny/refs").mkdir()
    (tmp_path / "hub/models--someone--tiny/refs/main").write_text("abc")
    save_file(state, revision / "open_clip_model.safetensors")
    assert run(tmp_path, "clip-tiny") == 0
    assert "training only: MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS of_a_test" in capfd.readouterr().out
    assert not (tmp_path / "pretrained").exists()

    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    assert run(tmp_path, "--from", tmp_path / "open_clip_pytorch_model.bin") == 0
    place = tmp_path / "pretrained/clip_tiny.bin"
    assert f"CLIP_PRETRAINED_WEIGHTS {place}" in capfd.readouterr().out
    assert run(tmp_path, "clip-tiny") == 0, "the file in place counts"


@pytest.mark.usefixtures("catalogue")
def test_the_list_says_what_is_in_place(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained/maftp_l.pth").write_bytes(b"<html>")
    assert run(tmp_path, "--list") == 0
    lines = capfd.readouterr().out.splitlines()
    assert "not in place" in lines[0] and lines[2].startswith("  http") and "a web page" in lines[3]


def test_an_unknown_name_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "huge") == 2
    assert capfd.readouterr().err == "error: 'huge': no such weights; choose from " + ", ".join(CATALOGUE) + "\n"
