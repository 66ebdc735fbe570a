"""What training adds to the state dict."""

from __future__ import annotations

import torch
from torch import nn


class ClassBalance(nn.Module):
    """The weight of every class in the classification loss: one, and less for void, which most queries are.

    Evaluation does not use it; it is an entry of the published state dicts ("criterion.empty_weight").

    Args:
        classes: number of classes of the training vocabulary.
        void_weight: weight of void.
    """

    empty_weight: torch.Tensor

    def __init__(self, classes: int, void_weight: float) -> None:
        super().__init__()
        self.register_buffer("empty_weight", torch.tensor([1.0] * classes + [void_weight]))
