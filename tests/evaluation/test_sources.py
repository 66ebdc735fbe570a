"""Which sources an evaluation depends on."""

from __future__ import annotations

from pathlib import Path

import pytest

from maft.evaluation.sources import PACKAGES, ROOTS, hash_sources, imports_of, modules_of, reachable


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose `start` imports `near` and, inside a function, `far`; nobody imports `other`."""
    folder = tmp_path / "some_package"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "__init__.py").write_text("from .deep import x\n")
    (folder / "inner" / "deep.py").write_text("x = 1\n")
    (folder / "__init__.py").write_text("")
    (folder / "start.py").write_text(
        "from typing import TYPE_CHECKING\nfrom . import near\nif TYPE_CHECKING:\n    from . import types_only\n"
    )
    (folder / "near.py").write_text("def f():\n    from .inner import x\n    import json\n")
    (folder / "types_only.py").write_text("")
    (folder / "other.py").write_text("from . import start\n")
    (folder / "op.cu").write_text("1")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_imports_are_followed(package: Path) -> None:
    name = package.name
    found = reachable([f"{name}.start", "no.such.module"], [name])
    assert found == {name, *(f"{name}.{part}" for part in ("start", "near", "inner", "inner.deep"))}
    modules = modules_of(package)
    assert imports_of(package / "near.py", f"{name}.near", modules) == {f"{name}.inner", "json"}
    assert imports_of(package / "inner" / "__init__.py", f"{name}.inner", modules) == {f"{name}.inner.deep"}


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("start.py", True),
        ("near.py", True),
        ("inner/deep.py", True),
        ("op.cu", True),
        ("other.py", False),
        ("types_only.py", False),
        ("notes.txt", False),
    ],
)
def test_the_hash_follows_what_runs(package: Path, file: str, counts: bool) -> None:
    before = hash_sources([f"{package.name}.start"], [package.name])
    assert len(before) == 32
    path = package / file
    path.write_text((path.read_text() if path.exists() else "") + "\n# changed\n")
    assert (hash_sources([f"{package.name}.start"], [package.name]) != before) is counts


def test_what_an_evaluation_runs() -> None:
    """Neither reports and engines of the reasoning, nor the training, restart an evaluation."""
    found = reachable(ROOTS, PACKAGES)
    assert {"maft.run", "maft.inference", "maft.data.records", "maft.text.prompts", "reason.triplets"} <= found
    assert {"maft.evaluation.metrics", "maft.modeling.pixel_decoder.ops.backend", "maft.weights.loading"} <= found
    assert not [name for name in found if name.startswith(("maft.training", "reason.engines", "reason.runs"))]
    assert not found & {"maft.launch", "maft.data.train_mapper", "maft.data.augment", "reason.show", "reason.score"}
