"""The network's weights: random at first, kept while training, written as an ordinary Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .folder import save_folder, token_numbers
from .network import HEAD, MERGE, PATCH, PATCH_EMBEDDING, SIDE, WINDOW, Shape

_CONTEXT = 8192


def build_config(shape: Shape, tokenizer: Any) -> Any:
    """The transformers configuration of a shape."""
    from transformers import Qwen2_5_VLConfig

    number = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": shape.width,
            "intermediate_size": shape.inner,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.width // HEAD,
            "num_key_value_heads": shape.width // HEAD,
            "vocab_size": shape.vocabulary,
            "max_position_embeddings": _CONTEXT,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": shape.theta,
                "mrope_section": list(shape.sections),
            },
            "bos_token_id": number("<|endoftext|>"),
            "eos_token_id": number("<|im_end|>"),
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": shape.vision_layers,
            "hidden_size": shape.vision_width,
            "num_heads": shape.vision_width // HEAD,
            "intermediate_size": shape.vision_inner,
            "out_hidden_size": shape.width,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "window_size": WINDOW * PATCH * MERGE,
            "fullatt_block_indexes": list(shape.vision_full),
        },
        **token_numbers(tokenizer),
        tie_word_embeddings=True,
    )
    config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
    return config


def new_weights(shape: Shape, tokenizer: Any) -> dict[str, Tensor]:
    """Random weights, float32, under transformers' names, by its own initialisation at unit gain.

    With the usual standard deviation of 0.02 a network this narrow would begin with hardly any signal.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration(build_config(shape, tokenizer))
    weights = {name: tensor.detach().float().clone() for name, tensor in model.state_dict().items()}
    weights.pop("lm_head.weight")
    weights[PATCH_EMBEDDING] = weights[PATCH_EMBEDDING].sum(dim=2).flatten(1)
    for name, tensor in weights.items():
        if tensor.ndim == 2:
            tensor.normal_(std=tensor.shape[1] ** -0.5 if "embed_tokens" not in name else 0.05)
    return weights


def export(weights: Mapping[str, Tensor], shape: Shape, tokenizer: Any, folder: Path) -> None:
    """Write the model, in bfloat16, with tokenizer and processor: what `AutoModelForImageTextToText` and vLLM load.

    Args:
        weights: under transformers' names, as `network` has them.
        shape: of the network.
        tokenizer: its tokenizer.
        folder: where to.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration(build_config(shape, tokenizer))
    entries = dict(weights)
    half = entries[PATCH_EMBEDDING].view(-1, 3, 1, PATCH, PATCH) / 2
    entries[PATCH_EMBEDDING] = half.expand(-1, -1, 2, -1, -1).contiguous()
    missing, unexpected = model.load_state_dict(entries, strict=False)
    if unexpected or missing != ["lm_head.weight"]:
        raise RuntimeError(f"other weights than transformers': {missing} missing, {unexpected} unexpected")
    model.tie_weights()
    save_folder(model.to(torch.bfloat16), tokenizer, folder, max_pixels=SIDE**2, sample=False)
