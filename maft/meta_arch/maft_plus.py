"""MAFT+ behind detectron2's interface: the registered architectures of the reference, built from its config keys.

With reasons and without are one network whose classifier rows differ; every name with and without `_Reason` is
registered because the users' yaml files carry both.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import open_clip
import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from maft import inference
from maft.build import maft_plus_parts
from maft.errors import UserError
from maft.meta_arch.parts import (
    TextParts,
    as_output,
    bad_architecture,
    clip_architecture,
    network_arguments,
    reason_settings,
)
from maft.meta_arch.vocabularies import check_training_vocabulary, common_vocabulary, registered_vocabulary
from maft.modeling.losses import Targets
from maft.modeling.maft_plus import MAFTPlus
from maft.text.bank import FeatureBank
from maft.text.encoder import CLIPTextEncoder
from maft.text.prompts import Prompts
from maft.text.rows import Classifier, RowFold
from maft.text.settings import ReasonSettings
from maft.text.source import TextSource
from reason.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


@META_ARCH_REGISTRY.register()
class MAFT_Plus(MAFTPlus):
    """MAFT+ that takes detectron2's dictionaries of images and gives dictionaries of results.

    Args:
        settings: which reasons and sentences, see `ReasonSettings`.
        network: the arguments of `MAFTPlus`.
    """

    uses_reasons = False
    weights_key, clip_key = "MODEL.WEIGHTS", "MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS"

    @configurable
    def __init__(self, *, settings: ReasonSettings, **network: Any) -> None:
        super().__init__(**network)
        self.settings = settings
        self._bank: FeatureBank | None = None
        self._source: TextSource[Prompts, Classifier] | None = None
        self._training_source: TextSource[Prompts, Classifier] | None = None
        self._vocabularies: dict[str, Vocabulary] = {}

    @classmethod
    def from_config(cls, cfg: CfgNode, learning: bool = False) -> dict[str, Any]:
        """The constructor's arguments, from config keys; `learning` asks for a model that is to be trained."""
        try:
            network = maft_plus_parts(**network_arguments(cfg), learning=learning)
        except ValueError as error:
            raise bad_architecture(error) from error
        check_widths(cfg, network["backbone"].embed_dim)
        return {**network, "settings": reason_settings(cfg, reasons=cls.uses_reasons)}

    @classmethod
    def text_parts(cls, cfg: CfgNode) -> TextParts:
        """What makes this network's text input, from config keys, the network not built."""
        model = cfg.MODEL
        fold = RowFold(templates=model.REASON.TEMPLATES, mode=model.REASON.MODE, num_des=model.NUM_DES)
        clip = model.FC_CLIP.CLIP_PRETRAINED_WEIGHTS
        return TextParts(clip_architecture(cfg), cls.clip_prefixes[0], clip, cls.clip_key, fold, fold.names)

    @property
    def text(self) -> TextSource[Prompts, Classifier]:
        """Where classifier rows come from; made at the first use, since it depends on the weights that were loaded."""
        if self._source is None:
            if self.uses_reasons:
                logger.info("image-specific reasons: %s", self.settings.places)
            self._source = self._text_source(reasons=self.settings.reasons)
        return self._source

    @property
    def training_text(self) -> TextSource[Prompts, Classifier]:
        """Where the rows of the training vocabulary come from: always from class names, whatever evaluation uses."""
        if self._training_source is None:
            self._training_source = self._text_source(reasons=False)
        return self._training_source

    def _text_source(self, *, reasons: bool) -> TextSource[Prompts, Classifier]:
        settings = self.settings
        if self._bank is None:
            tokenizer = open_clip.get_tokenizer(self.clip.model_name)
            encoder = CLIPTextEncoder(self.clip.clip_model, tokenizer, precision=settings.text_precision)
            self._bank = FeatureBank(encoder, settings.templates, settings.bank_dir, storage_dtype=settings.bank_dtype)
        fold = RowFold(
            templates=settings.templates,
            mode=settings.mode,
            num_des=settings.num_des,
            feature_dir=settings.feature_dir,
            clip_type=settings.clip_type,
            reason_data=settings.reason_data,
        )
        return TextSource(
            fold,
            self._bank,
            reasons=reasons,
            generic_file=settings.generic_file,
            image_folders=settings.image_folders,
            image_specific=settings.image_specific,
            fallback=settings.fallback,
        )

    def vocabulary(self, dataset: str, key: str = "DATASETS.TEST") -> Vocabulary:
        """The vocabulary of a registered data set, looked up once.

        Raises:
            UserError: see `registered_vocabulary`.
        """
        if dataset not in self._vocabularies:
            self._vocabularies[dataset] = registered_vocabulary(dataset, key)
        return self._vocabularies[dataset]

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | dict[str, Tensor]:
        """Segment a batch, or, in training mode, compute its losses.

        Args:
            batched_inputs: a dictionary per image: "image" (3, H, W) uint8 RGB; "height" and "width" of the result
                (default: the image's); "file_name" (its image-specific reasons are found by it); the classes, either
                "vocabulary", a `Vocabulary`, or "meta" with "dataname", the name of a registered data set;
                "class_maps_only" (default False), True to do without "sem_seg". In training mode "image", "meta" and
                "instances" with gt_classes (N,) int64 and gt_masks (N, H, W) bool or detectron2's BitMasks.

        Returns:
            In training mode `MAFTPlus.training_losses`: images are padded to the largest of the batch then.
            Otherwise a dictionary per image, with "class_maps" (`ClassMaps`) and from it "sem_seg" (classes, height,
            width), "panoptic_seg" and "instances" as the config asks for them. What else is in the batch makes no
            difference.
        """
        if self.training:
            return self._learn(batched_inputs)
        views = self.look([record["image"] for record in batched_inputs])
        outputs = []
        for record, view in zip(batched_inputs, views, strict=True):
            vocabulary = self._vocabulary_of(record)
            classifier = self.text.classifier(vocabulary.synonyms, record.get("file_name"))
            size = (record.get("height", view.image_size[0]), record.get("width", view.image_size[1]))
            output = as_output(self.results(view, classifier, size, vocabulary.thing_indices), record)
            if "instances" in output:
                output["instances"] = as_instances(output["instances"], size)
            outputs.append(output)
        return outputs

    def _vocabulary_of(self, record: Mapping[str, Any], key: str = "DATASETS.TEST") -> Vocabulary:
        return record["vocabulary"] if "vocabulary" in record else self.vocabulary(record["meta"]["dataname"], key)

    def classifier_for(self, record: Mapping[str, Any]) -> Classifier:
        """The classifier rows of one image."""
        return self.text.classifier(self._vocabulary_of(record).synonyms, record.get("file_name"))

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
        vocabulary = common_vocabulary([self._vocabulary_of(record, "DATASETS.TRAIN") for record in batch])
        classifier = self.training_text.classifier(vocabulary.synonyms, None)
        return self.training_losses(pixels, targets, classifier.rows, classifier.rows_per_class)


@META_ARCH_REGISTRY.register()
class MAFT_Plus_Reason(MAFT_Plus):
    """MAFT+ whose rows come from reasons: image-specific where the image has a file, generic otherwise."""

    uses_reasons = True


def check_widths(cfg: CfgNode, embed_dim: int) -> None:
    """Hold the widths that a config states against CLIP's.

    Raises:
        UserError: MODEL.FC_CLIP.EMBED_DIM or MODEL.cdt_params does not fit.
    """
    stated = cfg.MODEL.FC_CLIP.EMBED_DIM
    if stated != embed_dim:
        name = cfg.MODEL.FC_CLIP.CLIP_MODEL_NAME
        raise UserError(f"MODEL.FC_CLIP.EMBED_DIM: {stated}, but {name} is {embed_dim} wide; set it so")
    width, heads = cfg.MODEL.cdt_params
    if width != embed_dim or width % heads:
        raise UserError(
            f"MODEL.cdt_params: [{width}, {heads}]; the width must be MODEL.FC_CLIP.EMBED_DIM {embed_dim} "
            "and divide by the heads"
        )


def mask_tensor(instances: Instances) -> Tensor:
    """The (N, H, W) masks of the ground truth, whether a plain tensor or detectron2's BitMasks holds them."""
    masks = instances.gt_masks
    return masks.tensor if isinstance(masks, BitMasks) else masks


def as_instances(arrays: inference.InstanceArrays, size: tuple[int, int]) -> Instances:
    """Arrays of one image as detectron2's Instances, with boxes around the masks."""
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
        if training:
            check_training_vocabulary(cfg)
        model = architecture(cfg, learning=training)
    except KeyError as error:
        raise _not_registered(error) from error
    return model.to(torch.device(cfg.MODEL.DEVICE)).eval()


def text_parts(cfg: CfgNode) -> TextParts:
    """What makes the text input of the network that MODEL.META_ARCHITECTURE names, the network not built.

    Raises:
        UserError: no such architecture, or a text key with a value that there is not.
    """
    parts: TextParts = _registered(cfg).text_parts(cfg)
    return parts


def _registered(cfg: CfgNode) -> Any:
    try:
        return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    except KeyError as error:
        raise _not_registered(error) from error


def _not_registered(error: KeyError) -> UserError:
    return UserError(f"{error.args[0]}; this project registers MAFT_Plus, MAFT_Plus_Reason, SED, SED_Reason")
