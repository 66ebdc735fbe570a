"""SED: CLIP's image tower, the cost map and the gradual fusion decoder as one network."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from maft.modeling.backbone import CLIPBackbone
from maft.modeling.results import Results
from maft.text.plane_fold import PlaneFold, Planes

from .cost import cost_map
from .decoder import Decoded, GradualFusionDecoder
from .losses import class_losses
from .results import check_combination, class_maps, combine_attributes
from .training import CLIP, learns


class Predictor(nn.Module):
    """CLIP and decoder under the names of the published state dicts.

    Args:
        backbone: CLIP; its module is registered here, as `clip_model`.
        transformer: the decoder.
    """

    def __init__(self, backbone: CLIPBackbone, transformer: GradualFusionDecoder) -> None:
        super().__init__()
        self.clip_model: nn.Module = backbone.clip_model
        self.transformer = transformer


class Head(nn.Module):
    """One more level of the published names."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor


@dataclass(frozen=True)
class ImageFeatures:
    """What the network sees in a batch of images, before any vocabulary.

    dense: (B, E, S / 32, S / 32) in the space of the sentences.
    guidance: of the decoder's three steps, (B, channels, side, side) each.
    """

    dense: Tensor
    guidance: tuple[Tensor, Tensor, Tensor]

    def of(self, index: int) -> ImageFeatures:
        """One image's part, with B = 1."""
        one = slice(index, index + 1)
        first, second, third = self.guidance
        return ImageFeatures(self.dense[one], (first[one], second[one], third[one]))


@dataclass(frozen=True)
class View:
    """One image as the network sees it, before any vocabulary: what `SED.results` starts from.

    features: of this image alone (B = 1).
    image_size: (height, width) that the network was given.
    """

    features: ImageFeatures
    image_size: tuple[int, int]


class SED(nn.Module):
    """The network without a vocabulary of its own.

    Args:
        backbone: CLIP.
        decoder: what scores the classes; its `image_channels` are the backbone's of res4, res3, res2.
        pixel_mean, pixel_std: of RGB in [0, 255].
        side: every image is resized to side x side, a multiple of 32.
        finetune: what of CLIP and decoder learns, see `training.learns`; None for a network that is not to be trained.
        clip_dropout: while CLIP learns, the dropout inside its projection MLP; above 0 the trunk's own drop path stays
            on, at 0 (the base model) it is switched off.
        clip_weights: where CLIP's own weights come from, see `maft.weights.clip`; "" for nowhere.
        design: how attributes meet where the text does not say: one of `maft.text.planes.DESIGNS`.
        combine, combine_space: see `results.combine_attributes`.
        keep: k of early rejection, None for none; images with reasons of their own are never subject to it, since
            these reject most classes themselves, and leave few.

    Raises:
        ValueError: a side or a way of combining that there is not.
    """

    clip_prefixes = (CLIP,)
    weights_key, clip_key = "weights", "clip"
    teacher_prefix = ""
    backbone_t = None
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        backbone: CLIPBackbone,
        decoder: GradualFusionDecoder,
        pixel_mean: Sequence[float] = (122.7709383, 116.7460125, 104.09373615),
        pixel_std: Sequence[float] = (68.5005327, 66.6321579, 70.3231630),
        side: int = 768,
        finetune: str | None = None,
        clip_dropout: float = 0.0,
        clip_weights: str = "",
        design: str = "passes",
        combine: str = "mean",
        combine_space: str = "probability",
        keep: int | None = None,
    ) -> None:
        super().__init__()
        if side % 32:
            raise ValueError(f"the side of the images, {side}, must be a multiple of 32")
        # In a tuple: CLIP is registered once, under the published name.
        self._backbone = (backbone,)
        self.sem_seg_head = Head(Predictor(backbone, decoder))
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.side = side
        self.finetune = finetune
        self.clip_weights = clip_weights
        self.design = design
        self.combine, self.combine_space = check_combination(combine, combine_space)
        self.keep = keep
        if finetune is not None:
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(learns(name, finetune))
            _set_dropout(backbone, clip_dropout)

    @property
    def backbone(self) -> CLIPBackbone:
        """CLIP, whose parameters this network holds as `sem_seg_head.predictor.clip_model`."""
        return self._backbone[0]

    @property
    def decoder(self) -> GradualFusionDecoder:
        """The decoder, whose parameters this network holds as `sem_seg_head.predictor.transformer`."""
        return self.sem_seg_head.predictor.transformer

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return self.pixel_mean.device

    @property
    def clip(self) -> CLIPBackbone:
        """CLIP, as every network calls it."""
        return self.backbone

    @property
    def learning(self) -> bool:
        """Whether the network is to be trained."""
        return self.finetune is not None

    @staticmethod
    def rate_group(name: str) -> Literal["sed_clip", "head"]:
        """Which learning rate a parameter has."""
        return "sed_clip" if name.startswith(CLIP) else "head"

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def prepare(self, images: Sequence[Tensor]) -> Tensor:
        """Normalised images of the one size that the network sees; each is resized by itself.

        Args:
            images: each (3, H, W) RGB in [0, 255], of any size.

        Returns:
            (B, 3, side, side) float.
        """
        return torch.cat([self._prepare(image) for image in images])

    def _prepare(self, image: Tensor) -> Tensor:
        pixels = (image.to(self.device).float() - self.pixel_mean) / self.pixel_std
        return F.interpolate(pixels[None], size=(self.side, self.side), mode="bilinear", align_corners=False)

    def encode(self, pixels: Tensor) -> ImageFeatures:
        """(B, 3, side, side) of `prepare` -> what every vocabulary is held against."""
        maps = self.backbone(pixels)
        dense = self.backbone.embed(maps["clip_vis_dense"].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        first, second, third = self.decoder.image_guidance([maps["res4"], maps["res3"], maps["res2"]])
        return ImageFeatures(dense, (first, second, third))

    def score(
        self, features: ImageFeatures, planes: Tensor, *, keep: int | None = None, joint: bool = False
    ) -> Decoded:
        """Score the classes of one image, or the common vocabulary of a training batch.

        Args:
            features: of one image with K attributes, or of B images with K = 1.
            planes: (K, N, T, E) text features, L2-normalised.
            keep, joint: see `GradualFusionDecoder.forward`; early rejection is for one image.
        """
        return self.decoder(cost_map(features.dense, planes), features.guidance, keep=keep, joint=joint)

    def text_fold(self, *, attributes: int, mode: str, design: str | None) -> PlaneFold:
        """How names and reasons become planes; see `maft.modeling.network.SegmentingNetwork`.

        Raises:
            UserError: a number of attributes, a mode or a design that there is not.
        """
        return PlaneFold(design=self.design if design is None else design, num_des=attributes, mode=mode)

    def look(self, images: Sequence[Tensor]) -> list[View]:
        """Run CLIP on images, before any vocabulary; what else is among them makes no difference.

        Args:
            images: (3, H, W) uint8 or float RGB in [0, 255] each, of any sizes.
        """
        features = self.encode(self.prepare(images))
        return [View(features.of(index), (image.shape[-2], image.shape[-1])) for index, image in enumerate(images)]

    def results(self, view: View, classifier: Planes, size: tuple[int, int], things: Collection[int] = ()) -> Results:
        """Hold one image against one vocabulary.

        Args:
            view: of `look`.
            classifier: the planes of the image.
            size: (height, width) of the result.
            things: not looked at: there are no segments.

        Returns:
            "class_maps": probabilities of independent classes, 0 for those without planes or rejected.
        """
        keep = None if classifier.source == "image" else self.keep
        planes = classifier.planes.to(self.device)
        decoded = self.score(view.features, planes, keep=keep, joint=classifier.joint)
        probabilities = combine_attributes(decoded.logits.float(), self.combine, self.combine_space)
        kept = decoded.kept[-1]
        if classifier.class_index is not None:
            kept = torch.tensor(classifier.class_index, device=kept.device)[kept]
        crop = view.image_size if classifier.crop else None
        return Results(class_maps=class_maps(probabilities, kept.tolist(), classifier.num_classes, size, crop))

    def training_losses(
        self,
        pixels: Tensor,
        labels: Tensor,
        planes: Tensor,
        *,
        ignored: int = 255,
        ignored_are_negatives: bool = True,
    ) -> dict[str, Tensor]:
        """One batch's losses, whose sum is to be minimised.

        Args:
            pixels: (B, 3, side, side) of `prepare`.
            labels: (B, H, W) int64.
            planes: (1, N, T, E) of the training vocabulary.
            ignored, ignored_are_negatives: see `losses.class_losses`.

        Returns:
            "loss_sem_seg_0" of the logits, left out where only the early heads learn, and "_1" to "_3" of these heads.
        """
        decoded = self.score(self.encode(pixels), planes)
        maps = [decoded.logits, *decoded.early]
        losses = class_losses(maps, labels, ignored=ignored, ignored_are_negatives=ignored_are_negatives)
        named = {f"loss_sem_seg_{number}": loss for number, loss in enumerate(losses)}
        if self.finetune == "fast_infer":
            del named["loss_sem_seg_0"]
        return named


def _set_dropout(backbone: CLIPBackbone, rate: float) -> None:
    """What is random in CLIP while it learns: drop path in the trunk, dropout in the projection MLP."""
    visual = backbone.clip_model.visual
    if not rate:
        for module in visual.trunk.modules():
            if isinstance(module, DropPath):
                module.drop_prob = 0.0
    mlp = getattr(visual.head, "mlp", None)
    if mlp is not None:
        mlp.drop1.p = rate
