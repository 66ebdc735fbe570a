"""The stages of an image, called as the library calls them, and the alternatives they are measured with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from maft.errors import UserError
from maft.evaluation.metrics import confusion_matrix
from maft.memory import keep_freed_memory, return_freed_memory
from maft.modeling.maft_plus import MAFTPlus, View
from maft.modeling.network import SegmentingNetwork
from maft.modeling.pixel_decoder.ops import (
    active_backend,
    module,
    ms_deform_attn,
    ms_deform_attn_fused,
    ms_deform_attn_plain,
)
from maft.modeling.pixel_decoder.ops.fused import locations_and_weights
from maft.modeling.results import Results
from maft.sizes import resized
from maft.text.rows import Origin
from reason.imagefile import read_rgb
from reason.triplets import Reason
from reason.vocabulary import Vocabulary

from .measure import Clock, now

ATTRIBUTES = ("rough brown surface", "two long handles", "rows of small windows")
WAYS = ("names", "reasons", "image reasons")
"""Class names alone, generic reasons for all classes, an image's reasons for four."""
COVERED = 4

Op = Callable[[Tensor, Sequence[tuple[int, int]], Tensor, Tensor, Tensor], Tensor]


def _unfused(operator: Callable[..., Tensor]) -> Op:
    def op(value: Tensor, shapes: Any, reference: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
        return operator(value, shapes, *locations_and_weights(shapes, reference, offsets, logits))

    return op


OPS: Mapping[str, Op] = {
    "fused": ms_deform_attn_fused,
    "compiled": _unfused(ms_deform_attn),
    "plain": _unfused(ms_deform_attn_plain),
}
"""Deformable attention: softmax and locations inside, before the compiled operator, before plain PyTorch."""


@contextmanager
def deformable_attention(kind: str, device: torch.device) -> Iterator[list[float]]:
    """Let the pixel decoder use one of `OPS`; gives the seconds of every call."""
    seconds: list[float] = []

    def timed(*arguments: Any) -> Tensor:
        start = now(device)
        result = OPS[kind](*arguments)
        seconds.append(now(device) - start)
        return result

    with mock.patch.object(module, "ms_deform_attn_fused", timed):
        yield seconds


RETURNED = ("float32, memory returned", "bfloat16, memory returned")
"""Without `maft.memory.keep_freed_memory`."""
ALTERNATIVES = ("float32", "bfloat16", *RETURNED, "plain op", "compiled op", "torch.compile")


def alternatives(network: nn.Module, device: torch.device) -> dict[str, tuple[str, torch.dtype]]:
    """What the network can be measured with: one of `ALTERNATIVES` -> one of `OPS`, and the type under autocast.

    Args:
        network: SED has no deformable attention.
        device: where there is no compiled op, "float32" is in plain PyTorch already.
    """
    chosen = {"float32": ("fused", torch.float32), "bfloat16": ("fused", torch.bfloat16)}
    if device.type == "cpu" and keep_freed_memory():
        chosen |= {name: chosen[name.partition(",")[0]] for name in RETURNED}
    if isinstance(network, MAFTPlus) and active_backend(device.type) != "plain":
        chosen |= {"plain op": ("plain", torch.float32), "compiled op": ("compiled", torch.float32)}
    return chosen | {"torch.compile": ("fused", torch.float32)}


def set_memory(name: str) -> None:
    """Keep freed memory or return it, as one of `ALTERNATIVES` has it."""
    (return_freed_memory if name in RETURNED else keep_freed_memory)()


def precision(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Autocast to a type; nothing for float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def read(path: Path, size: tuple[int, int]) -> Tensor:
    """The image at the size that the network is given, uint8 (3, H, W)."""
    return resized(read_rgb(path), *size)


def parts(network: SegmentingNetwork[Any, Any, Any]) -> dict[str, nn.Module]:
    """The modules whose time is noted, by name."""
    if not isinstance(network, MAFTPlus):
        return {"backbone": network.clip}
    return {
        "backbone": network.clip,
        "pixel decoder": network.sem_seg_head.pixel_decoder,
        "decoder": network.sem_seg_head.predictor,
    }


@contextmanager
def watched(modules: Mapping[str, nn.Module], clock: Clock) -> Iterator[None]:
    """Note how long every call of these modules takes."""
    started: dict[str, float] = {}

    def begin(name: str) -> Callable[..., None]:
        return lambda *call: started.__setitem__(name, now(clock.device))

    def end(name: str) -> Callable[..., None]:
        return lambda *call: clock.note(name, now(clock.device) - started[name])

    hooks = [one.register_forward_pre_hook(begin(name)) for name, one in modules.items()]
    hooks += [one.register_forward_hook(end(name)) for name, one in modules.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def forget_masks(view: Any) -> None:
    """Let an image that was asked before be asked as if for the first time: MAFT+ keeps its masks."""
    if isinstance(view, View):
        view.masks.clear()


def text_input(network: SegmentingNetwork[Any, Any, Any], vocabulary: Vocabulary, way: str) -> Any:
    """A vocabulary's text input from random features: encoding is measured apart, and its cost does not depend on them.

    Args:
        network: MAFT+ or SED.
        vocabulary: the classes.
        way: one of `WAYS`.
    """
    fold = network.text_fold(attributes=len(ATTRIBUTES), mode="reference", design=None)
    names = fold.names(vocabulary)
    prompts, origin = prompts_of(fold, names, way)
    generator = torch.Generator().manual_seed(len(names))
    features = torch.randn(len(prompts.sentences), network.clip.embed_dim, generator=generator)
    return fold.fold(features, prompts, len(names), origin)


def prompts_of(fold: Any, names: Sequence[Sequence[str]], way: str) -> tuple[Any, Origin]:
    """The sentences of a vocabulary and what they are made of, with attributes that are made up."""
    reasons = {own[0]: Reason(own[0], "thing", "thing", ATTRIBUTES) for own in names}
    if way == "names":
        return fold.plain(names), "plain"
    if way == "reasons":
        return fold.generic(names, reasons, "benchmark"), "generic"
    some = dict(list(reasons.items())[:COVERED])
    return fold.image(names, some, "benchmark"), "image"


def labels_of(results: Results) -> np.ndarray:
    """The class of each pixel, (height, width), as an evaluation takes it."""
    return results["class_maps"].labels().cpu().numpy()


def count(labels: np.ndarray, classes: int) -> np.ndarray:
    """The metric's part of one image, held against a label map of stripes."""
    stripes = np.arange(labels.size).reshape(labels.shape) % classes
    return confusion_matrix(labels, stripes, classes, None)


def cut_to(vocabularies: Sequence[int], load: Callable[[str], Vocabulary]) -> dict[int, Vocabulary]:
    """A vocabulary of each size: the first classes of the smallest that has so many.

    Raises:
        UserError: none has so many.
    """
    known = [load(name) for name in ("voc20", "pc59", "ade150", "pc459", "ade847")]
    found = {}
    for size in vocabularies:
        large = next((one for one in known if len(one) >= size), None)
        if large is None or size < 1:
            raise UserError(f"--vocabularies {size}: choose sizes from 1 to 847")
        found[size] = Vocabulary(large.name, large.title, large.classes[:size])
    return found
