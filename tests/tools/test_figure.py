"""The comparison for a paper: which images it shows, and what stands in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maft.drawing import NONE
from maft.meta_arch.vocabularies import registered_vocabulary
from tools.diagnose.saved import Truth
from tools.figure import gained, main, read_rows
from tools.mini import dataset

NAME = "mini_val_sem_seg"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three drawn images; run `a` finds the most frequent class everywhere, `b` is right, but for one image."""
    monkeypatch.setattr(dataset, "COUNTS", {"train": 1, "val": 3, "closed": 1})
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    layout = dataset.prepare(splits=("val",))["val"]
    dataset.register()
    for number, file in enumerate(sorted(layout.annotations.iterdir())):
        labels = np.asarray(Image.open(file))
        constant = np.full_like(labels, np.bincount(labels[labels != 255]).argmax())
        right = np.where(labels == 255, 0, labels).astype(np.uint8)
        for run, found in (("a", constant), ("b", constant if number == 1 else right)):
            folder = tmp_path / run / "inference" / NAME / "sem_seg"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(found).save(folder / file.name)
    return tmp_path


def test_the_images_that_gained_most_are_chosen(world: Path) -> None:
    truth, runs = Truth.of(NAME), [world / "a", world / "b"]
    rows = read_rows(truth, runs, [], 2)
    assert {Path(row.file).stem for row in rows} == {"val_0000", "val_0002"}
    gains = [row.agreement(1) - row.agreement(0) for row in rows]
    assert gains == sorted(gains, reverse=True) and gains[-1] > 0 and rows[0].agreement(1) == 1
    assert all((row.label == NONE).any() or (row.label >= 0).all() for row in rows)
    named = read_rows(truth, runs, ["val_0002", "val_0001"], 0)
    assert [Path(row.file).stem for row in named] == ["val_0002", "val_0001"]
    reasons = gained(rows[0], registered_vocabulary(NAME), dataset.Layout(world / "mini", "val").reason_dir() / "mini")
    assert 1 <= len(reasons) <= 2 and all(": " in text for text in reasons)


@pytest.mark.parametrize(("suffix", "start"), [(".pdf", b"%PDF"), (".svg", b"<?xml"), (".png", b"\x89PNG")])
def test_a_figure_is_written(suffix: str, start: bytes, world: Path) -> None:
    reasons = dataset.Layout(world / "mini", "val").reason_dir() / "mini"
    words = [f"names={world / 'a'}", f"with reasons={world / 'b'}", "--dataset", NAME, "--best", "2"]
    assert main([*words, "--image-reasons", str(reasons), "--output", str(world / f"fig{suffix}")]) == 0
    assert (world / f"fig{suffix}").read_bytes().startswith(start)
    if suffix == ".png":
        with Image.open(world / "fig.png") as image:
            assert image.width > 1500 and len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 500


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "val_9999"], "--images val_9999: is no image of mini_val_sem_seg"),
        (["--best", "0"], "--best 0: give a whole number"),
        (["--best", "1", "--output", "fig.bmp"], "fig.bmp: end it in .pdf, .png, .svg"),
        (["--best", "1", "--dataset", "mini_val_semseg"], "not registered; did you mean mini_val_sem_seg"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main([f"{world / 'a'}", "--dataset", NAME, "--output", str(world / "fig.pdf"), *words])
    except SystemExit as error:
        status = int(error.code or 0)
    assert status == 2 and message in capsys.readouterr().err
