"""tools.extract_text_features as a process, with a small CLIP that open_clip is told about."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import forked
import pytest
import safetensors.torch

from maft.config import build_config
from maft.meta_arch import build_network, text_parts
from maft.text.encoder import load_text_encoder
from maft.weights.loading import load_for_evaluation
from reason.vocabulary import load_vocabulary
from tools.extract_estimate import in_words
from tools.extract_text_features import main, parse_arguments

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = "configs/semantic/eval_base_reason.yaml"
PROGRAM = """
import sys, open_clip
if __name__ == "__main__":
    open_clip.add_model_config(sys.argv[1])
    from maft.errors import run_command
    from tools.extract_text_features import main
    sys.exit(main(sys.argv[2:]))
"""
CLASSES = ["cat", "dog", "sky", "road"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A small CLIP, a vocabulary, generic reasons and reason files of a few images."""
    clip = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "tiny_extract_test.json").write_text(json.dumps(clip))
    (tmp_path / "run.py").write_text(PROGRAM)
    classes = [{"name": name, "synonyms": [name]} for name in CLASSES]
    (tmp_path / "four.json").write_text(json.dumps({"vocabulary": "four", "title": "Four", "classes": classes}))
    generic = {name: {"class_des": ["red", "green", "blue"]} for name in CLASSES}
    (tmp_path / "generic.json").write_text(json.dumps(generic))
    write_images(tmp_path, 4)
    return tmp_path


def write_images(place: Path, count: int) -> None:
    (place / "reasons").mkdir(exist_ok=True)
    for number in range(count):
        entries = {"dog": {"reason3": ["ears", f"collar {number}"]}, "zebra": {"reason3": ["stripes"]}}
        document = {"reasoning": {"map_class_reason": entries}}
        (place / "reasons" / f"image.{number}.json").write_text(json.dumps(document))


@pytest.fixture
def start(place: Path) -> Callable[..., forked.Forked]:
    def run(*arguments: str) -> forked.Forked:
        path = os.pathsep.join([str(REPOSITORY), *[entry for entry in sys.path if entry]])
        words = [place / "run.py", place / "clip", "--config-file", CONFIG, *arguments]
        return forked.start(words, env={**os.environ, "PYTHONPATH": path})

    return run


def options(place: Path) -> list[str]:
    return [
        *("MODEL.FC_CLIP.CLIP_MODEL_NAME", "tiny_extract_test", "MODEL.WEIGHTS", "seeded"),
        *("MODEL.TEST_CLASS_REASON_JSON", str(place / "generic.json")),
        *("MODEL.REASON.BANK_DIR", str(place / "bank"), "MODEL.REASON.FEATURE_DIR", str(place / "features")),
    ]


def folder_arguments(place: Path) -> list[str]:
    return ["--reasons", str(place / "reasons"), "--vocabulary", str(place / "four.json")]


def stored(place: Path) -> int:
    return sum(len(safetensors.torch.load_file(path)["keys"]) for path in (place / "bank").rglob("*.safetensors"))


def finish(process: forked.Forked) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.mark.slow
def test_a_bank_for_sed_with_an_estimate_before(place: Path, start) -> None:
    sed = ["--config-file", "configs/sed/eval_base_reason.yaml"]
    clip = ["MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED", "tiny_extract_test"]
    arguments = [*sed, *folder_arguments(place), "--device", "cpu", *options(place), *clip]
    status, out, err = finish(start("--estimate", *arguments))
    assert status == 0, err
    sentences = (4 * 3 + 1 + 4) * 80
    assert f"4 images ask for {sentences:,} different sentences, {sentences:,} new" in out
    row = 24 * 4 + 24
    assert f"{sentences:,} sentences to encode: about" in out and f"{sentences * row / 1e6:,.0f} MB" in out
    assert 0 < stored(place) < sentences  # the trial's rows are kept
    status, out, err = finish(start(*arguments))
    assert status == 0, err
    assert f"{sentences:,} different sentences, {sentences - 64 - 1024:,} new" in out and stored(place) == sentences
    status, out, err = finish(start("--format", "json", *arguments))
    assert status == 2 and "--format json: feature files hold rows of MAFT+" in err and "nothing to encode" in out


def test_the_bank_is_the_one_that_seds_evaluation_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever tower the tool loads by itself is, weights and all, that of the whole network."""
    monkeypatch.chdir(REPOSITORY)
    cfg = build_config("tests/assets/tiny_sed.yaml", ["MODEL.DEVICE", "cpu"])
    text = text_parts(cfg)
    alone = load_text_encoder(text.architecture, "seeded", prefix=text.prefix)
    network = build_network(cfg)
    load_for_evaluation(network, "seeded")
    assert network.text.bank.encoder.fingerprint == alone.fingerprint
    assert text.fold.templates == network.text_fold(attributes=3, mode="reference", design=None).templates
    vocabulary = load_vocabulary("ade150")
    assert text.names(vocabulary) == vocabulary.sed_names


def test_times_in_words() -> None:
    assert [in_words(seconds) for seconds in (0.2, 59, 60, 3599, 7230, 90_000)] == [
        "1 s",
        "59 s",
        "1 min",
        "59 min 59 s",
        "2 h",
        "1 d 1 h",
    ]


@pytest.mark.slow
def test_bank_and_feature_files_then_only_what_is_left(place: Path, start) -> None:
    arguments = [*folder_arguments(place), "--format", "json", "--num-workers", "1", "--device", "cpu", *options(place)]
    status, out, err = finish(start(*arguments))
    assert status == 0, err
    # 4 classes with 3 generic attributes; "ears" of a dog once, a collar of its own for each of 4 images.
    sentences = (4 * 3 + 1 + 4) * 14
    assert f"4 images, {sentences} new sentences" in out and "4 written" in out
    assert stored(place) == sentences
    written = sorted(path.name for path in (place / "features" / "four" / "Convnext-B").iterdir())
    assert written == [f"image.{number}.json" for number in range(4)]
    document = json.loads((place / "features" / "four" / "Convnext-B" / "image.2.json").read_text())
    assert document["test_num_templates"] == [3] and document["class_index"] == [1]
    assert len(document["text_classifier"]) == 3 and len(document["text_classifier"][0]) == 24

    write_images(place, 5)
    (place / "features" / "four" / "Convnext-B" / "image.1.json").write_text("{")
    status, out, err = finish(start(*arguments))
    assert status == 0, err
    assert "5 images, 14 new sentences" in out and "3 kept, 1 replaced, 1 written" in out
    assert "image.1.json" in err


@pytest.mark.slow
def test_killed_and_started_again(place: Path, start) -> None:
    write_images(place, 1500)
    process = start(*folder_arguments(place), *options(place))
    deadline = time.monotonic() + 240
    while not list((place / "bank").rglob("*.safetensors")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept, total = stored(place), (4 * 3 + 1 + 1500) * 14
    assert 0 < kept < total
    status, out, err = finish(start(*folder_arguments(place), *options(place)))
    assert status == 0, err
    assert f"1500 images, {total - kept} new sentences" in out
    assert stored(place) == total


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reasons", "absent", "--vocabulary", "pc59"], "no such folder"),
        (["--reasons", "{reasons}"], "--vocabulary"),
        (["--vocabulary", "pc59"], "--datasets"),
        (["--datasets", "nonesuch"], "nonesuch"),
        (["--datasets", "pc59", "MODEL.REASON_DIR", "absent"], "absent/pc59 (missing)"),
        (["--reasons", "{reasons}", "--vocabulary", "{four}", "--device", "cuda:99"], "--device cuda:99"),
        (["--reasons", "{reasons}", "--vocabulary", "{four}", "--device", "abacus"], "--device abacus"),
        (["--reasons", "{reasons}", "--vocabulary", "{four}", "--batch-size", "0"], "--batch-size"),
        (["--reasons", "{reasons}", "--vocabulary", "{four}", "MODEL.NONSENSE", "1"], "NONSENSE"),
        (["--reasons", "{reasons}", "--vocabulary", "{four}", "MODEL.REASON.BANK_DIR", ""], "MODEL.REASON.BANK_DIR"),
        (["--reasons", "{reasons}", "--vocabulary", "{four}", "MODEL.WEIGHTS", "absent.pth"], "absent.pth"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    place: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    names = {"{reasons}": str(place / "reasons"), "{four}": str(place / "four.json")}
    generic = ["MODEL.TEST_CLASS_REASON_JSON", str(place / "absent.json")] if "pc59" in arguments else []
    status = main(["--config-file", CONFIG, *[names.get(word, word) for word in arguments], *generic])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(lines) == 1 and message in lines[0]


def test_config_keys_after_an_open_list() -> None:
    parsed = parse_arguments(["--config-file", CONFIG, "--datasets", "pc59", "ade150", "MODEL.WEIGHTS", "seeded"])
    assert parsed.datasets == ["pc59", "ade150"] and parsed.opts == ["MODEL.WEIGHTS", "seeded"]
    parsed = parse_arguments(["--config-file", CONFIG, "MODEL.WEIGHTS", "seeded"])
    assert parsed.datasets is None and parsed.opts == ["MODEL.WEIGHTS", "seeded"]
