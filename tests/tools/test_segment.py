"""tools.segment as its users run it: subprocesses, real photographs, a small model with seeded weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from maft.errors import UserError
from maft.legend import compose
from reason.vocabulary import load_vocabulary
from tools.segment.cli import main, parse_arguments
from tools.segment.inputs import find_images, mark_things, read_vocabulary, targets
from tools.segment.segmenter import percent

CLASSES = "cat, kitten; person; sofa; wall"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photographs, and what lies in such folders: a cut-off file, a text, a hidden file."""
    folder = tmp_path_factory.mktemp("pictures")
    Image.fromarray(skimage.data.chelsea()).resize((150, 100)).save(folder / "cat.jpg")
    Image.fromarray(skimage.data.astronaut()).resize((120, 120)).save(folder / "Astronaut.PNG")
    whole = (folder / "cat.jpg").read_bytes()
    (folder / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden").write_text("")
    return folder


CONFIG = "tests/assets/tiny.yaml"


def segment(repository: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.segment", *map(str, arguments), "--config-file", CONFIG],
        cwd=repository,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


CPU = ("MODEL.DEVICE", "cpu")


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def semantic(repository: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str, int]:
    """The whole folder, the torn picture included."""
    output = tmp_path_factory.mktemp("semantic")
    done = segment(repository, pictures, "--vocabulary", CLASSES, "--output", output, *CPU)
    return output, done.stdout, done.stderr, done.returncode


def test_a_folder_gives_label_maps_overlays_and_facts(semantic: tuple[Path, str, str, int], pictures: Path) -> None:
    output, stdout, stderr, _ = semantic
    assert sorted(path.name for path in output.iterdir()) == sorted(
        f"{stem}{ending}" for stem in ("cat", "Astronaut") for ending in (".png", ".overlay.jpg", ".json")
    ), stderr
    for stem, size in (("cat", (150, 100)), ("Astronaut", (120, 120))):
        labels = np.array(Image.open(output / f"{stem}.png"))
        assert labels.dtype == np.uint8 and labels.shape == size[::-1] and labels.max() < 4
        facts = load(output / f"{stem}.json")
        assert (facts["width"], facts["height"]) == size
        assert {entry["index"]: entry["share"] for entry in facts["classes"]} == {
            int(index): pytest.approx(float((labels == index).mean()), abs=1e-6) for index in np.unique(labels)
        }
        shares = [entry["share"] for entry in facts["classes"]]
        assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1, abs=1e-5)
        assert facts["vocabulary"] == ["cat, kitten", "person", "sofa", "wall"] and facts["prompts"] == "plain"
        line = next(line for line in stdout.splitlines() if f"{stem}." in line)
        assert all(f"{entry['name']} {percent(entry['share'])}" in line for entry in facts["classes"])


def test_the_unreadable_is_named_at_the_end_and_what_is_left_out_is_said(semantic: tuple[Path, str, str, int]) -> None:
    _, stdout, stderr, status = semantic
    assert status == 2 and "Traceback" not in stderr
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "torn.jpg" in errors[0] and stderr.rstrip().endswith(errors[0])
    assert "2 of 3 pictures" in stdout
    assert "left out, being no pictures by name: 1, such as notes.txt" in stderr


def test_seeded_weights_are_said_aloud_on_screen_in_the_facts_and_on_the_overlay(
    semantic: tuple[Path, str, str, int],
) -> None:
    output, stdout, _, _ = semantic
    assert "MEANS NOTHING" in stdout
    assert "MEANS NOTHING" in load(output / "cat.json")["warning"]
    overlay = np.array(Image.open(output / "cat.overlay.jpg").convert("RGB")).astype(int)
    red = (overlay[..., 0] > 150) & (overlay[..., 1:].max(axis=-1) < 60)
    assert red[2].mean() > 0.95 and overlay.shape[0] > 100
    foot = overlay[-4:]
    assert foot.min() > 240, "the legend ends in white paper"


def test_the_label_map_is_what_the_network_says(
    semantic: tuple[Path, str, str, int], repository: Path, pictures: Path
) -> None:
    """The same picture through the model directly, without the tool's way of naming and resizing."""
    code = """
import sys, json, torch, numpy as np
from PIL import Image
from detectron2.data import MetadataCatalog
from maft.weights.checkpoint import load_model_weights
from maft.meta_arch import build_network
from maft.data import InferenceMapper
from maft.config import build_config
cfg = build_config("tests/assets/tiny.yaml", ["MODEL.META_ARCHITECTURE", "MAFT_Plus", "MODEL.DEVICE", "cpu"])
model = build_network(cfg)
load_model_weights(model, "seeded")
MetadataCatalog.get("own").set(stuff_classes=["cat,kitten", "person", "sofa", "wall"])
with torch.no_grad():
    record = InferenceMapper.from_config(cfg)({"file_name": sys.argv[1], "meta": {"dataname": "own"}})
    classes = model([record])[0]["sem_seg"].argmax(0).numpy()
print((classes == np.array(Image.open(sys.argv[2]))).mean())
"""
    command = [sys.executable, "-c", code, str(pictures / "cat.jpg"), str(semantic[0] / "cat.png")]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) > 0.999


def test_panoptic_segments_add_up(repository: Path, pictures: Path, tmp_path: Path) -> None:
    thresholds = [f"MODEL.MASK_FORMER.TEST.{name}_THRESHOLD" for name in ("OBJECT_MASK", "OVERLAP")]
    flags = ("--vocabulary", CLASSES, "--panoptic", "--things", "cat, person", "--output", tmp_path)
    done = segment(repository, pictures / "cat.jpg", *flags, *CPU, thresholds[0], "0.0", thresholds[1], "0.0")
    assert done.returncode == 0, done.stderr
    assert "is of a semantic model" in done.stderr
    facts, ids = load(tmp_path / "cat.json"), np.array(Image.open(tmp_path / "cat.png"))
    assert facts["segments"] and set(np.unique(ids)) - {0} == {entry["id"] for entry in facts["segments"]}
    for entry in facts["segments"]:
        assert entry["share"] == pytest.approx(float((ids == entry["id"]).mean()), abs=1e-6)
        assert entry["thing"] == (entry["name"] in ("cat", "person"))
    stuff = [entry["name"] for entry in facts["segments"] if not entry["thing"]]
    assert len(stuff) == len(set(stuff))
    for entry in facts["classes"]:
        parts = [part["share"] for part in facts["segments"] if part["index"] == entry["index"]]
        assert sum(parts) == pytest.approx(entry["share"], abs=1e-5)
    assert sum(entry["share"] for entry in facts["classes"]) + facts["without_class"] == pytest.approx(1, abs=1e-5)
    assert f"({len(facts['segments'])} segments)" in done.stdout


def test_reasons_of_the_picture_and_generic_ones(repository: Path, pictures: Path, tmp_path: Path) -> None:
    """The picture with its own reasons can only have the classes they name; the other gets generic ones, counted."""
    names = ("cat", "person", "sofa", "wall")
    generic = {name: {"class_des": [f"{name} part {n}" for n in range(3)]} for name in names}
    (tmp_path / "generic.json").write_text(json.dumps(generic))
    (tmp_path / "reasons").mkdir()
    own = {"reasoning": {"map_class_reason": {"kitten": {"reason3": ["fur", "eyes", "whiskers"]}}}}
    (tmp_path / "reasons" / "cat.json").write_text(json.dumps(own))
    images = (pictures / "cat.jpg", pictures / "Astronaut.PNG")
    flags = ("--vocabulary", CLASSES, "--image-reasons", tmp_path / "reasons", "--output", tmp_path / "out")
    done = segment(repository, *images, *flags, "--generic", tmp_path / "generic.json", *CPU)
    assert done.returncode == 0, done.stderr
    cat, astronaut = load(tmp_path / "out" / "cat.json"), load(tmp_path / "out" / "Astronaut.json")
    assert (cat["prompts"], astronaut["prompts"]) == ("image", "generic_missing_file")
    assert [entry["name"] for entry in cat["classes"]] == ["cat"]
    assert "generic missing file 1, image 1" in done.stdout
    # Without generic reasons there is nothing to fall back on: said for that picture, the other one is done.
    done = segment(repository, *images, *flags[:-1], tmp_path / "strict", *CPU)
    assert done.returncode == 2 and "Astronaut" in done.stderr.strip().splitlines()[-1]
    assert load(tmp_path / "strict" / "cat.json")["classes"] == cat["classes"]
    assert not (tmp_path / "strict" / "Astronaut.json").exists()


ONE = "{pictures}/cat.jpg"
BAD = [
    (["absent.jpg", "--vocabulary", "cat"], ("absent.jpg", "no such image")),
    ([ONE, "--vocabulary", ""], ("the list of classes", "name at least one")),
    ([ONE, "--vocabulary", "cat", "MODEL.WEIGHTS", "absent.pth"], ("absent.pth", "weight")),
    (["{pictures}/*.gif", "--vocabulary", "cat"], ("*.gif", "no such image")),
    ([ONE, "--vocabulary", "cat, cat"], ("'cat'", "already")),
    ([ONE, "--vocabulary", "absent.txt"], ("absent.txt",)),
    ([ONE, "--vocabulary", "cat", "--things", "cat"], ("--things", "--panoptic")),
    ([ONE, "--vocabulary", "cat", "--generic", "absent.json"], ("absent.json", "no such file")),
    ([ONE, "--vocabulary", "cat", "--image-reasons", "absent"], ("--image-reasons absent",)),
    ([ONE, "--vocabulary", "cat", "MODEL.WEIHGTS", "seeded"], ("WEIHGTS",)),
    ([ONE, "--vocabulary", "cat", "--output", ONE], ("cat.jpg", "cannot be written")),
]


@pytest.mark.parametrize(("arguments", "words"), BAD[:3])
def test_bad_input_is_one_line_and_status_2(
    repository: Path, pictures: Path, tmp_path: Path, arguments: list[str], words: tuple[str, ...]
) -> None:
    given = [word.replace("{pictures}", str(pictures)) for word in arguments]
    done = segment(repository, "--output", tmp_path, *given, *CPU)
    assert done.returncode == 2, done.stdout + done.stderr
    assert_one_error(done.stderr, words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("arguments", "words"), BAD[3:])
@pytest.mark.usefixtures("in_repository")
def test_more_bad_input(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: tuple[str, ...]
) -> None:
    """As above, without the seconds that a process takes to import."""
    given = [word.replace("{pictures}", str(pictures)) for word in arguments]
    assert main(["--output", str(tmp_path), "--config-file", CONFIG, *given, *CPU]) == 2
    assert_one_error(capsys.readouterr().err, words)
    assert not list(tmp_path.iterdir())


def assert_one_error(stderr: str, words: tuple[str, ...]) -> None:
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and stderr.rstrip().endswith(errors[0]) and "Traceback" not in stderr
    assert all(word in errors[0] for word in words), errors[0]


def test_a_large_picture_gets_a_label_map_of_its_own_size(repository: Path, tmp_path: Path) -> None:
    Image.fromarray(skimage.data.coffee()).resize((2100, 1400)).save(tmp_path / "large.jpg")
    done = segment(repository, tmp_path / "large.jpg", "--vocabulary", CLASSES, "--output", tmp_path / "out", *CPU)
    assert done.returncode == 0, done.stderr
    assert "label maps enlarged" in done.stderr
    facts, labels = load(tmp_path / "out" / "large.json"), np.array(Image.open(tmp_path / "out" / "large.png"))
    assert labels.shape == (1400, 2100) == (facts["height"], facts["width"])
    assert facts["labelled_at"][0] * facts["labelled_at"][1] == pytest.approx(2**21, rel=0.01)
    for entry in facts["classes"]:
        assert entry["share"] == pytest.approx(float((labels == entry["index"]).mean()), abs=0.01)


def test_images_by_file_folder_and_pattern_each_once(pictures: Path, tmp_path: Path) -> None:
    found = find_images([str(pictures / "torn.jpg"), str(pictures), str(pictures / "*.jpg")])
    assert [Path(image).name for image in found] == ["torn.jpg", "Astronaut.PNG", "cat.jpg"]
    odd = tmp_path / "odd [1].jpg"
    shutil.copy(pictures / "cat.jpg", odd)
    assert find_images([str(odd)]) == [str(odd)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image there"):
        find_images([str(tmp_path / "empty")])


def test_targets_are_distinct_and_never_a_picture(tmp_path: Path) -> None:
    for name in ("a/x.jpg", "b/x.jpg", "a/y.jpg", "a/y.png", "a/z.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    images = [str(tmp_path / name) for name in ("a/x.jpg", "b/x.jpg", "a/y.jpg", "a/y.png", "a/z.png")]
    made = [str(one.label_map) for one in targets(images, Path("out"))]
    assert made == ["out/a/x.png", "out/b/x.png", "out/a/y.jpg.png", "out/a/y.png.png", "out/z.png"]
    with pytest.raises(UserError, match="overwrite the picture"):
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


def test_pictures_and_config_keys_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("TEST.jpg").touch()
    parsed = parse_arguments(["IMG_1.JPG", "TEST.jpg", "--vocabulary", "cat", "MODEL.DEVICE", "cpu", "SEED", "1"])
    assert parsed.images == ["IMG_1.JPG", "TEST.jpg"]
    assert parsed.opts == ["MODEL.DEVICE", "cpu", "SEED", "1"]


def test_the_legend_fits_however_long_the_names_are() -> None:
    picture = np.full((40, 500, 3), 128, dtype=np.uint8)
    entries = [(f"{'a long name ' * number} 5.0%", (255, 0, 0)) for number in range(1, 30)]
    drawn = np.array(compose(picture, entries)).astype(int)
    assert drawn.shape[1] == 500 and (drawn[:40] == 128).all()
    foot = drawn[40:]
    swatches = (foot[..., 0] > 200) & (foot[..., 1] < 60)
    assert len(np.flatnonzero(np.diff(swatches[:, 15].astype(int)) == 1)) == len(entries)
    assert (foot[:, -3:] == 255).all(), "no text runs out of the picture"
    assert compose(picture, []).size == (500, 40)


def test_percentages_say_neither_nothing_nor_all_where_it_is_not_so() -> None:
    shares = (1.0, 0.99999, 0.9994, 0.5, 0.0006, 0.0001)
    assert [percent(share) for share in shares] == ["100.0%", ">99.9%", "99.9%", "50.0%", "0.1%", "<0.1%"]
