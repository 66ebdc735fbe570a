"""The mini world's trainings, for a few real steps; and the weights that ship."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from maft import load_segmentor
from maft.config import build_config
from maft.errors import UserError
from maft.files import read_panoptic
from maft.meta_arch import build_network
from maft.modeling.classify import MAX_LOGIT_SCALE
from maft.modeling.maft_plus import resize
from maft.modeling.sed.training import CLIP
from maft.run import register_datasets
from maft.text.templates import template_set
from maft.weights.clip import read_clip
from maft.weights.loading import load_for_evaluation
from reason.vocabulary import load_vocabulary
from tools.mini import clip_rows, dataset, partial, train
from tools.mini.methods import CLOSED, main_methods, sed_methods
from tools.mini.results import DATASET, read_evaluation, scores_of
from tools.mini.run import evaluate_methods
from tools.mini.scenes import IGNORE_LABEL, clip_training_scene
from tools.mini.train_clip import Recipe, RegionClip, contrastive_loss, question_loss, regions_of, train_clip
from tools.mini.world import KINDS, NEW, SEEN, held_out, kind_with

FEW = Recipe(iterations=4, scenes=8, batch=3, warmup=1)


@pytest.fixture
def small_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_repository: None) -> Iterator[Path]:
    """A mini world of few images, apart from the user's."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    for split, count in (("train", 8), ("val", 16), ("closed", 4)):
        monkeypatch.setitem(dataset.COUNTS, split, count)  # type: ignore[arg-type]
    yield tmp_path
    monkeypatch.undo()
    dataset.register()


@pytest.fixture
def three_images(small_world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Still fewer to evaluate, for tests that do not look at the figures."""
    monkeypatch.setitem(dataset.COUNTS, "val", 3)  # type: ignore[arg-type]
    return small_world


def test_regions_are_pooled_as_the_segmentor_pools_them() -> None:
    torch.manual_seed(0)
    model, sample = RegionClip().eval(), regions_of(clip_training_scene(3))
    with torch.no_grad():
        pixels = sample.pixels[None].float()
        found = model.encode_regions(pixels, [sample.masks])
        dense = model.backbone((pixels - model.mean) / model.std)["clip_vis_dense"]
        logits = resize(sample.masks[None].float() - 8, dense.shape[-2:])[0]
        for number in range(len(sample.segments)):
            cells = dense[0][:, logits[number] > 0]
            expected = F.normalize(model.backbone.embed(cells.mean(dim=1)[None]), dim=-1)[0]
            torch.testing.assert_close(found[number], expected, rtol=1e-4, atol=1e-5)


def test_what_is_said_is_true_of_its_region_and_never_gives_a_new_kind_away() -> None:
    rng = np.random.default_rng(0)
    forbidden = {kind.name for kind in NEW}
    for number in range(40):
        sample = regions_of(clip_training_scene(number))
        own = [clip_rows.say(segment, rng) for segment in sample.segments]
        other = [clip_rows.say_of_look_alike(segment, rng) for segment in sample.segments]
        truth = clip_rows.truth(sample.facts, own + other)
        assert truth[:, : len(own)].diagonal().all()
        for segment, saying in zip(sample.segments, own, strict=True):
            looks = {axis: value for axis, value in segment.attributes.items() if axis != "size"}
            assert not held_out(segment.thing, looks)
            if saying.facts[0] >= 0:
                assert KINDS[saying.facts[0]] == kind_with(segment.thing, looks, SEEN)
        words = " ".join(sentence for saying in own + other for sentence in saying.sentences)
        assert forbidden.isdisjoint(words.replace(".", "").split())


def test_questions_have_an_answer_for_every_fact() -> None:
    asked = clip_rows.questions(np.random.default_rng(1))
    sample = regions_of(clip_training_scene(5))
    assert len(asked) == sample.facts.shape[1]
    right = clip_rows.answers(sample.facts)
    assert all(right[:, place].max() < len(options) for place, options in enumerate(asked))
    for segment, called in zip(sample.segments, right[:, 0].tolist(), strict=True):
        assert called == (SEEN.index(segment.kind) if segment.kind else len(SEEN))
    frames = [frame.split("{}")[0] for frame in template_set("vild").templates]
    assert all(sentence.startswith(tuple(frames)) for options in asked for sentence in options)


def test_the_losses_by_hand() -> None:
    # Two regions; the first saying is true of both, the second only of the first one, the third of none.
    logits = torch.tensor([[1.0, 2.0, 0.0], [0.5, -1.0, 0.0]])
    true = torch.tensor([[True, True, False], [True, False, False]])
    rows, columns = logits.log_softmax(1), logits.log_softmax(0)
    of_rows = ((0.5 * rows[0, 0] + rows[0, 1]) / 1.5 + rows[1, 0]) / 2
    of_columns = ((columns[0, 0] + columns[1, 0]) / 2 + columns[0, 1]) / 2
    torch.testing.assert_close(contrastive_loss(logits, true), -(of_rows + of_columns))

    features, options = torch.eye(2), [torch.eye(2), torch.ones(3, 2)]
    facts = torch.tensor([[0, -1], [1, 2]])
    expected = (-F.log_softmax(torch.tensor([2.0, 0.0]), 0)[0] + torch.tensor(3.0).log()) / 2
    torch.testing.assert_close(question_loss(features, options, facts, torch.tensor(2.0)), expected)


def test_clip_learns_the_same_from_the_same_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # sums on a GPU come in any order
    first, losses = train_clip(FEW)
    again, same = train_clip(FEW)
    assert losses == same and losses[-1] < losses[0]
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    assert train_clip(Recipe(seed=1, iterations=1, scenes=8, batch=3, warmup=1))[1] != losses[:1]
    assert float(first.scale.detach()) <= MAX_LOGIT_SCALE


def test_one_command_trains_exports_and_evaluates(three_images: Path) -> None:
    output = three_images / "run"
    keys = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "MODEL.DEVICE", "cpu"]
    words = ["--seed", "3", "--clip-iterations", "2", "--clip-scenes", "8", "--output", str(output)]
    assert train.main([*words, "--", *keys]) == 0
    with safe_open(output / "mini.safetensors", "pt") as file:
        assert file.metadata()["seed"] == "3"
        kinds = {str(file.get_tensor(name).dtype) for name in file.keys()}  # noqa: SIM118
        assert kinds == {"torch.float16"} and not any("backbone_t" in name for name in file.keys())  # noqa: SIM118
    exported = load_file(output / "mini.safetensors")
    clip = load_file(output / "clip.safetensors")
    name = "token_embedding.weight"
    assert torch.equal(exported[f"backbone.clip_model.{name}"], clip[name].half())
    document = json.loads((output / "evaluation" / "results.json").read_text())
    assert set(document["panoptic"]) == {"names", "generic", "image", "image_aligned"}
    assert train.main([*words, "--", *keys]) == 2  # there already
    written = (output / "mini.safetensors").stat().st_mtime_ns, clip
    assert train.main([*words, "--resume", "--", *keys]) == 0
    assert torch.equal(load_file(output / "clip.safetensors")[name], written[1][name])


def test_one_command_trains_exports_and_evaluates_sed(three_images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = three_images / "run"
    keys = ["SOLVER.MAX_ITER", "2", "MODEL.DEVICE", "cpu", "MODEL.REASON.BANK_DIR", ""]
    words = ["--model", "sed", "--seed", "3", "--output", str(output)]
    assert train.main([*words, "--", *keys]) == 0
    file = output / "sed-mini.safetensors"
    exported = load_file(file)
    begun = read_clip(train.shipped("maft"))
    assert "token_embedding.weight" in begun and not any("token_embedding" in name for name in exported)
    learned = f"{CLIP}visual.trunk.stem.0.weight"
    assert exported[learned].dtype == torch.float16
    assert not torch.equal(exported[learned], begun[learned.removeprefix(CLIP)])
    document = json.loads((output / "evaluation" / "results.json").read_text())
    assert document.keys() == {"panoptic", "sed_names", "sed_generic", "sed_image"} and not document["panoptic"]
    assert "report:" not in capsys.readouterr().out
    assert train.main([*words, "--", *keys]) == 2  # there already

    # Another CLIP's text tower is refused: the file says which one it leaves out.
    other = three_images / "other.safetensors"
    save_file({name: value + 1 if "token" in name else value for name, value in begun.items()}, other)
    cfg = build_config("configs/mini/sed_eval.yaml", ["MODEL.WEIGHTS", str(file), "SED.CLIP_WEIGHTS", str(other)])
    cfg.MODEL.DEVICE = "cpu"
    with pytest.raises(UserError, match="are others than it was trained with"):
        load_for_evaluation(build_network(cfg), str(file))


def test_another_run_is_never_mixed_in(tmp_path: Path) -> None:
    train._claim(tmp_path / "a", {"seed": 0}, resume=False)
    with pytest.raises(UserError, match="other settings"):
        train._claim(tmp_path / "a", {"seed": 1}, resume=True)


def test_the_shipped_weights_do_what_is_said_of_them(small_world: Path) -> None:
    assert train.shipped("maft").stat().st_size <= train.LARGEST["maft"]
    layout = dataset.prepare(splits=("val", "closed"))["val"]
    methods = [method for method in main_methods(layout) if method.name in ("names", "image")]
    output = small_world / "out"
    evaluate_methods([*methods, CLOSED], output, {"TEST.SAVE_PREDICTIONS": "False"}, resume=False)
    closed = read_evaluation(output / CLOSED.name, CLOSED.dataset)["metrics"]
    assert closed["sem_seg"]["mIoU_reference"] > 80 and closed["panoptic_seg"]["all"]["PQ"] > 65
    names, image = (scores_of(read_evaluation(output / method.name)) for method in methods)
    assert names["new"] < 5 and image["new"] > 40
    assert image["seen"] > 70 and image["PQ"] > names["PQ"] + 25


def test_the_shipped_sed_does_what_is_said_of_it_and_is_the_one_of_the_interface(small_world: Path) -> None:
    assert train.shipped("sed").stat().st_size <= train.LARGEST["sed"]
    assert train.shipped("sed").stat().st_size + train.shipped("maft").stat().st_size < 10_000_000
    layout = dataset.prepare(splits=("val",))["val"]
    methods = [method for method in sed_methods(layout) if method.name != "sed_generic"]
    output = small_world / "out"
    evaluate_methods(methods, output, {}, resume=False)
    names, image = (scores_of(read_evaluation(output / method.name, panoptic=False)) for method in methods)
    assert names["new"] < 5 and image["new"] > 20 and image["seen"] > 35

    segmentor, vocabulary = load_segmentor("sed-mini", device="cpu"), load_vocabulary(layout.vocabulary)
    file = layout.images / "val_0003.png"
    reasons = layout.reason_dir() / dataset.REASON_DATA / "val_0003.json"
    saved = output / "sed_image" / "inference" / DATASET / "sem_seg" / file.name
    assert (segmentor(file, vocabulary, reasons=reasons).label_map == np.asarray(Image.open(saved))).mean() > 0.999


def test_partial_labels_lose_a_quarter_of_the_segments_always_the_same_ones(small_world: Path) -> None:
    cfg = build_config("configs/mini/sed_train.yaml", ["DATASETS.REGISTER", f"('{partial.__name__}',)"])
    register_datasets(cfg)
    records = DatasetCatalog.get(partial.NAME)
    assert len(records) == 8
    lost = total = 0
    for record in records:
        whole = np.asarray(Image.open(record["sem_seg_file_name"].replace("annotations_partial", "annotations")))
        labels = np.asarray(Image.open(record["sem_seg_file_name"]))
        segments = read_panoptic(record["sem_seg_file_name"].replace("annotations_partial", "panoptic"))
        for segment in np.unique(segments):
            inside = labels[segments == segment]
            gone = bool((inside == IGNORE_LABEL).all())
            assert gone or (inside == whole[segments == segment]).all()
            lost, total = lost + gone, total + 1
        assert (partial.without_some(whole, segments, Path(record["file_name"]).stem) == labels).all()
    assert 0 < lost < total / 2
