"""A tiny Qwen2.5-VL with random weights, built on the spot: the architecture of the real one in 2 MB.

    python tests/reason/tiny_qwen.py FOLDER [--awq] [--layers N] [--max-positions N]

It answers nonsense, but through the same chat template, image processor, M-RoPE and attention as the real model; with
an answer form that the engine enforces, its nonsense is even valid. Everything is seeded: each time the same folder
comes out.
"""

from __future__ import annotations

import argparse
import json
import pydoc_data.topics
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # it is also run as a program

from tools.mini.lmm.folder import SPECIAL, as_qwen, save_folder, token_numbers

VOCABULARY = 2048
MAX_PIXELS = 64 * 28 * 28
"""The largest image that its processor leaves as it is: 64 tokens."""
AWQ_GROUP = 32
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbouring columns stands in bits 0-3, 4-7, … of a packed int32."""


def build_tokenizer() -> Any:
    """A byte-level BPE of 2,048 tokens, trained on the standard library's own documentation; a Qwen2Tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator((pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)), trainer)
    return as_qwen(trained)


def build_config(tokenizer: Any, *, layers: int, max_positions: int) -> Any:
    """The configuration of a Qwen2.5-VL whose every part is there, each as small as its kernels allow."""
    from transformers import Qwen2_5_VLConfig

    number = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": layers,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": max_positions,
            # With the usual 0.02 the answer hardly depends on the image.
            "initializer_range": 0.15,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
            "bos_token_id": number("<|endoftext|>"),
            "eos_token_id": number("<|im_end|>"),
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "num_heads": 2,
            "intermediate_size": 128,
            "out_hidden_size": 128,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.15,
        },
        **token_numbers(tokenizer),
        tie_word_embeddings=True,
    )
    config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
    return config


def build(folder: Path, *, layers: int = 2, max_positions: int = 32768) -> Path:
    """Write the model, in bfloat16, with its tokenizer and processors, into a folder; returns the folder."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    tokenizer = build_tokenizer()
    config = build_config(tokenizer, layers=layers, max_positions=max_positions)
    with torch.random.fork_rng():
        torch.manual_seed(20260)
        model = Qwen2_5_VLForConditionalGeneration(config).to(torch.bfloat16)
    save_folder(model, tokenizer, folder, max_pixels=MAX_PIXELS, sample=True)
    return folder


def _pack(values: Any) -> Any:
    """4-bit numbers, int32 (rows, columns), as AWQ stores them: int32 (rows, columns / 8)."""
    import torch

    rows, columns = values.shape
    eights = values.reshape(rows, columns // 8, 8)
    packed = torch.zeros(rows, columns // 8, dtype=torch.int64)
    for nibble, column in enumerate(AWQ_ORDER):
        packed |= eights[:, :, column].long() << (4 * nibble)
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)


def quantise(weight: Any, group: int = AWQ_GROUP) -> tuple[dict[str, Any], Any]:
    """Round a linear layer to 4 bits.

    Args:
        weight: float (out, in), with `in` a multiple of the group and `out` of 8.
        group: inputs that share a scale and a zero point.

    Returns:
        AWQ's tensors, qweight int32 (in, out / 8), qzeros int32 (in / group, out / 8), scales float16 (in / group,
        out), and what they stand for, float32 (out, in).
    """
    import torch

    outputs, inputs = weight.shape
    grouped = weight.float().t().reshape(inputs // group, group, outputs)
    low, high = grouped.amin(1).clamp(max=0), grouped.amax(1).clamp(min=0)
    scales = ((high - low) / 15).clamp(min=1e-5).to(torch.float16)
    zeros = (-low / scales.float()).round().clamp(0, 15)
    whole = (grouped / scales.float()[:, None] + zeros[:, None]).round().clamp(0, 15)
    meant = ((whole - zeros[:, None]) * scales.float()[:, None]).reshape(inputs, outputs).t().contiguous()
    tensors = {
        "qweight": _pack(whole.reshape(inputs, outputs).int()),
        "qzeros": _pack(zeros.int()),
        "scales": scales,
    }
    return tensors, meant


def build_awq(folder: Path, source: Path, *, dequantised: Path | None = None) -> Path:
    """Write the AWQ form of a tiny model: its text layers in 4 bits, the vision tower as it is; returns the folder.

    Args:
        folder: where to.
        source: a model that `build` wrote.
        dequantised: where to write the same model again with the rounded weights in bfloat16, if anywhere.
    """
    from safetensors.torch import load_file, save_file

    tensors = load_file(source / "model.safetensors")
    packed: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for name, tensor in tensors.items():
        packed[name], plain[name] = tensor, tensor
        if "visual" not in name and re.search(r"\.(self_attn|mlp)\.\w+_proj\.weight$", name):
            parts, meant = quantise(packed.pop(name))
            packed.update({f"{name.removesuffix('weight')}{part}": value for part, value in parts.items()})
            plain[name] = meant.to(tensor.dtype)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    quantisation = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": AWQ_GROUP,
        "version": "gemm",
        "zero_point": True,
        "modules_to_not_convert": ["visual", "model.visual"],
    }
    written = [(folder, {**config, "quantization_config": quantisation}, packed)]
    if dequantised is not None:
        written.append((dequantised, config, plain))
    for place, settings, weights in written:
        place.mkdir(parents=True, exist_ok=True)
        for path in source.iterdir():
            if path.name not in {"config.json", "model.safetensors"}:
                (place / path.name).write_bytes(path.read_bytes())
        (place / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    return folder


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--awq", action="store_true", help="write the AWQ form too, to FOLDER-AWQ")
    parser.add_argument("--layers", type=int, default=2, help="text layers (default: %(default)s)")
    parser.add_argument("--max-positions", type=int, default=32768, help="context (default: %(default)s tokens)")
    arguments = parser.parse_args()
    build(arguments.folder, layers=arguments.layers, max_positions=arguments.max_positions)
    print(arguments.folder)
    if arguments.awq:
        print(build_awq(arguments.folder.with_name(f"{arguments.folder.name}-AWQ"), arguments.folder))


if __name__ == "__main__":
    main()
