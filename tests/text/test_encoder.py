from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from maft.errors import UserError
from maft.text.bank import FeatureBank
from maft.text.encoder import CLIPTextEncoder, build_text_tower, load_text_encoder
from maft.weights.seeding import seed_module

SENTENCES = [
    "a photo of a cat.",
    "There is a small road that has gray asphalt in the scene.",
    "dog",
    "  A  PHOTO of a Café, it's 3 o'clock &amp; raining!  ",
    "very " * 100 + "long",
    "",
    "a photo of a cat.",
    *(f"This is a photo of a {word} that has {word}s" for word in "tree car boat plane house bird horse".split()),
]


def relative(value: Tensor, expected: Tensor) -> float:
    """The largest relative error of a row."""
    return float(((value - expected).norm(dim=1) / expected.norm(dim=1)).max())


@pytest.fixture(scope="module")
def architecture(tiny, tmp_path_factory) -> str:
    """The tiny CLIP as an architecture that open_clip knows by name."""
    folder = tmp_path_factory.mktemp("clip")
    config = {"embed_dim": tiny.EMBED_DIM, "vision_cfg": tiny.VISION, "text_cfg": tiny.TEXT}
    (folder / "tiny_text_test.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    return "tiny_text_test"


@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_equals_full_length_encode_text(tiny, batch_size: int) -> None:
    encoder = tiny.tiny_encoder(batch_size=batch_size)
    tokens = open_clip.get_tokenizer("convnext_base_w_320")(SENTENCES)
    with torch.no_grad():
        expected = tiny.tiny_clip().encode_text(tokens)
    features = encoder.encode(SENTENCES)
    assert features.shape == (len(SENTENCES), tiny.EMBED_DIM) and features.dtype == torch.float32
    assert relative(features, expected) < 1e-6
    assert not torch.allclose(features[0], features[1], rtol=0.05)


def test_shared_beginnings_are_computed_once(tiny) -> None:
    clip = tiny.tiny_clip()
    seen: list[int] = []
    clip.transformer.resblocks[0].mlp.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    encoder = CLIPTextEncoder(clip, open_clip.get_tokenizer("convnext_base_w_320"))
    encoder.encode(["a photo of a cat."] * 20)
    encoder.encode(["a photo of a cat.", "a photo of a dog.", "a photo", "a photo of a cat"])
    # start, a, photo, of, a, cat, ., end; then those, "dog . end", "end" after photo, and "end" after cat.
    assert seen == [8, 8 + 3 + 1 + 1]


def test_no_sentence_sees_its_neighbours(direct) -> None:
    together = direct.encode(SENTENCES)
    alone = torch.cat([direct.encode([sentence]) for sentence in SENTENCES])
    assert relative(together, alone) < 1e-6


def test_nothing_to_encode(direct) -> None:
    assert direct.encode([]).shape == (0, direct.dim)


def test_autocast_of_the_caller_has_no_effect(direct) -> None:
    expected = direct.encode(SENTENCES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(direct.encode(SENTENCES), expected)


def test_bfloat16_is_near_and_never_meets_float32_in_a_bank(tiny, direct, tmp_path: Path) -> None:
    tokenizer = open_clip.get_tokenizer("convnext_base_w_320")
    half = CLIPTextEncoder(tiny.tiny_clip(), tokenizer, precision="bfloat16")
    exact, near = direct.encode(SENTENCES), half.encode(SENTENCES)
    assert near.dtype == torch.float32 and not torch.equal(near, exact)
    assert torch.cosine_similarity(near, exact).min() > 0.999
    assert half.fingerprint != direct.fingerprint
    for encoder, expected in ((half, near), (direct, exact), (half, near)):
        with FeatureBank(encoder, folder=tmp_path) as bank:
            assert torch.allclose(bank.get(SENTENCES), expected, atol=1e-6)


def test_fingerprint_follows_text_weights_and_tokenizer_only(tiny) -> None:
    tokenizer = open_clip.get_tokenizer("convnext_base_w_320")
    clip = tiny.tiny_clip()
    encoder = CLIPTextEncoder(clip, tokenizer)
    first = encoder.fingerprint
    assert first == tiny.tiny_encoder().fingerprint
    assert first != tiny.tiny_encoder(seed=1).fingerprint
    assert first != CLIPTextEncoder(clip, open_clip.SimpleTokenizer(context_length=40)).fingerprint
    assert first != CLIPTextEncoder(clip, open_clip.SimpleTokenizer(clean="canonicalize")).fingerprint
    with torch.no_grad():
        clip.visual.proj.add_(1)
        clip.logit_scale.add_(1)
    assert encoder.fingerprint == first
    with torch.no_grad():
        clip.transformer.resblocks[1].mlp.c_proj.bias[3] += 1e-3
    changed = encoder.fingerprint
    assert changed != first
    clip.load_state_dict(tiny.tiny_clip().state_dict())
    assert encoder.fingerprint == first
    clip.to(torch.bfloat16)
    assert encoder.fingerprint not in (first, changed)


def test_encoder_adds_no_parameters_to_the_module_that_keeps_it(tiny) -> None:
    owner = nn.Module()
    owner.encoder = tiny.tiny_encoder()
    assert not list(owner.parameters())


def test_other_towers_are_refused(tiny) -> None:
    tokenizer = open_clip.get_tokenizer("convnext_base_w_320")
    with pytest.raises(TypeError, match="token_embedding"):
        CLIPTextEncoder(nn.Linear(2, 2), tokenizer)
    last = open_clip.CLIP(8, tiny.VISION, {**tiny.TEXT, "pool_type": "last"})
    with pytest.raises(TypeError, match="'last'"):
        CLIPTextEncoder(last, tokenizer)
    open_ended = open_clip.CLIP(8, tiny.VISION, {**tiny.TEXT, "no_causal_mask": True})
    with pytest.raises((TypeError, AttributeError)):
        CLIPTextEncoder(open_ended, tokenizer)
    custom = tiny.tiny_clip()
    custom.transformer = open_clip.transformer.Transformer(32, 2, 2, qk_norm=True)
    with pytest.raises(TypeError, match="plain residual attention blocks"):
        CLIPTextEncoder(custom, tokenizer)


@pytest.mark.parametrize("batch_first", [True, False])
def test_either_layout_inside_the_transformer_gives_the_same(tiny, batch_first: bool) -> None:
    clip = tiny.tiny_clip()
    other = open_clip.transformer.Transformer(32, 2, 2, batch_first=batch_first)
    other.load_state_dict(clip.transformer.state_dict())
    clip.transformer = other
    features = CLIPTextEncoder(clip, open_clip.get_tokenizer("convnext_base_w_320"), batch_size=5).encode(SENTENCES)
    assert relative(features, tiny.tiny_encoder().encode(SENTENCES)) < 1e-6


class _Model(nn.Module):
    """The names of a MAFT+ checkpoint."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.clip_model = clip


@pytest.mark.parametrize("prefix", ["backbone.clip_model.", ""])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_text_tower_out_of_a_checkpoint(tiny, architecture: str, tmp_path: Path, prefix: str, suffix: str) -> None:
    state = {prefix + name: value for name, value in tiny.tiny_clip().state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"model": state}, path)
    else:
        safetensors.torch.save_file({name: value.contiguous() for name, value in state.items()}, path)
    encoder = load_text_encoder(architecture, path)
    assert torch.equal(encoder.encode(SENTENCES), tiny.tiny_encoder(batch_size=256).encode(SENTENCES))
    assert encoder.fingerprint == tiny.tiny_encoder().fingerprint


def test_seeded_weights_are_those_of_the_whole_model(tiny, architecture: str) -> None:
    clip = tiny.tiny_clip()
    seed_module(_Model(clip))
    expected = CLIPTextEncoder(clip, open_clip.get_tokenizer(architecture))
    assert load_text_encoder(architecture, "seeded").fingerprint == expected.fingerprint


def test_weights_that_do_not_fit(tiny, architecture: str, tmp_path: Path) -> None:
    state = {f"backbone.clip_model.{name}": value for name, value in tiny.tiny_clip().state_dict().items()}
    path = tmp_path / "weights.pth"
    cases = {
        r"ln_final\.bias is missing": {name: value for name, value in state.items() if "ln_final.bias" not in name},
        r"\(32, 24\)": {**state, "backbone.clip_model.text_projection": torch.zeros(32, 8)},
        "resblocks.2.ln_1.bias is unexpected": {
            **state,
            "backbone.clip_model.transformer.resblocks.2.ln_1.bias": torch.zeros(32),
        },
        "no CLIP text tower": {"backbone.stem": torch.zeros(1)},
    }
    for message, changed in cases.items():
        torch.save(changed, path)
        with pytest.raises(UserError, match=message) as error:
            load_text_encoder(architecture, path)
        assert str(path) in str(error.value)
    with pytest.raises(UserError, match=r"MODEL\.WEIGHTS"):
        load_text_encoder(architecture, "")


def test_architectures(architecture: str) -> None:
    assert build_text_tower(architecture).text_projection.shape == (32, 24)
    with pytest.raises(UserError, match="no architecture 'convnext_huge'"):
        build_text_tower("convnext_huge")
    with pytest.raises(UserError, match="coca_ViT-B-32"):
        build_text_tower("coca_ViT-B-32")
