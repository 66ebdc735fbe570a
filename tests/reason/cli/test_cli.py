"""The command line: what it prints, refuses, writes and returns, against vLLM's own server and vLLM in the process."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reason.cli import image, running
from reason.cli.image import labelled_images
from reason.cli.main import COMMANDS, main
from reason.cli.options import engine_options
from reason.errors import ReasonError
from reason.triplets import load_generic, load_image
from reason.vocabulary import load_vocabulary, read_vocabulary
from tools.mini.lmm.grading import read_reason
from tools.mini.lmm.steps import true_values
from tools.mini.world import VAL_CLASSES

if TYPE_CHECKING:
    from reason.engines.interface import Engine
    from reason.engines.vllm import VllmEngine

NAMES = [entry.name for entry in VAL_CLASSES]
CLASSES = ", ".join(NAMES)
NAME = read_vocabulary(CLASSES).name
MINI = ["--attributes", "3", "3", "--aligner", "none", "--quiet"]
"""How the trained model is asked."""
Judged = Callable[[Iterable[Path]], dict[str, float]]


@pytest.fixture
def few(drawn: Path, tmp_path: Path) -> Path:
    """A folder of two drawn images."""
    folder = tmp_path / "few"
    folder.mkdir()
    for path in sorted(drawn.iterdir())[:2]:
        shutil.copy(path, folder)
    return folder


def image_words(images: Path, url: str, output: Path, *more: str, vocabulary: str = CLASSES) -> list[str]:
    words = ["image", "--vocabulary", vocabulary, "--images", str(images), "--output", str(output)]
    return [*words, "--engine", "server", "--url", url, *MINI, "--candidates", "closed", *more]


def test_the_manual_comes_fast_and_imports_nothing_heavy(repository: Path) -> None:
    code = (
        "import sys; from reason.cli.main import main; status = main(sys.argv[1:]); "
        "heavy = {'torch', 'vllm', 'transformers', 'numpy', 'cv2', 'PIL', 'openai', 'ray', 'tqdm'} & set(sys.modules); "
        "sys.exit(status or ' '.join(heavy) or 0)"
    )
    shown = subprocess.run([sys.executable, "-c", code, "--help"], cwd=repository, capture_output=True, text=True)
    assert (shown.returncode, shown.stderr) == (0, "")
    headings = re.findall(r"^[A-Z][A-Z ]+$", shown.stdout, re.MULTILINE)
    assert headings[:4] == ["NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS"]
    assert {"EXAMPLES", "FILES", "EXIT STATUS", "ENVIRONMENT"} <= set(headings)
    assert all(re.search(rf"^    {command} ", shown.stdout, re.MULTILINE) for command in COMMANDS)
    assert max(map(len, shown.stdout.splitlines())) <= 120
    code = code.replace("status = main(sys.argv[1:])", "import reason.cli.image, reason.cli.status; status = 0")
    assert subprocess.run([sys.executable, "-c", code], cwd=repository).returncode == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_flags(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert f"python -m reason {command}" in shown and "--debug" in shown


def test_the_manual_names_only_flags_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    named = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    known: set[str] = set()
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        known |= set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    assert named - known == {"--image-reasons"}, "which is tools.segment's"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], ""),
        (["paint"], "error: paint: no such command; there are image"),
        (["imgae"], "error: imgae: no such command; did you mean image?"),
        (["image", "--images", "IMAGES", "--vocabulary", "pc95"], "pc95: no such vocabulary; did you mean pc59"),
        (["image", "--images", "x"], "error: --vocabulary: missing; name the classes, or a yaml file with --dataset"),
        (["image", "--vocabulary", "pc59", "--images", "nowhere"], "error: --images nowhere: No such file"),
        (["image", "--vocabulary", "pc59", "--images", "IMAGES"], "error: --model: name the folder"),
        (
            ["image", "--vocabulary", "pc59", "--images", "IMAGES", "--model", "nowhere"],
            "error: nowhere: no such folder",
        ),
        (
            ["image", "--vocabulary", "pc60.json", "--images", "IMAGES", "--model", "x"],
            "error: pc60.json: no such file",
        ),
        (["image", "--vocabulary", "cat, cat", "--images", "IMAGES", "--model", "x"], "'cat' is class 0 already"),
        (
            ["image", "--vocabulary", "cat", "--images", "IMAGES", "--model", "x", "--attempts", "0"],
            "error: --attempts 0",
        ),
        (["image", "--vocabulary", "cat", "--images", "IMAGES", "--model", "x", "--limit", "0"], "error: --limit 0"),
        (["image", "--vocabulary", "cat", "--images", "IMAGES", "--shard", "0/2"], "the parts of 2 are 1/2 to 2/2"),
        (["image", "--vocabulary", "cat", "--images", "IMAGES", "--shard", "half"], "write I/N, such as 1/4"),
        (
            ["image", "--vocabulary", "cat", "--images", "IMAGES", "--candidates", "closed", "--answer-form", "text"],
            "error: --candidates closed needs --answer-form json",
        ),
        (["image", "--vocabulary", "cat", "--images", "IMAGES", "--model", "x", "--prompts", "v0"], "no such version"),
        (["generic", "--vocabulary", "cat", "--model", "x", "--output", "."], "error: --output .: name the file"),
        (["generic", "--vocabulary", "cat", "--model", "x", "--attributes", "3", "2"], "error: --attributes 3 2"),
        (["status", "nowhere"], "error: nowhere: no such folder"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], message: str, photos: Path, capsys: pytest.CaptureFixture[str], in_repository: None
) -> None:
    words = [str(photos) if word == "IMAGES" else word for word in words]
    try:
        status: object = main(words)
    except SystemExit as ended:
        status = ended.code
    shown = capsys.readouterr()
    assert status == 2 and message in shown.err
    assert not message or len(shown.err.splitlines()) == 1


@pytest.mark.parametrize("form, constraint", [("json", "auto"), ("text", "none")])
def test_sentences_ask_nothing_of_a_server(form: str, constraint: str) -> None:
    parser = argparse.ArgumentParser()
    image.add_arguments(parser)
    words = ["--vocabulary", "pc59", "--images", "photos", "--engine", "server", "--answer-form", form]
    assert engine_options(parser.parse_args(words)).constraint == constraint


def test_only_images_with_a_label_map(tmp_path: Path) -> None:
    """An image folder may hold more than the data set that is evaluated."""
    images = [tmp_path / name for name in ("a.jpg", "b.v2.jpg", "c.jpg")]
    labels = tmp_path / "labels"
    labels.mkdir()
    for name in ("b.v2.png", "c.tif", "z.png"):
        (labels / name).touch()
    assert labelled_images(images, labels) == images[1:]
    with pytest.raises(ReasonError, match="none of its 3 label maps belongs to one of the 1 images"):
        labelled_images(images[:1], labels)


def test_vocabularies_by_name_file_and_list(tmp_path: Path) -> None:
    assert read_vocabulary("pc59").class_names == load_vocabulary("pc59").class_names
    (tmp_path / "own.txt").write_text("cat, kitten\ndog\n")
    assert read_vocabulary(str(tmp_path / "own.txt")).synonyms == (("cat", "kitten"), ("dog",))
    assert read_vocabulary("Cat, hot dog; sofa").name == "cat-sofa"
    long = read_vocabulary(", ".join(f"thing {number}" for number in range(3000)))
    other = read_vocabulary(", ".join(f"thing {number}" for number in range(2999)))
    assert len(long.name) < 50 and long.name != other.name and "/" not in read_vocabulary("a/b, c").name


def test_images_twice_and_with_other_settings(
    few: Path, vllm_server: str, judged: Judged, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(image_words(few, vllm_server, out, "--dry-run")) == 0
    assert "2 images: 0 done; 2 to do" in capsys.readouterr().out and not out.exists()
    assert main(image_words(few, vllm_server, out)) == 0
    shown = capsys.readouterr()
    assert "2 of 2 images" in shown.out and "% of the prompt tokens cached" in shown.out
    files = {path: path.read_bytes() for path in sorted(out.glob("*.json"))}
    for path in files:
        triplet = load_image(path)
        assert triplet.extra["provenance"]["parts"]["vocabulary"].startswith(f"{NAME}, {len(NAMES)} classes")
    found = judged(files)
    assert found["recall"] >= 0.75 and found["precision"] >= 0.75, found
    assert load_vocabulary(out / ".reason" / "vocabulary.json").class_names == tuple(NAMES)

    assert main(image_words(few, vllm_server, out, "--attempts", "9")) == 0
    assert "2 done; 0 to do" in capsys.readouterr().out
    for change, what in (
        (["--seed", "1"], "seed: 0 -> 1"),
        (["--max-pixels", "50176"], " -> 3136 to 50176"),
    ):
        assert main(image_words(few, vllm_server, out, *change)) == 2
        error = capsys.readouterr().err
        assert what in error and "2 of these 2 have a result of other settings" in error and "--resume" in error
    assert main(image_words(few, vllm_server, out, vocabulary="cat, dog")) == 2
    assert f"vocabulary: {NAME}, {len(NAMES)} classes" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in files} == files, "a refusal touches nothing"

    assert main(image_words(few, vllm_server, out, "--seed", "1", "--resume", "--limit", "1")) == 0
    assert "seed: 0 -> 1" in capsys.readouterr().out
    kept = [path.read_bytes() == content for path, content in files.items()]
    assert kept == [False, True]


def test_changed_prompts_are_refused(
    few: Path, vllm_server: str, tmp_path: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = shutil.copytree(repository / "reason" / "asking" / "prompts" / "v1", tmp_path / "mine")
    words = image_words(few, vllm_server, tmp_path / "out", "--limit", "1", "--prompts", str(prompts))
    assert main(words) == 0
    with (prompts / "image_look.txt").open("a") as stream:
        stream.write("\nMind the background.\n")
    capsys.readouterr()
    assert main(words) == 2
    assert re.search(r"prompts: mine \(\w+\) -> mine \(\w+\)", capsys.readouterr().err)


def test_failures_are_listed_and_status_one(
    few: Path, vllm_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (few / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not really")
    out = tmp_path / "out"
    assert main(image_words(few, vllm_server, out)) == 1
    error = capsys.readouterr().err
    assert "failed: 1 image " in error and "  broken: image: " in error and "--retry-failed" in error
    assert main(image_words(few, vllm_server, out)) == 1, "the failure is not forgotten"
    assert "1 failed, which --retry-failed tries again; 0 to do" in capsys.readouterr().out
    assert main(["status", "--failed", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "2 of 3 images done, 1 failed" in shown and "broken: image: " in shown
    (few / "broken.jpg").unlink()
    assert main(image_words(few, vllm_server, out)) == 0
    said = capsys.readouterr().out
    assert said.startswith("vocabulary: ") and re.search(r"\d of 2 name no class, \d\.\d classes an image", said)
    assert main(["status", "--json", str(out)]) == 0
    (status,) = json.loads(capsys.readouterr().out)
    assert (status["done"], status["failed"], status["workers"]) == (2, 1, [])


def test_shards_part_the_images(
    drawn: Path, vllm_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    done: list[set[str]] = []
    for part in ("1/3", "2/3", "3/3"):
        assert main(image_words(drawn, vllm_server, out, "--shard", part)) == 0
        done.append({path.stem for path in out.glob("*.json")})
    assert [len(names) for names in done] == [4, 8, 12]
    assert done[2] == {path.stem for path in drawn.iterdir()}


def test_generic_reasons_continue_class_by_class(
    vllm_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "general" / "few.json"
    few = VAL_CLASSES[:3]
    words = ["generic", "--vocabulary", "; ".join(entry.name for entry in few), "--output", str(target), "--quiet"]
    words += ["--engine", "server", "--url", vllm_server, "--attributes", "3", "3"]
    assert main(words) == 0
    assert f"{target} is written" in capsys.readouterr().out
    reasons = load_generic(target)
    assert list(reasons) == [entry.name for entry in few]
    for entry in few:
        said = read_reason(entry.kind.thing, reasons[entry.name])
        right = sum(said.get(axis) == value for axis, value in entry.kind.attributes.items())
        assert right >= len(entry.kind.attributes) - 1, (entry.name, said)
        assert reasons[entry.name].raw_response

    classes = tmp_path / "general" / ".reason" / "few" / "classes"
    kept = (classes / "0000.json").read_bytes()
    (classes / "0001.json").unlink()
    target.unlink()
    assert main(words) == 0
    assert "2 done; 1 to do" in capsys.readouterr().out
    assert (classes / "0000.json").read_bytes() == kept and len(load_generic(target)) == 3

    assert main([*words, "--seed", "3"]) == 2
    assert "seed: 0 -> 3" in capsys.readouterr().err
    target.write_text(target.read_text().replace(few[0].name, few[0].name.title()))
    assert main(words) == 2
    assert "comes from elsewhere" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["status", "general"]) == 0
    assert "3 of 3 classes done" in capsys.readouterr().out


class Kept:
    """The session's engine, which a command must not close."""

    def __init__(self, engine: VllmEngine) -> None:
        self.info, self.capacity = engine.info, engine.capacity
        self.submit, self.collect = engine.submit, engine.collect

    def close(self) -> None:
        """The session closes it."""


@pytest.mark.parametrize("form", ["json", "text"])
def test_in_this_process(
    form: str,
    vllm_engine: VllmEngine,
    mini_model: Path,
    drawn: Path,
    judged: Judged,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both commands with vLLM in the process; the text form, which it has not learnt and nothing enforces, fails."""

    def opened(kind: str, options: object) -> Engine:
        return Kept(vllm_engine)

    monkeypatch.setattr(running, "open_engine", opened)
    monkeypatch.chdir(tmp_path)
    model = ["--model", str(mini_model), "--vocabulary", CLASSES, "--quiet", "--answer-form", form, "--attempts", "1"]
    model += ["--attributes", "3", "3"]
    out = Path("reason_data", "image_reason", "lmm", NAME)
    fitting = ["--max-model-len", "8192", "--max-pixels", "63504", "--aligner", "none"]
    closed = ["--candidates", "closed"] if form == "json" else []
    status = main(["image", "--images", str(drawn), *model, *fitting, *closed])
    if form == "text":
        assert status == 1 and not list(out.glob("*.json"))
        record = json.loads((out / ".reason" / "failed" / "scene_1000.json").read_text())
        assert record["failures"][0]["answer_text"] and record["failures"][0]["problem"]
        return
    assert status == 0
    found = judged(out / f"{path.stem}.json" for path in drawn.iterdir())
    assert found["recall"] >= 0.75 and found["precision"] >= 0.85, found
    assert main(["generic", *model]) == 0
    assert true_values(load_generic(f"reason_data/general_reason/{NAME}_class_reason.json")) >= 0.9
    capsys.readouterr()
    assert main(["status"]) == 0
    shown = capsys.readouterr().out
    assert "12 of 12 images done" in shown and f"{len(NAMES)} of {len(NAMES)} classes done" in shown
