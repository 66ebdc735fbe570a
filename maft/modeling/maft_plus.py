"""MAFT+: pixels and classifier rows to masks, class scores and results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maft import inference
from maft.errors import UserError
from maft.text.rows import Classifier, RowFold

from .backbone import CLIPBackbone
from .classify import class_log_scores, row_logits
from .layers import mask_pool
from .losses import Criterion, Targets, mask_aware_loss, representation_compensation
from .pixel_decoder.msdeformattn import MSDeformAttnPixelDecoder
from .results import ResultOptions, Results
from .transfer import ContentDependentTransfer
from .transformer_decoder import DecoderOutput, MultiScaleMaskedTransformerDecoder

BACKBONE_STRIDE = 32
PIXEL_MEAN = (122.7709383, 116.7460125, 104.09373615)
PIXEL_STD = (68.5005327, 66.6321579, 70.32316305)
"""Of CLIP's training images, RGB in [0, 255]."""

LEARNING_PARTS_OF_CLIP = tuple(f"backbone.clip_model.visual.trunk.{part}." for part in ("stem", "stages", "norm_pre"))
"""How the names of the parameters begin that training tunes in CLIP, at a rate of their own."""


MAFTPlusT = TypeVar("MAFTPlusT", bound="MAFTPlus")


class MaskHead(nn.Module):
    """Pixel decoder and transformer decoder under the names of the published state dicts."""

    def __init__(self, pixel_decoder: MSDeformAttnPixelDecoder, predictor: MultiScaleMaskedTransformerDecoder) -> None:
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

    def float(self) -> Regions:
        """The same in float32."""
        return Regions(*(getattr(self, part.name).float() for part in fields(self)))

    def of_image(self, index: int) -> Regions:
        """The regions of one image of the batch, as a batch of one."""
        return Regions(*(getattr(self, part.name)[index : index + 1] for part in fields(self)))


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


@dataclass(frozen=True)
class View:
    """One image as the network sees it, before any vocabulary: what `MAFTPlus.results` starts from.

    regions: of this image alone (B = 1).
    image_size: (height, width) that the network was given.
    padded_size: (height, width) after padding.
    masks: of the last class maps, by size: they do not depend on classes, and take most of the time of asking again.
    """

    regions: Regions
    image_size: tuple[int, int]
    padded_size: tuple[int, int]
    masks: dict[tuple[int, int], Tensor] = field(default_factory=dict, compare=False, repr=False)


class MAFTPlus(nn.Module):
    """CLIP backbone, mask head, void embedding and content-dependent transfer.

    What shared code asks a network for: `clip_prefixes` and `teacher_prefix` (where CLIP and a frozen teacher lie in
    the state dict), `rate_group` (which learning rate a parameter has), `targets` (what training wants of the labels).

    Args:
        backbone: CLIP.
        sem_seg_head: pixel decoder and transformer decoder.
        transfer_width, transfer_heads: E and heads of the content-dependent transfer.
        panoptic: the panoptic models' form of the transfer.
        criterion: of training; its class weights are part of every state dict.
        learning: whether the model is to be trained: what does not learn (see `learns`) is frozen then.
        teacher: the backbone as CLIP left it, for representation compensation; None does without.
        pixel_mean, pixel_std: of RGB in [0, 255].
        size_divisibility: images are padded to a multiple of this.
        results: which results to make.
        clip_weights: where CLIP's own weights come from, see `maft.weights.clip`; "" for nowhere.

    Raises:
        ValueError: the transfer's width is not CLIP's, or the padding does not fit the backbone's stride.
    """

    clip_prefixes = ("backbone.clip_model.", "backbone_t.clip_model.")
    weights_key, clip_key = "weights", "clip"
    teacher_prefix = "backbone_t."
    targets: Literal["instances", "label map"] = "instances"
    pixel_mean: Tensor
    pixel_std: Tensor

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
        pixel_mean: Sequence[float] = PIXEL_MEAN,
        pixel_std: Sequence[float] = PIXEL_STD,
        size_divisibility: int = BACKBONE_STRIDE,
        results: ResultOptions | None = None,
        clip_weights: str = "",
    ) -> None:
        super().__init__()
        if size_divisibility % BACKBONE_STRIDE:
            raise ValueError(f"padding to multiples of {size_divisibility}: the network takes multiples of 32")
        if transfer_width != backbone.embed_dim:
            raise ValueError(f"the transfer is {transfer_width} wide, the CLIP model {backbone.embed_dim}")
        self.backbone = backbone
        self.backbone_t = teacher
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        self.void_embedding = nn.Embedding(1, backbone.embed_dim)
        self.cdt = ContentDependentTransfer(transfer_width, transfer_heads, panoptic=panoptic)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.size_divisibility = size_divisibility
        self.result_options = results or ResultOptions(panoptic=panoptic)
        self.clip_weights = clip_weights
        self.learning = learning
        if learning:
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(learns(name))

    def train(self: MAFTPlusT, mode: bool = True) -> MAFTPlusT:
        """Switch to training or evaluation; CLIP and its teacher stay in evaluation mode, stochastic depth off."""
        super().train(mode)
        self.backbone.eval()
        if self.backbone_t is not None:
            self.backbone_t.eval()
        return self

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    @property
    def clip(self) -> CLIPBackbone:
        """The CLIP whose text tower encodes the sentences."""
        return self.backbone

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    @staticmethod
    def rate_group(name: str) -> Literal["clip", "head"]:
        """Which of the two learning rates the parameter of this name has: CLIP is tuned at a rate of its own."""
        return "clip" if "backbone" in name else "head"

    def pad(self, image: Tensor, at_least: tuple[int, int] = (0, 0)) -> Tensor:
        """Normalise a (3, H, W) image and pad it with zeros at right and bottom (docs/numerics.md, "Image").

        The result is as large as the image or as (height, width) `at_least`, made divisible.
        """
        pixels = (image.to(self.device) - self.pixel_mean) / self.pixel_std
        height, width = image.shape[-2:]
        step = self.size_divisibility
        below, beside = (max(have, least) for have, least in zip((height, width), at_least, strict=True))
        return F.pad(pixels, (0, beside + -beside % step - width, 0, below + -below % step - height))

    def look(self, images: Sequence[Tensor]) -> list[View]:
        """Run the network on images, before any vocabulary.

        Images of equal padded size go through the network together; what else is in the batch makes no difference.

        Args:
            images: (3, H, W) uint8 or float RGB in [0, 255] each, of any sizes.
        """
        groups: dict[tuple[int, int], list[tuple[int, Tensor]]] = defaultdict(list)
        for position, image in enumerate(images):
            padded = self.pad(image)
            groups[padded.shape[-2], padded.shape[-1]].append((position, padded))
        views: dict[int, View] = {}
        for padded_size, members in groups.items():
            regions = self.find_regions(torch.stack([padded for _, padded in members]))
            for index, (position, _) in enumerate(members):
                height, width = images[position].shape[-2:]
                views[position] = View(regions.of_image(index), (height, width), padded_size)
        return [views[position] for position in range(len(images))]

    def text_fold(self, *, attributes: int, mode: str, design: str | None) -> RowFold:
        """How names and reasons become classifier rows; see `maft.modeling.network.SegmentingNetwork`.

        Raises:
            UserError: a number of attributes or a mode that there is not, or a design, which is SED's.
        """
        if design is not None:
            raise UserError(f"design: {design!r}; only SED's models (sed-base, sed-large) have designs, leave it out")
        return RowFold(mode=mode, num_des=attributes)

    def results(
        self, view: View, classifier: Classifier, size: tuple[int, int], things: Collection[int] = ()
    ) -> Results:
        """Hold one image against one vocabulary and assemble what `result_options` asks for; in float32, under autocast
        as well: it costs little, and half precision would shift logits of CLIP's temperature by tenths.

        Args:
            view: of `look`.
            classifier: the rows of the image.
            size: (height, width) of the results.
            things: indices of the countable classes.
        """
        with torch.autocast(self.device.type, enabled=False):
            return self._results(view, view.regions.float(), classifier, size, things)

    def _results(
        self, view: View, regions: Regions, classifier: Classifier, size: tuple[int, int], things: Collection[int]
    ) -> Results:
        options = self.result_options
        log_scores = self.score_regions(
            regions, 0, classifier.rows, classifier.rows_per_class, classifier.attributes
        ).log_scores
        logits, covered = regions.mask_logits[0], (classifier.class_index, classifier.num_classes)
        masks_first = options.resize_masks_first or options.panoptic or options.instances
        to_image = partial(inference.upsampled, padded_size=view.padded_size, image_size=view.image_size)
        to_result = partial(to_image, size=size)
        results = Results()
        if options.semantic:
            masks = partial(to_result if masks_first else to_image, logits)
            results["class_maps"] = inference.class_maps(log_scores, masks, *covered, size, view.masks)
        if options.panoptic:
            results["panoptic_seg"] = inference.panoptic_segments(
                log_scores,
                logits,
                *covered,
                things,
                object_mask_threshold=options.object_mask_threshold,
                overlap_threshold=options.overlap_threshold,
                resize=to_result,
            )
        if options.instances:
            results["instances"] = inference.instances(
                log_scores, to_result(logits), *covered, things, top=options.detections
            )
        return results

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
