"""CLIP's text tower as a function from sentences to features (docs/numerics.md, "Backbone")."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol

import open_clip
import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from maft.errors import UserError
from maft.text.prefixes import causal_transformer, is_plain_block, prefix_tree
from maft.text.tokens import Tokenizer, Tokens
from maft.weights.checkpoint import load_weights
from maft.weights.seeding import SEEDED, is_seeded_entry, seeded_entry

logger = logging.getLogger(__name__)

TEXT_PARTS = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")
"""The modules and parameters of an open_clip CLIP that make up its text tower."""

CHECKPOINT_PREFIXES = ("backbone.clip_model.", "sem_seg_head.predictor.clip_model.", "clip_model.", "text.", "")
"""What may stand before the text tower's names: MAFT+ checkpoint, SED's, a backbone's, open_clip's CustomTextCLIP,
CLIP."""

TextPrecision = Literal["float32", "bfloat16"]

_PROBES = ["a photo of a Café, it's 3 o'clock &amp; raining!", "  ÜBER   straße 東京  ", "1234 x_y-z (don't)", ""]
_LISTED = 4


class TextEncoder(Protocol):
    """What the bank needs: anything that turns sentences into features, and tells itself from other such things."""

    @property
    def dim(self) -> int:
        """E, the width of the features."""

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digits; different whenever the same sentence may get another feature."""

    @property
    def tokens(self) -> Tokens:
        """What is read of a text."""

    def encode(self, sentences: Sequence[str]) -> Tensor:
        """(N, E) float32 features on the CPU, not normalised."""


class CLIPTextEncoder:
    """The text tower of an open_clip CLIP model.

    Attention is causal, so nothing after the end-of-text token reaches the feature, and sentences that begin alike
    share what comes of their beginnings (`maft.text.prefixes`): prompts of a dozen tokens cost a fraction of 77.
    """

    def __init__(
        self,
        clip_model: nn.Module,
        tokenizer: Tokenizer,
        *,
        batch_size: int = 256,
        precision: TextPrecision = "float32",
    ) -> None:
        """
        Args:
            clip_model: an open_clip CLIP, or its TextTransformer alone. It stays the caller's: weights may be loaded
                and devices changed later. Its training mode is left alone (the text tower has no dropout).
            tokenizer: see `maft.text.tokens.Tokenizer`.
            batch_size: sentences in one forward pass.
            precision: of the transformer's products; bfloat16 (autocast) has a fingerprint of its own. The projection,
                and what lies between products, stay float32.

        Raises:
            TypeError: a text tower other than CLIP's causal one with end-of-text pooling.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        _check_tower(clip_model)
        # In a tuple, so that a module that keeps this encoder does not register the tower a second time.
        self._model: tuple[Any] = (clip_model,)
        self._tokenizer = tokenizer
        self._tokens = Tokens(tokenizer)
        self._batch_size = batch_size
        self._precision = precision
        self._fingerprint: tuple[tuple[tuple[int, int, torch.dtype], ...], str] | None = None

    @property
    def tokens(self) -> Tokens:
        """What is read of a text."""
        return self._tokens

    @property
    def model(self) -> nn.Module:
        """The tower, as it was given."""
        model: nn.Module = self._model[0]
        return model

    @property
    def dim(self) -> int:
        """E, the width of the features."""
        return int(self._model[0].text_projection.shape[1])

    @property
    def fingerprint(self) -> str:
        """Hash of the tower's tensors (names, types, shapes, bytes), of the tokenizer and of a reduced precision.

        Computed on first use, and again only after weights were written (PyTorch counts writes in place) or moved.
        """
        tensors = text_tensors(self._model[0])
        state = tuple((tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in tensors.values())
        if self._fingerprint is None or self._fingerprint[0] != state:
            digest = hashlib.blake2b(digest_size=16)
            digest.update(_hash_tensors(tensors))
            digest.update(_hash_tokenizer(self._tokenizer))
            if self._precision != "float32":
                digest.update(self._precision.encode())
            self._fingerprint = (state, digest.hexdigest())
        return self._fingerprint[1]

    @torch.no_grad()
    def encode(self, sentences: Sequence[str]) -> Tensor:
        """The features of `sentences` in their order.

        The caller's autocast is switched off: what is stored must not depend on where it was asked for.

        Returns:
            (N, E) float32 on the CPU, not normalised.
        """
        features = torch.empty(len(sentences), self.dim, dtype=torch.float32)
        if not sentences:
            return features
        tokens = self._tokenizer(list(sentences))
        ends = tokens.argmax(dim=-1)
        rows = tokens.tolist()
        order = torch.tensor(sorted(range(len(rows)), key=rows.__getitem__))
        device = self._model[0].text_projection.device
        with torch.autocast(device.type, enabled=False):
            for batch in order.split(self._batch_size):
                length = int(ends[batch].max()) + 1
                ids = tokens[batch, :length].to(device)
                features[batch] = self._forward(ids, ends[batch].to(device)).float().cpu()
        return features

    def _forward(self, ids: Tensor, ends: Tensor) -> Tensor:
        """(B, L) ids and the (B,) places of their end-of-text tokens -> (B, E)."""
        model = self._model[0]
        dtype = model.transformer.get_cast_dtype()
        tree = prefix_tree(ids, ends)
        places = tree.opened_at % ids.shape[1]
        embedded = model.token_embedding(ids.flatten()[tree.opened_at]).to(dtype)
        hidden = embedded + model.positional_embedding[places].to(dtype)
        with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=self._precision != "float32"):
            hidden = causal_transformer(model.transformer.resblocks, hidden, tree)
        # The norm works on single tokens, so only the tokens that are read go through it.
        pooled = model.ln_final(hidden[tree.node[torch.arange(len(ids), device=ids.device), ends]])
        return pooled @ model.text_projection


def text_tensors(clip_model: nn.Module) -> dict[str, Tensor]:
    """Name -> tensor of the text tower's weights in an open_clip CLIP or TextTransformer."""
    return {name: tensor for name, tensor in clip_model.named_parameters() if name.split(".", 1)[0] in TEXT_PARTS}


def load_text_encoder(
    clip_model_name: str,
    weights: str | Path,
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 256,
    precision: TextPrecision = "float32",
    prefix: str = CHECKPOINT_PREFIXES[0],
) -> CLIPTextEncoder:
    """Build a text tower without the rest of the network.

    Args:
        clip_model_name: an architecture known to open_clip, such as "convnext_base_w_320".
        weights: a checkpoint of MAFT+ or SED, an open_clip checkpoint (.pth, .pt, .safetensors), or "seeded".
        device: where it runs.
        batch_size: sentences in one forward pass.
        precision: see `CLIPTextEncoder`.
        prefix: how CLIP's entries begin in the network whose seeded weights are meant.

    Raises:
        UserError: unknown architecture; unreadable checkpoint, or one of another architecture.
    """
    tower = build_text_tower(clip_model_name)
    if not str(weights):
        raise UserError("MODEL.WEIGHTS: empty; name a checkpoint, or 'seeded' for meaningless stand-in weights")
    if str(weights) == SEEDED:
        logger.warning("MODEL.WEIGHTS is 'seeded': random stand-in weights, the text features MEAN NOTHING")
        state = _seeded_text_state(tower, prefix)
    else:
        state = _text_state(tower, load_weights(weights), str(weights), clip_model_name)
    tower.load_state_dict(state)
    tower.requires_grad_(False).eval().to(device)
    tokenizer = open_clip.get_tokenizer(clip_model_name)
    return CLIPTextEncoder(tower, tokenizer, batch_size=batch_size, precision=precision)


def build_text_tower(clip_model_name: str) -> TextTransformer:
    """The text tower of an architecture with open_clip's initial weights; entry names as in the whole CLIP.

    Raises:
        UserError: open_clip does not know the architecture, or its text tower is not CLIP's own.
    """
    config = open_clip.get_model_config(clip_model_name)
    if config is None:
        raise UserError(
            f"MODEL.FC_CLIP.CLIP_MODEL_NAME: open_clip knows no architecture {clip_model_name!r}; "
            "use convnext_base_w_320 or convnext_large_d_320, or add your own below configs/clip/"
        )
    text = dict(config["text_cfg"])
    known = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "ls_init_value"}
    other = sorted(set(text) - known)
    if other:
        raise UserError(
            f"MODEL.FC_CLIP.CLIP_MODEL_NAME: the text tower of {clip_model_name!r} is not CLIP's plain transformer "
            f"({', '.join(other)}); choose another architecture"
        )
    activation = open_clip.transformer.QuickGELU if config.get("quick_gelu") else nn.GELU
    return TextTransformer(**text, output_dim=config["embed_dim"], act_layer=activation)


def text_prefix(state: Mapping[str, object]) -> str | None:
    """How the names of the text tower's entries begin in a state dict; None where it has no text tower."""
    return next((prefix for prefix in CHECKPOINT_PREFIXES if f"{prefix}token_embedding.weight" in state), None)


def _text_state(tower: nn.Module, state: Mapping[str, Tensor], source: str, name: str) -> dict[str, Tensor]:
    """The tower's entries out of a checkpoint of the whole network."""
    own = tower.state_dict()
    prefix = text_prefix(state)
    if prefix is None:
        raise UserError(
            f"{source}: holds no CLIP text tower (no …token_embedding.weight); name a checkpoint of MAFT+ or SED"
        )
    found = {entry: state[prefix + entry] for entry in own if prefix + entry in state}
    problems = [f"{entry} is missing" for entry in own if entry not in found]
    problems += [
        f"{entry} is {tuple(value.shape)} instead of {tuple(own[entry].shape)}"
        for entry, value in found.items()
        if value.shape != own[entry].shape
    ]
    beside = f"{prefix}transformer.resblocks."
    problems += [
        f"{entry} is unexpected"
        for entry in state
        if entry.startswith(beside) and entry.removeprefix(prefix) not in own
    ]
    if problems:
        more = f", … ({len(problems)} in all)" if len(problems) > _LISTED else ""
        raise UserError(
            f"{source}: not a text tower of {name}: {', '.join(problems[:_LISTED])}{more}; "
            "check that --config-file fits the weights (base, large, panoptic)"
        )
    return found


def _seeded_text_state(tower: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Stand-in weights as a whole seeded network has them: the draws depend on the full names."""
    return {
        name: torch.from_numpy(seeded_entry(prefix + name, tuple(value.shape)))
        for name, value in tower.state_dict().items()
        if is_seeded_entry(prefix + name, value)
    }


def _check_tower(model: Any) -> None:
    absent = [part for part in (*TEXT_PARTS, "attn_mask") if getattr(model, part, None) is None]
    if absent:
        raise TypeError(f"{type(model).__name__} is not CLIP with a causal text transformer: no {', '.join(absent)}")
    if isinstance(model.text_projection, nn.Module):
        raise TypeError("text_projection must be a matrix; a projection with bias is not CLIP's")
    pooling = getattr(model, "text_pool_type", None) or getattr(model, "pool_type", None)
    if pooling != "argmax" or getattr(model, "cls_emb", None) is not None:
        raise TypeError(f"the text tower must read the end-of-text token, not pool by {pooling!r}")
    if not all(is_plain_block(block) for block in model.transformer.resblocks):
        raise TypeError("the text tower is not made of CLIP's plain residual attention blocks")


def _hash_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    def one(item: tuple[str, Tensor]) -> bytes:
        name, tensor = item
        digest = hashlib.blake2b(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=32)
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.digest()

    # hashlib lets go of the interpreter lock for large buffers: two threads halve the time on two cores.
    with ThreadPoolExecutor(max_workers=4) as pool:
        return b"".join(pool.map(one, sorted(tensors.items())))


def _hash_tokenizer(tokenizer: Tokenizer) -> bytes:
    """What the tokenizer does to awkward texts, and its vocabulary where it shows one (open_clip's does)."""
    probe = tokenizer(_PROBES).tolist()
    table = getattr(tokenizer, "encoder", None)
    vocabulary = sorted(table.items()) if isinstance(table, Mapping) else []
    return hashlib.blake2b(json.dumps([probe, vocabulary]).encode(), digest_size=32).digest()
