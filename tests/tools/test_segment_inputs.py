"""What users of tools.segment give: images, folders, patterns, classes, keys."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import skimage.data
import torch
from PIL import Image

from maft.config import build_config
from maft.errors import UserError
from maft.result import percent
from reason.vocabulary import load_vocabulary
from tools.segment.cli import SECTIONS, main, parse_arguments
from tools.segment.from_config import by_config
from tools.segment.inputs import find_images, mark_things, read_vocabulary, targets

CONFIG = "tests/assets/tiny.yaml"


@pytest.fixture
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photographs, and what lies in such folders: an empty file, a text, a hidden file."""
    folder = tmp_path_factory.mktemp("images")
    for name in ("cat.jpg", "Astronaut.PNG"):
        Image.fromarray(skimage.data.chelsea()).resize((60, 40)).save(folder / name)
    for name in ("torn.jpg", "notes.txt", ".hidden"):
        (folder / name).touch()
    return folder


def test_images_by_file_folder_and_pattern_each_once(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = find_images([str(images / "torn.jpg"), str(images), str(images / "*.jpg")])
    assert [Path(image).name for image in found] == ["torn.jpg", "Astronaut.PNG", "cat.jpg"]
    odd = tmp_path / "odd [1].jpg"
    shutil.copy(images / "cat.jpg", odd)
    assert find_images([str(odd)]) == [str(odd)]
    (tmp_path / "below" / "deep").mkdir(parents=True)
    with pytest.raises(UserError, match="no image there"):
        find_images([str(tmp_path / "below")])
    shutil.copy(images / "cat.jpg", tmp_path / "below" / "deep" / "c.jpg")
    for word in (tmp_path, tmp_path / "*"):
        caplog.clear()
        assert find_images([str(word)]) == [str(odd)]
        assert "left out: 1 folder (--recursive looks into them)" in caplog.text
        assert set(find_images([str(word)], recursive=True)) == {str(odd), str(tmp_path / "below" / "deep" / "c.jpg")}


@pytest.mark.usefixtures("in_repository")
def test_results_in_the_folder_of_the_images_are_not_segmented_again(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(images / "cat.jpg", tmp_path / "cat.jpg")
    Image.fromarray(skimage.data.chelsea()).resize((60, 40)).save(tmp_path / "own.overlay.jpg")
    words = ["--vocabulary", "cat; wall", "--model", "mini", "--device", "cpu", "--output", str(tmp_path)]
    for times in range(2):
        caplog.clear()
        assert main([str(tmp_path), *words]) == 0
        assert "2 of 2 images" in capsys.readouterr().out
        assert ("results of earlier runs: 4 (" in caplog.text) == (times == 1)
    stems = ("cat", "own.overlay")
    made = {f"{stem}{ending}" for stem in stems for ending in (".png", ".overlay.jpg", ".json")}
    assert {path.name for path in tmp_path.iterdir()} == {"cat.jpg", "own.overlay.jpg", *made}
    assert find_images([str(tmp_path / "*.jpg")]) == [str(tmp_path / "cat.jpg"), str(tmp_path / "own.overlay.jpg")]
    with pytest.raises(UserError, match="nothing there but results of earlier runs"):
        find_images([str(tmp_path / "cat.png")])


def test_targets_are_distinct_and_never_an_image(tmp_path: Path) -> None:
    for name in ("a/x.jpg", "b/x.jpg", "a/y.jpg", "a/y.png", "a/z.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    images = [str(tmp_path / name) for name in ("a/x.jpg", "b/x.jpg", "a/y.jpg", "a/y.png", "a/z.png")]
    made = [str(one.label_map) for one in targets(images, Path("out"))]
    assert made == ["out/a/x.png", "out/b/x.png", "out/a/y.jpg.png", "out/a/y.png.png", "out/z.png"]
    with pytest.raises(UserError, match="overwrite the image"):
        targets(images[-1:], tmp_path / "a")


def test_vocabularies_by_list_file_and_name(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat, kitten\n# a remark\nsofa\n")
    assert read_vocabulary(str(tmp_path / "classes.txt")).synonyms == (("cat", "kitten"), ("sofa",))
    assert read_vocabulary("cat, dog; sofa").synonyms == (("cat", "dog"), ("sofa",))
    assert read_vocabulary("sofa").class_names == ("sofa",)
    assert read_vocabulary("pc59") == load_vocabulary("pc59")
    assert len(read_vocabulary(", ".join(f"class {n}" for n in range(600)))) == 600
    with pytest.raises(UserError, match="'dog'"):
        mark_things(read_vocabulary("cat, sofa"), "cat, dog")


def test_images_and_config_keys_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("TEST.jpg").touch()
    parsed = parse_arguments(["IMG_1.JPG", "TEST.jpg", "--vocabulary", "cat", "MODEL.DEVICE", "cpu", "SEED", "1"])
    assert parsed.images == ["IMG_1.JPG", "TEST.jpg"]
    assert parsed.opts == ["MODEL.DEVICE", "cpu", "SEED", "1"]
    assert parse_arguments(["MODEL.jpg", "--vocabulary", "cat"]).images == ["MODEL.jpg"]


@pytest.mark.usefixtures("in_repository")
def test_every_section_of_the_config_is_known_as_one() -> None:
    assert set(build_config(CONFIG, [])) == SECTIONS


def test_percentages_say_neither_nothing_nor_all_where_it_is_not_so() -> None:
    shares = (1.0, 0.99999, 0.9994, 0.5, 0.0006, 0.0001)
    assert [percent(share) for share in shares] == ["100.0%", ">99.9%", "99.9%", "50.0%", "0.1%", "<0.1%"]


def test_the_config_says_the_precision(in_repository: None) -> None:
    words = ["docs/scene.jpg", "--vocabulary", "cat", "--model", "sed-mini", "MODEL.PRECISION", "bfloat16"]
    assert by_config(parse_arguments(words)).build().dtype == torch.bfloat16
