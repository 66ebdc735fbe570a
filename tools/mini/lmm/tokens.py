"""The model's tokenizer: a byte-level BPE made for the prompts of `reason` and the answers of the mini world.

It is a Qwen2Tokenizer like that of the published models, with few entries, since every entry is a row of the
embedding: the words of prompts and answers are one token each.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from reason.asking.prompts import PromptSet, load_prompts
from reason.names import VocabularyNames

from ..world import KINDS, vocabulary
from .looks import candidates, compact, description, imagine, reason_of, reasons

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
ENTRIES = 1536
ATTRIBUTES = (3, 3)
"""Least and largest number of attributes that the model is asked for."""

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

_CONVERSATIONS = 1500


def build_tokenizer() -> Any:
    """The tokenizer, a transformers.Qwen2Tokenizer; the same one each time."""
    from tokenizers import Tokenizer, decoders, models, trainers
    from transformers import Qwen2Tokenizer

    # Qwen's way of parting a text before pairs are merged is that of the class, so it is asked for it.
    bare = Qwen2Tokenizer(vocab={token: number for number, token in enumerate(_alphabet())}, merges=[])
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = bare.backend_tokenizer.pre_tokenizer
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=ENTRIES - len(SPECIAL), initial_alphabet=_alphabet(), show_progress=False, min_frequency=2
    )
    trained.train_from_iterator(_texts(), trainer)
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


def class_list(names: list[str]) -> str:
    """The classes as the prompts list them."""
    return "\n".join(names)


def system_prompts(prompts: PromptSet, names: list[str]) -> tuple[str, str]:
    """The system turns for images and for generic reasons."""
    return prompts.image_system(names, "json", ATTRIBUTES), prompts.generic_system(names, "json", ATTRIBUTES)


def _alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _texts() -> list[str]:
    """Prompts and answers; prompts are few, so that each stands there often."""
    prompts = load_prompts()
    lines = list(VocabularyNames.of(vocabulary("val")).lines)
    names = [name for kind in KINDS for name in (kind.name, kind.synonym) if name]
    texts = [*system_prompts(prompts, lines), prompts.image_look(), prompts.image_name()]
    texts += [prompts.image_reason(names), *(prompts.generic_reason(name) for name in names)]
    texts = texts * 40
    rng = np.random.default_rng(0)
    for _ in range(_CONVERSATIONS):
        chosen = {kind.name: str(rng.choice([kind.name, kind.synonym or kind.name])) for kind in KINDS}
        looks = imagine(rng, chosen, exact=0.7, misread=0.1)
        named = candidates(looks, list(chosen.values()))
        texts += [compact({"description": description(looks)}), compact({"classes": named})]
        texts += [compact(reasons(looks, named)), class_list([str(name) for name in rng.permutation(names)])]
    texts += [compact(reason_of(kind.thing, kind.attributes)) for kind in KINDS]
    return texts
