"""The config keys of this project, each with its meaning, beside detectron2's own.

Every one of `KEYS` is read. What becomes of the keys that nobody reads stands in `maft.unread`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg

from maft.errors import UserError
from maft.resources import config_file as locate_config
from maft.unread import ACCEPTED, IN_COMMANDS, INSTEAD, OTHERS_INSTEAD, READ, is_harmless
from reason.suggest import did_you_mean

logger = logging.getLogger(__name__)

KEYS: dict[str, tuple[Any, str]] = {
    # Reasons
    "MODEL.TEST_CLASS_REASON_JSON": (
        "reason_data/general_reason/ade150_class_reason.json",
        "generic reasons of the vocabulary: for images without a file of their own; 'generic': those that come along",
    ),
    "MODEL.REASON_DIR": (
        "reason_data/image_reason/Qwen2.5-VL-72B-Instruct-AWQ",
        "folder of the image-specific reasons; looked for as given and under the data-set root",
    ),
    "MODEL.REASON_DATA": ("", "sub-folder of REASON_DIR, one a vocabulary: pc59, ade150, ..."),
    "MODEL.NUM_DES": (5, "attributes a class that become prompts; the published results use 3"),
    "MODEL.CLIP_TYPE": ("Convnext-B", "sub-folder of the reference's feature files: Convnext-B or Convnext-L"),
    "MODEL.REASON.MODE": (
        "reference",
        "how sentences fold into rows: 'reference' as published, 'aligned' attribute by attribute",
    ),
    "MODEL.REASON.FALLBACK": ("generic", "an image without reasons: 'generic' ones, counted, or an 'error'"),
    "MODEL.REASON.TEMPLATES": ("vild", "name of the set of prompt templates"),
    "MODEL.REASON.FEATURE_DIR": ("reason_data/image_reason_feat", "the reference's JSON feature files; '' reads none"),
    "MODEL.REASON.BANK_DIR": ("reason_data/text_bank", "where sentence features are kept for good; '' keeps none"),
    "MODEL.REASON.BANK_DTYPE": ("float32", "how they are stored: float32 or float16"),
    "MODEL.REASON.TEXT_PRECISION": (
        "float32",
        "what sentences are encoded in: float32, or bfloat16, whose features are kept apart",
    ),
    "MODEL.PRECISION": (
        "float32",
        "evaluation: float32, or bfloat16 for the network's products (autocast); scores, results and text stay float32",
    ),
    # CLIP and the transfer
    "MODEL.FC_CLIP.CLIP_MODEL_NAME": (
        "convnext_large_d_320",
        "open_clip architecture, one of configs/clip/, or the path of a JSON model config",
    ),
    "MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS": (
        "laion2b_s29b_b131k_ft_soup",
        "where CLIP's weights come from if MODEL.WEIGHTS lacks them, as at the start of a training: a file, or "
        "open_clip's name for them",
    ),
    "MODEL.FC_CLIP.EMBED_DIM": (768, "width of CLIP's shared space"),
    "MODEL.cdt_params": ([768, 8], "width and heads of the content-dependent transfer"),
    # Mask decoder
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": ("MultiScaleMaskedTransformerDecoder", "registered decoder"),
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": (100, "masks an image"),
    "MODEL.MASK_FORMER.HIDDEN_DIM": (256, "width of the queries"),
    "MODEL.MASK_FORMER.NHEADS": (8, "attention heads of decoder and pixel decoder"),
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": (2048, "width of the decoder's feed-forward layers"),
    "MODEL.MASK_FORMER.DEC_LAYERS": (6, "predictions of the decoder: one more than its layers"),
    "MODEL.MASK_FORMER.DROPOUT": (0.1, "dropout of the pixel decoder, in training"),
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": (0.1, "weight of void in the classification loss"),
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": (32, "images are zero-padded to a multiple of this"),
    # Pixel decoder
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": ("BasePixelDecoder", "registered pixel decoder"),
    "MODEL.SEM_SEG_HEAD.MASK_DIM": (256, "channels of the mask features"),
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": (0, "layers of the deformable encoder"),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": (
        ["res3", "res4", "res5"],
        "features that the deformable encoder sees",
    ),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": (4, "sampling points a head and level"),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": (8, "heads of the deformable attention"),
    # Results
    "MODEL.MASK_FORMER.TEST.SEMANTIC_ON": (True, "give class maps"),
    "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": (False, "give panoptic segments; also selects the panoptic transfer"),
    "MODEL.MASK_FORMER.TEST.INSTANCE_ON": (False, "give instances"),
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": (0.0, "panoptic: a query counts above this probability"),
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": (0.0, "panoptic: part of its mask that a segment must keep"),
    "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": (
        False,
        "resize masks instead of class maps to the image's size (always so with panoptic or instance results)",
    ),
    "TEST.BATCH_SIZE": (1, "images a batch and process; results do not depend on it"),
    "TEST.SAVE_PREDICTIONS": (False, "write every prediction under OUTPUT_DIR/inference/<data set>/"),
    "TEST.SAVE_ORACLE": (
        False,
        "write predicted class maps, and what they are if only the image's true classes compete: for tools.diagnose",
    ),
    # SED
    "MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED": (
        "Convnext-B",
        "SED's CLIP: Convnext-B, Convnext-L, or an architecture as in MODEL.FC_CLIP.CLIP_MODEL_NAME",
    ),
    "MODEL.SEM_SEG_HEAD.TRAIN_CLASS_JSON": ("", "JSON list of class strings in place of the training data set's names"),
    "MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON": ("", "the same for the data sets that are evaluated; not used if not there"),
    "MODEL.SEM_SEG_HEAD.HIDDEN_DIMS": (128, "channels of the decoder's state"),
    "MODEL.SEM_SEG_HEAD.DECODER_DIMS": ([64, 32, 16], "and after each of its three steps"),
    "MODEL.SEM_SEG_HEAD.DECODER_GUIDANCE_DIMS": ([512, 256, 128], "channels of CLIP's res4, res3, res2"),
    "MODEL.SEM_SEG_HEAD.DECODER_GUIDANCE_PROJ_DIMS": ([32, 16, 8], "and as they guide the steps"),
    "MODEL.SEM_SEG_HEAD.NUM_HEADS": (4, "attention heads among the classes"),
    "MODEL.SEM_SEG_HEAD.POOLING_SIZES": ([1, 1], "squares averaged before that attention: 2 in training, 1 in tests"),
    "MODEL.SEM_SEG_HEAD.KERNEL_SIZE": ([9, 9, 9], "sides of the depthwise convolutions"),
    "MODEL.SEM_SEG_HEAD.ATTENTION_TYPE": ("linear", "linear, no other"),
    "MODEL.SEM_SEG_HEAD.CNEXT_TYPE": ("V1", "V1, no other"),
    "MODEL.SEM_SEG_HEAD.TEXT_GUIDANCE_DIM": (0, "0, no other"),
    "MODEL.SEM_SEG_HEAD.CLIP_FINETUNE": (
        "full",
        "what learns: full, full_res5, conv, mlp, attention, prompt; fast_infer: the early heads alone",
    ),
    "MODEL.PROMPT_ENSEMBLE_TYPE": ("imagenet", "SED's templates: imagenet, no other"),
    "TEST.FAST_INFERENCE": (
        False,
        "SED: classes that win nowhere leave the decoder early (not with an image's reasons)",
    ),
    "TEST.TOPK": (1, "and the classes that every cell keeps; 8 in the published SED-fast"),
    "SOLVER.CLIP_MULTIPLIER": (0.01, "SED: learning rate of CLIP, as a factor of BASE_LR"),
    "SED.ATTRIBUTES": ("passes", "how a class's attributes meet the image: passes, joint, mean, spread"),
    "SED.COMBINE": ("mean", "how their maps become one: mean or max"),
    "SED.COMBINE_SPACE": ("probability", "of what: probability or logit"),
    "SED.IGNORED_AS_NEGATIVES": (True, "training: pixels without a label count as 'no' of every class"),
    "SED.IMAGE_SIDE": (768, "side of the square that the network sees"),
    "SED.CLIP_WEIGHTS": ("", "where CLIP starts a training from; '' takes the published ones of CLIP_PRETRAINED"),
    # Data
    "DATASETS.REGISTER": (
        (),
        "modules that make further data sets known: each is imported and its function register() called",
    ),
    "INPUT.DATASET_MAPPER_NAME": (
        "mask_former_semantic",
        "what is learnt and evaluated: class maps (mask_former_semantic, coco_semantic_lsj) or panoptic segments "
        "(mask_former_panoptic, coco_panoptic_lsj); in training also how images change (lsj: large-scale jitter)",
    ),
    "INPUT.COLOR_AUG_SSD": (False, "mask_former mappers: change brightness, contrast, saturation and hue as SSD does"),
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": (1.0, "INPUT.CROP: how much of a crop one class may cover"),
    "INPUT.SIZE_DIVISIBILITY": (-1, "mask_former mappers: pad training images to a multiple of this; -1 does not"),
    "INPUT.IMAGE_SIZE": (1024, "lsj mappers: side of the square that the network is trained on"),
    "INPUT.MIN_SCALE": (0.1, "lsj mappers: images are fitted into a square of IMAGE_SIZE times this at least"),
    "INPUT.MAX_SCALE": (2.0, "and this at most"),
    # Losses
    "MODEL.MASK_FORMER.DEEP_SUPERVISION": (True, "losses for the predictions of all layers of the decoder"),
    "MODEL.MASK_FORMER.CLASS_WEIGHT": (1.0, "weight of the classification loss, and of classes in the matching"),
    "MODEL.MASK_FORMER.DICE_WEIGHT": (1.0, "weight of the dice loss, likewise"),
    "MODEL.MASK_FORMER.MASK_WEIGHT": (20.0, "weight of the cross-entropy of masks, likewise"),
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": (112 * 112, "points at which masks are compared"),
    "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": (3.0, "candidates for these points, as a factor"),
    "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": (0.75, "part of the points that lies where the mask is least certain"),
    "MODEL.rc_weights": (None, "weight of the representation compensation; 0 or None does without it and its teacher"),
    # Optimiser and loop; detectron2's own SOLVER keys mean what they mean there
    "SOLVER.OPTIMIZER": ("ADAMW", "ADAMW or SGD"),
    "SOLVER.BACKBONE_MULTIPLIER": (0.1, "learning rate of the backbone, as a factor of BASE_LR"),
    "SOLVER.WEIGHT_DECAY_EMBED": (0.0, "weight decay of embeddings"),
    "SOLVER.POLY_LR_POWER": (0.9, "WarmupPolyLR: the rate falls as (1 - iteration / MAX_ITER) to this power"),
    "SOLVER.POLY_LR_CONSTANT_ENDING": (0.0, "WarmupPolyLR: but not below this part of it"),
    "SOLVER.ACCUMULATE": (1, "parts in which a process takes its share of IMS_PER_BATCH, where memory is short"),
    "SOLVER.AMP.DTYPE": ("float16", "SOLVER.AMP: float16 (GPU), or bfloat16"),
    "SOLVER.LOG_PERIOD": (20, "iterations a line of metrics.json"),
    "SOLVER.WANDB_PROJECT": ("", "project of Weights & Biases that shows the training, if wandb is installed"),
    "SOLVER.KEEP_CHECKPOINTS": (0, "numbered checkpoints to keep, the newest ones; 0 keeps all"),
}
"""Key -> default and meaning of the keys that this version reads."""

CHOICES = {
    "MODEL.REASON.MODE": ("reference", "aligned"),
    "MODEL.REASON.FALLBACK": ("generic", "error"),
    "MODEL.REASON.BANK_DTYPE": ("float32", "float16"),
    "MODEL.REASON.TEXT_PRECISION": ("float32", "bfloat16"),
    "MODEL.PRECISION": ("float32", "bfloat16"),
    "INPUT.DATASET_MAPPER_NAME": (
        "mask_former_semantic",
        "mask_former_panoptic",
        "coco_semantic_lsj",
        "coco_panoptic_lsj",
    ),
}
"""Key -> the values it may have."""


AT_LEAST = {
    "DATALOADER.NUM_WORKERS": 0,
    "INPUT.MAX_SIZE_TEST": 1,
    "INPUT.MIN_SIZE_TEST": 0,
    "MODEL.NUM_DES": 0,
    "TEST.BATCH_SIZE": 1,
}
"""Key -> the smallest number that means something; training looks at its own."""

PATHS = (
    "OUTPUT_DIR",
    "MODEL.WEIGHTS",
    "MODEL.TEST_CLASS_REASON_JSON",
    "MODEL.REASON_DIR",
    "MODEL.REASON.FEATURE_DIR",
    "MODEL.REASON.BANK_DIR",
    "MODEL.FC_CLIP.CLIP_MODEL_NAME",
    "MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS",
    "MODEL.SEM_SEG_HEAD.CLIP_PRETRAINED",
    "MODEL.SEM_SEG_HEAD.TRAIN_CLASS_JSON",
    "MODEL.SEM_SEG_HEAD.TEST_CLASS_JSON",
    "SED.CLIP_WEIGHTS",
)
"""Keys that hold paths; `expand_home` sees to a "~" or "$NAME" in them."""


_NAMES = ("DATASETS.TEST", "DATASETS.TRAIN", "DATASETS.REGISTER")
_ONE_NAME = r"[\s(]*['\"]?([\w./-]+)['\"]?[\s)]*"
"""A name alone, or in parentheses without a comma, which to Python is the same."""


def expand_home(cfg: CfgNode) -> None:
    """Put home folders and environment variables into every key of `PATHS`, in place: "~/x", "~user/x", "$NAME/x".

    Raises:
        UserError: a path that no system takes, or that begins with a variable that is not set; an empty OUTPUT_DIR.
    """
    for key in PATHS:
        *parents, leaf = key.split(".")
        node = cfg
        for parent in parents:
            node = node[parent]
        node[leaf] = os.path.expanduser(os.path.expandvars(node[leaf]))
        if "\0" in node[leaf]:
            raise UserError(f"{key}: {node[leaf]!r} is no path; write one without the null character")
        if unset := re.match(r"\$(\w+|\{\w+\})", node[leaf]):
            raise UserError(f"{key} {node[leaf]}: {unset[0]} is not set in the environment; set it, or write the path")
    if not cfg.OUTPUT_DIR.strip():  # would be the current folder, unasked
        raise UserError('OUTPUT_DIR: empty; name a folder ("." is the current one)')


def add_maft_config(cfg: CfgNode) -> None:
    """Add every key of `KEYS` and `ACCEPTED` with its default to a config of detectron2, in place."""
    defaults = {key: default for key, (default, _) in KEYS.items()} | ACCEPTED
    for key, default in defaults.items():
        *parents, leaf = key.split(".")
        node = cfg
        for parent in parents:
            if parent not in node:
                node[parent] = CfgNode()
            node = node[parent]
        node[leaf] = list(default) if isinstance(default, list) else default


def build_config(config_file: str, options: list[str]) -> CfgNode:
    """The frozen config of a run: defaults, then the yaml file, then KEY VALUE pairs.

    Raises:
        UserError: the file is missing or malformed, a key is unknown, or a value does not fit its key.
    """
    if not config_file:
        raise UserError("--config-file: name one, such as configs/semantic/eval_base_reason.yaml")
    path = locate_config(config_file)
    if not path.is_file():
        raise UserError(f"--config-file {config_file}: no such file; those of this project lie under configs/")
    if len(options) % 2:
        raise UserError(f"KEY VALUE pairs: '{options[-1]}' has no value")
    cfg = get_cfg()
    add_maft_config(cfg)
    defaults = cfg.clone()
    if not path.read_bytes().strip():
        raise UserError(f"--config-file {config_file}: an empty file; copy it again, or take one under configs/")
    for key, value in zip(options[::2], options[1::2], strict=True):
        if value == "None" and key in _NAMES:
            raise UserError(f'{key} None: takes a list of names; write {key} "()" for none')
        if key in _NAMES and (found := re.fullmatch(_ONE_NAME, value)):
            raise UserError(f"{key} {value}: takes a list of names; write {key} \"('{found[1]}',)\", with the comma")
    try:
        cfg.merge_from_file(str(path))
    except RecursionError as error:
        raise UserError(f"{config_file}: _BASE_ leads back to the file itself, or is too deep; name another") from error
    except (AttributeError, TypeError) as error:
        raise UserError(f"{config_file}: holds no keys; write KEY: value, and in _BASE_ the path of a file") from error
    except (KeyError, ValueError, AssertionError, yaml.YAMLError, OSError) as error:
        raise UserError(f"{config_file}: {_problem(cfg, error)}; the keys are listed in maft/config.py") from error
    before = cfg.clone()
    try:
        cfg.merge_from_list(options)
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(
            f"KEY VALUE pairs: {_problem(cfg, error, options[::2])}; the keys are listed in maft/config.py"
        ) from error
    _check_accepted(before, cfg, options[::2])
    for key, choices in CHOICES.items():
        value = _value(cfg, key)
        if value not in choices:
            raise UserError(f"{key}: '{value}' is not one of {', '.join(choices)}")
    _check_values(cfg, defaults)
    check_unread(cfg)
    if cfg.SEED < 0:
        cfg.SEED = 123
    expand_home(cfg)
    return cfg


def _check_values(cfg: CfgNode, defaults: CfgNode) -> None:
    """Refuse values that no code here could use: they are told now, by their keys.

    Raises:
        UserError: an empty value where there is a default, a list of names that holds others, a number below
            `AT_LEAST`, or a device that there is not.
    """
    for key in _keys_of(cfg):
        # Whatever may be None is None by default; the yaml reader takes "~" and an empty value for it, too.
        if _value(cfg, key) is None and _value(defaults, key) is not None:
            raise UserError(f"{key}: empty (None, in yaml also '~'); give a value, or leave the key out")
    for key in _NAMES:
        if not all(isinstance(name, str) for name in _value(cfg, key)):
            raise UserError(f"{key} {_value(cfg, key)}: takes a list of names; write {key} \"('NAME',)\"")
    for key, least in AT_LEAST.items():
        if _value(cfg, key) < least:
            raise UserError(f"{key}: {_value(cfg, key)}; it must be at least {least}")
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise UserError(f"MODEL.DEVICE '{cfg.MODEL.DEVICE}': no device; write cuda, cuda:1 or cpu") from error


def check_unread(cfg: CfgNode) -> None:
    """Hold detectron2's keys that nobody reads against their defaults, which describe what is done.

    Raises:
        UserError: one has another value, and is none of `maft.unread.HARMLESS`.
    """
    defaults = get_cfg()
    for key in _keys_of(defaults):
        if key in KEYS or key in ACCEPTED or key in READ or is_harmless(key):
            continue
        value, default = _value(cfg, key), _value(defaults, key)
        if value != default:
            instead = INSTEAD.get(key, OTHERS_INSTEAD)
            raise UserError(f"{key} {value}: read by no part of this version, which has {default!r}; {instead}")


def _check_accepted(before: CfgNode, cfg: CfgNode, given: Sequence[str]) -> None:
    """Refuse keys of the command line that only the published yaml files may set, where they ask for something else."""
    for key in given:
        if key not in ACCEPTED:
            continue
        if key not in IN_COMMANDS and _value(cfg, key) != _value(before, key):
            raise UserError(
                f"{key} {_value(cfg, key)}: read by no part of this version, so that it changes nothing; leave it out"
            )
        logger.warning("%s: without effect, accepted since published commands and files have it", key)


def _reason_of(error: Exception) -> str:
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def _value(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


_MISMATCH = re.compile(
    r"Type mismatch \(<class '(?:\w+\.)*(?P<wanted>\w+)'> vs\. <class '(?:\w+\.)*(?P<given>\w+)'>\) "
    r"with values \(.* vs\. (?P<value>.*)\) for config key: (?P<key>[\w.]+)",
    re.DOTALL,
)
"""What yacs says of a value of another type, whole sections included."""


def _problem(cfg: CfgNode, error: Exception, given: Sequence[str] = ()) -> str:
    """What is wrong, and for an unknown key the one that may be meant."""
    known = _keys_of(cfg)
    if found := _MISMATCH.search(_reason_of(error)):
        wanted, given_type, value, key = found["wanted"], found["given"], found["value"], found["key"]
        if wanted == "CfgNode":
            return f"{key}: a section, not a key; write {key}.KEY VALUE, in yaml {key}: {{KEY: value}}"
        hint = f"; write {key} \"('NAME', 'OTHER')\"" if key in _NAMES else ""
        return f"{key}: {value} is of type {given_type}, the key takes {wanted}{hint}"
    unknown = [key for key in given if key not in known] if given else re.findall(r"[\w.]+\.\w+", _reason_of(error))
    return _reason_of(error) + (did_you_mean(unknown[0], known) if unknown else "")


def _keys_of(cfg: CfgNode, before: str = "") -> list[str]:
    keys = []
    for name, value in cfg.items():
        keys += _keys_of(value, f"{before}{name}.") if isinstance(value, CfgNode) else [f"{before}{name}"]
    return keys
