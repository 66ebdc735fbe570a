"""Where config, detectron2 and network meet: the registered architectures of the reference, built from its config keys.

With reasons and without are one network whose classifier rows differ; every name with and without `_Reason` is
registered because the users' yaml files carry both.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, build_sem_seg_head
from detectron2.structures import BitMasks, Instances
from detectron2.utils.registry import Registry
from torch import Tensor
from torch.nn import functional as F

from reason.triplets import describe_image_reason_folders, image_reason_folders
from reason.vocabulary import split_synonyms

from . import inference
from .data import datasets_root
from .errors import UserError
from .modeling.backbone import CLIPBackbone, build_clip, known_architecture, register_clip_configs
from .modeling.pixel_decoder.msdeformattn import MSDeformAttnPixelDecoder as PixelDecoder
from .modeling.segmentor import MaskHead, Regions, Segmentor
from .modeling.transformer_decoder import MultiScaleMaskedTransformerDecoder as Decoder
from .text.bank import FeatureBank
from .text.classifier import Classifier, ClassifierSource
from .text.encoder import CLIPTextEncoder

logger = logging.getLogger(__name__)

TRANSFORMER_DECODER_REGISTRY = Registry("TRANSFORMER_DECODER")
"""Decoders by the names of MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME."""

CLIP_CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs" / "clip"
BACKBONE_STRIDE = 32


@BACKBONE_REGISTRY.register()
def CLIP(cfg: CfgNode, input_shape: object = None) -> CLIPBackbone:
    """MODEL.BACKBONE.NAME "CLIP": the architecture of MODEL.FC_CLIP.CLIP_MODEL_NAME."""
    width = cfg.MODEL.FC_CLIP.EMBED_DIM
    name = clip_architecture(cfg)
    try:
        backbone = CLIPBackbone(build_clip(name), name)
    except ValueError as error:
        raise _bad_architecture(error) from error
    if backbone.embed_dim != width:
        raise UserError(f"MODEL.FC_CLIP.EMBED_DIM: {width}, but {name} is {backbone.embed_dim} wide; set it so")
    return backbone


def clip_architecture(cfg: CfgNode) -> str:
    """The open_clip name of MODEL.FC_CLIP.CLIP_MODEL_NAME, after open_clip was told of configs/clip/ or the file named.

    Raises:
        UserError: a file is named that is not there.
    """
    register_clip_configs(CLIP_CONFIG_DIR)
    try:
        return known_architecture(cfg.MODEL.FC_CLIP.CLIP_MODEL_NAME)
    except ValueError as error:
        raise _bad_architecture(error) from error


def _bad_architecture(error: ValueError) -> UserError:
    return UserError(
        f"MODEL.FC_CLIP.CLIP_MODEL_NAME: {error}; take convnext_base_w_320 or convnext_large_d_320"
    )


@SEM_SEG_HEADS_REGISTRY.register()
def MSDeformAttnPixelDecoder(cfg: CfgNode, channels: Mapping[str, int]) -> PixelDecoder:
    """MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME "MSDeformAttnPixelDecoder"."""
    head = cfg.MODEL.SEM_SEG_HEAD
    if head.NORM != "GN" or head.COMMON_STRIDE != 4:
        raise UserError(
            f"MODEL.SEM_SEG_HEAD: NORM '{head.NORM}' with COMMON_STRIDE {head.COMMON_STRIDE}; "
            "this pixel decoder has NORM 'GN' and COMMON_STRIDE 4"
        )
    return PixelDecoder(
        {name: channels[name] for name in head.IN_FEATURES},
        encoder_features=head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES,
        width=head.CONVS_DIM,
        mask_dim=head.MASK_DIM,
        heads=head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS,
        layers=head.TRANSFORMER_ENC_LAYERS,
        points=head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS,
        dropout=cfg.MODEL.MASK_FORMER.DROPOUT,
    )


@TRANSFORMER_DECODER_REGISTRY.register()
def MultiScaleMaskedTransformerDecoder(cfg: CfgNode) -> Decoder:
    """MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME of the reference."""
    former, head = cfg.MODEL.MASK_FORMER, cfg.MODEL.SEM_SEG_HEAD
    if former.HIDDEN_DIM != head.CONVS_DIM:
        raise UserError(
            f"MODEL.MASK_FORMER.HIDDEN_DIM: {former.HIDDEN_DIM} differs from MODEL.SEM_SEG_HEAD.CONVS_DIM "
            f"{head.CONVS_DIM}; the decoder takes the pixel decoder's maps as they are, set both alike"
        )
    return Decoder(
        embed_dim=cfg.MODEL.FC_CLIP.EMBED_DIM,
        width=former.HIDDEN_DIM,
        mask_dim=head.MASK_DIM,
        queries=former.NUM_OBJECT_QUERIES,
        layers=former.DEC_LAYERS - 1,
        heads=former.NHEADS,
        feedforward=former.DIM_FEEDFORWARD,
    )


@TRANSFORMER_DECODER_REGISTRY.register()
def MultiScaleMaskedTransformerDecoder_Reason(cfg: CfgNode) -> Decoder:
    """The reference's other name for the same decoder."""
    return MultiScaleMaskedTransformerDecoder(cfg)


@SEM_SEG_HEADS_REGISTRY.register()
def FCCLIPHead(cfg: CfgNode, channels: Mapping[str, int]) -> MaskHead:
    """MODEL.SEM_SEG_HEAD.NAME of the reference."""
    pixel_decoder = SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME)(cfg, channels)
    predictor = TRANSFORMER_DECODER_REGISTRY.get(cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME)(cfg)
    return MaskHead(pixel_decoder, predictor)


@SEM_SEG_HEADS_REGISTRY.register()
def FCCLIPHead_Reason(cfg: CfgNode, channels: Mapping[str, int]) -> MaskHead:
    """The reference's other name for the same head."""
    return FCCLIPHead(cfg, channels)


@META_ARCH_REGISTRY.register()
class MAFT_Plus(Segmentor):
    """MAFT+ behind detectron2's interface: dictionaries of pictures in, dictionaries of results out.

    Args:
        backbone, sem_seg_head, transfer_width, transfer_heads, panoptic_on, train_classes, no_object_weight: see
            `Segmentor`.
        text: keyword arguments of `ClassifierSource`, encoder and bank aside.
        bank: keyword arguments of `FeatureBank`, the encoder's aside.
        reason_places: where image-specific reasons were looked for and what is there, for the log.
        pixel_mean, pixel_std: of RGB in [0, 255].
        size_divisibility: pictures are padded to a multiple of this.
        semantic_on, panoptic_on, instance_on: which results to give.
        resize_masks_first: whether masks or class maps are resized to the picture's size.
        object_mask_threshold, overlap_threshold: see `inference.panoptic_segments`.
        detections: instances looked at, at most.
    """

    uses_reasons = False
    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: CLIPBackbone,
        sem_seg_head: MaskHead,
        transfer_width: int,
        transfer_heads: int,
        train_classes: int,
        no_object_weight: float,
        text: Mapping[str, Any],
        bank: Mapping[str, Any],
        reason_places: str,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int,
        semantic_on: bool,
        panoptic_on: bool,
        instance_on: bool,
        resize_masks_first: bool,
        object_mask_threshold: float,
        overlap_threshold: float,
        detections: int,
    ) -> None:
        super().__init__(
            backbone=backbone,
            sem_seg_head=sem_seg_head,
            transfer_width=transfer_width,
            transfer_heads=transfer_heads,
            panoptic=panoptic_on,
            train_classes=train_classes,
            no_object_weight=no_object_weight,
        )
        self._text_options, self._bank_options = dict(text), dict(bank)
        self._reason_places = reason_places
        self._source: ClassifierSource | None = None
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.size_divisibility = size_divisibility
        self.semantic_on, self.panoptic_on, self.instance_on = semantic_on, panoptic_on, instance_on
        self.resize_masks_first = resize_masks_first
        self.object_mask_threshold, self.overlap_threshold = object_mask_threshold, overlap_threshold
        self.detections = detections

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The constructor's arguments, from config keys."""
        former, reason = cfg.MODEL.MASK_FORMER, cfg.MODEL.REASON
        backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, None)
        divisibility = former.SIZE_DIVISIBILITY if former.SIZE_DIVISIBILITY > 0 else BACKBONE_STRIDE
        if divisibility % BACKBONE_STRIDE:
            raise UserError(
                f"MODEL.MASK_FORMER.SIZE_DIVISIBILITY: {divisibility}; the network takes multiples of {BACKBONE_STRIDE}"
            )
        width, heads = cfg.MODEL.cdt_params
        if width != backbone.embed_dim or width % heads:
            raise UserError(
                f"MODEL.cdt_params: [{width}, {heads}]; the width must be MODEL.FC_CLIP.EMBED_DIM {backbone.embed_dim} "
                "and divide by the heads"
            )
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.channels),
            "transfer_width": width,
            "transfer_heads": heads,
            "train_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "no_object_weight": former.NO_OBJECT_WEIGHT,
            "text": text_options(cfg, reasons=cls.uses_reasons),
            "bank": {"folder": reason.BANK_DIR or None, "storage_dtype": reason.BANK_DTYPE},
            "reason_places": describe_image_reason_folders(
                cfg.MODEL.REASON_DIR, cfg.MODEL.REASON_DATA, datasets_root()
            ),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "size_divisibility": divisibility,
            "semantic_on": former.TEST.SEMANTIC_ON,
            "panoptic_on": former.TEST.PANOPTIC_ON,
            "instance_on": former.TEST.INSTANCE_ON,
            "resize_masks_first": former.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE
            or former.TEST.PANOPTIC_ON
            or former.TEST.INSTANCE_ON,
            "object_mask_threshold": former.TEST.OBJECT_MASK_THRESHOLD,
            "overlap_threshold": former.TEST.OVERLAP_THRESHOLD,
            "detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    @property
    def text(self) -> ClassifierSource:
        """Where classifier rows come from; made at the first use, since it depends on the weights that were loaded."""
        if self._source is None:
            clip, name = self.backbone.clip_model, self.backbone.model_name
            encoder = CLIPTextEncoder(clip, open_clip.get_tokenizer(name))
            if self.uses_reasons:
                logger.info("image-specific reasons: %s", self._reason_places)
            bank = FeatureBank(encoder, self._text_options["templates"], **self._bank_options)
            self._source = ClassifierSource(encoder=encoder, bank=bank, **self._text_options)
        return self._source

    def pad(self, picture: Tensor) -> Tensor:
        """Normalise a (3, H, W) picture and pad it with zeros at right and bottom (NUMERICS.md, "Image")."""
        pixels = (picture.to(self.device) - self.pixel_mean) / self.pixel_std
        height, width = picture.shape[-2:]
        step = self.size_divisibility
        return F.pad(pixels, (0, -width % step, 0, -height % step))

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Segment a batch.

        Args:
            batched_inputs: a dictionary a picture: "image" (3, H, W) uint8 RGB; "height" and "width" of the result
                (default: the picture's); "file_name" (its image-specific reasons are found by it); "meta" with
                "dataname", the registered data set whose vocabulary is asked for.

        Returns:
            A dictionary a picture, with "sem_seg" (classes, height, width), "panoptic_seg" and "instances" as the
            config asks for them. What else is in the batch makes no difference: pictures of equal padded size go
            through the network together, each is held against its own rows.
        """
        if self.training:
            raise UserError("training is not part of this version; run train_net.py with --eval-only")
        groups: dict[tuple[int, int], list[tuple[int, Tensor]]] = defaultdict(list)
        for position, record in enumerate(batched_inputs):
            padded = self.pad(record["image"])
            groups[padded.shape[-2], padded.shape[-1]].append((position, padded))
        results: list[dict[str, Any]] = [{} for _ in batched_inputs]
        for padded_size, members in groups.items():
            regions = self.find_regions(torch.stack([padded for _, padded in members]))
            for index, (position, _) in enumerate(members):
                results[position] = self._result(batched_inputs[position], regions, index, padded_size)
        return results

    def classifier_for(self, record: Mapping[str, Any]) -> Classifier:
        """The classifier rows of one picture."""
        dataset = record["meta"]["dataname"]
        synonyms = [split_synonyms(names) for names in class_strings(dataset)]
        return self.text.classifier(dataset, synonyms, record.get("file_name"))

    def _result(
        self, record: Mapping[str, Any], regions: Regions, index: int, padded_size: tuple[int, int]
    ) -> dict[str, Any]:
        classifier = self.classifier_for(record)
        log_scores = self.score_regions(
            regions, index, classifier.rows, classifier.rows_per_class, classifier.attributes
        ).log_scores
        image_size = tuple(record["image"].shape[-2:])
        size = (record.get("height", image_size[0]), record.get("width", image_size[1]))
        masks = F.interpolate(
            regions.mask_logits[index : index + 1], size=padded_size, mode="bilinear", align_corners=False
        )[0]
        if self.resize_masks_first:
            masks = inference.crop_and_resize(masks, image_size, size)
            image_size = size
        covered = (classifier.class_index, classifier.num_classes)
        things = thing_indices(record["meta"]["dataname"])
        result: dict[str, Any] = {}
        if self.semantic_on:
            result["sem_seg"] = inference.semantic_map(log_scores, masks, *covered, image_size, size)
        if self.panoptic_on:
            result["panoptic_seg"] = inference.panoptic_segments(
                log_scores,
                masks,
                *covered,
                things,
                object_mask_threshold=self.object_mask_threshold,
                overlap_threshold=self.overlap_threshold,
            )
        if self.instance_on:
            arrays = inference.instances(log_scores, masks, *covered, things, top=self.detections)
            result["instances"] = as_instances(arrays, size)
        return result


@META_ARCH_REGISTRY.register()
class MAFT_Plus_Reason(MAFT_Plus):
    """MAFT+ whose rows come from reasons: image-specific where the picture has a file, generic otherwise."""

    uses_reasons = True


def text_options(cfg: CfgNode, *, reasons: bool) -> dict[str, Any]:
    """The keyword arguments of `ClassifierSource` that the config decides, encoder and bank aside."""
    model = cfg.MODEL
    # The first folder that is there, and no other: reasons of two sources must not mix picture by picture.
    folders = image_reason_folders(model.REASON_DIR, model.REASON_DATA, datasets_root())[:1]
    return {
        "templates": model.REASON.TEMPLATES,
        "mode": model.REASON.MODE,
        "num_des": model.NUM_DES,
        "reasons": reasons,
        "generic_file": model.TEST_CLASS_REASON_JSON if reasons else None,
        "image_folders": folders if reasons else (),
        "feature_dir": model.REASON.FEATURE_DIR or None,
        "fallback": model.REASON.FALLBACK,
        "clip_type": model.CLIP_TYPE,
        "reason_data": model.REASON_DATA,
    }


def class_strings(dataset: str) -> Sequence[str]:
    """The classes of a registered data set, each a string of its comma-separated synonyms.

    Raises:
        UserError: the data set is not registered or names no classes.
    """
    metadata = MetadataCatalog.get(dataset)
    names = metadata.get("stuff_classes") or metadata.get("thing_classes")
    if not names:
        raise UserError(f"DATASETS.TEST: '{dataset}' is not a registered data set with classes; see datasets/README.md")
    return names


def thing_indices(dataset: str) -> frozenset[int]:
    """Indices of the countable classes of a registered data set."""
    return frozenset((MetadataCatalog.get(dataset).get("thing_dataset_id_to_contiguous_id") or {}).values())


def as_instances(arrays: inference.InstanceArrays, size: tuple[int, int]) -> Instances:
    """Arrays of one picture as detectron2's Instances, with boxes around the masks."""
    instances = Instances(size)
    instances.pred_masks = arrays["masks"]
    instances.scores = arrays["scores"]
    instances.pred_classes = arrays["classes"]
    instances.pred_boxes = BitMasks(arrays["masks"]).get_bounding_boxes()
    return instances


def build_network(cfg: CfgNode) -> MAFT_Plus:
    """The model that MODEL.META_ARCHITECTURE names, on MODEL.DEVICE, in evaluation mode, weights not loaded.

    Raises:
        UserError: a name in the config is not registered.
    """
    try:
        architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
        model = architecture(cfg)
    except KeyError as error:
        raise UserError(f"{error.args[0]}; this project registers MAFT_Plus and MAFT_Plus_Reason") from error
    return model.to(torch.device(cfg.MODEL.DEVICE)).eval()
