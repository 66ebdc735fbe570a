"""How much faster prompts are encoded than by open_clip's full-length `encode_text`, and that they come out the same.

    python -m tools.bench.text_encoder [--model convnext_base_w_320] [--classes 20] [--threads 2]

Encodes the prompts of generic reasons over the first classes of A-150 (made-up attributes) both ways, with random
weights, and prints seconds, the ratio, and the largest relative difference of a feature.
"""

from __future__ import annotations

import argparse
import time

import open_clip
import torch

from maft.text.encoder import load_text_encoder
from maft.text.prompts import generic_prompts
from reason.triplets import parse_generic
from reason.vocabulary import load_vocabulary

ATTRIBUTES = ("rough brown surface", "two long handles", "rows of small windows")


def prompts_of(classes: int) -> list[str]:
    """The distinct sentences of generic reasons for the first `classes` classes of A-150."""
    synonyms = load_vocabulary("ade150").synonyms[:classes]
    document = {names[0]: {"class_des": [f"{word} of {names[0]}" for word in ATTRIBUTES]} for names in synonyms}
    reasons = parse_generic(document, where="benchmark")
    return list(dict.fromkeys(generic_prompts(synonyms, reasons, len(ATTRIBUTES), "reference", "benchmark").sentences))


def main() -> None:
    """Time both, one after the other, each after a warm-up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="convnext_base_w_320")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sentences = prompts_of(options.classes)
    encoder = load_text_encoder(options.model, "seeded", device=options.device)
    tower, tokenizer = encoder.model, open_clip.get_tokenizer(options.model)

    def full_length(texts: list[str]) -> torch.Tensor:
        parts = [tower(tokenizer(texts[start : start + 256]).to(options.device)) for start in range(0, len(texts), 256)]
        return torch.cat(parts).float().cpu()

    seconds, features = {}, {}
    with torch.inference_mode():
        for name, encode in (("open_clip, full length", full_length), ("shared beginnings", encoder.encode)):
            encode(sentences[:64])
            start = time.perf_counter()
            features[name] = encode(sentences)
            seconds[name] = time.perf_counter() - start
            print(f"{name}: {len(sentences)} sentences in {seconds[name]:.1f} s")
    expected, ours = features.values()
    difference = ((ours - expected).norm(dim=1) / expected.norm(dim=1)).max().item()
    slow, fast = seconds.values()
    print(f"{slow / fast:.1f} times as fast, {options.threads} threads; largest relative difference {difference:.1e}")


if __name__ == "__main__":
    main()
