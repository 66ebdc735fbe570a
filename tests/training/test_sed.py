"""SED from config to result: training steps, evaluation with reasons, rejection, and its own keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from maft.config import build_config
from maft.data import load_dataset, register_all
from maft.data.specs import ALIASES
from maft.errors import UserError
from maft.launch import check_training_inputs, main, parse_arguments
from maft.meta_arch import build_network
from maft.training.loop import train
from maft.weights.checkpoint import load_weights
from maft.weights.loading import load_for_evaluation, load_for_training
from maft.weights.saving import FINAL
from maft.weights.seeding import seed_module
from reason.vocabulary import load_vocabulary

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN, VALIDATION = "openvocab_pascal20_sem_seg_train", "voc_2012_test_sem_seg"
CONFIG = "tests/assets/tiny_sed.yaml"


@pytest.fixture
def keys(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """KEY VALUE pairs of a small SED whose reasons cover two classes of image "a", one of them by its other name."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    monkeypatch.chdir(REPOSITORY)
    register_all()
    classes = load_vocabulary("voc20").classes
    generic = {entry.synonyms[0]: {"class_des": ["a tail", "legs"]} for entry in classes}
    (tmp_path / "generic.json").write_text(json.dumps(generic))
    folder = tmp_path / "reasons" / "voc20"
    folder.mkdir(parents=True)
    seen = {entry.synonyms[-1]: {"reason3": ["fur", "two, or four, ears"]} for entry in (classes[3], classes[7])}
    (folder / "a.json").write_text(json.dumps({"reasoning": {"map_class_reason": seen}}))
    options = {
        "MODEL.DEVICE": "cpu",
        "MODEL.NUM_DES": 2,
        "MODEL.TEST_CLASS_REASON_JSON": tmp_path / "generic.json",
        "MODEL.REASON_DIR": tmp_path / "reasons",
        "MODEL.REASON_DATA": "voc20",
        "DATASETS.TRAIN": f"('{TRAIN}',)",
        "DATASETS.TEST": "()",
        "OUTPUT_DIR": tmp_path / "out",
    }
    return [str(item) for pair in options.items() for item in pair]


def _segment(keys: list[str], file_name: str, *more: str) -> tuple[torch.Tensor, dict[str, int]]:
    model = seed_module(build_network(build_config(CONFIG, [*keys, *more])))
    image = torch.randint(0, 256, (3, 40, 60), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    record: dict[str, Any] = {"image": image, "file_name": file_name, "meta": {"dataname": VALIDATION}}
    with torch.inference_mode():
        first, second = (output["sem_seg"] for output in model([record, {**record, "height": 20, "width": 30}]))
        assert second.shape == (20, 20, 30)
        torch.testing.assert_close(first, model([record])[0]["sem_seg"], rtol=1e-4, atol=1e-6)
    return first, model.text.usage()


@pytest.mark.parametrize("design", ["passes", "joint", "mean", "spread"])
def test_reasons_of_an_image_leave_its_classes(keys: list[str], design: str) -> None:
    maps, usage = _segment(keys, "a.jpg", "SED.ATTRIBUTES", design)
    covered = [index for index in range(20) if maps[index].any()]
    assert covered == [3, 7]
    assert usage["image"] == 3


def test_an_image_without_reasons_gets_generic_ones_and_rejection(keys: list[str]) -> None:
    plain, usage = _segment(keys, "b.jpg")
    assert plain.flatten(1).amax(dim=1).gt(0).all() and usage == {"generic_missing_file": 3}
    same, _ = _segment(keys, "b.jpg", "TEST.FAST_INFERENCE", "True", "TEST.TOPK", "20")
    torch.testing.assert_close(same, plain, rtol=1e-4, atol=1e-6)
    names, usage = _segment(keys, "b.jpg", "MODEL.META_ARCHITECTURE", "SED")
    assert usage == {"plain": 3} and not torch.allclose(names, plain)


def test_a_class_list_of_ones_own(keys: list[str], tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_text(json.dumps([f"thing {number}" for number in range(20)]))
    own = ["MODEL.META_ARCHITECTURE", "SED", "MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON", str(path)]
    assert not torch.allclose(_segment(keys, "b.jpg", *own)[0], _segment(keys, "b.jpg", *own[:2])[0])
    path.write_text(json.dumps(["one"]))
    with pytest.raises(UserError, match=r"TEST_CLASS_JSON: .* has 1 classes, voc_2012_test_sem_seg has 20"):
        _segment(keys, "b.jpg", *own)


@pytest.mark.parametrize("finetune", ["full", "fast_infer"])
def test_training_steps(keys: list[str], tmp_path: Path, finetune: str) -> None:
    config = build_config(CONFIG, [*keys, "MODEL.SEM_SEG_HEAD.CLIP_FINETUNE", finetune])
    model = build_network(config, training=True)
    before = {name: value.clone() for name, value in seed_module(model).state_dict().items()}
    train(config, model, resume=False)
    lines = [json.loads(line) for line in (tmp_path / "out/metrics.json").read_text().splitlines()]
    expected = {f"loss_sem_seg_{number}" for number in range(finetune == "fast_infer", 4)}
    assert {key for key in lines[-1] if key.startswith("loss_")} == expected
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    heads = {f"sem_seg_head.predictor.transformer.head{n}.{part}" for n in range(3) for part in ("weight", "bias")}
    assert moved == heads if finetune == "fast_infer" else heads < moved
    assert not any("clip_model.transformer" in name for name in moved)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("SED.COMBINE", "median", "SED.COMBINE: 'median' is not one of mean, max"),
        ("SED.ATTRIBUTES", "all", "SED.ATTRIBUTES: 'all' is no design"),
        ("MODEL.PROMPT_ENSEMBLE_TYPE", "single", "80 templates"),
        ("MODEL.SEM_SEG_HEAD.DECODER_GUIDANCE_DIMS", "[1, 2, 3]", r"have \[160, 80, 40\] channels"),
        ("MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED", "ViT-B/16", "take one of Convnext-B, Convnext-L"),
        ("MODEL.SEM_SEG_HEAD.POOLING_SIZES", "[1, 2]", "two equal sides"),
    ],
)
def test_values_that_mean_nothing(keys: list[str], key: str, value: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_network(build_config(CONFIG, [*keys, key, value]))


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        ("", "SED.CLIP_WEIGHTS: '' is neither a file nor a tag of open_clip's"),
        ("absent.pt", "SED.CLIP_WEIGHTS: absent.pt is not there"),
        ("other.pt", "SED.CLIP_WEIGHTS: other.pt is not a checkpoint of"),
    ],
)
def test_clips_own_weights_are_named_by_seds_key(
    keys: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: str, words: str
) -> None:
    cfg = build_config(CONFIG, [*keys, "SED.CLIP_WEIGHTS", clip, "MODEL.WEIGHTS", ""])
    if clip == "absent.pt":
        with pytest.raises(UserError, match=words):
            check_training_inputs(cfg)
    model = build_network(cfg, training=True)
    monkeypatch.chdir(tmp_path)
    torch.save({"visual.weight": torch.zeros(2)}, "other.pt")
    with pytest.raises(UserError) as error:
        load_for_training(model, "")
    assert str(error.value).startswith(words)
    kept = {name: value for name, value in model.state_dict().items() if "clip_model.transformer" not in name}
    torch.save({"model": kept}, "sed.pth")
    with pytest.raises(UserError) as error:
        load_for_evaluation(model, "sed.pth")
    assert str(error.value).startswith("MODEL.WEIGHTS sed.pth: lacks" if clip != "other.pt" else "sed.pth: lacks")
    assert "CLIP_PRETRAINED_WEIGHTS" not in str(error.value)
    assert words in str(error.value) or clip == "other.pt"


def test_a_file_of_seds_clip_is_none_of_mafts(keys: list[str]) -> None:
    """Before, a missing SED.CLIP_WEIGHTS stopped a training of MAFT+, and a missing file of MAFT+'s was not noticed."""
    own = ["SED.CLIP_WEIGHTS", "absent.pt", "MODEL.WEIGHTS", "", "DATASETS.TRAIN", f"('{TRAIN}',)"]
    base = [*keys, *own, "MODEL.META_ARCHITECTURE", "MAFT_Plus"]
    tags = build_config("tests/assets/tiny.yaml", [*base, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "20"])
    check_training_inputs(tags)
    tags.MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS = "gone.pt"
    with pytest.raises(UserError, match=r"MODEL\.FC_CLIP\.CLIP_PRETRAINED_WEIGHTS: gone\.pt is not there"):
        check_training_inputs(tags)


def test_the_command_trains_and_its_checkpoint_is_evaluated(
    train_net: Callable[..., None], keys: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two steps by train_net.py, whose final checkpoint --eval-only takes, and scores every image of the split."""
    out = tmp_path / "out"
    train_net(CONFIG, *keys, "MODEL.META_ARCHITECTURE", "SED")
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    losses = {f"loss_sem_seg_{number}" for number in range(4)}
    assert [line["iteration"] for line in lines] == [1, 2]
    assert all(line[name] > 0 for line in lines for name in losses)
    assert all(line["total_loss"] == pytest.approx(sum(line[name] for name in losses), rel=1e-4) for line in lines)
    learned = load_weights(out / FINAL)
    begun = seed_module(build_network(build_config(CONFIG, keys))).state_dict()
    assert learned.keys() == begun.keys()
    moved = {name for name in learned if not torch.equal(learned[name], begun[name])}
    assert any(".transformer.decoder" in name for name in moved) and any("clip_model.visual" in name for name in moved)

    test = ["DATASETS.TEST", f"('{VALIDATION}',)", "MODEL.WEIGHTS", str(out / FINAL), "OUTPUT_DIR", str(tmp_path / "e")]
    assert main(parse_arguments(["--config-file", CONFIG, "--eval-only", *keys, *test])) == 0
    assert "MEANS NOTHING" not in "".join(capfd.readouterr())
    results = json.loads((tmp_path / "e/inference" / VALIDATION / "results.json").read_text())
    assert results["images"]["total"] == len(load_dataset(VALIDATION)) > 0
    assert 0 <= results["metrics"]["sem_seg"]["mIoU_present"] <= 100
    assert results["provenance"]["weights_file"] == str(out / FINAL)


def test_seds_names_of_data_sets(keys: list[str]) -> None:
    records = load_dataset("voc_2012_test_sem_seg")
    assert [record["file_name"] for record in records] == [
        record["file_name"] for record in load_dataset(ALIASES["voc_2012_test_sem_seg"])
    ]
