"""The whole network: pixels and classifier rows to masks and class scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .backbone import CLIPBackbone
from .classify import class_log_scores, row_logits
from .layers import mask_pool
from .losses import Criterion, Targets, mask_aware_loss, representation_compensation
from .pixel_decoder.msdeformattn import MSDeformAttnPixelDecoder
from .transfer import ContentDependentTransfer
from .transformer_decoder import DecoderOutput, MultiScaleMaskedTransformerDecoder

LEARNING_PARTS_OF_CLIP = tuple(f"backbone.clip_model.visual.trunk.{part}." for part in ("stem", "stages", "norm_pre"))
"""How the names of the parameters begin that training tunes in CLIP, at a rate of their own."""


SegmentorT = TypeVar("SegmentorT", bound="Segmentor")


class MaskHead(nn.Module):
    """Pixel decoder and transformer decoder under the names of the published state dicts."""

    def __init__(
        self, pixel_decoder: MSDeformAttnPixelDecoder, predictor: MultiScaleMaskedTransformerDecoder
    ) -> None:
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor


@dataclass(frozen=True)
class Regions:
    """What the network sees in a batch of images, before any vocabulary.

    mask_logits: (B, Q, H / 4, W / 4).
    class_embeddings: (B, Q, E) of the decoder.
    clip_embeddings: (B, Q, E) of CLIP's features pooled under the masks.
    image_features: (B, E, H / 32, W / 32) for the content-dependent transfer.
    """

    mask_logits: Tensor
    class_embeddings: Tensor
    clip_embeddings: Tensor
    image_features: Tensor


@dataclass(frozen=True)
class RegionScores:
    """The classes of one image's Q queries; A is () for plain class names and (K,) with reasons.

    decoder_logits, clip_logits, log_scores: (Q, *A, C + 1), void last.
    changed_rows: (R + 1, E) after the content-dependent transfer, void last.
    """

    decoder_logits: Tensor
    clip_logits: Tensor
    log_scores: Tensor
    changed_rows: Tensor


class Segmentor(nn.Module):
    """MAFT+: CLIP backbone, mask head, void embedding and content-dependent transfer.

    Args:
        backbone: CLIP.
        sem_seg_head: pixel decoder and transformer decoder.
        transfer_width, transfer_heads: E and heads of the content-dependent transfer.
        panoptic: the panoptic models' form of the transfer.
        criterion: of training; its class weights are part of every state dict.
        learning: whether the model is to be trained: what does not learn (see `learns`) is frozen then.
        teacher: the backbone as CLIP left it, for representation compensation; None does without.
    """

    def __init__(
        self,
        *,
        backbone: CLIPBackbone,
        sem_seg_head: MaskHead,
        transfer_width: int,
        transfer_heads: int,
        panoptic: bool,
        criterion: Criterion,
        learning: bool = False,
        teacher: CLIPBackbone | None = None,
    ) -> None:
        super().__init__()
        if transfer_width != backbone.embed_dim:
            raise ValueError(f"the transfer is {transfer_width} wide, the CLIP model {backbone.embed_dim}")
        self.backbone = backbone
        self.backbone_t = teacher
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        self.void_embedding = nn.Embedding(1, backbone.embed_dim)
        self.cdt = ContentDependentTransfer(transfer_width, transfer_heads, panoptic=panoptic)
        self.learning = learning
        if learning:
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(learns(name))

    def train(self: SegmentorT, mode: bool = True) -> SegmentorT:
        """Switch to training or evaluation; CLIP and its teacher stay in evaluation mode, stochastic depth off."""
        super().train(mode)
        self.backbone.eval()
        if self.backbone_t is not None:
            self.backbone_t.eval()
        return self

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def find_regions(self, pixels: Tensor) -> Regions:
        """Masks and embeddings of a batch.

        Args:
            pixels: (B, 3, H, W) normalised, H and W multiples of 32. Padding takes part in everything: images of
                different padded sizes belong into different batches (docs/numerics.md, "Results").
        """
        features = self.backbone(pixels)
        mask_features, maps = self.sem_seg_head.pixel_decoder(features)
        prediction = self.sem_seg_head.predictor(maps, mask_features)[-1]
        return self._regions(features["clip_vis_dense"], prediction)

    def _regions(self, dense: Tensor, prediction: DecoderOutput) -> Regions:
        pooled = mask_pool(dense, resize(prediction.mask_logits, dense.shape[-2:]))
        return Regions(
            mask_logits=prediction.mask_logits,
            class_embeddings=prediction.class_embeddings,
            clip_embeddings=self.backbone.embed(pooled),
            image_features=self.backbone.scrambled_features(dense),
        )

    def training_losses(
        self, pixels: Tensor, targets: Targets, rows: Tensor, rows_per_class: Sequence[int]
    ) -> dict[str, Tensor]:
        """One batch's weighted losses, whose sum is to be minimised (docs/numerics.md, "Training").

        The mask head learns from features that are cut off from the backbone, the backbone from CLIP's own class
        scores: each is tuned by the losses that concern it. Losses are computed in float32, under autocast as well.

        Args:
            pixels: (B, 3, H, W) normalised, H and W multiples of 32, images of different sizes padded alike.
            targets: the ground truth on (H, W).
            rows: (R, E), L2-normalised rows of the training vocabulary, without void.
            rows_per_class: as in `classify.row_logits`.

        Returns:
            Those of `Criterion`, "ranking_loss" (mask-aware), and "rc_loss" (representation compensation) where there
            is a teacher.

        Raises:
            FloatingPointError: the network has diverged.
        """
        features = self.backbone(pixels)
        dense = features["clip_vis_dense"]
        mask_features, maps = self.sem_seg_head.pixel_decoder({name: m.detach() for name, m in features.items()})
        predictions = self.sem_seg_head.predictor(
            maps, mask_features, every_layer=self.criterion.options.deep_supervision
        )
        regions = self._regions(dense, predictions[-1])
        rows = self._with_void(rows)
        changed = self.cdt(regions.image_features, rows)
        taught = None if self.backbone_t is None else self._teacher_features(self.backbone_t, pixels)
        with torch.autocast(device_type=pixels.device.type, enabled=False):
            mask_logits = [prediction.mask_logits.float() for prediction in predictions]
            scale = self.sem_seg_head.predictor.logit_scale
            class_logits = [
                row_logits(prediction.class_embeddings.float(), rows, scale, rows_per_class, None)
                for prediction in predictions
            ]
            losses = self.criterion(class_logits, mask_logits, targets)
            clip_logits = row_logits(
                regions.clip_embeddings.float(), changed.float(), self.backbone.logit_scale, rows_per_class, None
            )
            losses["ranking_loss"] = mask_aware_loss(clip_logits, mask_logits[-1].detach(), targets)
            if taught is not None:
                compensation = representation_compensation(dense.float(), taught.float())
                losses["rc_loss"] = self.criterion.options.compensation_weight * compensation
        return losses

    @staticmethod
    @torch.no_grad()
    def _teacher_features(teacher: CLIPBackbone, pixels: Tensor) -> Tensor:
        return teacher(pixels)["clip_vis_dense"]

    def _with_void(self, rows: Tensor) -> Tensor:
        void = F.normalize(self.void_embedding.weight, dim=-1)
        return torch.cat((rows.to(void), void))

    def score_regions(
        self, regions: Regions, index: int, rows: Tensor, rows_per_class: Sequence[int], attributes: int | None
    ) -> RegionScores:
        """Hold one image's queries against one classifier (docs/numerics.md, "Logits" to "Scores").

        Args:
            regions: of a batch.
            index: which image of the batch.
            rows: (R, E), L2-normalised, without void, on any device.
            rows_per_class, attributes: as in `classify.row_logits`.
        """
        rows = self._with_void(rows)
        changed = self.cdt(regions.image_features[index : index + 1], rows)[0]
        decoder_logits = row_logits(
            regions.class_embeddings[index], rows, self.sem_seg_head.predictor.logit_scale, rows_per_class, attributes
        )
        clip_logits = row_logits(
            regions.clip_embeddings[index], changed, self.backbone.logit_scale, rows_per_class, attributes
        )
        return RegionScores(decoder_logits, clip_logits, class_log_scores(decoder_logits, clip_logits), changed)


def learns(name: str) -> bool:
    """Whether training changes the parameter of this name: all of them but CLIP's, of which the image tower's stem,
    stages and last norm before the pooling are tuned, and the teacher's."""
    if name.startswith("backbone."):
        return name.startswith(LEARNING_PARTS_OF_CLIP)
    return not name.startswith("backbone_t.")


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resizing of (B, C, H, W) maps to `size`; maps of that size are returned as they are."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
