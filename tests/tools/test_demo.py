"""The demo: its functions, and the page in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maft import Segmentor, load_segmentor
from maft.errors import UserError
from reason.triplets import Reason, load_image
from tools.demo import session, table
from tools.demo.asking import Model
from tools.demo.maps import coloured, support
from tools.demo.samples import samples
from tools.demo.session import KINDS

ROOT = Path(__file__).resolve().parents[2]
CLASSES = "cherry\ndice\npond\nbrinzal\nkuplax"
REASONS = {
    "kuplax": Reason("kuplax", "ground", "", ("a grey ground with pebbles", "dark pebbles")),
    "brinzal": Reason("brinzal", "", "", ("a striped round body", "a red body with a stalk")),
}


@pytest.fixture(scope="module")
def segmentor() -> Segmentor:
    return load_segmentor("mini", device="cpu")


def test_ways_to_use_reasons(segmentor: Segmentor, tmp_path: Path) -> None:
    seen = session.look(segmentor, str(ROOT / "docs/scene.jpg"))
    vocabulary = session.read_vocabulary_text(CLASSES)
    found = {}
    for kind in KINDS.values():
        if kind == "generic":  # the names of the drawn world are made up, the shipped reasons are not
            continue
        found[kind] = session.segment(seen, vocabulary, kind, REASONS)
    known = session.segment(seen, session.read_vocabulary_text("grass\nwall"), "generic", {})
    assert set(known.reasons) == {"grass", "wall"} and known.origin == "generic"
    shares = {kind: {one.name: one.share for one in result.classes} for kind, result in found.items()}
    assert shares["names only"].get("kuplax", 0) < 0.1 and shares["table"]["kuplax"] > 0.4
    assert set(shares["table alone"]) <= {"kuplax", "brinzal"} and found["table alone"].origin == "image"
    html = session.cards(found["table"])
    assert "dark pebbles" in html and "asked for by name" in html
    assert session.attributes(found["table"])[0] == "kuplax: a grey ground with pebbles"
    files = session.write_files(found["table"], tmp_path)
    labels = np.asarray(Image.open(files[0]))
    assert labels.shape == (256, 256) and (labels == 4).mean() == pytest.approx(shares["table"]["kuplax"])
    assert json.loads(Path(files[2]).read_text())["found"][0]["name"] == "kuplax"
    shown = session.shown(found["table"])
    assert sum(mask.sum() for mask, _ in shown.regions) <= 256 * 256
    with pytest.raises(UserError, match="the table has none for these classes"):
        session.segment(seen, vocabulary, "table", {"zebra": REASONS["kuplax"]})


def test_cards_and_rows_are_text_and_never_markup(segmentor: Segmentor) -> None:
    seen = session.look(segmentor, str(ROOT / "docs/scene.jpg"))
    rows = [["pond", "<b>", "", "a blue ground with waves; <script>alert(1)</script>"], ["", "", "", ""], ["wall"]]
    reasons = table.to_reasons(rows)
    assert list(reasons) == ["pond"] and table.to_rows(reasons) == [rows[0]]
    html = session.cards(session.segment(seen, session.read_vocabulary_text("pond\nwall"), "table", reasons))
    assert "<script>" not in html and "&lt;script&gt;" in html
    with pytest.raises(UserError, match="'pond' has two rows"):
        table.to_reasons([rows[0], rows[0]])


@pytest.mark.parametrize("model", ["mini", "sed-mini"])
def test_support_is_highest_where_the_attribute_is(model: str) -> None:
    """The one striped body in the scene; every value is a mean of similarities."""
    seen = load_segmentor(model, device="cpu").look(str(ROOT / "docs/scene.jpg"))
    values = support(seen, "brinzal", "a striped round body")
    assert values.shape == (256, 256) and values.dtype == np.float32 and np.abs(values).max() <= 1
    labels = load_segmentor("mini", device="cpu")(seen.image, CLASSES.split(), REASONS).label_map
    means = [values[labels == index].mean() for index in range(5)]
    assert means[3] > max(means[:3] + means[4:]) + 0.2
    row = seen.segmentor.sentence_feature("brinzal", "a striped round body")
    assert torch.linalg.vector_norm(row).item() == pytest.approx(1, abs=1e-5)
    if model == "mini":
        regions = seen.view.regions
        similarity = torch.nn.functional.normalize(regions.clip_embeddings[0], dim=-1) @ row
        assert values.max() <= similarity.max().item() + 1e-5 and values.min() >= similarity.min().item() - 1e-5
    tinted = coloured(seen.image, values)
    assert tinted.shape == (256, 256, 3) and tinted.dtype == np.uint8
    with pytest.raises(UserError, match="a class and an attribute"):
        support(seen, "brinzal", " ")


def test_samples_come_with_reasons(tmp_path: Path) -> None:
    drawn = samples("mini", tmp_path)
    assert len(drawn) == 3 and all(one.image.is_file() and one.rows and one.classes for one in drawn)
    photographs = samples("base", tmp_path)
    assert len(photographs) == 8 and all(one.image.is_file() and one.rows for one in photographs)


def test_files_of_both_kinds_are_loaded(tmp_path: Path) -> None:
    assert table.load(ROOT / "tools/examples/generic_reason.json")["cat"].attributes
    (image, *_) = sorted((ROOT / "tools/examples/image_reason").glob("*.json"))
    assert table.load(image) == load_image(image).reasons
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json"):
        table.load(tmp_path / "a.json")


def test_no_server_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("openai", reason="bash install.sh demo brings it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(UserError, match=re.escape(f"--reason-url {url}: ")):
        list(Model(url).ask(ROOT / "docs/scene.jpg", session.read_vocabulary_text(CLASSES)))


# The page, in a browser.


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The demo as a user starts it."""
    pytest.importorskip("gradio", reason="bash install.sh demo brings it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("demo") / "log"
    with log.open("w") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", "tools.demo", "--port", str(port)], cwd=ROOT, stdout=stream, stderr=stream
        )
    deadline = time.monotonic() + 240
    while f"127.0.0.1:{port}" not in log.read_text():
        assert server.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.3)
    yield f"http://127.0.0.1:{port}"
    server.send_signal(signal.SIGINT)
    assert server.wait(30) == 130, log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="bash install.sh demo brings it")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync"]
    with playwright.sync_playwright() as playing:
        opened = playing.chromium.launch(executable_path=program, args=quiet)
        yield opened
        opened.close()


def opened(browser: Any, address: str, **options: Any) -> Any:
    page = browser.new_page(**options)
    page.set_default_timeout(120_000)
    page.goto(address)
    page.wait_for_selector("#cards .reason-card")
    return page


@pytest.mark.slow
def test_an_edit_an_upload_a_bad_upload_and_two_users(address: str, browser: Any, tmp_path: Path) -> None:
    page = opened(browser, address, viewport={"width": 1400, "height": 1000})
    other = opened(browser, address, viewport={"width": 390, "height": 844}, color_scheme="dark")
    assert other.evaluate("document.documentElement.scrollWidth") <= 390
    assert "brinzal" in page.inner_text("#cards") and "brinzal" not in page.inner_text("#plain")
    # Another attribute changes the map.
    first = page.get_attribute("#support img", "src")
    page.click("#attribute input")
    page.click("#attribute [role=option] >> nth=3")
    page.wait_for_function("before => document.querySelector('#support img')?.src !== before", arg=first)
    # Classes are edited: the class is gone from the result of this user, and of no other.
    page.fill("#classes textarea", "pond\nkuplax\ndice\ncherry")
    page.click("#run")
    page.wait_for_function("() => !document.querySelector('#cards').innerText.includes('brinzal')")
    assert "brinzal" in other.inner_text("#cards")
    # A file that is no image is a message, and the page goes on.
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    page.click("#image button[aria-label='Remove Image']")
    page.set_input_files("#image input[type=file]", str(tmp_path / "broken.png"))
    page.click("#run")
    page.wait_for_selector(".toast-body")
    page.reload()
    page.wait_for_selector("#cards .reason-card")
    page.click("#download")
    page.wait_for_selector("#files a")
    assert "labels.png" in "".join(page.inner_text("#files").split())
