"""The whole network: pixels and classifier rows to masks and class scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .backbone import CLIPBackbone
from .classify import class_log_scores, row_logits
from .layers import mask_pool
from .losses import ClassBalance
from .pixel_decoder.msdeformattn import MSDeformAttnPixelDecoder
from .transfer import ContentDependentTransfer
from .transformer_decoder import MultiScaleMaskedTransformerDecoder


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
        train_classes: number of classes of the training vocabulary (its class weights are part of the state dict).
        no_object_weight: weight of void among them.
    """

    def __init__(
        self,
        *,
        backbone: CLIPBackbone,
        sem_seg_head: MaskHead,
        transfer_width: int,
        transfer_heads: int,
        panoptic: bool,
        train_classes: int,
        no_object_weight: float,
    ) -> None:
        super().__init__()
        if transfer_width != backbone.embed_dim:
            raise ValueError(f"the transfer is {transfer_width} wide, the CLIP model {backbone.embed_dim}")
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = ClassBalance(train_classes, no_object_weight)
        self.void_embedding = nn.Embedding(1, backbone.embed_dim)
        self.cdt = ContentDependentTransfer(transfer_width, transfer_heads, panoptic=panoptic)

    def find_regions(self, pixels: Tensor) -> Regions:
        """Masks and embeddings of a batch.

        Args:
            pixels: (B, 3, H, W) normalised, H and W multiples of 32. Padding takes part in everything: images of
                different padded sizes belong into different batches (NUMERICS.md, "Results").
        """
        features = self.backbone(pixels)
        dense = features["clip_vis_dense"]
        mask_features, maps = self.sem_seg_head.pixel_decoder(features)
        prediction = self.sem_seg_head.predictor(maps, mask_features)[-1]
        pooled = mask_pool(dense, resize(prediction.mask_logits, dense.shape[-2:]))
        assert prediction.class_embeddings is not None
        return Regions(
            mask_logits=prediction.mask_logits,
            class_embeddings=prediction.class_embeddings,
            clip_embeddings=self.backbone.embed(pooled),
            image_features=self.backbone.scrambled_features(dense),
        )

    def score_regions(
        self, regions: Regions, index: int, rows: Tensor, rows_per_class: Sequence[int], attributes: int | None
    ) -> RegionScores:
        """Hold one image's queries against one classifier (NUMERICS.md, "Logits" to "Scores").

        Args:
            regions: of a batch.
            index: which image of the batch.
            rows: (R, E), L2-normalised, without void, on any device.
            rows_per_class, attributes: as in `classify.row_logits`.
        """
        void = F.normalize(self.void_embedding.weight, dim=-1)
        rows = torch.cat((rows.to(void), void))
        changed = self.cdt(regions.image_features[index : index + 1], rows)[0]
        decoder_logits = row_logits(
            regions.class_embeddings[index], rows, self.sem_seg_head.predictor.logit_scale, rows_per_class, attributes
        )
        clip_logits = row_logits(
            regions.clip_embeddings[index], changed, self.backbone.logit_scale, rows_per_class, attributes
        )
        return RegionScores(decoder_logits, clip_logits, class_log_scores(decoder_logits, clip_logits), changed)


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resizing of (B, C, H, W) maps to `size`; maps of that size are returned as they are."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
