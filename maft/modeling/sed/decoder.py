"""The gradual fusion decoder: from the cost map to a map of scores a class (docs/numerics_sed.md section 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layers import FusionLayer, by_rows
from .rejection import kept_classes

CELLS_AT_ONCE = {"cpu": 8 * 96**2, "cuda": 64 * 96**2}
"""Cells of the maps that are computed together. In the last step of the published sizes that is 8 classes on a CPU,
where they stay in its cache, and 64 on a GPU, at some 20 MB each; of smaller maps more classes go together."""


@dataclass(frozen=True)
class Decoded:
    """What the decoder says of one image, or of a training batch.

    Attributes:
        logits: (G, n, S, S) of the classes kept to the end.
        early: logits of head0, head1, head2, each (G, classes still there, side, side).
        kept: after each of the three rejections, (classes,) ascending indices into the N classes asked for; every
            class, three times, where nothing is rejected.
    """

    logits: Tensor
    early: tuple[Tensor, Tensor, Tensor]
    kept: tuple[Tensor, Tensor, Tensor]


class GradualFusionDecoder(nn.Module):
    """Three steps that compare classes cell by cell and double the resolution, guided by the image and by the cost.

    Args:
        templates: T, planes of the cost map; the published weights have 80.
        width: channels of the state at first.
        widths: channels after each step.
        guidance: channels of the guiding maps at each step.
        image_channels: channels of CLIP's maps that guide each step: res4, res3, res2.
        heads: of the class attention.
        kernels: sides of the depthwise convolutions.
        pooling: sides of the squares that class attention averages over, a step each.
        rows_at_once: classes computed together where they are independent; None for `CELLS_AT_ONCE` of the device.
    """

    def __init__(
        self,
        *,
        templates: int = 80,
        width: int = 128,
        widths: Sequence[int] = (64, 32, 16),
        guidance: Sequence[int] = (32, 16, 8),
        image_channels: Sequence[int] = (512, 256, 128),
        heads: int = 4,
        kernels: Sequence[int] = (9, 9, 9),
        pooling: Sequence[int] = (1, 1, 1),
        rows_at_once: int | None = None,
    ) -> None:
        super().__init__()
        if any(len(values) != 3 for values in (widths, guidance, image_channels, kernels, pooling)):
            raise ValueError("the decoder has three steps: widths, guidance, channels, kernels, pooling are three each")
        self.templates = templates
        self.rows_at_once = rows_at_once
        self.conv1 = nn.Conv2d(templates, width, 7, padding=3)
        self.decoder_guidance_projection = nn.ModuleList(
            nn.Sequential(nn.Conv2d(source, target, 3, padding=1), nn.ReLU())
            for source, target in zip(image_channels, guidance, strict=True)
        )
        chain = (templates, *guidance)
        self.decoder_corr_guidance_projection = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(chain[step], chain[step + 1], 2, stride=2), nn.ReLU()) for step in range(3)
        )
        incoming = (width, *widths)
        layers = [
            FusionLayer(
                incoming[step],
                incoming[step + 1],
                guidance[step],
                heads=heads,
                kernel=kernels[step],
                pooling=pooling[step],
            )
            for step in range(3)
        ]
        self.decoder1, self.decoder2, self.decoder3 = layers
        self.head0, self.head1, self.head2, self.head = (nn.Conv2d(size, 1, 3, padding=1) for size in incoming)

    def image_guidance(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """CLIP's res4, res3, res2, each (B, C, H, W), to the maps that guide the steps; no gradient reaches CLIP."""
        return [
            project(features.detach()) for project, features in zip(self.decoder_guidance_projection, maps, strict=True)
        ]

    def _by_rows(self, function: Callable[..., Tensor], *inputs: Tensor, in_place: bool = False) -> Tensor:
        maps = inputs[0]
        cells = CELLS_AT_ONCE.get(maps.device.type, CELLS_AT_ONCE["cuda"])
        rows = self.rows_at_once or max(1, cells // (maps.shape[-2] * maps.shape[-1]))
        return by_rows(function, rows, *inputs, in_place=in_place)

    def forward(
        self, cost: Tensor, guidance: Sequence[Tensor], *, keep: int | None = None, joint: bool = False
    ) -> Decoded:
        """Score every class at every pixel.

        Args:
            cost: (G, N, T, h, w) cosines. G is a batch of images, or the attributes of one image.
            guidance: `image_guidance`'s three maps, of G images or of the one that all G share.
            keep: k of early rejection, which takes the G as attributes of one image; None rejects nothing.
            joint: let a class attend to all G * N rows and not only to those of its own g.
        """
        groups, classes = cost.shape[:2]
        kept = torch.arange(classes, device=cost.device)
        alone = groups > 1 and not joint and not torch.is_grad_enabled()
        if keep is None and alone:
            return self._one_by_one(cost, guidance)  # the groups never meet: a G-th of the memory
        # Rejection asks all groups at every step, so all have their states; but one at a time goes to its next.
        costs = list(cost.split(1)) if alone else [cost]
        guides = [_of_group(guidance, group) if alone else guidance for group in range(len(costs))]
        states = [self._by_rows(self.conv1, part.flatten(0, 1)).unflatten(0, part.shape[:2]) for part in costs]
        early: list[Tensor] = []
        kept_at: list[Tensor] = []
        heads = (self.head0, self.head1, self.head2)
        layers = (self.decoder1, self.decoder2, self.decoder3)
        for step, (head, layer) in enumerate(zip(heads, layers, strict=True)):
            scores = torch.cat([self._scores(head, state) for state in states])
            early.append(scores)
            chosen = slice(None) if keep is None else kept_classes(scores, keep)
            kept = kept[chosen]
            kept_at.append(kept)
            for part, guide in zip(costs, guides, strict=True):
                state = states.pop(0)[:, chosen]
                state = self._look(layer, state, joint)
                state = self._enlarge(step, layer, state, part if keep is None else part[:, kept], guide)
                states.append(state)
                del state
        return Decoded(torch.cat(states)[:, :, 0], (early[0], early[1], early[2]), (kept_at[0], kept_at[1], kept_at[2]))

    def _scores(self, head: nn.Module, state: Tensor) -> Tensor:
        """(G, N, C, H, W) -> (G, N, H, W); no gradient reaches the state."""
        return self._by_rows(head, state.detach().flatten(0, 1)).unflatten(0, state.shape[:2])[:, :, 0]

    def _one_by_one(self, cost: Tensor, guidance: Sequence[Tensor]) -> Decoded:
        parts = [self(part, _of_group(guidance, group)) for group, part in enumerate(cost.split(1))]
        early = [torch.cat([part.early[step] for part in parts]) for step in range(3)]
        return Decoded(torch.cat([part.logits for part in parts]), (early[0], early[1], early[2]), parts[0].kept)

    def _look(self, layer: FusionLayer, state: Tensor, joint: bool) -> Tensor:
        shape = state.shape[:2]
        rows = self._by_rows(layer.cnext, state.flatten(0, 1), in_place=True)
        return layer.attention(rows.unflatten(0, (1, -1) if joint else shape)).flatten(0, 1).unflatten(0, shape)

    def _enlarge(
        self, step: int, layer: FusionLayer, state: Tensor, cost: Tensor, guidance: Sequence[Tensor]
    ) -> Tensor:
        """The state of the next step; after the last step the logits, as one channel."""
        groups, classes = state.shape[:2]
        images = torch.arange(groups, device=state.device) % len(guidance[step])
        last = step == len(guidance) - 1

        def rows(state: Tensor, cost: Tensor, image: Tensor) -> Tensor:
            # Derived anew from the cost at every step: cheap, and three times as much memory to keep.
            hint = cost
            for project in self.decoder_corr_guidance_projection[: step + 1]:
                hint = project(hint)
            result = layer.enlarge(state, guidance[step][image], hint)
            return self.head(result) if last else result

        image_of_row = images.repeat_interleave(classes)
        result = self._by_rows(rows, state.flatten(0, 1), cost.flatten(0, 1), image_of_row)
        return result.unflatten(0, (groups, classes))


def _of_group(guidance: Sequence[Tensor], group: int) -> list[Tensor]:
    """What guides one group: its own maps, or those that all share."""
    return [values if len(values) == 1 else values[group : group + 1] for values in guidance]
