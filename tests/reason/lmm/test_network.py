"""The tiny model's own arithmetic against transformers, and its training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maft.errors import UserError
from tools.mini.lmm.examples import Scribe, evaluated_list
from tools.mini.lmm.looks import GRID, imagine
from tools.mini.lmm.network import EMBEDDING, PATCH_EMBEDDING, SIDE, Shape, patches, positions, read, see
from tools.mini.lmm.tokens import ENTRIES, build_tokenizer
from tools.mini.lmm.train import Recipe, train
from tools.mini.lmm.weights import build_config, new_weights
from tools.mini.world import KINDS, PART_PHRASES, STUFF_VALUES, THING_VALUES

SMALL = {"vision_width": 64, "vision_layers": 2, "vision_inner": 96, "vision_full": (1,), "width": 64, "layers": 2}


def _small(tokenizer: Any) -> Shape:
    return Shape(len(tokenizer), inner=96, **SMALL)  # type: ignore[arg-type]


def test_every_name_and_every_value_is_one_token(tokenizer: Any) -> None:
    names = [name for kind in KINDS for name in (kind.name, kind.synonym) if name]
    values = [value for values in (*THING_VALUES.values(), *STUFF_VALUES.values()) for value in values]
    plain = [value for value in values if "-" not in value and value not in PART_PHRASES]
    for word in [*names, *(f" {name}" for name in names), *(f" {value}" for value in plain)]:
        assert len(tokenizer(word).input_ids) == 1, word
    assert len(tokenizer) <= ENTRIES


def test_the_tokenizer_is_the_same_each_time(tokenizer: Any) -> None:
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("shared", (False, True), ids=("whole", "behind a shared beginning"))
def test_the_arithmetic_is_that_of_transformers(tokenizer: Any, shared: bool) -> None:
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    shape = _small(tokenizer)
    weights = new_weights(shape, tokenizer)
    scribe, classes = Scribe(tokenizer), evaluated_list()
    system = scribe.system(classes.listed, whole=False)
    said = scribe.talking(imagine(np.random.default_rng(0), {}, exact=1, misread=0), classes.listed).ids
    ids, at = torch.tensor([system + said]), len(system) + scribe.image_at
    image = torch.rand(1, 3, SIDE, SIDE)
    embedded = weights[EMBEDDING][ids].clone()
    embedded[:, at : at + GRID**2] = see(weights, shape, patches(image))
    if shared:
        begin = len(system)
        _, before = read(weights, shape, embedded[:, :begin], positions(0, None, begin))
        places = positions(begin, scribe.image_at, len(said))
        hidden, _ = read(weights, shape, embedded[:, begin:], places, before)
    else:
        begin = 0
        hidden, _ = read(weights, shape, embedded, positions(0, at, ids.shape[1]))
    logits = hidden @ weights[EMBEDDING].T

    reference = Qwen2_5_VLForConditionalGeneration(build_config(shape, tokenizer)).eval().float()
    entries = dict(weights)
    entries[PATCH_EMBEDDING] = (entries[PATCH_EMBEDDING].view(-1, 3, 1, 14, 14) / 2).expand(-1, -1, 2, -1, -1)
    assert reference.load_state_dict(entries, strict=False).missing_keys == ["lm_head.weight"]
    reference.tie_weights()
    blocks = image.reshape(1, 3, GRID, 2, 14, GRID, 2, 14).permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(-1, 3, 1, 14, 14)
    with torch.no_grad():
        expected = reference(
            input_ids=ids,
            pixel_values=blocks.expand(-1, -1, 2, -1, -1).reshape(len(blocks), -1),
            image_grid_thw=torch.tensor([[1, 2 * GRID, 2 * GRID]]),
            mm_token_type_ids=(ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).int(),
        ).logits[:, begin:]
    assert float(expected.std()) > 0.3
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5)


def test_the_norms_gradient_is_autograds() -> None:
    from tools.mini.lmm.network import _norm

    torch.manual_seed(0)
    hidden = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w: _norm(x.float(), w.float()).double(), (hidden, weight), eps=1e-3, atol=2e-3
    )


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return Recipe(pictures=12, sight_steps=2, steps=4, images=4, talks=2, definitions=1, shape=SMALL)


def test_training_that_was_interrupted_ends_as_if_it_were_not(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    train(recipe, whole, processes=1)
    train(recipe, parted, processes=1, until=3)
    assert not (parted / "model").exists()
    with pytest.raises(UserError, match="--resume"):
        train(recipe, parted, processes=1)
    train(recipe, parted, processes=1, resume=True)
    one, other = (torch.load(folder / "checkpoint.pt", weights_only=True)["weights"] for folder in (whole, parted))
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
    losses = [json.loads(line) for line in (whole / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert losses[-1]["step"] == 6 and losses[-1]["look"] < 8.0


def test_two_processes_learn_and_what_they_write_is_loaded_by_transformers(recipe: Recipe, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    train(recipe, tmp_path / "run", processes=2)
    folder = tmp_path / "run" / "model"
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(
        text=["<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>LOOK<|im_end|>\n<|im_start|>assistant\n"],
        images=[np.zeros((SIDE, SIDE, 3), dtype=np.uint8)],
        return_tensors="pt",
    )
    assert int((inputs.input_ids == model.config.image_token_id).sum()) == GRID**2
    assert model.generate(**inputs, max_new_tokens=3).shape[1] > inputs.input_ids.shape[1]


def test_another_recipe_does_not_go_on_in_the_same_folder(recipe: Recipe, tmp_path: Path) -> None:
    from dataclasses import replace

    (tmp_path / "run").mkdir()
    torch.save({"recipe": {"seed": 5}}, tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(UserError, match="other settings"):
        train(replace(recipe, seed=1), tmp_path / "run", processes=1, resume=True)
