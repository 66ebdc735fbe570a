"""The library as a wheel, in an environment without detectron2 and in another folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import forked
import numpy as np
import pytest
import skimage.data
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from maft import load_segmentor
from tools.mini.scenes import render_scene
from tools.mini.world import vocabulary

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("maft", "reason", "tools", "configs", "datasets/vocabularies", "reason_data/general_reason/written")
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE")
PLACES = {
    "openseg_r/": "tools/",
    "maft/configs/": "configs/",
    "maft/mini_weights/": "tools/mini/weights/",
    "reason/vocabularies/": "datasets/vocabularies/",
    "reason/written/": "reason_data/general_reason/written/",
}
"""Place in the wheel -> place in the checkout, where they differ."""

LEFT_OUT = re.compile(r"README\.md|\.gitignore|\.sh$|tools/mini/weights/")
"""What a wheel does without; mini's weights lie elsewhere in it."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, made from a copy: building leaves folders behind."""
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", "lib", "*.so")
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, copy / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(copy / "dist")]
    run(sys.executable, "-m", "pip", "wheel", *options, str(copy), folder=copy)
    (built,) = (copy / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and the packages of this one, but for detectron2; its bin folder."""
    folder = tmp_path_factory.mktemp("environment")
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    python = folder / "bin" / "python"
    places = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv" if "venv" in sysconfig.get_scheme_names() else None, places))
    # .pth files inside of a folder that is added this way are not read: detectron2, which hangs on one, is not found.
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    options = ["--no-deps", "--no-index", "--quiet", "--ignore-installed"]
    run(sys.executable, "-m", "pip", "--python", str(python), "install", *options, str(wheel), folder=folder)
    return python.parent


def run(*words: object, folder: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """A command in a folder, without what the tests' own environment puts on the path."""
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "DETECTRON2_DATASETS")}
    command = [str(word) for word in words]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == status, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def test_the_wheel_has_all_code_and_data_under_three_names(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"maft", "reason", "openseg_r"}
    there = set()
    for name in names:
        place = next((place for place in PLACES if name.startswith(place)), "")
        there.add(PLACES.get(place, "") + name.removeprefix(place))
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *SOURCES]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    expected = {name for name in listed if not LEFT_OUT.search(name) and (ROOT / name).is_file()}
    weights = {f"tools/mini/weights/{name}.safetensors" for name in ("mini", "sed-mini")}
    assert weights <= there and there - expected <= weights | {"maft/modeling/pixel_decoder/ops/make.sh"}
    assert not expected - there


def test_requirements_are_ranges_around_the_pinned_versions(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = HeaderParser().parsestr(archive.read(path).decode())
    own = pins("segmentor.txt")
    pinned = {"reason": pins("reason.txt"), "demo": pins("demo.txt"), "eval": own, "": own}
    found = [Requirement(text) for text in metadata.get_all("Requires-Dist") or []]
    assert len(found) > 20 and "torch" in {requirement.name for requirement in found}
    for requirement in found:
        assert requirement.name != "detectron2"
        marker = str(requirement.marker)
        extra = next((name for name in ("reason", "demo", "eval") if f'extra == "{name}"' in marker), "")
        versions = pinned[extra][canonicalize_name(requirement.name)]
        assert versions and all(requirement.specifier.contains(version) for version in versions), requirement


def pins(file: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, version in re.findall(
        r"^([\w.\-]+)(?:\[.*?\])?==([\w.+!]+)", (ROOT / "requirements" / file).read_text(), re.M
    ):
        found.setdefault(canonicalize_name(name), []).append(version)
    return found


def test_packages_and_their_data_are_found_from_anywhere(environment: Path, tmp_path: Path) -> None:
    code = """
import importlib.util, json
from maft.resources import checkout, config_file, config_folder, mini_weights
from reason.asking.prompts import load_prompts
from reason.shipped import reasons_for
from reason.vocabulary import known_vocabularies, load_vocabulary, parse_vocabulary
print(json.dumps({
    "there": [name for name in ("detectron2", "tools", "openseg_r") if importlib.util.find_spec(name)],
    "checkout": checkout() is not None,
    "vocabularies": known_vocabularies(),
    "classes": len(load_vocabulary("ade847")),
    "config": config_file("configs/semantic/eval_base.yaml").is_file(),
    "clip": [path.name for path in (config_folder() / "clip").glob("*.json")],
    "weights": mini_weights().stat().st_size,
    "prompts": len(load_prompts().hash),
    "shipped": len(reasons_for(parse_vocabulary("cat; sofa; zorgle")).reasons),
}))
"""
    found = json.loads(run(environment / "python", "-c", code, folder=tmp_path).stdout)
    assert found["there"] == ["openseg_r"]
    assert not found["checkout"] and found["config"]
    assert found["vocabularies"] == sorted(path.stem for path in (ROOT / "datasets/vocabularies").glob("*.json"))
    assert found["classes"] == 847 and found["prompts"] > 8 and found["shipped"] == 2
    assert found["clip"] == sorted(path.name for path in (ROOT / "configs/clip").glob("*.json"))
    assert found["weights"] == (ROOT / "tools/mini/weights/mini.safetensors").stat().st_size


def test_the_commands(environment: Path, tmp_path: Path) -> None:
    program = environment / "openseg-r"
    manual = run(program, "--help", folder=tmp_path).stdout
    assert manual.startswith("usage: openseg-r COMMAND") and "\n  segment " in manual
    assert "did you mean segment?" in run(program, "segmnt", folder=tmp_path, status=2).stderr
    report = json.loads(run(program, "doctor", "--json", folder=tmp_path).stdout)
    states = {finding["name"]: finding["state"] for finding in report["findings"]}
    assert states["detectron2"] == "missing" and states["torch"] == "ok"
    shipped = ("vocabularies", "configs", "CLIP architectures", "mini's weights", "sed-mini's weights")
    assert {states[name] for name in shipped} == {"ok"}
    written = run(program, "examples", "photographs", folder=tmp_path).stdout
    assert "openseg-r segment photographs" in written and (tmp_path / "photographs" / "chelsea.png").is_file()
    assert run(environment / "openseg-r-reason", "--help", folder=tmp_path).stdout.strip()


def test_what_needs_detectron2_says_so_in_one_line(environment: Path, tmp_path: Path) -> None:
    done = run(environment / "openseg-r", "mini", "evaluate", folder=tmp_path, status=2)
    assert done.stderr.startswith("error: ") and "detectron2" in done.stderr and done.stderr.count("\n") == 1


def test_a_photograph_and_a_drawn_image_are_segmented_without_detectron2(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    photograph = Image.fromarray(skimage.data.coffee()).resize((300, 200))
    photograph.save(tmp_path / "images" / "coffee.jpg")
    scene = render_scene(3, "val").image
    Image.fromarray(scene).save(tmp_path / "images" / "scene.png")
    classes = [entry.synonyms[0] for entry in vocabulary("val").classes][:8]
    words = ("images", "--vocabulary", ", ".join(classes), "--model", "mini", "--device", "cpu")
    done = run(environment / "openseg-r", "segment", *words, folder=tmp_path)
    assert "2 of 2 images in out/segment" in done.stdout and "8 classes" in done.stderr
    results = tmp_path / "out" / "segment"
    for name, size in (("coffee", (300, 200)), ("scene", (256, 256))):
        assert Image.open(results / f"{name}.png").size == size
        assert Image.open(results / f"{name}.overlay.jpg").height > size[1]
        assert json.loads((results / f"{name}.json").read_text())["classes"]
    here = forked.run(["-m", "tools.segment", tmp_path / "images", *words[1:], "--output", tmp_path / "here"])
    assert here.returncode == 0, here.stderr
    ours, theirs = (np.array(Image.open(folder / "scene.png")) for folder in (tmp_path / "here", results))
    assert (ours == theirs).mean() > 0.999 and len(np.unique(ours)) > 1
    refused = run(environment / "openseg-r", "segment", *words, "MODEL.NUM_DES", "3", folder=tmp_path, status=2)
    assert refused.stderr.splitlines()[-1].startswith("error: --config-file and KEY VALUE pairs need detectron2")


def test_the_four_lines_give_what_they_give_in_a_checkout(environment: Path, tmp_path: Path) -> None:
    Image.fromarray(render_scene(3, "val").image).save(tmp_path / "scene.png")
    names = [entry.synonyms[0] for entry in vocabulary("val").classes]
    classes, reasons = names[:6], {names[0]: ["a round shape", "a red colour"]}
    code = f"""
from maft import load_segmentor
segmentor = load_segmentor("mini", device="cpu")
result = segmentor("scene.png", {classes!r}, reasons={reasons!r})
result.overlay().save("overlay.png")

import sys, numpy
numpy.save("labels.npy", result.label_map)
assert "detectron2" not in sys.modules and "yacs" not in sys.modules
"""
    run(environment / "python", "-c", code, folder=tmp_path)
    expected = load_segmentor("mini", device="cpu")(tmp_path / "scene.png", classes, reasons=reasons)
    agree = np.load(tmp_path / "labels.npy") == expected.label_map
    assert agree.shape == (256, 256) and agree.mean() > 0.999, "the wheel has no compiled kernel: rounding differs"
    assert len(np.unique(expected.label_map)) > 1
    assert Image.open(tmp_path / "overlay.png").width >= 256
