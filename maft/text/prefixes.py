"""A causal transformer over many sentences, computing every shared beginning once.

Prompts are "<template> <class> that has <attribute>": thousands of sentences that begin alike. In a causal transformer
what a token becomes depends on the tokens before it and on no other, so all sentences that share a beginning share its
hidden states. The tokens of a batch form a tree of beginnings: linear layers run once a node, attention once a row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class PrefixTree:
    """The beginnings that occur in a batch of B token sequences, padded to length L; N of them.

    Attributes:
        node: (B, L) int64, the beginning that ends at a token; arbitrary at padding.
        opened_at: (N,) int64, flat position b * L + l of the first token that ends each beginning.
    """

    node: Tensor
    opened_at: Tensor


def prefix_tree(tokens: Tensor, ends: Tensor) -> PrefixTree:
    """The tree of a batch.

    Args:
        tokens: (B, L) int64, rows in lexicographic order.
        ends: (B,) int64, the last position of each row that counts.
    """
    length = tokens.shape[1]
    differs = torch.ones_like(tokens, dtype=torch.bool)
    differs[1:] = tokens[1:] != tokens[:-1]
    # In lexicographic order a beginning that is not shared with the row before is shared with no earlier one.
    new = differs.cummax(dim=1).values & (torch.arange(length, device=tokens.device) <= ends[:, None])
    number = new.flatten().cumsum(dim=0).view_as(tokens) - 1
    node = torch.where(new, number, -1).cummax(dim=0).values.clamp(min=0)
    return PrefixTree(node, new.flatten().nonzero()[:, 0])


def is_plain_block(block: nn.Module) -> bool:
    """Whether `causal_transformer` knows what a block computes."""
    return type(block) is ResidualAttentionBlock


def causal_transformer(blocks: Iterable[Any], hidden: Tensor, tree: PrefixTree) -> Tensor:
    """Apply pre-norm residual attention blocks to the nodes of a tree, under a causal mask.

    Args:
        blocks: open_clip's `ResidualAttentionBlock`s.
        hidden: (N, D), embedded tokens with their positions, one row a node.
        tree: which nodes each sentence consists of.

    Returns:
        (N, D).
    """
    for block in blocks:
        attention = block.attn
        projected = F.linear(block.ln_1(hidden), attention.in_proj_weight, attention.in_proj_bias)
        heads = projected[tree.node].unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        merged = attended.transpose(1, 2).flatten(2).flatten(0, 1)[tree.opened_at]
        hidden = hidden + block.ls_1(attention.out_proj(merged))
        hidden = hidden + block.ls_2(block.mlp(block.ln_2(hidden)))
    return hidden
