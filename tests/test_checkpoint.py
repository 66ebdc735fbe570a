"""Weights: what loads, what is refused, and with which words."""

from __future__ import annotations

import gzip
import logging
import lzma
import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from maft.errors import UserError
from maft.modeling.maft_plus import MAFTPlus
from maft.weights.checkpoint import load_model_weights, load_weights
from maft.weights.seeding import is_seeded_entry, seed_module, seeded_entry


class Network(nn.Module):
    """Two entries of the published names' kinds."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.backbone = nn.Linear(width, 2)
        self.void_embedding = nn.Embedding(1, width)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: value.clone() for name, value in Network().state_dict().items()}


def loaded(path: Path) -> dict[str, torch.Tensor]:
    network = Network()
    network.teacher_prefix = MAFTPlus.teacher_prefix
    load_model_weights(network, path)
    return network.state_dict()


@pytest.mark.parametrize("form", ["bare", "model", "training", "ddp", "safetensors", "legacy"])
def test_every_published_form_loads(tmp_path: Path, state: dict[str, torch.Tensor], form: str) -> None:
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "ddp":
        torch.save({"model": {f"module.{name}": value for name, value in state.items()}}, path)
    elif form == "training":
        beside = {"optimizer": {"lr": np.float64(1e-4), "state": [torch.zeros(3)]}, "iteration": 59999}
        torch.save({"model": state, **beside}, path)
    elif form == "legacy":
        torch.save({"model": state}, path, _use_new_zipfile_serialization=False)
    else:
        torch.save({"model": state} if form == "model" else state, path)
    for name, value in loaded(path).items():
        assert torch.equal(value, state[name])


WRAPPED = {
    "compiled": lambda name: f"_orig_mod.{name}",
    "a compiled part": lambda name: name.replace("backbone.", "backbone._orig_mod."),
    "compiled, then distributed": lambda name: f"module._orig_mod.{name}",
    "Lightning": lambda name: f"model.{name}",
    "all of them": lambda name: f"model.module._orig_mod.{name}",
}


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", None])
def test_what_wrappers_put_before_names_is_taken_off(
    tmp_path: Path, state: dict[str, torch.Tensor], wrapper: str, key: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    wrapped = {WRAPPED[wrapper](name): value for name, value in state.items()}
    torch.save({key: wrapped} if key else wrapped, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO):
        found = loaded(tmp_path / "w.pth")
    assert all(torch.equal(value, state[name]) for name, value in found.items())
    assert caplog.text.count("taken off") == 1


def test_names_without_wrappers_are_not_spoken_of(tmp_path: Path, state: dict[str, torch.Tensor], caplog) -> None:
    torch.save(state, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO):
        loaded(tmp_path / "w.pth")
    assert "taken off" not in caplog.text


def test_two_models_in_one_state_dict(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save(state | {f"module.{name}": value for name, value in state.items()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth: holds void_embedding\.weight twice|holds backbone\.weight twice"):
        load_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_values_that_are_not_finite_are_named(
    tmp_path: Path, state: dict[str, torch.Tensor], value: float, ending: str
) -> None:
    state["backbone.weight"][0, :2] = value
    state["void_embedding.weight"][0, 0] = value
    path = tmp_path / f"w{ending}"
    save_file(state, path) if ending == ".safetensors" else torch.save({"model": state}, path)
    with pytest.raises(
        UserError, match=r"3 values are NaN or infinite, in 2 of 3 entries, the first in backbone\.weight"
    ):
        load_weights(path)


def test_a_causal_mask_may_have_minus_infinity(tmp_path: Path) -> None:
    mask = torch.full((3, 3), float("-inf")).triu(1)
    torch.save({"clip_model.attn_mask": mask}, tmp_path / "w.pth")
    assert torch.equal(load_weights(tmp_path / "w.pth")["clip_model.attn_mask"], mask)
    torch.save({"clip_model.attn_mask": mask * 0}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="NaN or infinite"):
        load_weights(tmp_path / "w.pth")


def test_a_program_is_called_one(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    """OpenAI's CLIP files are TorchScript; the remedy that the message gives works."""
    network = nn.Linear(3, 2)
    torch.jit.save(torch.jit.trace(network, torch.zeros(1, 3)), tmp_path / "traced.pt")
    with pytest.raises(UserError, match=r"traced\.pt: a TorchScript program.*state_dict\(\)") as caught:
        load_weights(tmp_path / "traced.pt")
    assert "truncated" not in str(caught.value)
    torch.save(torch.jit.load(tmp_path / "traced.pt").state_dict(), tmp_path / "weights.pth")
    assert torch.equal(load_weights(tmp_path / "weights.pth")["weight"], network.weight)
    torch.export.save(torch.export.export(network, (torch.zeros(1, 3),)), tmp_path / "exported.pt2")
    with pytest.raises(UserError, match=r"exported\.pt2: an exported program"):
        load_weights(tmp_path / "exported.pt2")
    torch.save(torch.export.load(tmp_path / "exported.pt2").state_dict, tmp_path / "weights.pth")
    assert torch.equal(load_weights(tmp_path / "weights.pth")["bias"], network.bias)


def test_the_content_decides_not_the_ending(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, tmp_path / "renamed.pth")
    torch.save({"model": state}, tmp_path / "renamed.safetensors")
    for name in ("renamed.pth", "renamed.safetensors"):
        assert set(loaded(tmp_path / name)) == set(state)


def test_the_teacher_of_training_is_left_out(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({"model": state | {"backbone_t.clip_model.logit_scale": torch.tensor(1.0)}}, tmp_path / "w.pth")
    assert set(loaded(tmp_path / "w.pth")) == set(state)


class Bomb:
    """A pickle that would run a command."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    target = tmp_path / "made-by-the-pickle"
    torch.save({"model": state, "extra": Bomb(target)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth: refused.*code"):
        load_weights(tmp_path / "w.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"model": Bomb(target)}))
    with pytest.raises(UserError, match=r"plain\.pth"):
        load_weights(tmp_path / "plain.pth")
    assert not target.exists()


@pytest.mark.parametrize("part", [0.2, 0.6, 0.95, 0.999])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_truncated_file_is_named(tmp_path: Path, state: dict[str, torch.Tensor], part: float, ending: str) -> None:
    path = tmp_path / f"w{ending}"
    big = state | {"filler": torch.randn(4000)}
    if ending == ".pth":
        torch.save({"model": big}, path)
    else:
        save_file(big, path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(UserError, match=rf"w{ending}: truncated"):
        load_weights(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-lfs pointer"),
        (b"\n<!DOCTYPE html><html><body>Quota exceeded</body></html>", "web page"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page"),
        (gzip.compress(b"weights", mtime=0), r"compressed \(gzip\): unpack"),
        (lzma.compress(b"weights"), r"compressed \(xz\): unpack"),
        (b"GGUF\x03\x00\x00\x00", "another format, GGUF"),
        (b'{"metadata": {}, "weight_map": {}}', "a JSON text, such as the index"),
        (b"just some text", "truncated, or not a PyTorch checkpoint"),
        (pickle.dumps({"epoch": 3}), "refused.*save its state dict alone"),
    ],
)
def test_what_is_no_checkpoint_is_said(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "maftp_b.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)


def test_a_file_without_a_state_dict_is_said(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        load_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("change", "form"),
    [
        (lambda value: value.to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (lambda value: value.to(torch.complex64), "complex64"),
        (lambda value: value.to_sparse(), "sparse"),
        (lambda value: value.to("meta"), "without values (meta)"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "qint8"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_compressed_weights_are_not_taken_as_they_are(tmp_path: Path, state, change, form: str) -> None:
    path = tmp_path / "small.pth"
    torch.save({**state, "backbone.weight": change(state["backbone.weight"])}, path)
    with pytest.raises(UserError, match=rf"small\.pth: backbone\.weight is {re.escape(form)}; .*dequantize"):
        load_weights(path)


def test_integers_in_the_place_of_weights_are_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "int8.pth"
    torch.save({**state, "backbone.weight": (state["backbone.weight"] * 100).to(torch.int8)}, path)
    with pytest.raises(UserError, match=r"1 quantised \(backbone\.weight int8\)"):
        load_model_weights(Network(), path)


def test_a_text_beside_the_state_dict_is_not_it(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({"model": "base", "state_dict": state}, tmp_path / "a.pth")
    assert load_weights(tmp_path / "a.pth").keys() == state.keys()


def test_a_zipped_folder_is_said_with_what_it_holds(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    """What a drive's web page gives for several files at once."""
    torch.save({"model": state}, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "maftp_b.pth", "w") as archive:
        archive.write(tmp_path / "w.pth", "weights/maftp_b.pth")
    with pytest.raises(UserError, match=r"archive that holds weights/maftp_b\.pth; unpack"):
        load_weights(tmp_path / "maftp_b.pth")


def test_a_missing_file_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such weight file.*pretrained/README\.md"):
        load_weights(tmp_path / "maftp_b.pth")
    with pytest.raises(UserError, match=r"MODEL\.WEIGHTS: empty"):
        load_model_weights(Network(), "")


@pytest.mark.parametrize("change", ["size", "missing", "unexpected"])
def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, state: dict[str, torch.Tensor], change: str) -> None:
    if change == "size":
        state = Network(width=5).state_dict()
    elif change == "missing":
        state.pop("backbone.bias")
    else:
        state["sem_seg_head.extra"] = torch.zeros(1)
    torch.save({"model": state}, tmp_path / "w.pth")
    words = {
        "size": r"of another size \(backbone\.weight \(2, 5\) instead of \(2, 3\)",
        "missing": r"missing \(backbone\.bias",
        "unexpected": r"unexpected \(sem_seg_head\.extra",
    }
    with pytest.raises(UserError, match=words[change]):
        loaded(tmp_path / "w.pth")


def test_seeded_weights_depend_on_name_and_shape_only() -> None:
    first, second = seed_module(Network()), seed_module(Network())
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
        assert torch.equal(value, torch.from_numpy(seeded_entry(name, tuple(value.shape))))
    assert not first.training
    assert not np.array_equal(seeded_entry("a.weight", (2, 3)), seeded_entry("b.weight", (2, 3)))


def test_seeding_rules() -> None:
    """Every kind of entry has the moments that its rule states (the golden cases check the numbers themselves)."""
    assert seeded_entry("backbone.clip_model.logit_scale", ()) == np.float32(4.7)
    assert seeded_entry("sem_seg_head.predictor.logit_scale", ()) == np.float32(3.0)
    rows = seeded_entry("x.weight", (6, 50))
    assert np.abs(rows.mean(axis=1)).max() < 1e-6 and rows.std() == pytest.approx(50**-0.5, rel=0.1)
    assert seeded_entry("x.norm.weight", (4000,)).mean() == pytest.approx(1, abs=0.01)
    assert seeded_entry("x.gamma", (4000,)).mean() == pytest.approx(0.5, abs=0.01)
    assert np.abs(seeded_entry("x.bias", (4000,))).mean() < 0.03
    assert seeded_entry("query_feat.weight", (100, 64)).std() == pytest.approx(2, rel=0.05)
    assert seeded_entry("predictor.mask_embed.layers.2.bias", (4000,)).mean() == pytest.approx(0.15, abs=0.01)


def test_counters_masks_and_class_weights_are_not_seeded() -> None:
    assert not is_seeded_entry("criterion.empty_weight", torch.ones(3))
    assert not is_seeded_entry("norm.num_batches_tracked", torch.tensor(0))
    assert not is_seeded_entry("clip_model.attn_mask", torch.ones(2, 2))
    assert not is_seeded_entry("some.scalar", torch.tensor(1.0))
    assert is_seeded_entry("clip_model.logit_scale", torch.tensor(1.0))
