"""What shared code asks of a network, whichever it is: checkpoints, training, and the Python interface."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from maft.text.source import Fold, Sentences

from .backbone import CLIPBackbone
from .results import Results

V = TypeVar("V")
P = TypeVar("P", bound=Sentences)
C = TypeVar("C")


class Network(Protocol):
    """A network with a CLIP inside; what of it a checkpoint may leave out."""

    @property
    def clip(self) -> CLIPBackbone:
        """The CLIP whose text tower encodes the sentences."""

    @property
    def backbone_t(self) -> CLIPBackbone | None:
        """A frozen copy of it that only training needs, or None."""

    @property
    def clip_prefixes(self) -> tuple[str, ...]:
        """How the entries of CLIP, and of the frozen copy, begin in the state dict."""

    @property
    def teacher_prefix(self) -> str:
        """How those of the frozen copy begin; "" for a network that has none."""

    @property
    def clip_weights(self) -> str:
        """Where CLIP's own weights come from: a file, or open_clip's tag; "" for nowhere."""

    @property
    def weights_key(self) -> str:
        """What a user names the checkpoint by, for messages: a config key, or an argument of `maft.load_segmentor`."""

    @property
    def clip_key(self) -> str:
        """What a user names `clip_weights` by, likewise."""

    @property
    def device(self) -> torch.device:
        """Where the network lies."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Every entry, by its published name."""

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> Any:
        """Take every entry from `state_dict`, which has them all."""

    def eval(self) -> Any:
        """Switch to evaluation."""


class LearningNetwork(Network, Protocol):
    """A network that can be trained."""

    def rate_group(self, name: str) -> str:
        """Which learning rate the parameter of this name has."""

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Every module, whose parameters learn where they have `requires_grad`."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every parameter."""

    def train(self, mode: bool = True) -> Any:
        """Switch to training, or to evaluation."""

    def __call__(self, batched_inputs: Sequence[Mapping[str, Any]]) -> Any:
        """Losses by name while training; see the adapters in `maft.meta_arch`."""


class SegmentingNetwork(Network, Protocol[V, P, C]):
    """A network that looks at an image once and can then be asked for any classes.

    V is what it makes of an image, P its sentences, C the text input that their features fold into.
    """

    def to(self, device: torch.device) -> Any:
        """The network, moved to a device."""

    def text_fold(self, *, attributes: int, mode: str, design: str | None) -> Fold[P, C]:
        """How names and reasons become this network's text input.

        Args:
            attributes: K, of each reason.
            mode: "reference" or "aligned".
            design: how K attributes meet in the network, None for its own default.

        Raises:
            UserError: one of them does not exist, or not for this network.
        """

    def look(self, images: Sequence[Tensor]) -> list[V]:
        """Everything that does not depend on classes.

        Args:
            images: (3, H, W) uint8 or float RGB in [0, 255] each, of any sizes; they make no difference to each other.
        """

    def results(self, view: V, classifier: C, size: tuple[int, int], things: Collection[int] = ()) -> Results:
        """Hold one image against one vocabulary.

        Args:
            view: of `look`.
            classifier: the text input.
            size: (height, width) of the results.
            things: indices of the countable classes.
        """
