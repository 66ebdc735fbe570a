"""Pages in a real browser on a phone: nothing off the screen, no break inside a word. Skipped without Chromium."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from reason import show
from tools.examples.photographs import write_photographs
from tools.results_table.__main__ import main as results_table

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EXAMPLES = Path(__file__).resolve().parents[2] / "tools" / "examples"
WIDTH = 390
LOOK = """
<body style="margin:0"><iframe id="f" src="%s" style="width:%dpx;height:2000px;border:0"></iframe>
<pre id="o"></pre><script>
f.onload = () => {
  const page = f.contentDocument, off = [], broken = [];
  const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walker.nextNode();) for (const word of node.textContent.matchAll(/[\\p{L}\\p{N}.+]+/gu)) {
    const range = page.createRange();
    range.setStart(node, word.index);
    range.setEnd(node, word.index + word[0].length);
    const boxes = [...range.getClientRects()];
    if (boxes.some(box => box.width && box.right > %d + 1)) off.push(word[0]);
    if (new Set(boxes.map(box => Math.round(box.top))).size > 1) broken.push(word[0]);
  }
  o.textContent = JSON.stringify({wide: page.documentElement.scrollWidth, off, broken});
}</script></body>
"""


def look(page: Path, folder: Path) -> dict:
    """What of a page's text leaves a phone's screen or breaks; a headless window is 500 pixels wide at least."""
    assert CHROMIUM is not None
    frame = folder / "frame.html"
    frame.write_text(LOOK % (page.as_uri(), WIDTH, WIDTH))
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    words = [
        *flags.split(),
        "--disable-component-update",
        "--disable-quic",
        "--hide-scrollbars",
        "--allow-file-access-from-files",
    ]
    words += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", "--dump-dom", frame.as_uri()]
    done = subprocess.run([CHROMIUM, *words], capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="o">(.+?)</pre>', done.stdout, re.S)
    assert found, done.stdout[-500:]
    return json.loads(found[1])


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_no_figure_of_the_results_leaves_the_screen(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert results_table([str(tmp_path / "out"), "--output", str(tmp_path / "results.html")]) == 0
    assert look(tmp_path / "results.html", tmp_path) == {"wide": WIDTH, "off": [], "broken": []}


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("page", ["index", "astronaut"])
def test_pages_of_reasons(page: str, tmp_path: Path) -> None:
    write_photographs(tmp_path / "photographs")
    parser = argparse.ArgumentParser()
    show.add_arguments(parser)
    # A folder's name that is wider than the screen.
    results = tmp_path / "reason_data" / "Qwen2_5_VL_72B_Instruct_AWQ_of_the_examples"
    shutil.copytree(EXAMPLES / "image_reason", results)
    words = [str(tmp_path / "photographs"), "--results", str(results), "--output", str(tmp_path / "out")]
    assert show.run(parser.parse_args(words)) == 0
    assert look(tmp_path / "out" / f"{page}.html", tmp_path) == {"wide": WIDTH, "off": [], "broken": []}
