"""The Python interface, on the toy model that ships with the project."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maft import Segmentor, UserError, build, load_segmentor
from maft.inputs import read_classes, read_image, read_reasons
from maft.modeling.maft_plus import MAFTPlus
from maft.predictor import result_size
from maft.sizes import network_size, resized

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ["star, pentagram", "disc", "grass"]


@pytest.fixture(scope="module")
def segmentor() -> Segmentor:
    return load_segmentor("mini", device="cpu")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 60, (96, 128, 3)) + np.array([40, 120, 50])
    pixels[20:60, 30:80] = (220, 40, 30)
    return pixels.clip(0, 255).astype(np.uint8)


def test_the_readme_lines(segmentor: Segmentor, image: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(image).save(tmp_path / "kitchen.png")
    result = segmentor(str(tmp_path / "kitchen.png"), CLASSES, reasons={"disc": ["a round outline", "a red body"]})
    assert result.label_map.shape == (96, 128) and result.label_map.dtype == np.int32
    assert set(np.unique(result.label_map)) <= {-1, 0, 1, 2}
    assert sum(found.share for found in result.classes) <= 1 + 1e-9
    assert [found.share for found in result.classes] == sorted((found.share for found in result.classes), reverse=True)
    assert result.segments is not None and {info["category_id"] for info in result.segments} <= {0, 1, 2}
    assert dict(result.reasons)["disc"].attributes == ("a round outline", "a red body")
    assert result.origin == "generic" and "star" in result.note and "grass" in result.note
    overlay = result.overlay()
    assert overlay.mode == "RGB" and overlay.width >= 128 and overlay.height > 96
    assert result._repr_png_().startswith(b"\x89PNG")


def test_images_of_every_kind_give_one_result(segmentor: Segmentor, image: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(image).save(tmp_path / "a.png")
    tensor = torch.from_numpy(image)
    forms: list[Any] = [tmp_path / "a.png", Image.fromarray(image), image, tensor, tensor.permute(2, 0, 1)]
    results = segmentor(forms, CLASSES)
    assert len(results) == 5
    for result in results[1:]:
        assert np.array_equal(result.label_map, results[0].label_map)


def test_an_image_is_looked_at_once(segmentor: Segmentor, image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = segmentor.look(image)
    expected = segmentor(image, CLASSES).label_map
    monkeypatch.setattr(segmentor.network, "find_regions", lambda pixels: pytest.fail("looked again"))
    assert np.array_equal(seen.segment(CLASSES).label_map, expected)
    other = seen.segment(["disc", "wall"])
    assert other.vocabulary.class_names == ("disc", "wall")


def test_a_batch_is_what_each_gives_alone(segmentor: Segmentor, image: np.ndarray) -> None:
    small, large = image[:64, :64], image
    together = segmentor([small, large], CLASSES)
    for one, result in zip((small, large), together, strict=True):
        assert np.array_equal(segmentor(one, CLASSES).label_map, result.label_map)


def test_reasons_of_an_image_restrict_the_classes(segmentor: Segmentor, image: np.ndarray, tmp_path: Path) -> None:
    document = {"reasoning": {"map_class_reason": {"disc": {"reason3": ["a round outline"]}}}}
    (tmp_path / "a.json").write_text(json.dumps(document))
    Image.fromarray(image).save(tmp_path / "a.png")
    by_file = segmentor(tmp_path / "a.png", CLASSES, reasons=tmp_path / "a.json")
    by_folder = segmentor(tmp_path / "a.png", CLASSES, reasons=tmp_path)
    assert by_file.origin == "image" and {found.name for found in by_file.classes} <= {"disc"}
    assert np.array_equal(by_file.label_map, by_folder.label_map)
    Image.fromarray(image).save(tmp_path / "b.png")
    without = segmentor(tmp_path / "b.png", CLASSES, reasons=tmp_path)
    assert without.origin == "names" and "no reason file for b.png" in without.note


def test_a_generic_file_of_all_classes(segmentor: Segmentor, image: np.ndarray, tmp_path: Path) -> None:
    generic = {name: {"class_des": ["a round outline", "a red body"]} for name in ("star", "disc", "grass")}
    (tmp_path / "generic.json").write_text(json.dumps(generic))
    result = segmentor(image, CLASSES, reasons=tmp_path / "generic.json")
    assert result.origin == "generic" and result.note == "" and set(result.reasons) == {"star", "disc", "grass"}


def test_rows_of_a_class_without_a_reason_are_those_of_its_names(segmentor: Segmentor) -> None:
    vocabulary = read_classes(CLASSES)
    given = read_reasons({"disc": ["a round outline"]}, vocabulary, None)
    mixed = segmentor.classifier(vocabulary, given)
    plain = segmentor.classifier(vocabulary, read_reasons(None, vocabulary, None))
    assert mixed.rows_per_class == (6, 3, 3) and plain.rows_per_class == (2, 1, 1)
    for attribute in range(3):
        torch.testing.assert_close(mixed.rows[2 * attribute : 2 * attribute + 2], plain.rows[:2])
    torch.testing.assert_close(mixed.rows[9:12], plain.rows[3:].expand(3, -1))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros((4, 4, 3), np.float32), r"float32 with values 0 to 0; give uint8"),
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\); give \(height, width, 3\)"),
        (torch.zeros(4, 4, 4, dtype=torch.uint8), r"shape \(4, 4, 4\)"),
        (17, "a int; give a path"),
        ("no_such_image.jpg", "no_such_image.jpg"),
    ],
)
def test_wrong_images_are_named(value: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_image(value)


def test_wrong_classes_and_reasons_are_named(tmp_path: Path) -> None:
    vocabulary = read_classes(CLASSES)
    for classes, words in (([], "none given"), (["cat", " , "], "entry 1 is empty"), ([3], "entry 0 is a int")):
        with pytest.raises(UserError, match=words):
            read_classes(classes)  # type: ignore[arg-type]
    for given in (["cat"], "cat, dog", read_classes(["cat"])):
        with pytest.raises(UserError, match="'sofa' is none of the classes"):
            read_classes(given, things=["sofa"])
    assert read_classes("cat, dog", things=["dog"]).thing_indices == {1}
    with pytest.raises(UserError, match="'cat' is named by two classes"):
        read_classes(["cat", "dog, cat"])
    with pytest.raises(UserError, match="'dog' is none of the classes"):
        read_reasons({"dog": ["fur"]}, vocabulary, None)
    with pytest.raises(UserError, match="'disc': give its visual attributes as a list"):
        read_reasons({"disc": "round"}, vocabulary, None)
    with pytest.raises(UserError, match="no such file or folder"):
        read_reasons(tmp_path / "absent.json", vocabulary, None)
    with pytest.raises(UserError, match="the image has no file name"):
        read_reasons(tmp_path, vocabulary, None)


def test_models_and_weights_are_named() -> None:
    with pytest.raises(UserError, match="unknown model 'huge'; choose one of base, large, panoptic, mini"):
        load_segmentor("huge", "x.pth")
    with pytest.raises(UserError, match="name its weight file"):
        load_segmentor("base")
    for changes, words in (
        ({"dtype": torch.float64}, "choose torch.float32 or torch.bfloat16"),
        ({"mode": "x"}, "mode: unknown mode 'x'"),
        ({"attributes": 0}, "attributes: 0; give a whole number"),
        ({"device": "gpu0"}, "device 'gpu0' cannot be used here"),
    ):
        with pytest.raises(UserError, match=words):
            load_segmentor("mini", **changes)  # type: ignore[arg-type]


def test_a_benchmark_is_named_by_its_name() -> None:
    assert len(read_classes("voc20")) == 20


def test_sizes() -> None:
    assert network_size(427, 640, 800, 1333) == (800, 1199) and network_size(300, 100, 800, 1333) == (1333, 444)
    assert network_size(5, 7, 0, 100) == (5, 7)
    assert resized(np.zeros((10, 20, 3), np.uint8), 5, 100).shape == (3, 5, 10)
    assert result_size(427, 640) == (427, 640)
    height, width = result_size(4000, 6000)
    assert height * width == pytest.approx(2**21, rel=1e-2)


def test_every_model_is_in_the_table() -> None:
    assert set(build.MODELS) == set(build.SIZES) == set(build.BUILDERS)
    network = build.build_network("mini")
    assert isinstance(network, MAFTPlus) and not network.training


def test_it_works_without_detectron2(image: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(image).save(tmp_path / "a.png")
    code = f"""
import sys
sys.modules["detectron2"] = None
from maft import load_segmentor
result = load_segmentor("mini", device="cpu")({str(tmp_path / "a.png")!r}, ["disc", "grass"])
assert result.label_map.shape == (96, 128)
assert not any(name.startswith("detectron2.") for name in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
