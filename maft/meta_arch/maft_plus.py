"""Where config, detectron2 and network meet: the registered architectures of the reference, built from its config keys.

With reasons and without are one network whose classifier rows differ; every name with and without `_Reason` is
registered because the users' yaml files carry both.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import open_clip
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, build_sem_seg_head
from detectron2.structures import BitMasks, Instances
from torch import Tensor
from torch.nn import functional as F

from maft import inference
from maft.data import datasets_root
from maft.errors import UserError
from maft.meta_arch.parts import build_criterion
from maft.meta_arch.parts import clip_architecture as clip_architecture  # is asked for here
from maft.modeling.backbone import CLIPBackbone
from maft.modeling.losses import Criterion, Targets
from maft.modeling.segmentor import MaskHead, Regions, Segmentor
from maft.text.bank import FeatureBank
from maft.text.classifier import Classifier, ClassifierSource
from maft.text.encoder import CLIPTextEncoder
from reason.triplets import describe_image_reason_folders, image_reason_folders
from reason.vocabulary import split_synonyms

logger = logging.getLogger(__name__)

BACKBONE_STRIDE = 32


@META_ARCH_REGISTRY.register()
class MAFT_Plus(Segmentor):
    """MAFT+ behind detectron2's interface: dictionaries of pictures in, dictionaries of results out.

    Args:
        backbone, sem_seg_head, transfer_width, transfer_heads, panoptic_on, criterion, learning, teacher: see
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
        criterion: Criterion,
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
        learning: bool = False,
        teacher: CLIPBackbone | None = None,
    ) -> None:
        super().__init__(
            backbone=backbone,
            sem_seg_head=sem_seg_head,
            transfer_width=transfer_width,
            transfer_heads=transfer_heads,
            panoptic=panoptic_on,
            criterion=criterion,
            learning=learning,
            teacher=teacher,
        )
        self._text_options, self._bank_options = dict(text), dict(bank)
        self._reason_places = reason_places
        self._bank: FeatureBank | None = None
        self._source: ClassifierSource | None = None
        self._training_source: ClassifierSource | None = None
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.size_divisibility = size_divisibility
        self.semantic_on, self.panoptic_on, self.instance_on = semantic_on, panoptic_on, instance_on
        self.resize_masks_first = resize_masks_first
        self.object_mask_threshold, self.overlap_threshold = object_mask_threshold, overlap_threshold
        self.detections = detections

    @classmethod
    def from_config(cls, cfg: CfgNode, learning: bool = False) -> dict[str, Any]:
        """The constructor's arguments, from config keys; `learning` asks for a model that is to be trained."""
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
        criterion = build_criterion(cfg)
        if learning:
            check_training_vocabulary(cfg)
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.channels),
            "transfer_width": width,
            "transfer_heads": heads,
            "criterion": criterion,
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
            "learning": learning,
            "teacher": deepcopy(backbone) if learning and criterion.options.compensation_weight else None,
        }

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    @property
    def text(self) -> ClassifierSource:
        """Where classifier rows come from; made at the first use, since it depends on the weights that were loaded."""
        if self._source is None:
            if self.uses_reasons:
                logger.info("image-specific reasons: %s", self._reason_places)
            self._source = self._classifier_source()
        return self._source

    @property
    def training_text(self) -> ClassifierSource:
        """Where the rows of the training vocabulary come from: always from class names, whatever evaluation uses."""
        if self._training_source is None:
            self._training_source = self._classifier_source(reasons=False)
        return self._training_source

    def _classifier_source(self, **changed: Any) -> ClassifierSource:
        encoder = CLIPTextEncoder(self.backbone.clip_model, open_clip.get_tokenizer(self.backbone.model_name))
        if self._bank is None:
            self._bank = FeatureBank(encoder, self._text_options["templates"], **self._bank_options)
        return ClassifierSource(encoder=encoder, bank=self._bank, **(self._text_options | changed))

    def pad(self, picture: Tensor, at_least: tuple[int, int] = (0, 0)) -> Tensor:
        """Normalise a (3, H, W) picture and pad it with zeros at right and bottom (docs/numerics.md, "Image").

        The result is as large as the picture or as (height, width) `at_least`, made divisible.
        """
        pixels = (picture.to(self.device) - self.pixel_mean) / self.pixel_std
        height, width = picture.shape[-2:]
        step = self.size_divisibility
        below, beside = (max(have, least) for have, least in zip((height, width), at_least, strict=True))
        return F.pad(pixels, (0, beside + -beside % step - width, 0, below + -below % step - height))

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | dict[str, Tensor]:
        """Segment a batch, or, in training mode, judge how well it is segmented.

        Args:
            batched_inputs: a dictionary a picture: "image" (3, H, W) uint8 RGB; "height" and "width" of the result
                (default: the picture's); "file_name" (its image-specific reasons are found by it); "meta" with
                "dataname", the registered data set whose vocabulary is asked for. In training mode "image", "meta"
                and "instances" with gt_classes (N,) int64 and gt_masks (N, H, W) bool or detectron2's BitMasks.

        Returns:
            In training mode `Segmentor.training_losses`: pictures are padded to the largest of the batch then.
            Otherwise a dictionary a picture, with "sem_seg" (classes, height, width), "panoptic_seg" and "instances" as
            the config asks for them. What else is in the batch makes no difference: pictures of equal padded size go
            through the network together, each is held against its own rows.
        """
        if self.training:
            return self._learn(batched_inputs)
        return self._segment(batched_inputs)

    def _learn(self, batch: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        if not self.learning:
            raise RuntimeError("built for evaluation; build_network(cfg, training=True) makes a model that trains")
        sizes = [record["image"].shape[-2:] for record in batch]
        largest = (max(size[0] for size in sizes), max(size[1] for size in sizes))
        pixels = torch.stack([self.pad(record["image"], at_least=largest) for record in batch])
        targets = Targets.collate(
            [record["instances"].gt_classes for record in batch],
            [mask_tensor(record["instances"]) for record in batch],
            pixels.shape[-2:],
            self.device,
        )
        dataset = common_vocabulary([record["meta"]["dataname"] for record in batch])
        synonyms = [split_synonyms(names) for names in class_strings(dataset, "DATASETS.TRAIN")]
        classifier = self.training_text.classifier(dataset, synonyms, None)
        return self.training_losses(pixels, targets, classifier.rows, classifier.rows_per_class)

    def _segment(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
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


def class_strings(dataset: str, key: str = "DATASETS.TEST") -> Sequence[str]:
    """The classes of a registered data set, each a string of its comma-separated synonyms.

    Args:
        dataset: its name.
        key: the config key that named it, for the error.

    Raises:
        UserError: the data set is not registered or names no classes.
    """
    metadata = MetadataCatalog.get(dataset)
    names = metadata.get("stuff_classes") or metadata.get("thing_classes")
    if not names:
        raise UserError(f"{key}: '{dataset}' is not a registered data set with classes; see datasets/README.md")
    return names


def check_training_vocabulary(cfg: CfgNode) -> None:
    """Hold MODEL.SEM_SEG_HEAD.NUM_CLASSES against the data sets of DATASETS.TRAIN.

    Raises:
        UserError: there is none, one is not registered, or the numbers differ.
    """
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN: empty; name a data set, such as openvocab_coco_2017_train_stuff_sem_seg")
    for dataset in cfg.DATASETS.TRAIN:
        classes, configured = len(class_strings(dataset, "DATASETS.TRAIN")), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        if classes != configured:
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES: {configured}, but {dataset} of DATASETS.TRAIN has {classes} classes; "
                f"set it to {classes}"
            )


def common_vocabulary(datasets: Sequence[str]) -> str:
    """The one data set that a training batch is from, or one of several with the same classes.

    Raises:
        UserError: their classes differ, so that they cannot share a batch.
    """
    first, *others = sorted(set(datasets))
    for other in others:
        if list(class_strings(other, "DATASETS.TRAIN")) != list(class_strings(first, "DATASETS.TRAIN")):
            raise UserError(f"DATASETS.TRAIN: {first} and {other} have different classes; train on one of them")
    return first


def mask_tensor(instances: Instances) -> Tensor:
    """The (N, H, W) masks of the ground truth, whether a plain tensor or detectron2's BitMasks holds them."""
    masks = instances.gt_masks
    return masks.tensor if isinstance(masks, BitMasks) else masks


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


def build_network(cfg: CfgNode, *, training: bool = False) -> MAFT_Plus:
    """The model that MODEL.META_ARCHITECTURE names, on MODEL.DEVICE, in evaluation mode, weights not loaded.

    Args:
        cfg: the config.
        training: make one that can be trained: with the frozen teacher (unless MODEL.rc_weights is 0), and with
            requires_grad only where training changes something. The data sets of DATASETS.TRAIN are registered.

    Raises:
        UserError: a name in the config is not registered, or the training vocabulary does not fit.
    """
    try:
        architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
        model = architecture(cfg, learning=training)
    except KeyError as error:
        raise UserError(f"{error.args[0]}; this project registers MAFT_Plus and MAFT_Plus_Reason") from error
    return model.to(torch.device(cfg.MODEL.DEVICE)).eval()
