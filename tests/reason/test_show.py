"""The page of an image: whole, self-contained, and proof against what models and users write."""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from reason.errors import run_command
from reason.show import add_arguments, run

HOSTILE = "<script>alert('x')</script> & \"quoted\" </style><img src=x onerror=alert(1)>"
VOID = {"meta", "img", "input", "wbr"}


class Page(HTMLParser):
    """What a page holds; fails where elements are not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.within_word = False
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.within_word = tag == "wbr"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.within_word:
            self.texts[-1] += data
        else:
            self.texts.append(data)
        self.within_word = False

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four images, one of them turned by EXIF and one cut off."""
    folder = tmp_path / "images"
    folder.mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (320, 160), "teal").save(folder / "a #1 100%.jpg", exif=turned)
    Image.new("RGB", (64, 64), "red").save(folder / "failed.png")
    Image.new("L", (64, 64)).save(folder / "plain.png")
    (folder / "torn.jpg").write_bytes((folder / "a #1 100%.jpg").read_bytes()[:400])
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A file with everything in it, all of it hostile; a published one with the reasons alone; a failed image."""
    folder = tmp_path / "results"
    failure = {"step": "reasons", "attempt": 1, "problem": HOSTILE, "answer_text": HOSTILE}
    reason = {"reason1": HOSTILE, "reason2": "pet", "reason3": [HOSTILE, "whiskers"]}
    full = {
        "reasoning": {"map_class_reason": {"cat": reason, HOSTILE: {"reason3": ["part"]}}},
        "description": HOSTILE,
        "candidates": ["cat", HOSTILE],
        "alignment": [
            {"written": "kitty", "class": "cat", "similarity": 0.75, "how": "embedding"},
            {"written": HOSTILE, "class": None, "similarity": 0.125, "how": "none"},
        ],
        "attempts": [
            {"step": "description", "part": None, "attempt": 1, "problem": None, "prompt_tokens": 4711},
            {
                "step": "reasons",
                "part": 2,
                "attempt": 1,
                "problem": HOSTILE,
                "answer": HOSTILE,
                "finish_reason": HOSTILE,
            },
        ],
        "provenance": {"model": HOSTILE, "sampling": {"temperature": 0.3}},
    }
    plain = {"reasoning": {"map_class_reason": {"dog": {"reason3": ["tail"]}}}}
    for stem, document in (("a #1 100%", full), ("plain", plain), ("torn", plain)):
        (folder / f"{stem}.json").parent.mkdir(exist_ok=True)
        (folder / f"{stem}.json").write_text(json.dumps(document))
    (folder / ".reason" / "failed").mkdir(parents=True)
    (folder / ".reason" / "failed" / "failed.json").write_text(json.dumps({"failures": [failure] * 4}))
    return folder


def show(*words: object) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args([str(word) for word in words])
    return run_command(lambda: run(args), debug=False)


def check(path: Path) -> Page:
    """The page's elements are ours, its images are in it, and nothing points outside."""
    page = Page(path)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.tags}
    scripts = re.findall(r"<script>(.*?)</script>", path.read_text(), re.S)
    assert len(scripts) == len(page.all("script")) == (path.name == "index.html")
    (policy,) = [str(one["content"]) for one in page.all("meta") if "http-equiv" in one]
    allowed = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert re.findall(r"script-src 'sha256-(.*?)'", policy) == allowed, "no script runs but ours"
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    for image in page.all("img"):
        assert str(image["src"]).startswith("data:image/")
    style = re.search(r"<style>(.*?)</style>", path.read_text(), re.S)
    assert style and not re.search(r"url\(|@import", style[1])
    return page


def test_everything_is_shown_and_escaped(images: Path, results: Path, tmp_path: Path) -> None:
    words = (images / "a #1 100%.jpg", "--results", results, "--vocabulary", "cat, dog", "--output", tmp_path / "out")
    assert show(*words) == 0
    page = check(tmp_path / "out" / "a #1 100%.html")
    shown = " ".join(HOSTILE.split())
    # Description, candidate, category, attribute, class, problem, answer, model; quoted as JSON in the whole file.
    assert page.text.count(shown) >= 8
    for text in (
        "kitty",
        "0.75",
        "embedding",
        "none near enough",
        "whiskers",
        "pet",
        "sampling.temperature",
        "0.3",
        "4711 prompt",
    ):
        assert text in page.text, text
    assert page.text.count("not in the vocabulary") == 1
    assert len(page.all("details")) == 2, "the answer that was no use, and the whole file"
    assert [round(float(str(meter["value"])), 3) for meter in page.all("meter")] == [0.75, 0.125]
    (image,) = page.all("img")
    data = base64.b64decode(str(image["src"]).split(",", 1)[1], validate=True)
    with Image.open(io.BytesIO(data)) as image:
        assert image.height > image.width, "upright by its EXIF orientation"


def test_a_folder_gets_an_index(
    images: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert show(images, "--results", results, "--output", out) == 1, "one image cannot be read"
    captured = capsys.readouterr()
    assert "torn.jpg" in captured.err and str(out / "index.html") in captured.out
    index = check(out / "index.html")
    assert "4 images: 3 with reasons, 1 failed, 0 without a file" in index.text
    pages = {unquote(str(link["href"])) for link in index.all("a")}
    assert pages == {path.name for path in out.iterdir()} - {"index.html"}
    assert "; 0 name no class, 1.3 classes an image" in index.text
    order = ["a #1 100%.html", "failed.html", "plain.html", "torn.html"]
    for place, name in enumerate(order):
        links = [unquote(str(link["href"])) for link in check(out / name).all("a")]
        assert links == [*order[:place][-1:], "index.html", *order[place + 1 :][:1]]
    assert "The image cannot be read" in check(out / "torn.html").text
    failed = check(out / "failed.html")
    assert "This image failed" in failed.text and failed.text.count("<script>") >= 4
    assert "dog" in check(out / "plain.html").text


def test_an_image_called_index_has_a_page_of_its_own(images: Path, results: Path, tmp_path: Path) -> None:
    for folder, suffix in ((images, ".png"), (results, ".json")):
        (folder / f"plain{suffix}").rename(folder / f"index{suffix}")
    assert show(images / "index.png", images / "failed.png", "--results", results, "--output", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["failed.html", "index.html", "index_.html"]
    assert "dog" in check(tmp_path / "out" / "index_.html").text


def test_limit(images: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(images, "--results", results, "--output", tmp_path / "out", "--limit", 1) == 0
    assert "the first 1 of 4 images" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a #1 100%.html"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("images/plain.png", "--results", "nowhere"), "nowhere: no such folder"),
        (("images/plain.png", "--results", "images"), "images: has no triplet file for plain.png"),
        (("images/none.png", "--results", "results"), "images/none.png"),
        (("images/torn.jpg", "--results", "results"), "torn.jpg: not readable as an image"),
        (("images/plain.png", "--results", "results", "--output", "images/plain.png"), "give another --output"),
        (("images/plain.png", "--results", "results", "--limit", "0"), "--limit 0"),
    ],
)
def test_errors_are_one_line(
    images: Path, results: Path, words: tuple[str, ...], problem: str, monkeypatch, capsys
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(images.parent)
    assert show(*words) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1
