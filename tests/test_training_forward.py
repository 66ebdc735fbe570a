"""The network in training: what it gives, what learns, what stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, Instances

from maft.config import build_config
from maft.errors import UserError
from maft.meta_arch import MAFT_Plus, build_network
from maft.run import precision
from maft.weights import clip as clip_weights
from maft.weights.clip import find_clip_weights, load_clip
from maft.weights.seeding import seed_module
from tools.parity.training import check_step

ROOT = Path(__file__).resolve().parents[1]
TRAIN, OTHER = "training_forward", "training_forward_other"
CLASSES = ["sky", "cat, kitten", "dog"]
LAST = {"loss_ce", "loss_mask", "loss_dice"}


@pytest.fixture(scope="module", autouse=True)
def datasets() -> Iterator[None]:
    MetadataCatalog.get(TRAIN).set(stuff_classes=CLASSES)
    MetadataCatalog.get(OTHER).set(stuff_classes=[*CLASSES[:2], "wolf"])
    yield
    for name in (TRAIN, OTHER):
        MetadataCatalog.pop(name)


def config(**changes: Any) -> CfgNode:
    options = {
        "MODEL.DEVICE": "cpu",
        "MODEL.FC_CLIP.CLIP_MODEL_NAME": str(ROOT / "tests/assets/tiny_clip.json"),
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 3,
        "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 64,
        "MODEL.rc_weights": 0.1,
        "DATASETS.TRAIN": (TRAIN,),
    } | changes
    return build_config(str(ROOT / "tests/assets/tiny.yaml"), [str(item) for pair in options.items() for item in pair])


@pytest.fixture(scope="module")
def model() -> MAFT_Plus:
    return seed_module(build_network(config(), training=True))


def record(height: int, width: int, labels: list[int], seed: int = 0, dataset: str = TRAIN) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    instances = Instances((height, width))
    instances.gt_classes = torch.tensor(labels, dtype=torch.int64)
    instances.gt_masks = torch.rand(len(labels), height, width, generator=generator) > 0.5
    return {
        "image": torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator),
        "file_name": f"{seed}.jpg",
        "meta": {"dataname": dataset},
        "instances": instances,
    }


def losses_of(model: MAFT_Plus, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model.zero_grad()
    return model.train()(batch)


@pytest.mark.slow
@pytest.mark.usefixtures("in_repository")
def test_one_step_equals_the_reference() -> None:
    """Losses, random draws, matching and gradients of the base model."""
    report = check_step(ROOT / "tests/golden/losses")
    assert not report.failures, "\n".join(check.line() for check in report.failures)
    assert len(report.checks) == 49


def test_every_prediction_is_judged_and_every_learning_parameter_gets_a_gradient(model: MAFT_Plus) -> None:
    batch = [record(64, 96, [0, 1]), record(50, 40, [2], seed=1)]
    losses = losses_of(model, batch)
    layers = {f"{name}_{number}" for name in LAST for number in range(3)}
    assert set(losses) == LAST | layers | {"ranking_loss", "rc_loss"}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        else:
            assert parameter.grad is None, name


def test_what_learns(model: MAFT_Plus) -> None:
    trunk = "backbone.clip_model.visual.trunk."
    for name in model.state_dict():
        if name == "criterion.empty_weight":
            continue
        in_clip = name.startswith("backbone")
        learns = name.startswith((f"{trunk}stem.", f"{trunk}stages.")) if in_clip else True
        assert (name in model.trainable_parameters()) == learns, name
    assert sum(name.startswith("backbone_t.") for name in model.state_dict()) > 0


def test_clip_and_teacher_stay_in_evaluation_mode(model: MAFT_Plus) -> None:
    model.train()
    assert model.training and model.sem_seg_head.training and model.cdt.training
    assert model.backbone_t is not None
    assert not any(part.training for part in [*model.backbone.modules(), *model.backbone_t.modules()])
    model.eval()
    assert not any(part.training for part in model.modules())


def test_the_mask_head_does_not_teach_the_backbone(model: MAFT_Plus) -> None:
    losses = losses_of(model, [record(64, 64, [0, 2])])
    sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert model.sem_seg_head.pixel_decoder.mask_features.weight.grad is not None


def test_images_of_a_batch_are_padded_to_the_largest(model: MAFT_Plus) -> None:
    """An image beside larger ones is as one that was black (after normalisation: zero) there from the start."""
    padded = model.pad(torch.full((3, 40, 33), 200, dtype=torch.uint8), at_least=(65, 50))
    assert padded.shape == (3, 96, 64)
    assert padded[:, :40, :33].ne(0).all() and not padded[:, 40:].any() and not padded[:, :, 33:].any()


def test_masks_as_tensor_or_as_bitmasks(model: MAFT_Plus) -> None:
    plain, wrapped = record(64, 64, [0, 1]), record(64, 64, [0, 1])
    wrapped["instances"].gt_masks = BitMasks(wrapped["instances"].gt_masks)
    with torch.no_grad():
        ours, theirs = losses_of(model, [plain]), losses_of(model, [wrapped])
    assert ours == theirs


def test_images_without_any_instance(model: MAFT_Plus) -> None:
    losses = losses_of(model, [record(64, 64, []), record(32, 64, [], seed=1)])
    assert losses["loss_mask"] == losses["loss_dice"] == losses["ranking_loss"] == 0
    assert losses["loss_ce"] > 0 and losses["rc_loss"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.trainable_parameters().values())


def test_under_autocast_losses_are_float32_and_near(model: MAFT_Plus) -> None:
    batch = [record(64, 64, [0, 1])]
    exact = losses_of(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = losses_of(model, batch)
    assert all(value.dtype == torch.float32 for value in rounded.values())
    assert sum(rounded.values()).item() == pytest.approx(sum(exact.values()).item(), rel=0.1)
    sum(rounded.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.trainable_parameters().values())


def test_a_few_steps_learn_an_image_and_leave_the_frozen_alone() -> None:
    torch.manual_seed(0)
    model = build_network(config(), training=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = [record(64, 64, [0, 1])]
    batch[0]["instances"].gt_masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    batch[0]["instances"].gt_masks[0, :, :32] = batch[0]["instances"].gt_masks[1, :, 32:] = True
    batch[0]["image"][:, :, :32] //= 8
    optimizer = torch.optim.AdamW(model.trainable_parameters().values(), lr=5e-4)
    course = []
    for _ in range(12):
        losses = losses_of(model, batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        course.append(sum(losses.values()).item())
    assert course[-1] < 0.8 * course[0]
    learning = model.trainable_parameters()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed <= set(learning)
    assert len(changed) > 0.95 * len(learning)


def test_evaluation_is_the_same_in_a_model_that_can_learn(model: MAFT_Plus) -> None:
    other = seed_module(build_network(config()))
    for network in (model, other):
        network.uses_reasons = False
        network.settings = replace(network.settings, reasons=False)
    image = record(64, 80, [0])
    with torch.inference_mode():
        ours, theirs = model.eval()([image])[0]["sem_seg"], other([image])[0]["sem_seg"]
    assert torch.equal(ours, theirs)


def test_an_input_may_do_without_the_scores_of_all_classes(model: MAFT_Plus) -> None:
    """What evaluation asks for: the same labels, and no array of every class at every pixel."""
    model.uses_reasons = False
    model.settings = replace(model.settings, reasons=False)
    image = {**record(64, 80, [0]), "height": 40, "width": 50}
    with torch.inference_mode():
        (whole,), (lean,) = model.eval()([image]), model([{**image, "class_maps_only": True}])
    assert set(whole) - set(lean) == {"sem_seg"} and whole["sem_seg"].shape[-2:] == (40, 50)
    assert torch.equal(lean["class_maps"].labels(), whole["sem_seg"].argmax(dim=0))


def test_bfloat16_is_for_what_sees_the_image_and_scores_stay_float32(model: MAFT_Plus) -> None:
    model.uses_reasons = False
    model.settings = replace(model.settings, reasons=False)
    image, half = record(64, 80, [0]), config(**{"MODEL.PRECISION": "bfloat16"})
    with torch.inference_mode():
        (exact,) = model.eval()([image])
        with precision(config()):
            assert torch.equal(model([image])[0]["sem_seg"], exact["sem_seg"])
        with precision(half):
            (view,) = model.look([image["image"]])
            (rounded,) = model([image])
        assert view.regions.class_embeddings.dtype == torch.bfloat16
        given = model.classifier_for(image)
        outside = model.results(view, given, (64, 80))["class_maps"].scores()
    assert rounded["sem_seg"].dtype == torch.float32 and not torch.equal(rounded["sem_seg"], exact["sem_seg"])
    assert torch.equal(rounded["sem_seg"], outside)


def test_without_compensation_there_is_no_teacher() -> None:
    changes = {"MODEL.rc_weights": 0.0, "MODEL.MASK_FORMER.DEEP_SUPERVISION": False}
    model = seed_module(build_network(config(**changes), training=True))
    assert model.backbone_t is None
    assert set(losses_of(model, [record(64, 64, [1])])) == LAST | {"ranking_loss"}


def test_wrong_vocabularies_and_uses_are_refused(model: MAFT_Plus) -> None:
    with pytest.raises(UserError, match="NUM_CLASSES: 7, but training_forward of DATASETS.TRAIN has 3"):
        build_network(config(**{"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 7}), training=True)
    with pytest.raises(UserError, match=r"DATASETS.TRAIN: 'nowhere'"):
        build_network(config(**{"DATASETS.TRAIN": ("nowhere",)}), training=True)
    with pytest.raises(UserError, match="TRAIN_NUM_POINTS"):
        build_network(config(**{"MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 0}), training=True)
    with pytest.raises(UserError, match="different classes"):
        losses_of(model, [record(64, 64, [0]), record(64, 64, [0], dataset=OTHER)])
    with pytest.raises(RuntimeError, match="built for evaluation"):
        build_network(config()).train()([record(64, 64, [0])])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_clip_weights_fill_student_and_teacher(tmp_path: Path, model: MAFT_Plus, suffix: str) -> None:
    state = model.backbone.clip_model.state_dict()
    path = tmp_path / f"clip{suffix}"
    if suffix == ".pt":
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    else:
        safetensors.torch.save_file(state, path)
    other = build_network(config(), training=True)
    load_clip(other, str(path))
    assert other.backbone_t is not None
    for backbone in (other.backbone, other.backbone_t):
        loaded = backbone.clip_model.state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_clip_weights_that_do_not_fit(tmp_path: Path, model: MAFT_Plus, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"visual.weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match=r"CLIP_PRETRAINED_WEIGHTS: .*other.safetensors is not a checkpoint of tiny"):
        load_clip(model, str(path))
    with pytest.raises(UserError, match="absent.pt is not there"):
        load_clip(model, "absent.pt")
    with pytest.raises(UserError, match="it has none for tiny_clip"):
        load_clip(model, "laion2b")
    with pytest.raises(UserError, match="laion_aesthetic_s13b_b82k_augreg"):
        find_clip_weights("convnext_base_w_320", "laion2b", "clip")

    def unreachable(_: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(clip_weights, "download_pretrained", unreachable)
    with pytest.raises(UserError, match="could not be downloaded .*no route to host"):
        find_clip_weights("convnext_base_w_320", "laion_aesthetic_s13b_b82k_augreg", "clip")
