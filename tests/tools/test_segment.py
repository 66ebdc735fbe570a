"""tools.segment as its users run it: real photographs, a small model of a config with seeded weights, and mini."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import numpy as np
import pytest
import skimage.data
from PIL import Image

from maft import load_segmentor
from maft.result import percent
from tools.mini.scenes import render_scene
from tools.segment.cli import main
from tools.segment.inputs import mark_things, read_vocabulary

CLASSES = "cat, kitten; person; sofa; wall"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photographs, and what lies in such folders: a cut-off file, a text, a hidden file."""
    folder = tmp_path_factory.mktemp("images")
    Image.fromarray(skimage.data.chelsea()).resize((150, 100)).save(folder / "cat.jpg")
    Image.fromarray(skimage.data.astronaut()).resize((120, 120)).save(folder / "Astronaut.PNG")
    whole = (folder / "cat.jpg").read_bytes()
    (folder / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden").write_text("")
    return folder


CONFIG = "tests/assets/tiny.yaml"


def segment(*arguments: object) -> subprocess.CompletedProcess[str]:
    return forked.run(["-m", "tools.segment", *arguments, "--config-file", CONFIG])


CPU = ("MODEL.DEVICE", "cpu")


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def semantic(repository: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str, int]:
    """The whole folder, the torn image included."""
    output = tmp_path_factory.mktemp("semantic")
    words = ["-m", "tools.segment", images, "--vocabulary", CLASSES, "--output", output, "--config-file", CONFIG, *CPU]
    command = [sys.executable, *map(str, words)]
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=repository, env=variables, capture_output=True, text=True, check=False)
    return output, done.stdout, done.stderr, done.returncode


def test_a_folder_gives_label_maps_overlays_and_facts(semantic: tuple[Path, str, str, int], images: Path) -> None:
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
    assert "2 of 3 images" in stdout and "asked with class names 2" in stdout
    assert "left out: 1 file that is no image by its name (.txt 1)" in stderr
    assert stderr.startswith("vocabulary: cat-person-sofa-wall, 4 classes\n")


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


def test_the_label_map_is_what_the_network_says(semantic: tuple[Path, str, str, int], images: Path) -> None:
    """The same image through the model directly, without the tool's way of naming and resizing."""
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
    done = forked.run(["-c", code, images / "cat.jpg", semantic[0] / "cat.png"])
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) > 0.999


def test_panoptic_segments_add_up(images: Path, tmp_path: Path) -> None:
    thresholds = [f"MODEL.MASK_FORMER.TEST.{name}_THRESHOLD" for name in ("OBJECT_MASK", "OVERLAP")]
    flags = ("--vocabulary", CLASSES, "--panoptic", "--things", "cat, person", "--output", tmp_path)
    done = segment(images / "cat.jpg", *flags, *CPU, thresholds[0], "0.0", thresholds[1], "0.0")
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


@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize("network", [("--config-file", CONFIG, *CPU), ("--model", "mini", "--device", "cpu")])
def test_images_without_reasons_of_their_own_get_generic_ones_or_names(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    network: tuple[str, ...],
) -> None:
    """An image with its own reasons can only have the classes they name; the others are asked otherwise, counted."""
    names = ("cat", "person", "sofa", "wall")
    generic = {name: {"class_des": [f"{name} part {n}" for n in range(3)]} for name in names}
    (tmp_path / "generic.json").write_text(json.dumps(generic))
    (tmp_path / "reasons").mkdir()
    shutil.copy(images / "cat.jpg", tmp_path / "other.jpg")
    for stem, name, attributes in (("cat", "kitten", ["fur", "eyes"]), ("other", "zebra", ["stripes"])):
        own = {"reasoning": {"map_class_reason": {name: {"reason3": attributes}}}}
        (tmp_path / "reasons" / f"{stem}.json").write_text(json.dumps(own))
    files = [str(path) for path in (images / "cat.jpg", images / "Astronaut.PNG", tmp_path / "other.jpg")]
    flags = ["--vocabulary", CLASSES, "--image-reasons", str(tmp_path / "reasons")]

    def facts_of(folder: str, *more: str) -> dict[str, dict]:
        assert main([*files, *flags, "--output", str(tmp_path / folder), *more, *network]) == 0
        return {stem: load(tmp_path / folder / f"{stem}.json") for stem in ("cat", "Astronaut", "other")}

    facts = facts_of("generic", "--generic", str(tmp_path / "generic.json"))
    assert [facts[stem]["prompts"] for stem in facts] == ["image", "generic_missing_file", "generic_no_class"]
    assert [entry["name"] for entry in facts["cat"]["classes"]] == ["cat"]
    output = capsys.readouterr().out
    assert "own reasons 1, generic reasons (no reason file) 1, generic reasons (the reason file names none" in output
    assert "not all of the 3 images have their own" in caplog.text

    named = facts_of("names")
    assert [named[stem]["prompts"] for stem in named] == ["image", "plain_missing_file", "plain_no_class"]
    assert named["cat"]["classes"] == facts["cat"]["classes"]
    output = capsys.readouterr().out
    assert "own reasons 1, class names (no reason file) 1, class names (the reason file names none of" in output
    assert "Astronaut.PNG: " in output and "[class names (no reason file)]" in output

    assert main([*files, "--vocabulary", CLASSES, "--output", str(tmp_path / "plain"), *network]) == 0
    for stem in ("Astronaut", "other"):
        ours, plain = ((tmp_path / folder / f"{stem}.png").read_bytes() for folder in ("names", "plain"))
        assert ours == plain, "names alone are what they are without --image-reasons"


@pytest.mark.usefixtures("in_repository")
def test_generic_reasons_that_come_along(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    words = [str(images / "cat.jpg"), "--vocabulary", "cat; sofa; zworf", "--generic", "generic"]
    assert main([*words, "--output", str(tmp_path), "--model", "mini", "--device", "cpu"]) == 0
    facts = load(tmp_path / "cat.json")
    assert facts["prompts"] == "generic" and "zworf" in facts["note"] and "zworf" in caplog.text
    assert "asked with generic reasons 1" in capsys.readouterr().out


@pytest.mark.parametrize("network", [("--model", "mini", "--device", "cpu"), ("--config-file", CONFIG, *CPU)])
def test_a_file_called_generic_is_not_the_word(
    repository: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: tuple[str, ...]
) -> None:
    """As docs/own_data.md says: "./generic" is a file of one's own."""
    monkeypatch.chdir(tmp_path)
    Path("generic").write_text(json.dumps({"zworf": {"class_des": ["six legs", "a blue back"]}}))
    given = [str(repository / word) if word == CONFIG else word for word in network]
    if CONFIG in network:
        given += ["MODEL.FC_CLIP.CLIP_MODEL_NAME", str(repository / "tests/assets/tiny_clip.json")]
    words = [str(images / "cat.jpg"), "--vocabulary", "zworf; vlimp", "--output", "out", *given]
    assert main([*words, "--generic", "./generic"]) == 0
    assert load(tmp_path / "out/cat.json")["prompts"] == "generic"
    assert main([*words, "--generic", "generic"]) == 2, "none of the shipped reasons is of these classes"


@pytest.mark.usefixtures("in_repository")
def test_a_run_that_must_not_fall_back_stops_at_such_images(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "reasons").mkdir()
    words = [str(images / "cat.jpg"), "--vocabulary", CLASSES, "--image-reasons", str(tmp_path / "reasons")]
    strict = ["MODEL.REASON.FALLBACK", "error"]
    assert main([*words, "--output", str(tmp_path / "out"), "--config-file", CONFIG, *CPU, *strict]) == 2
    assert_one_error(capsys.readouterr().err, ("cat.jpg", "no reason file", "MODEL.REASON.FALLBACK"))


ONE = "{images}/cat.jpg"
BAD = [
    (["absent.jpg", "--vocabulary", "cat"], ("absent.jpg", "no such image")),
    ([ONE, "model.weights", "y", "--vocabulary", "cat"], ("model.weights", "in capitals: MODEL.WEIGHTS")),
    ([ONE, "--vocabulary", "cat", "output_dir", "y"], ("output_dir", "in capitals: OUTPUT_DIR")),
    ([ONE, "--vocabulary", ""], ("the list of classes", "name at least one")),
    ([ONE, "--vocabulary", "cat", "MODEL.WEIGHTS", "absent.pth"], ("absent.pth", "weight")),
    (["{images}/*.gif", "--vocabulary", "cat"], ("*.gif", "no such image")),
    ([ONE, "--vocabulary", "cat, cat"], ("'cat'", "already")),
    ([ONE, "--vocabulary", "absent.txt"], ("absent.txt",)),
    ([ONE, "--vocabulary", "cat", "--things", "cat"], ("--things", "--panoptic")),
    ([ONE, "--vocabulary", "cat", "--generic", "absent.json"], ("absent.json", "no such file")),
    ([ONE, "--vocabulary", "cat", "--image-reasons", "absent"], ("--image-reasons absent",)),
    ([ONE, "--vocabulary", "cat", "MODEL.WEIHGTS", "seeded"], ("WEIHGTS",)),
    ([ONE, "--vocabulary", "cat", "--output", ONE], ("--output", "cat.jpg is a file")),
    ([ONE, "--vocabulary", "cat", "--output", "/proc/none"], ("--output /proc/none", "cannot be written")),
    ([ONE, "--vocabulary", "pc95"], ("pc95", "did you mean pc59", "'pc95,'")),
    ([ONE, "--vocabulary", "cat", "--max-source-pixels", "0"], ("--max-source-pixels 0",)),
    ([ONE, "--vocabulary", "cat", "--model", "base"], ("--model and --config-file",)),
    (
        [ONE, "--vocabulary", "zebu,", "--generic", "tools/examples/generic_reason.json"],
        ("none of the classes (zebu)",),
    ),
]
BAD_NAMES = [
    (["--model", "bsae"], ("--model bsae", "did you mean base")),
    (["--model", "large", "--weights", "absent.pth"], ("--weights absent.pth", "no such file")),
    (["--model", "mini", "--weights", "{images}/notes.txt"], ("notes.txt", "not a PyTorch checkpoint")),
    (["--model", "mini", "--device", "gpu0"], ("device 'gpu0'",)),
    (["--model", "sed-base", "--weights", "seeded", "--panoptic"], ("sed-base gives class maps only",)),
]


@pytest.mark.parametrize(("arguments", "words"), BAD[:3])
def test_bad_input_is_one_line_and_status_2(
    images: Path, tmp_path: Path, arguments: list[str], words: tuple[str, ...]
) -> None:
    given = [word.replace("{images}", str(images)) for word in arguments]
    done = segment("--output", tmp_path, *given, *CPU)
    assert done.returncode == 2, done.stdout + done.stderr
    assert_one_error(done.stderr, words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("arguments", "words"), BAD[3:])
@pytest.mark.usefixtures("in_repository")
def test_more_bad_input(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: tuple[str, ...]
) -> None:
    """As above, without the seconds that a process takes to import."""
    generic = "tools/examples/generic_reason.json"
    given = [word.replace("{images}", str(images)).replace("{generic}", generic) for word in arguments]
    assert main(["--output", str(tmp_path), "--config-file", CONFIG, *given, *CPU]) == 2
    assert_one_error(capsys.readouterr().err, words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("arguments", "words"), BAD_NAMES)
@pytest.mark.usefixtures("in_repository")
def test_models_and_weights_that_there_are_not(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: tuple[str, ...]
) -> None:
    given = [word.replace("{images}", str(images)) for word in arguments]
    assert main([str(images / "cat.jpg"), "--vocabulary", "cat, wall", "--output", str(tmp_path), *given]) == 2
    assert_one_error(capsys.readouterr().err, words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("maftp_b.pth: no such weight file", "fetch_weights base", "--weights FILE", "--model mini")),
        (("MODEL.DEVICE", "cpu"), ("need detectron2", "--model NAME and --weights FILE do without")),
    ],
)
def test_missing_weights_and_detectron2_are_one_line_with_the_way_out(
    repository: Path, images: Path, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """As where detectron2 is not installed, and no weights are."""
    code = """
import sys
from pathlib import Path
sys.modules["detectron2"] = None
from tools.segment import cli, model
model.default_folder = lambda: Path("pretrained")
sys.exit(cli.main(sys.argv[1:]))
"""
    words_of_command = ["-c", code, images / "cat.jpg", "--vocabulary", "cat, wall", *arguments]
    done = forked.run(words_of_command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(repository)})
    assert done.returncode == 2
    assert_one_error(done.stderr, words)


def assert_one_error(stderr: str, words: tuple[str, ...]) -> None:
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and stderr.rstrip().endswith(errors[0]) and "Traceback" not in stderr
    assert all(word in errors[0] for word in words), errors[0]


def test_a_large_image_gets_a_label_map_of_its_own_size(tmp_path: Path) -> None:
    Image.fromarray(skimage.data.coffee()).resize((2100, 1400)).save(tmp_path / "large.jpg")
    done = segment(tmp_path / "large.jpg", "--vocabulary", CLASSES, "--output", tmp_path / "out", *CPU)
    assert done.returncode == 0, done.stderr
    assert "label maps enlarged" in done.stderr
    facts, labels = load(tmp_path / "out" / "large.json"), np.array(Image.open(tmp_path / "out" / "large.png"))
    assert labels.shape == (1400, 2100) == (facts["height"], facts["width"])
    assert facts["labelled_at"][0] * facts["labelled_at"][1] == pytest.approx(2**21, rel=0.01)
    for entry in facts["classes"]:
        assert entry["share"] == pytest.approx(float((labels == entry["index"]).mean()), abs=0.01)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of the drawn world that mini knows."""
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    Image.fromarray(render_scene(3, "val").image).save(path)
    return path


DRAWN = "badge; crate; luna; pavement; wall; wheel"


@pytest.mark.usefixtures("in_repository")
def test_a_model_by_name_gives_what_the_library_gives(scene: Path, tmp_path: Path) -> None:
    flags = ["--model", "mini", "--device", "cpu", "--panoptic", "--things", "badge, crate", "--output", str(tmp_path)]
    assert main([str(scene), "--vocabulary", DRAWN, *flags]) == 0
    vocabulary = mark_things(read_vocabulary(DRAWN), "badge, crate")
    expected = load_segmentor("mini", device="cpu")(str(scene), vocabulary)
    assert np.array_equal(np.array(Image.open(tmp_path / "scene.png")), expected.segment_map)
    facts = load(tmp_path / "scene.json")
    assert facts["segments"] and len(facts["segments"]) == len(expected.segments or ())
    assert facts["weights"].endswith("mini.safetensors") and "warning" not in facts


@pytest.mark.usefixtures("in_repository")
def test_keys_of_the_config_have_their_effect(scene: Path, tmp_path: Path) -> None:
    """The small model of the name and of its config agree; a reading size and a channel order change the result."""

    def labels(folder: str, *more: str) -> np.ndarray:
        words = [str(scene), "--vocabulary", DRAWN, "--model", "mini", "--output", str(tmp_path / folder), *more]
        assert main(words) == 0
        return np.array(Image.open(tmp_path / folder / "scene.png"))

    own = ("MODEL.DEVICE", "cpu", "MODEL.REASON.BANK_DIR", str(tmp_path / "bank"))
    by_name = labels("name", "--device", "cpu")
    assert np.array_equal(by_name, labels("config", *own))
    assert list((tmp_path / "bank").rglob("*")), "text features are kept where the config says"
    for number, keys in enumerate((("INPUT.MIN_SIZE_TEST", "128"), ("INPUT.FORMAT", "BGR"))):
        assert 0.01 < (by_name != labels(f"changed {number}", *own, *keys)).mean() < 1


@pytest.mark.usefixtures("in_repository")
def test_images_over_pillows_limit_are_opened_when_asked_for(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    words = [str(images / "cat.jpg"), "--vocabulary", CLASSES, "--model", "mini", "--device", "cpu"]
    assert main([*words, "--output", str(tmp_path)]) == 2
    assert_one_error(capsys.readouterr().err, ("cat.jpg", "more than 10,000 pixels", "--max-source-pixels N", "Python"))
    assert main([*words, "--output", str(tmp_path), "--max-source-pixels", "15000"]) == 0
