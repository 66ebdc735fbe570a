"""The mini world as files: what is written is what was drawn, whole or not at all, and registered with detectron2."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from maft.data import dataset_names
from maft.errors import UserError
from reason.jsonfile import read_json
from reason.triplets import load_generic, load_image
from reason.vocabulary import load_vocabulary
from tools.mini import dataset
from tools.mini.dataset import LIST_ONLY, MODEL, REASON_DATA, SPLITS, Layout, prepare, register
from tools.mini.observer import LEVELS, observe_classes, observe_scene
from tools.mini.scenes import render_scene
from tools.mini.shipped_reasons import shipped_generic, shipped_images
from tools.mini.world import VAL_CLASSES, class_groups, vocabulary

IMAGES = {"train": 4, "val": 6, "closed": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mini")
    prepare(folder, counts=IMAGES)
    return folder


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_what_is_written_is_what_was_drawn_and_observed(root: Path) -> None:
    shipped = shipped_images()[1]
    for split in dataset.SPLITS:
        layout = Layout(root, split)
        assert load_vocabulary(layout.vocabulary) == vocabulary(split)
        document = read_json(layout.panoptic_json)
        assert len(document["images"]) == IMAGES[split]
        for number, (image, annotation) in enumerate(zip(document["images"], document["annotations"], strict=True)):
            scene, name = render_scene(number, split), image["file_name"]
            assert np.array_equal(np.asarray(Image.open(layout.images / name)), scene.image)
            assert np.array_equal(np.asarray(Image.open(layout.annotations / name)), scene.semantic)
            assert np.array_equal(np.asarray(Image.open(layout.panoptic / name))[..., 0], scene.panoptic)
            assert [info["id"] for info in annotation["segments_info"]] == [segment.id for segment in scene.segments]
            if split == "val":
                stem = Path(name).stem
                model = load_image(layout.reason_dir() / REASON_DATA / f"{stem}.json")
                assert model == shipped[stem] and model.extra["description"] and model.extra["candidates"] is not None
                listed = load_image(layout.reason_dir(LIST_ONLY) / REASON_DATA / f"{stem}.json")
                assert listed.reasons == {key: shipped_generic()[key] for key in model.reasons}
                for level, rates in LEVELS.items():
                    written = load_image(layout.reason_dir(level) / REASON_DATA / f"{Path(name).stem}.json")
                    assert written.reasons == observe_scene(scene, VAL_CLASSES, rates, number).reasons
    assert load_generic(Layout(root, "val").generic_reason()) == shipped_generic()
    for level, rates in LEVELS.items():
        assert load_generic(Layout(root, "val").generic_reason(level)) == observe_classes(VAL_CLASSES, rates)


def test_a_second_time_changes_nothing_and_other_sources_draw_anew(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = prepare(tmp_path, ("val",), IMAGES)["val"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    prepare(tmp_path, ("val",), IMAGES)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    monkeypatch.setattr(dataset, "_source_hash", lambda: "another")
    (layout.images / "stray.png").write_bytes(b"")
    prepare(tmp_path, ("val",), IMAGES)
    assert read_json(layout.marker)["sources"] == "another"
    fresh, first = contents(layout.folder), contents(root / "val")
    assert {key: value for key, value in fresh.items() if key != "prepared.json"} == {
        key: value for key, value in first.items() if key != "prepared.json"
    }
    assert [path.name for path in tmp_path.iterdir()] == ["val"]


def test_several_at_once_leave_one_whole_split(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: prepare(tmp_path, ("val",), IMAGES), range(3)))
    assert [path.name for path in tmp_path.iterdir()] == ["val"]
    assert len(list(Layout(tmp_path, "val").images.iterdir())) == IMAGES["val"]


def test_an_interrupted_preparation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "dump_generic", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, ("val",), IMAGES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"):
        prepare(tmp_path / "mini", ("val",), IMAGES)


def test_registered_data_sets_give_records_with_labels_and_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "COUNTS", IMAGES)
    names = register(tmp_path)
    assert names == tuple(f"mini_{split}_{kind}" for split in SPLITS for kind in ("sem_seg", "panoptic"))
    assert set(names) <= set(dataset_names())
    assert not (tmp_path / "train").exists(), "training images are drawn when they are asked for"
    assert register(tmp_path) == names
    for split in dataset.SPLITS:
        semantic = DatasetCatalog.get(f"mini_{split}_sem_seg")
        panoptic = DatasetCatalog.get(f"mini_{split}_panoptic")
        assert len(semantic) == len(panoptic) == IMAGES[split]
        assert [record["file_name"] for record in semantic] == [record["file_name"] for record in panoptic]
        assert all(Path(record["sem_seg_file_name"]).is_file() for record in (*semantic, *panoptic))
        metadata = MetadataCatalog.get(f"mini_{split}_panoptic")
        assert metadata.class_groups == class_groups(split)
        things = [entry.index for entry in vocabulary(split).classes if entry.thing]
        assert sorted(metadata.thing_dataset_id_to_contiguous_id.values()) == things
        for record in panoptic:
            assert all(info["isthing"] == (info["category_id"] in things) for info in record["segments_info"])
    layout = Layout(tmp_path, "val")
    assert layout.reason_dir() == layout.folder / "image_reason" / MODEL
