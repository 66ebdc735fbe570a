"""Writing the photographs as a data set: layout, repetition, concurrency, registration, errors."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maft.errors import UserError
from reason.jsonfile import read_json
from reason.triplets import load_generic, load_image
from reason.vocabulary import load_vocabulary
from tools.photos import prepare as preparation
from tools.photos.__main__ import main
from tools.photos.content import (
    load_generic_reasons,
    load_photo_vocabulary,
    load_photographs,
    open_photograph,
    rasterise,
)
from tools.photos.prepare import Layout, prepare

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return prepare(tmp_path_factory.mktemp("photos") / "data")


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def prepare_process(root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tools.photos", "prepare", "--root", str(root)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_what_is_written_is_what_was_drawn_and_written_by_hand(layout: Layout) -> None:
    vocabulary = load_vocabulary(layout.vocabulary)
    assert vocabulary == load_photo_vocabulary()
    assert load_generic(layout.generic_reason) == load_generic_reasons()
    document = read_json(layout.panoptic_json)
    photographs = load_photographs()
    for photograph, image, annotation in zip(photographs, document["images"], document["annotations"], strict=True):
        name = f"{photograph.stem}.png"
        labels = rasterise(photograph, vocabulary)
        with Image.open(layout.images / name) as written:
            assert written.mode == "RGB"
            assert np.array_equal(np.asarray(written), np.asarray(open_photograph(photograph)))
        with Image.open(layout.annotations / name) as written:
            assert np.array_equal(np.asarray(written), labels.classes)
        with Image.open(layout.panoptic / name) as written:
            pixels = np.asarray(written).astype(np.int32)
        assert np.array_equal(pixels @ [1, 256, 65536], labels.segments)
        assert (image["file_name"], (image["width"], image["height"])) == (name, photograph.size)
        assert annotation == {"image_id": image["id"], "file_name": name, "segments_info": labels.segments_info}
        assert load_image(layout.image_reason / f"{photograph.stem}.json").reasons == photograph.reasons
    assert [category["name"] for category in document["categories"]] == list(vocabulary.class_names)
    assert {c["id"] for c in document["categories"] if c["isthing"]} == vocabulary.thing_indices
    files = 4 * len(photographs) + 3
    assert len(contents(layout.root)) == files


def test_a_second_run_touches_nothing(layout: Layout) -> None:
    before = {path: path.stat().st_mtime_ns for path in layout.root.rglob("*")}
    prepare(layout.root)
    assert {path: path.stat().st_mtime_ns for path in layout.root.rglob("*")} == before


def test_damaged_and_missing_files_are_mended(layout: Layout) -> None:
    before = contents(layout.root)
    damaged = layout.images / "china.png"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    layout.panoptic_json.unlink()
    prepare(layout.root)
    assert contents(layout.root) == before


def test_processes_that_prepare_at_once_leave_a_whole_folder(layout: Layout, tmp_path: Path) -> None:
    processes = [prepare_process(tmp_path) for _ in range(3)]
    for process in processes:
        output, errors = process.communicate(timeout=300)
        assert (process.returncode, output.strip(), errors) == (0, str(tmp_path), "")
    assert contents(tmp_path) == contents(layout.root)


def test_a_killed_run_leaves_nothing_that_counts(layout: Layout, tmp_path: Path) -> None:
    process = prepare_process(tmp_path)
    while process.poll() is None and not list(tmp_path.glob("images/*.png")):
        pass
    process.kill()
    process.communicate()
    assert not (tmp_path / "panoptic.json").exists(), "it is written last, so that it stands for a complete folder"
    whole = contents(layout.root)
    for name, data in contents(tmp_path).items():
        if not Path(name).name.startswith("."):
            assert data == whole[name]
    prepare(tmp_path)
    assert {name: data for name, data in contents(tmp_path).items() if not Path(name).name.startswith(".")} == whole


def test_a_full_or_forbidden_folder_is_a_user_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    assert main(["prepare", "--root", str(blocked / "data")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {blocked / 'data'}: cannot be written")
    assert error.count("\n") == 1


def test_a_failing_rename_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="No space left"):
        prepare(tmp_path)
    assert contents(tmp_path) == {}


def test_another_picture_than_the_labelled_one_is_refused() -> None:
    photograph = load_photographs()[0]
    with pytest.raises(UserError, match=r"camera\.png: 512x512 pixels, labelled was another version"):
        open_photograph(dataclasses.replace(photograph, file="data/camera.png", size=(100, 100)))
    with pytest.raises(UserError, match=r"nothing\.png: the photograph cannot be read"):
        open_photograph(dataclasses.replace(photograph, file="data/nothing.png"))


def test_root_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(preparation.ROOT_VARIABLE, raising=False)
    assert preparation.default_root() == Path("out/photos/data")
    monkeypatch.setenv(preparation.ROOT_VARIABLE, str(tmp_path))
    assert preparation.default_root() == tmp_path


def test_registered_data_sets_name_all_photographs(layout: Layout) -> None:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from tools.photos.datasets import PANOPTIC, SEMANTIC, register

    assert register(layout.root) == (SEMANTIC, PANOPTIC)
    assert register(layout.root) == (SEMANTIC, PANOPTIC)
    stems = [photograph.stem for photograph in load_photographs()]
    semantic, panoptic = DatasetCatalog.get(SEMANTIC), DatasetCatalog.get(PANOPTIC)
    assert [Path(record["file_name"]).stem for record in semantic] == stems
    assert [Path(record["file_name"]).stem for record in panoptic] == stems
    things = load_photo_vocabulary().thing_indices
    document = read_json(layout.panoptic_json)
    for record, annotation in zip(panoptic, document["annotations"], strict=True):
        assert Path(record["pan_seg_file_name"]) == layout.panoptic / annotation["file_name"]
        assert Path(record["sem_seg_file_name"]) == layout.annotations / annotation["file_name"]
        found = [(segment["id"], segment["category_id"], segment["isthing"]) for segment in record["segments_info"]]
        drawn = [(segment["id"], segment["category_id"]) for segment in annotation["segments_info"]]
        assert found == [(segment, category, category in things) for segment, category in drawn]
    metadata = MetadataCatalog.get(SEMANTIC)
    assert list(metadata.stuff_classes) == [",".join(synonyms) for synonyms in load_photo_vocabulary().synonyms]
    assert metadata.ignore_label == 255


def test_registering_what_was_not_prepared_says_how_to(tmp_path: Path) -> None:
    from tools.photos.datasets import register

    with pytest.raises(UserError, match=r"panoptic\.json: no such file; run python -m tools\.photos prepare"):
        register(tmp_path)
