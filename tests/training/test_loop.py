"""The loop around the network: resuming, accumulation, what it writes, and what it tells a user."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import forked
import pytest
import torch
from detectron2.config import CfgNode
from torch import nn

from maft.errors import UserError, run_command
from maft.launch import main, parse_arguments
from maft.modeling.maft_plus import MAFTPlus
from maft.training.loop import Run, train
from maft.weights import saving as checkpoints
from maft.weights.loading import load_for_evaluation

from .conftest import REPOSITORY, VALIDATION, metrics, small_model_keys


class Mean(nn.Module):
    """Losses that are means over the images of a batch, with noise as the network has it."""

    backbone_t = None
    weights_key = "MODEL.WEIGHTS"
    rate_group = staticmethod(MAFTPlus.rate_group)

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(3, 2)
        self.head = nn.Linear(2, 1)

    def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        colours = torch.stack([item["image"].float().mean((1, 2)) / 255 for item in batch])
        found = self.head(self.backbone(colours))[:, 0]
        wanted = torch.tensor([len(item["instances"]) for item in batch], dtype=torch.float32)
        return {"loss_a": ((found - wanted) ** 2).mean(), "loss_b": found.abs().mean() + 0 * torch.rand(1)[0]}


def configured(cfg: CfgNode, **changes: object) -> CfgNode:
    cfg = cfg.clone()
    cfg.merge_from_list([item for key, value in changes.items() for item in (key.replace("__", "."), value)])
    return cfg


def trained(cfg: CfgNode, *, resume: bool = False, evaluate=None, events=None) -> Mean:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = Mean()
    train(cfg, model, resume=resume, evaluate=evaluate, events=events)  # type: ignore[arg-type]
    return model


def test_parts_of_a_batch_add_up_to_the_batch(small_config: CfgNode, tmp_path: Path) -> None:
    """Accumulation over two and four parts: losses and weights of the whole batch."""
    runs = {}
    for parts in (1, 2, 4):
        cfg = configured(small_config, SOLVER__IMS_PER_BATCH=4, SOLVER__ACCUMULATE=parts, SOLVER__BASE_LR=0.01)
        cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
        cfg.OUTPUT_DIR = str(tmp_path / str(parts))
        runs[parts] = (trained(cfg).state_dict(), metrics(tmp_path / str(parts)))
    for parts in (2, 4):
        for name, value in runs[1][0].items():
            assert torch.allclose(value, runs[parts][0][name], atol=1e-6)
        for one, other in zip(runs[1][1], runs[parts][1], strict=True):
            assert one == pytest.approx(other, rel=1e-5)


def test_a_step_by_hand(small_config: CfgNode) -> None:
    """SGD with full-model clipping: the step is the gradient, cut to norm 0.01, times the rate of the schedule."""
    cfg = configured(small_config, SOLVER__OPTIMIZER="SGD", SOLVER__MOMENTUM=0.0, SOLVER__WEIGHT_DECAY=0.0)
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    torch.manual_seed(0)
    model = Mean()
    run = Run.start(cfg, model, resume=False)  # type: ignore[arg-type]
    run.iteration = 3  # the rate is (1 - 3 / 6) ** 0.9 of the first
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image = {"image": torch.full((3, 4, 4), 200, dtype=torch.uint8), "instances": [1, 2]}
    losses, _ = run.step(iter([([image], 0.0)]))
    moved = math.sqrt(sum(((before[name] - value) ** 2).sum().item() for name, value in model.state_dict().items()))
    assert moved == pytest.approx(1e-4 * 0.5**0.9 * 0.01, rel=1e-2)
    assert losses["grad_norm"] > 0.01 and run.iteration == 4
    assert losses["total_loss"] == pytest.approx((losses["loss_a"] + losses["loss_b"]).item())


def test_log_checkpoints_and_evaluations(small_config: CfgNode, tmp_path: Path) -> None:
    """Lines every two steps and before each checkpoint; evaluation after every fourth step and the last."""
    cfg = configured(small_config, SOLVER__MAX_ITER=7, SOLVER__LOG_PERIOD=2, SOLVER__CHECKPOINT_PERIOD=3)
    cfg.merge_from_list(["TEST.EVAL_PERIOD", 4, "SOLVER.KEEP_CHECKPOINTS", 1])
    evaluated: list[int] = []

    def evaluate(iteration: int) -> dict[str, float]:
        evaluated.append(iteration)
        return {"data/mIoU": iteration / 10}

    trained(cfg, evaluate=evaluate)
    lines = metrics(tmp_path / "out")
    assert [line["iteration"] for line in lines] == [2, 3, 4, 4, 6, 7, 7] and evaluated == [4, 7]
    assert lines[3] == {"iteration": 4, "data/mIoU": 0.4}
    assert lines[1]["lr"] == pytest.approx(1e-4 * (1 - 2 / 7) ** 0.9)
    names = sorted(path.name for path in (tmp_path / "out").glob("*.pth"))
    assert names == ["model_0000006.pth", "model_final.pth"] and checkpoints.last(cfg.OUTPUT_DIR).name == names[1]
    with pytest.raises(UserError, match="--resume"):
        trained(cfg)
    trained(cfg, resume=True, evaluate=evaluate)
    assert evaluated == [4, 7] and metrics(tmp_path / "out") == lines, "a finished training is left as it is"


def test_interrupted_anywhere_it_ends_alike(small_config: CfgNode, tmp_path: Path) -> None:
    """Errors in place of kills: in a step, while a checkpoint is written, and in an evaluation."""
    cfg = configured(small_config, TEST__EVAL_PERIOD=4, OUTPUT_DIR=str(tmp_path / "whole"))
    whole = trained(cfg, evaluate=lambda iteration: {"data/mIoU": float(iteration)})
    cfg = configured(cfg, OUTPUT_DIR=str(tmp_path / "parts"))
    failing = iter([True, False, False])

    def evaluate(iteration: int) -> dict[str, float]:
        if next(failing):
            raise RuntimeError("killed")
        return {"data/mIoU": float(iteration)}

    with pytest.MonkeyPatch.context() as patch:
        step = Run.step
        patch.setattr(Run, "step", lambda run, data: step(run, data if run.iteration != 3 else iter(())))
        with pytest.raises(StopIteration):
            trained(cfg, evaluate=evaluate)
    (tmp_path / "parts" / ".model_0000004.pth.partial").write_bytes(b"half")
    with (tmp_path / "parts" / "metrics.json").open("a") as stream:
        stream.write('{"iteration": 3, "total')
    with pytest.raises(RuntimeError, match="killed"):
        trained(cfg, resume=True, evaluate=evaluate)
    resumed = trained(cfg, resume=True, evaluate=evaluate)
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_a_continued_run_names_what_changed(
    small_config: CfgNode, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    trained(configured(small_config, SOLVER__MAX_ITER=2))
    trained(configured(small_config, SOLVER__MAX_ITER=4, DATALOADER__NUM_WORKERS=1), resume=True)
    assert "SOLVER.MAX_ITER: 2 -> 4" in caplog.text and "NUM_WORKERS: " not in caplog.text
    (tmp_path / "out" / checkpoints.LAST).write_text("model_0000009.pth")
    with pytest.raises(UserError, match=r"names model_0000009\.pth, which is not there"):
        trained(small_config, resume=True)
    torch.save({"model": {}}, tmp_path / "out" / "model_0000009.pth")
    with pytest.raises(UserError, match="no training can continue from it"):
        trained(small_config, resume=True)


def test_a_diverging_loss_ends_the_training(small_config: CfgNode, tmp_path: Path) -> None:
    """Within a line of the log, and no checkpoint keeps the broken weights."""
    cfg = configured(small_config, SOLVER__OPTIMIZER="SGD", SOLVER__BASE_LR=1e30, SOLVER__LOG_PERIOD=5)
    with pytest.raises(UserError, match=r"--resume.*BASE_LR"):
        trained(cfg)
    saved = (
        torch.load(tmp_path / "out" / "model_0000002.pth") if (tmp_path / "out" / "model_0000002.pth").exists() else {}
    )
    assert all(value.isfinite().all() for value in saved.get("model", {}).values())


# The whole command line, on a small network.


def command(output: Path, *more: str) -> list[str]:
    return ["train_net.py", "--config-file", "tests/assets/tiny.yaml", *more, *small_model_keys(output)]


@pytest.fixture
def environment(world: Path) -> dict[str, str]:
    return os.environ | {"DETECTRON2_DATASETS": str(world), "OMP_NUM_THREADS": "1"}


EVALUATED = ["DATASETS.TEST", f"('{VALIDATION}',)", "TEST.EVAL_PERIOD", "4"]


@pytest.mark.slow
def test_killed_at_a_random_step_it_continues_as_if_nothing_had_happened(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """SIGKILL: the loss curve, the evaluations and the weights of an uninterrupted run, bit for bit."""
    seed = os.getpid()
    print(f"random.Random({seed})")  # pytest shows it where the test fails
    wait = random.Random(seed)
    after = wait.randint(3, 5)
    started = [forked.start([*command(tmp_path / name), *EVALUATED], env=environment) for name in ("whole", "killed")]
    log, deadline = tmp_path / "killed" / "metrics.json", time.monotonic() + 300
    while time.monotonic() < deadline and not (log.is_file() and len(log.read_bytes().splitlines()) >= after):
        time.sleep(0.01)
    time.sleep(wait.random() / 5)
    started[1].send_signal(signal.SIGKILL)
    assert started[1].wait() == -signal.SIGKILL, "it had ended before"
    assert log.is_file(), "it had not begun"
    done = forked.run([*command(tmp_path / "killed", "--resume"), *EVALUATED], env=environment)
    assert started[0].wait() == 0 and done.returncode == 0, done.stdout + done.stderr
    assert "continuing after step" in done.stdout + done.stderr
    lines = metrics(tmp_path / "whole")
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4, 4, 5, 6, 6]
    assert metrics(tmp_path / "killed") == lines
    assert lines[5]["total_loss"] < lines[0]["total_loss"]
    final = [torch.load(tmp_path / name / "model_final.pth") for name in ("whole", "killed")]
    assert all(torch.equal(value, final[1]["model"][name]) for name, value in final[0]["model"].items())
    results = tmp_path / "whole" / "inference" / VALIDATION / "results.json"
    assert (
        json.loads(results.read_text())["metrics"]["sem_seg"]["mIoU_reference"]
        == lines[-1][f"{VALIDATION}/mIoU_reference"]
    )


@pytest.mark.slow
def test_two_processes_share_a_batch(environment: dict[str, str], tmp_path: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    keys = ["SOLVER.MAX_ITER", "2", "SOLVER.ACCUMULATE", "2", "SOLVER.IMS_PER_BATCH", "4"]
    done = forked.run([*launcher, *command(tmp_path), *keys], env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = metrics(tmp_path)
    assert [line["iteration"] for line in lines] == [1, 2] and lines[1]["total_loss"] < lines[0]["total_loss"]
    assert torch.load(tmp_path / "model_final.pth")["processes"] == 2


@pytest.fixture
def here(world: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[object]:
    """The command line without a new interpreter: KEY VALUE pairs to (status, last line of standard error)."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    monkeypatch.chdir(REPOSITORY)

    def run(output: Path, *pairs: object) -> tuple[int, str]:
        parsed = parse_arguments([*command(output)[1:], *map(str, pairs)])
        status = run_command(lambda: main(parsed))
        for name in ("detectron2", "fvcore", "maft", "reason"):
            logging.getLogger(name).handlers.clear()  # of a stream that pytest closes after the test
        errors = capfd.readouterr().err
        assert "Traceback" not in errors
        return status, errors.rstrip().splitlines()[-1]

    yield run


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (("DATASETS.TRAIN", "()"), ("DATASETS.TRAIN", "empty")),
        (("DATASETS.TRAIN", "('coco',)"), ("DATASETS.TRAIN", "'coco' is not registered")),
        (("DATASETS.TRAIN", "('openvocab_ade20k_sem_seg_train',)"), ("ADEChallengeData2016", "datasets/README.md")),
        (("DATASETS.TEST", "('openvocab_ade20k_sem_seg_val',)"), ("DATASETS.TEST", "DATASETS.TEST ()")),
        (("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 7), ("NUM_CLASSES: 7", "20 classes")),
        (("INPUT.DATASET_MAPPER_NAME", "coco_panoptic_lsj"), ("INPUT.DATASET_MAPPER_NAME", "label maps only")),
        (("SOLVER.IMS_PER_BATCH", 3, "SOLVER.ACCUMULATE", 2), ("SOLVER.IMS_PER_BATCH: 3", "multiple of 2")),
        (("SOLVER.BASE_LR", 0.0), ("SOLVER.BASE_LR",)),
        (
            ("MODEL.WEIGHTS", "", "MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS", "clip.pt"),
            ("CLIP_PRETRAINED_WEIGHTS", "clip.pt"),
        ),
        (("MODEL.WEIGHTS", ""), ("CLIP_PRETRAINED_WEIGHTS", "laion2b_s29b_b131k_ft_soup", "tiny_clip")),
        (("MODEL.WEIGHTS", "nothing.pth"), ("nothing.pth", "no such file")),
    ],
)
def test_user_errors_are_one_line(here, tmp_path: Path, pairs: tuple, words: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    status, line = here(tmp_path, *pairs)
    assert status == 2 and line.startswith("error: ")
    assert all(word in line for word in words), line


def test_weights_may_leave_out_clip(small_config: CfgNode, tmp_path: Path) -> None:
    """A float16 checkpoint without text tower, and a file of CLIP: together they are the model, in float32."""
    from safetensors.torch import save_file

    from maft.meta_arch import build_network

    whole = build_network(configured(small_config, MODEL__WEIGHTS="seeded"))
    load_for_evaluation(whole, "seeded")
    state = {name: value.half() if value.is_floating_point() else value for name, value in whole.state_dict().items()}
    prefix = "backbone.clip_model."
    clip = {name.removeprefix(prefix): value.clone() for name, value in state.items() if name.startswith(prefix)}
    kept = {name: value for name, value in state.items() if not name.startswith(prefix) or ".visual." in name}
    assert len(kept) < len(state)
    save_file(clip, tmp_path / "clip.safetensors")
    save_file(kept, tmp_path / "model.safetensors")
    cfg = configured(small_config, MODEL__WEIGHTS=str(tmp_path / "model.safetensors"))
    with pytest.raises(UserError, match=r"model\.safetensors: lacks \d+ entries of CLIP.*CLIP_PRETRAINED_WEIGHTS"):
        load_for_evaluation(build_network(cfg), cfg.MODEL.WEIGHTS)
    cfg.MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS = str(tmp_path / "clip.safetensors")
    loaded = build_network(cfg)
    load_for_evaluation(loaded, cfg.MODEL.WEIGHTS)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state[name].to(value.dtype))
        assert value.dtype != torch.float16
    del clip["token_embedding.weight"]
    save_file(clip, tmp_path / "clip.safetensors")
    with pytest.raises(UserError, match=r"does not supply them: 1 missing .*token_embedding"):
        load_for_evaluation(build_network(cfg), cfg.MODEL.WEIGHTS)
