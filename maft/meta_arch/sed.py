"""SED behind detectron2's interface, with class names only and with reasons, built from its config keys."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from torch import Tensor

from maft.build import MODELS, build_backbone, clip_architecture, sed_parts
from maft.errors import UserError
from maft.meta_arch.maft_plus import mask_tensor
from maft.meta_arch.parts import Arguments, TextParts, as_output, reason_settings
from maft.meta_arch.vocabularies import common_vocabulary, registered_vocabulary
from maft.modeling.sed import SED as Network
from maft.modeling.sed.results import COMBINE, COMBINE_SPACE
from maft.text.bank import FeatureBank
from maft.text.encoder import CLIPTextEncoder
from maft.text.plane_fold import Names, PlaneFold, Planes
from maft.text.planes import PlanePrompts
from maft.text.settings import ReasonSettings
from maft.text.source import TextSource
from reason.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

CLIPS = {"Convnext-B": "sed-base", "Convnext-L": "sed-large"}
"""MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED -> the model of `maft.build.MODELS` that has this CLIP."""
TEMPLATES = "imagenet"
_FIXED = {"ATTENTION_TYPE": "linear", "CNEXT_TYPE": "V1", "TEXT_GUIDANCE_DIM": 0}


@SEM_SEG_HEADS_REGISTRY.register()
def SEDHead(cfg: CfgNode, input_shape: object = None) -> Arguments:
    """MODEL.SEM_SEG_HEAD.NAME "SEDHead": what the keys below MODEL.SEM_SEG_HEAD say of the decoder.

    Raises:
        UserError: a key has a value that the published networks do not use and this one does not know.
    """
    head = cfg.MODEL.SEM_SEG_HEAD
    for key, value in _FIXED.items():
        if head[key] != value:
            raise UserError(f"MODEL.SEM_SEG_HEAD.{key}: {head[key]!r}; this decoder knows {value!r} only")
    if cfg.MODEL.PROMPT_ENSEMBLE_TYPE != TEMPLATES:
        raise UserError(
            f"MODEL.PROMPT_ENSEMBLE_TYPE: '{cfg.MODEL.PROMPT_ENSEMBLE_TYPE}'; the decoder's weights are made for the "
            f"80 templates of '{TEMPLATES}'"
        )
    pooling = head.POOLING_SIZES
    if len(pooling) != 2 or pooling[0] != pooling[1]:
        raise UserError(f"MODEL.SEM_SEG_HEAD.POOLING_SIZES: {pooling}; two equal sides, such as [1, 1]")
    return {
        "width": head.HIDDEN_DIMS,
        "widths": head.DECODER_DIMS,
        "guidance": head.DECODER_GUIDANCE_PROJ_DIMS,
        "heads": head.NUM_HEADS,
        "kernels": head.KERNEL_SIZE,
        "pooling": pooling[0],
    }


@META_ARCH_REGISTRY.register()
class SED(Network):
    """SED behind detectron2's interface: dictionaries of images in, dictionaries of results out.

    Args:
        settings: which reasons and sentences, see `ReasonSettings`.
        class_files: JSON lists of class strings that take the place of the data sets' own, for training and test.
        ignored_are_negatives: SED.IGNORED_AS_NEGATIVES.
        network: the arguments of `maft.modeling.sed.SED`.
    """

    uses_reasons = False
    weights_key, clip_key = "MODEL.WEIGHTS", "SED.CLIP_WEIGHTS"

    @configurable
    def __init__(
        self,
        *,
        settings: ReasonSettings,
        class_files: Mapping[str, str],
        ignored_are_negatives: bool,
        **network: Any,
    ) -> None:
        super().__init__(**network)
        self.settings = settings
        self._bank: FeatureBank | None = None
        self._fold = self.text_fold(attributes=settings.num_des, mode=settings.mode, design=None)
        self._sources: dict[bool, TextSource[PlanePrompts, Planes]] = {}
        self._names: dict[tuple[str, str], Names] = {}
        self._class_files = dict(class_files)
        self.ignored_are_negatives = ignored_are_negatives

    @classmethod
    def from_config(cls, cfg: CfgNode, learning: bool = False) -> dict[str, Any]:
        """The constructor's arguments, from config keys; `learning` asks for a model that is to be trained."""
        head, own = cfg.MODEL.SEM_SEG_HEAD, cfg.SED
        for key, value, choices in (
            ("SED.COMBINE", own.COMBINE, COMBINE),
            ("SED.COMBINE_SPACE", own.COMBINE_SPACE, COMBINE_SPACE),
        ):
            if value not in choices:
                raise UserError(f"{key}: '{value}' is not one of {', '.join(choices)}")
        if cfg.TEST.FAST_INFERENCE and cfg.TEST.TOPK < 1:
            raise UserError(f"TEST.TOPK: {cfg.TEST.TOPK}; at least one class a cell, 8 in the published SED-fast")
        network = network_parts(
            cfg,
            side=own.IMAGE_SIDE,
            finetune=head.CLIP_FINETUNE if learning else None,
            design=own.ATTRIBUTES,
            combine=own.COMBINE,
            combine_space=own.COMBINE_SPACE,
            keep=cfg.TEST.TOPK if cfg.TEST.FAST_INFERENCE else None,
        )
        return {
            **network,
            "settings": reason_settings(cfg, reasons=cls.uses_reasons),
            "class_files": {"TRAIN": head.TRAIN_CLASS_JSON, "TEST": head.TEST_CLASS_JSON},
            "ignored_are_negatives": own.IGNORED_AS_NEGATIVES,
        }

    @classmethod
    def text_parts(cls, cfg: CfgNode) -> TextParts:
        """What makes this network's text input, from config keys, the network not built."""
        head = cfg.MODEL.SEM_SEG_HEAD
        fold = PlaneFold(design=cfg.SED.ATTRIBUTES, num_des=cfg.MODEL.NUM_DES, mode=cfg.MODEL.REASON.MODE)

        def names(vocabulary: Vocabulary) -> Names:
            own = read_class_file(head.TEST_CLASS_JSON, "TEST", vocabulary.name, len(vocabulary))
            if own is None:
                return fold.names(vocabulary)
            fold.know_other_names(own, vocabulary.synonyms)
            return own

        published = published_clip(head.CLIP_PRETRAINED)
        try:
            architecture = clip_architecture(published["clip"])
        except ValueError as error:
            raise bad_clip(error) from error
        clip_weights = cfg.SED.CLIP_WEIGHTS or published.get("clip_weights", "")
        return TextParts(architecture, cls.clip_prefixes[0], clip_weights, cls.clip_key, fold, names)

    @property
    def text(self) -> TextSource[PlanePrompts, Planes]:
        """Where planes come from; made at the first use, since it depends on the weights that were loaded."""
        if self.uses_reasons and True not in self._sources:
            logger.info("image-specific reasons: %s", self.settings.places)
        return self._source(self.uses_reasons)

    @property
    def training_text(self) -> TextSource[PlanePrompts, Planes]:
        """Where the planes of the training vocabulary come from: always from class names."""
        return self._source(False)

    def _source(self, reasons: bool) -> TextSource[PlanePrompts, Planes]:
        settings = self.settings
        if self._bank is None:
            tokenizer = open_clip.get_tokenizer(self.clip.model_name)
            encoder = CLIPTextEncoder(self.clip.clip_model, tokenizer, precision=settings.text_precision)
            self._bank = FeatureBank(
                encoder, self._fold.templates, settings.bank_dir, storage_dtype=settings.bank_dtype
            )
        if reasons not in self._sources:
            self._sources[reasons] = TextSource(
                self._fold,
                self._bank,
                reasons=reasons,
                generic_file=settings.generic_file,
                image_folders=settings.image_folders,
                image_specific=settings.image_specific,
                fallback=settings.fallback,
            )
        return self._sources[reasons]

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | dict[str, Tensor]:
        """Segment a batch, or, in training mode, judge how well it is segmented.

        Args:
            batched_inputs: as of `MAFT_Plus.forward`.

        Returns:
            In training mode `training_losses`. Otherwise a dictionary an image with "class_maps" (`ClassMaps`) and from
            it "sem_seg" (classes, height, width): probabilities of independent classes, 0 for those without reasons or
            rejected. What else is in the batch makes no difference.
        """
        if self.training:
            return self._learn(batched_inputs)
        views = self.look([record["image"] for record in batched_inputs])
        outputs = []
        for record, view in zip(batched_inputs, views, strict=True):
            size = (record.get("height", view.image_size[0]), record.get("width", view.image_size[1]))
            outputs.append(as_output(self.results(view, self.classifier_for(record), size), record))
        return outputs

    def _learn(self, batch: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        if not self.learning:
            raise RuntimeError("built for evaluation; build_network(cfg, training=True) makes a model that trains")
        common_vocabulary([registered_vocabulary(record["meta"]["dataname"], "DATASETS.TRAIN") for record in batch])
        names = self.class_names(batch[0]["meta"]["dataname"], "TRAIN")
        with torch.no_grad():
            planes = self.training_text.classifier(names, None).planes.to(self.device)
        height = max(record["image"].shape[-2] for record in batch)
        width = max(record["image"].shape[-1] for record in batch)
        labels = torch.full((len(batch), height, width), IGNORED, dtype=torch.int64)
        images = []
        for index, record in enumerate(batch):
            image, instances = record["image"], record["instances"]
            padded = torch.full((3, height, width), PADDING, dtype=image.dtype)
            padded[:, : image.shape[-2], : image.shape[-1]] = image
            images.append(padded)
            for label, mask in zip(instances.gt_classes, mask_tensor(instances), strict=True):
                labels[index, : mask.shape[-2], : mask.shape[-1]][mask.cpu()] = label.cpu()
        return self.training_losses(
            self.prepare(images),
            labels.to(self.device),
            planes,
            ignored=IGNORED,
            ignored_are_negatives=self.ignored_are_negatives,
        )

    def classifier_for(self, record: Mapping[str, Any]) -> Planes:
        """The planes of one image."""
        if "vocabulary" in record:
            names = self._fold.names(record["vocabulary"])
        else:
            names = self.class_names(record["meta"]["dataname"], "TEST")
        return self.text.classifier(names, record.get("file_name"))

    def class_names(self, dataset: str, purpose: str) -> Names:
        """The names of a data set's classes as SED splits them; the fold learns the other list's as well.

        Args:
            dataset: a registered data set.
            purpose: "TRAIN" or "TEST", whose MODEL.SEM_SEG_HEAD.*_CLASS_JSON takes their place if it is there.
        """
        key = (dataset, purpose)
        if key not in self._names:
            others = registered_vocabulary(dataset, f"DATASETS.{purpose}").synonyms
            own = MetadataCatalog.get(dataset).get("sed_classes")
            names = others if own is None else tuple(tuple(text.split(", ")) for text in own)
            self._names[key] = read_class_file(self._class_files[purpose], purpose, dataset, len(others)) or names
            self._fold.know_other_names(self._names[key], others)
        return self._names[key]


IGNORED = 255
"""The label of pixels without a class, in training."""
PADDING = 128
"""What images of a training batch are padded with, before normalisation."""


@META_ARCH_REGISTRY.register()
class SED_Reason(SED):
    """OpenSeg-R with SED: planes from reasons, image-specific where the image has a file, generic otherwise."""

    uses_reasons = True


def network_parts(cfg: CfgNode, **changes: Any) -> Arguments:
    """The arguments of `maft.modeling.sed.SED` that a config's keys decide, with `changes`.

    Raises:
        UserError: no such CLIP, or a decoder that cannot be or does not fit it.
    """
    head = cfg.MODEL.SEM_SEG_HEAD
    decoder = SEM_SEG_HEADS_REGISTRY.get(head.NAME)(cfg)
    name = head.CLIP_PRETRAINED
    published = published_clip(name)
    try:
        backbone = build_backbone(published["clip"])
    except ValueError as error:
        raise bad_clip(error) from error
    given = [backbone.channels[name] for name in ("res4", "res3", "res2")]
    if list(head.DECODER_GUIDANCE_DIMS) != given:
        raise UserError(
            f"MODEL.SEM_SEG_HEAD.DECODER_GUIDANCE_DIMS: {list(head.DECODER_GUIDANCE_DIMS)}, but res4, res3, res2 of "
            f"{name} have {given} channels; set it so"
        )
    try:
        parts = sed_parts(**{**published, "clip": backbone, **decoder, **changes})
    except ValueError as error:
        raise UserError(f"MODEL.SEM_SEG_HEAD: {error}") from error
    return {**parts, "clip_weights": cfg.SED.CLIP_WEIGHTS or parts.get("clip_weights", "")}


def published_clip(name: str) -> Mapping[str, Any]:
    """What `maft.build.MODELS` says of the CLIP of MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED; of one's own just its name."""
    return MODELS[CLIPS[name]] if name in CLIPS else {"clip": name}


def bad_clip(error: ValueError) -> UserError:
    """The error of a CLIP that cannot be built."""
    return UserError(f"MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED: {error}; take one of {', '.join(CLIPS)}")


def read_class_file(path: str, purpose: str, dataset: str, classes: int) -> Names | None:
    """The names of a JSON list of class strings; None if the file is not there, as the reference's are not here.

    Raises:
        UserError: it is no such list, or not one of this data set.
    """
    if not path or not Path(path).is_file():
        return None
    key = f"MODEL.SEM_SEG_HEAD.{purpose}_CLASS_JSON"
    try:
        texts = json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{key}: {path} cannot be read ({error}); '' takes the data set's own names") from error
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError(f"{key}: {path} is no JSON list of class names; '' takes the data set's own names")
    if len(texts) != classes:
        raise UserError(
            f"{key}: {path} has {len(texts)} classes, {dataset} has {classes}; '' takes the data set's own names"
        )
    logger.info("%s: class names of %s", path, dataset)
    return tuple(tuple(text.split(", ")) for text in texts)
