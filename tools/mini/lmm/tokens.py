"""The model's tokenizer: a byte-level BPE made for the prompts of `reason` and the answers of the mini world.

It is a Qwen2Tokenizer like that of the published models, with few entries, since every entry is a row of the
embedding: the words of prompts and answers are one token each.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reason.asking.prompts import load_prompts
from reason.names import VocabularyNames

from ..world import KINDS, vocabulary
from .folder import SPECIAL, as_qwen
from .looks import candidates, compact, description, imagine, reason_of, reasons

ENTRIES = 1536
ATTRIBUTES = (3, 3)
"""Least and largest number of attributes that the model is asked for."""

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
    return as_qwen(trained)


def _alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _texts() -> list[str]:
    """Prompts and answers; prompts are few, so that each stands there often."""
    prompts = load_prompts()
    lines = list(VocabularyNames.of(vocabulary("val")).lines)
    names = [name for kind in KINDS for name in (kind.name, kind.synonym) if name]
    texts = [write(lines, "json", ATTRIBUTES) for write in (prompts.image_system, prompts.generic_system)]
    texts += [prompts.image_look(), prompts.image_name()]
    texts += [prompts.image_reason(names), *(prompts.generic_reason(name) for name in names)]
    texts = texts * 40
    rng = np.random.default_rng(0)
    for _ in range(_CONVERSATIONS):
        chosen = {kind.name: str(rng.choice([kind.name, kind.synonym or kind.name])) for kind in KINDS}
        looks = imagine(rng, chosen, exact=0.7, misread=0.1)
        named = candidates(looks, list(chosen.values()))
        texts += [compact({"description": description(looks)}), compact({"classes": named})]
        texts += [compact(reasons(looks, named)), "\n".join(rng.permutation(names))]
    texts += [compact(reason_of(kind.thing, kind.attributes)) for kind in KINDS]
    return texts
