"""Every document, path and section that the repository's own text cites is there."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BROUGHT_OR_MADE = {"pretrained", "datasets", "reason_data", "llm", "out"}
"""Folders whose content a user brings, or a run makes; each but out/ has a README that says what."""
WRITTEN_BY_RUNS = {"results.md"}
"""Documents that a run writes, cited by name."""
TOPS = "maft|configs|reason|tools|tests|compat|docs|requirements|datasets|reason_data|pretrained|llm|out"
CITING = (".py", ".md", ".yaml", ".sh")
MD = ".md"


@cache
def tracked() -> tuple[str, ...]:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    return tuple(name for name in listed.stdout.splitlines() if (ROOT / name).is_file())


def citing_files() -> list[str]:
    return [name for name in tracked() if name.endswith(CITING) and name != "tests/test_citations.py"]


def dead_documents(text: str, name: str) -> list[str]:
    """Names of .md files, with or without folders, that are nowhere."""
    found = re.findall(r"(?<![\w./:*<>{}-])(?:\.\.?/)*[A-Za-z_][\w./-]*\.md\b", text)
    dead = []
    for document in sorted(set(found)):
        places = [ROOT / document, (ROOT / name).parent / document]
        by_name = "/" not in document and any(other.rpartition("/")[2] == document for other in tracked())
        if document not in WRITTEN_BY_RUNS and not by_name and not any(place.is_file() for place in places):
            dead.append(document)
    return dead


def dead_paths(text: str, name: str) -> list[str]:
    """What looks like a path inside the repository (a known top folder, a slash, no placeholder) and is nowhere."""
    dead = []
    # A path that goes on with a placeholder is none yet.
    pattern = r"(?<![\w/.:<>{}*$-])(?:\.\.?/)*[A-Za-z_][\w.-]*(?:/[\w.-]+)+/?(?![\w/.{<*$-])"
    for path in sorted(set(re.findall(pattern, text))):
        if not re.match(rf"^(\.\.?/)*({TOPS})/", path) or path.rpartition("/")[2] in WRITTEN_BY_RUNS:
            continue
        clean = path.rstrip("./").removeprefix("./")
        top = clean.lstrip("./").split("/")[0]
        places = [ROOT / clean, ((ROOT / name).parent / clean).resolve(), ROOT / f"{clean}.py"]
        if top not in BROUGHT_OR_MADE and not any(place.exists() for place in places):
            dead.append(path)
    return dead


@cache
def headings(document: str) -> tuple[str, ...]:
    return tuple(re.findall(r"(?m)^#+ (.+)$", (ROOT / document).read_text(encoding="utf-8")))


def dead_sections(text: str) -> list[str]:
    """Sections cited as `docs/numerics.md, "Rows", "Logits"`, `docs/design.md section 4` or `docs/findings.md 12`."""
    text = re.sub(r"\n\s*(?:#\s*)?", " ", text)
    dead = []
    for document, quoted in re.findall(r'(docs/[\w-]+\.md),? ((?:"[^"]+"(?:, | to | and )?)+)', text):
        titles = headings(document) if (ROOT / document).is_file() else ()
        dead += [f'{document}, "{title}"' for title in re.findall(r'"([^"]+)"', quoted) if title not in titles]
    for document, number in re.findall(r"(docs/[\w-]+\.md),? sections? (\d+)", text):
        if not any(re.match(rf"{number}\. ", title) for title in headings(document)):
            dead.append(f"{document} section {number}")
    items = (ROOT / "docs/findings.md").read_text(encoding="utf-8")
    for number in re.findall(r"docs/findings\.md (\d+)", text):
        if not re.search(rf"(?m)^{number}\. ", items):
            dead.append(f"docs/findings.md {number}")
    return dead


@pytest.mark.parametrize("name", citing_files())
def test_what_is_cited_exists(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    dead = dead_documents(text, name) + dead_sections(text)
    if not name.endswith(".py") or not name.startswith(("tests/", "tools/parity/")):
        # Tests make up paths in strings, and recorded tensors have names that look like paths.
        dead += dead_paths(text, name)
    assert not dead, f"{name} cites what is not there: {', '.join(dead)}"


def test_dead_citations_are_found() -> None:
    assert dead_documents(f"see NOWHERE{MD} and docs/nothing{MD}, not README.md", "README.md") == [
        f"NOWHERE{MD}",
        f"docs/nothing{MD}",
    ]
    assert dead_paths("in maft/nothing.py or `tools/absent/`, and ./reason/triplets.py", "README.md") == [
        "maft/nothing.py",
        "tools/absent/",
    ]
    sections = '(docs/numerics.md, "Rows", "Nonsense"); docs/design.md section 4, docs/design.md section 44'
    assert dead_sections(sections) == ['docs/numerics.md, "Nonsense"', "docs/design.md section 44"]
    assert dead_sections("docs/findings.md 12 and docs/findings.md 99") == ["docs/findings.md 99"]


def test_folders_that_users_fill_say_with_what() -> None:
    for folder in BROUGHT_OR_MADE - {"out"}:
        assert (ROOT / folder / "README.md").is_file(), folder
