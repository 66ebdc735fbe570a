"""What one watches a training with: TensorBoard's event files, curves, the lock of OUTPUT_DIR, the estimate."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import CfgNode
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from maft.errors import UserError
from maft.files import locked
from maft.launch import LOCK, main, parse_arguments
from maft.training import log as training_log
from maft.training.events import Events
from maft.training.log import TrainingLog
from tools import plot

from .conftest import VALIDATION
from .test_loop import EVALUATED, command, configured, trained


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value), as TensorBoard shows them."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_event_files_say_what_metrics_json_says(small_config: CfgNode, tmp_path: Path) -> None:
    """An interrupted training, too: what it did after its last checkpoint is shown once."""
    cfg = configured(small_config, SOLVER__MAX_ITER=6, SOLVER__LOG_PERIOD=1, SOLVER__CHECKPOINT_PERIOD=2)
    folder = tmp_path / "out"
    first = Events(folder)
    failing = iter([True, False])

    def evaluate(iteration: int) -> dict[str, float]:
        if iteration == 6 and next(failing):
            raise RuntimeError("killed")
        return {"data/mIoU": iteration / 10}

    cfg.TEST.EVAL_PERIOD = 3
    with pytest.raises(RuntimeError, match="killed"):
        trained(cfg, evaluate=evaluate, events=first)
    first.close()
    (folder / "model_0000006.pth").unlink(missing_ok=True)
    (folder / "model_final.pth").unlink(missing_ok=True)
    (folder / "last_checkpoint").write_text("model_0000004.pth")
    second = Events(folder)
    trained(cfg, resume=True, evaluate=evaluate, events=second)
    second.close()
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    shown = scalars(folder)
    for tag, key in (("losses/total_loss", "total_loss"), ("losses/loss_a", "loss_a"), ("training/lr", "lr")):
        assert shown[tag] == [(line["iteration"], pytest.approx(line[key])) for line in lines if key in line]
    assert shown["data/mIoU"] == [(3, pytest.approx(0.3)), (6, pytest.approx(0.6))]


@pytest.mark.slow
def test_images_of_predictions_are_shown(
    world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A training of the small network through the command line."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    monkeypatch.setattr(training_log, "ESTIMATED_AFTER", 2)
    words = [*command(tmp_path)[1:], *EVALUATED, "SOLVER.MAX_ITER", "4", "TEST.EVAL_PERIOD", "2"]
    assert main(parse_arguments(words)) == 0
    said = capfd.readouterr()
    pattern = r"2 steps are left: about \d+:\d\d:\d\d at [\d.]+ s each, .*; memory: .*\d GiB"
    assert len(re.findall(pattern, said.out + said.err)) == 1
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = events.Tags()["images"]
    assert tags and all(tag.startswith(f"{VALIDATION}/val") for tag in tags)
    assert [event.step for event in events.Images(tags[0])] == [2, 4]
    event = events.Images(tags[0])[0]
    (tmp_path / "shown.png").write_bytes(event.encoded_image_string)
    with Image.open(tmp_path / "shown.png") as image:
        assert image.size == (event.width, event.height) and len(np.unique(np.asarray(image))) > 20
    assert plot.main([str(tmp_path)]) == 0
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size == (1650, 1125)


def test_one_training_a_folder(world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    with (
        locked(tmp_path / LOCK, "busy"),
        pytest.raises(UserError, match=rf"{tmp_path.name}: another training is writing here; .* OUTPUT_DIR"),
    ):
        main(parse_arguments(command(tmp_path)[1:]))


def test_weights_and_biases_is_asked_for_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="SOLVER.WANDB_PROJECT mine: wandb is not installed; pip install wandb"):
        TrainingLog(tmp_path, 3, 0, Events(tmp_path, "mine"))


def test_weights_and_biases_mirrors_the_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real package writes its own files in its offline mode; it is no requirement of ours."""
    wandb = pytest.importorskip("wandb")
    assert isinstance(wandb, types.ModuleType)
    monkeypatch.setenv("WANDB_MODE", "offline")
    events = Events(tmp_path, "mine", "SEED: 1")
    events.begin(0)
    events.add({"iteration": 1, "total_loss": 2.5})
    events.close()
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert any(file.stat().st_size > 0 for file in run.glob("*.wandb"))


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (None, [], "no metrics.json; name the OUTPUT_DIR of a training"),
        ("", [], "no line yet"),
        ('{"iteration": 1, "total_loss": 1}\n{"a": 1}\n', [], "line 2: no 'iteration'"),
        ('{"iteration"\n{"iteration": 1}\n', [], "line 1: not JSON"),
        ('{"iteration": 1, "total_loss": 1}\n', ["--output", "a.bmp"], "a.bmp: end it in .png, .pdf, .svg"),
    ],
)
def test_what_cannot_be_drawn(
    text: str | None, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "metrics.json").write_text(text)
    assert plot.main([str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("suffix", "start"), [(".pdf", b"%PDF"), (".svg", b"<?xml"), (".PNG", b"\x89PNG")])
def test_two_runs_in_one_figure(suffix: str, start: bytes, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        lines = [{"iteration": n, "total_loss": 9.0 / n, "loss_ce": 3.0 / n, "loss_ce_0": 1, "lr": 0.1} for n in (1, 2)]
        lines.insert(1, {"iteration": 1, "data/mIoU": 20.5, "data/other": None})
        (tmp_path / name / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"iter')
    runs = [plot.read_curves(tmp_path / name) for name in ("a", "b")]
    assert runs[0].losses == ["loss_ce"] and runs[0].metrics == ["data/mIoU", "data/other"]
    assert runs[0].points("total_loss") == ([1, 2], [9.0, 4.5]) and runs[0].points("data/other") == ([], [])
    assert plot.draw(runs, tmp_path / f"both{suffix}").read_bytes().startswith(start)
