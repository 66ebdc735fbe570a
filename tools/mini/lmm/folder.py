"""What a small Qwen2.5-VL's folder is made of, beside its weights: tokenizer, chat template, processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Tokens that no text holds, as the published models have them."""

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == "text" -%}
{{ part.text }}
{%- elif "image" in part.type -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""
"""Turns as the published models write them; there is no system turn but a given one."""


def as_qwen(trained: Any) -> Any:
    """A byte-level BPE, a tokenizers.Tokenizer, as the tokenizer class of the published models."""
    from transformers import Qwen2Tokenizer

    model = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [*SPECIAL]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def token_numbers(tokenizer: Any) -> dict[str, int]:
    """The keys of a configuration that name tokens of images."""
    number = tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": number("<|image_pad|>"),
        "video_token_id": number("<|video_pad|>"),
        "vision_start_token_id": number("<|vision_start|>"),
        "vision_end_token_id": number("<|vision_end|>"),
    }


def save_folder(model: Any, tokenizer: Any, folder: Path, *, max_pixels: int, sample: bool) -> None:
    """Write a model as `AutoModelForImageTextToText` and vLLM load it.

    Args:
        model: a Qwen2_5_VLForConditionalGeneration, in the dtype it is to be written in.
        tokenizer: of `as_qwen`.
        folder: where to.
        max_pixels: of the largest image that its processor leaves as it is.
        sample: whether it draws its answers, if it is not told otherwise.
    """
    from transformers import GenerationConfig, Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    model.generation_config = GenerationConfig(
        eos_token_id=model.config.text_config.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=sample
    )
    pixels = {"min_pixels": 4 * 28 * 28, "max_pixels": max_pixels}
    images = Qwen2VLImageProcessor(**pixels)
    processor = Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(**pixels), chat_template=CHAT_TEMPLATE)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    images.save_pretrained(folder)  # preprocessor_config.json, as the published models have it
