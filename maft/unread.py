"""Config keys that no part of this version reads: which may stand where they do, and which are refused.

The rule: a key either has its effect, or another value than its default is refused by name, with the way out. Nothing
is said about keys of the published yaml files, which load unchanged (`ACCEPTED`, `HARMLESS`); on the command line,
where a user wants something by them, the first are refused as well, but for those of the published commands.
"""

from __future__ import annotations

from typing import Any

ACCEPTED: dict[str, Any] = {
    # The reference carries this one through its constructor and never opens the file.
    "MODEL.CLASS_NAME_JSON": None,
    "MODEL.DATASET_NAME": "openvocab_ade20k_full_sem_seg_val",
    "MODEL.relu": "relu",
    # FC-CLIP's ensemble with the decoder's classes, which MAFT+ does without.
    "MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_ALPHA": 0.4,
    "MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_BETA": 0.8,
    "MODEL.FC_CLIP.ENSEMBLE_ON_VALID_MASK": False,
    # Of other networks that the yaml files descend from.
    "MODEL.MASK_FORMER.ENC_LAYERS": 0,
    "MODEL.MASK_FORMER.PRE_NORM": False,
    "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ": False,
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "res5",
    "MODEL.RESNETS.RES4_DILATION": 1,
    "MODEL.RESNETS.RES5_MULTI_GRID": [1, 2, 4],
    "MODEL.RESNETS.STEM_TYPE": "deeplab",
    "MODEL.SEM_SEG_HEAD.LOSS_TYPE": "hard_pixel_mining",
    "MODEL.SEM_SEG_HEAD.PROJECT_FEATURES": ["res2"],
    "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS": [48],
    "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS": 256,
    "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS": [6, 12, 18],
    "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT": 0.1,
    "MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV": False,
    # Of SED's yaml files.
    "MODEL.ENC.CLIP_MODEL_NAME": "",
    "MODEL.ENC.CLIP_PRETRAINED_WEIGHTS": "",
    "MODEL.ENC.EMBED_DIM": 768,
    "MODEL.SEM_SEG_HEAD.PROMPT_DEPTH": 0,
    "MODEL.SEM_SEG_HEAD.PROMPT_LENGTH": 0,
    "MODEL.SEM_SEG_HEAD.TEXT_GUIDANCE_PROJ_DIM": 0,
    "MODEL.SEM_SEG_HEAD.APPEARANCE_GUIDANCE_DIM": 1024,
    "MODEL.SEM_SEG_HEAD.APPEARANCE_GUIDANCE_PROJ_DIM": 128,
    "MODEL.SEM_SEG_HEAD.NUM_LAYERS": 2,
    "MODEL.SEM_SEG_HEAD.FEATURE_RESOLUTION": [24, 24],
    "MODEL.SEM_SEG_HEAD.WINDOW_SIZES": 12,
    "MODEL.SEM_SEG_HEAD.TRAIN_CLASS_INDEXES": "",
    "MODEL.SEM_SEG_HEAD.TEST_CLASS_INDEXES": "",
    "MODEL.CLIP_PIXEL_MEAN": [122.7709383, 116.7460125, 104.09373615],
    "MODEL.CLIP_PIXEL_STD": [68.5005327, 66.6321579, 70.3231630],
    "TEST.SLIDING_WINDOW": False,
    "MODEL.SWIN.PRETRAIN_IMG_SIZE": 224,
    "MODEL.SWIN.PATCH_SIZE": 4,
    "MODEL.SWIN.EMBED_DIM": 96,
    "MODEL.SWIN.DEPTHS": [2, 2, 6, 2],
    "MODEL.SWIN.NUM_HEADS": [3, 6, 12, 24],
    "MODEL.SWIN.WINDOW_SIZE": 7,
    "MODEL.SWIN.MLP_RATIO": 4.0,
    "MODEL.SWIN.QKV_BIAS": True,
    "MODEL.SWIN.QK_SCALE": None,
    "MODEL.SWIN.DROP_RATE": 0.0,
    "MODEL.SWIN.ATTN_DROP_RATE": 0.0,
    "MODEL.SWIN.DROP_PATH_RATE": 0.3,
    "MODEL.SWIN.APE": False,
    "MODEL.SWIN.PATCH_NORM": True,
    "MODEL.SWIN.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.SWIN.USE_CHECKPOINT": False,
}
"""Key -> default of the keys that are accepted for the reference's yaml files and have no effect."""

IN_COMMANDS = ("MODEL.CLASS_NAME_JSON",)
"""Keys of `ACCEPTED` that the published commands set: said to have no effect, not refused."""

READ = (
    *("CUDNN_BENCHMARK", "FLOAT32_PRECISION", "OUTPUT_DIR", "SEED", "VERSION"),
    *("DATALOADER.ASPECT_RATIO_GROUPING", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "DATALOADER.NUM_WORKERS"),
    *("DATASETS.TEST", "DATASETS.TRAIN"),
    *("INPUT.FORMAT", "INPUT.MAX_SIZE_TEST", "INPUT.MAX_SIZE_TRAIN", "INPUT.MIN_SIZE_TEST", "INPUT.MIN_SIZE_TRAIN"),
    *("INPUT.MIN_SIZE_TRAIN_SAMPLING", "INPUT.RANDOM_FLIP"),
    *("INPUT.CROP.ENABLED", "INPUT.CROP.SIZE", "INPUT.CROP.TYPE"),
    *("MODEL.DEVICE", "MODEL.META_ARCHITECTURE", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.WEIGHTS"),
    *("MODEL.BACKBONE.NAME", "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "MODEL.SEM_SEG_HEAD.CONVS_DIM"),
    *("MODEL.SEM_SEG_HEAD.IN_FEATURES", "MODEL.SEM_SEG_HEAD.NAME", "MODEL.SEM_SEG_HEAD.NORM"),
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    *("SOLVER.AMP.ENABLED", "SOLVER.BASE_LR", "SOLVER.BASE_LR_END", "SOLVER.CHECKPOINT_PERIOD"),
    *("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "SOLVER.CLIP_GRADIENTS.ENABLED"),
    *("SOLVER.CLIP_GRADIENTS.NORM_TYPE", "SOLVER.GAMMA", "SOLVER.IMS_PER_BATCH", "SOLVER.LR_SCHEDULER_NAME"),
    *("SOLVER.MAX_ITER", "SOLVER.MOMENTUM", "SOLVER.NESTEROV", "SOLVER.STEPS", "SOLVER.WARMUP_FACTOR"),
    *("SOLVER.WARMUP_ITERS", "SOLVER.WARMUP_METHOD", "SOLVER.WEIGHT_DECAY", "SOLVER.WEIGHT_DECAY_NORM"),
    *("TEST.DETECTIONS_PER_IMAGE", "TEST.EVAL_PERIOD"),
)
"""detectron2's keys that are read, with detectron2's meaning. Its others are in `HARMLESS`, or refused."""

HARMLESS = {
    "MODEL.BACKBONE.FREEZE_AT": "the published yaml files set it; what learns is the network's own",
    "MODEL.RESNETS": "the published yaml files carry the section of the network that they descend from",
    "TEST.AUG.FLIP": "how, where TEST.AUG.ENABLED says whether",
    "TEST.AUG.MAX_SIZE": "likewise",
    "TEST.AUG.MIN_SIZES": "likewise",
    "TEST.PRECISE_BN.NUM_ITER": "how, where TEST.PRECISE_BN.ENABLED says whether",
}
"""detectron2's keys and sections that nobody reads and that may have any value -> why."""

_NO_PROPOSALS = "no network here takes proposals; leave it out"
_NO_KEYPOINTS = "no network here finds keypoints; leave it out"
_OWN_ORDER = "training has an order of its own; leave it out"
_DECAY = (
    "weights decay by SOLVER.WEIGHT_DECAY, those of norms and embeddings by WEIGHT_DECAY_NORM and _EMBED; set these"
)
_STEPS = "name the steps of WarmupMultiStepLR in SOLVER.STEPS"

INSTEAD = {
    "DATALOADER.REPEAT_SQRT": _OWN_ORDER,
    "DATALOADER.REPEAT_THRESHOLD": _OWN_ORDER,
    "DATALOADER.SAMPLER_TRAIN": _OWN_ORDER,
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": _NO_PROPOSALS,
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": _NO_PROPOSALS,
    "DATASETS.PROPOSAL_FILES_TEST": _NO_PROPOSALS,
    "DATASETS.PROPOSAL_FILES_TRAIN": _NO_PROPOSALS,
    "INPUT.MASK_FORMAT": "masks are read as they lie in the data set; leave it out",
    "MODEL.KEYPOINT_ON": _NO_KEYPOINTS,
    "MODEL.LOAD_PROPOSALS": _NO_PROPOSALS,
    "MODEL.MASK_ON": "instances with masks come with MODEL.MASK_FORMER.TEST.INSTANCE_ON True",
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": "pixels of label 255 have no class; write label maps so",
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": "the losses have weights of their own, MODEL.MASK_FORMER.CLASS_WEIGHT and others",
    "SOLVER.BIAS_LR_FACTOR": "biases learn at the rate of their part; set SOLVER.BASE_LR or a _MULTIPLIER",
    "SOLVER.NUM_DECAYS": _STEPS,
    "SOLVER.REFERENCE_WORLD_SIZE": "no other key follows the number of processes; set SOLVER.IMS_PER_BATCH and BASE_LR",
    "SOLVER.RESCALE_INTERVAL": _STEPS,
    "SOLVER.WEIGHT_DECAY_BIAS": _DECAY,
    "TEST.AUG.ENABLED": "every image is seen once, at INPUT.MIN_SIZE_TEST; set that to another size instead",
    "TEST.EXPECTED_RESULTS": "compare results.json with what you expect instead",
    "TEST.KEYPOINT_OKS_SIGMAS": _NO_KEYPOINTS,
    "TEST.PRECISE_BN.ENABLED": "CLIP's backbone has no batch norms to estimate; leave it out",
    "VIS_PERIOD": "training draws nothing; look at the data with tools.check_datasets, and leave it out",
}
"""detectron2's other keys that mean something to a user of this project -> the way out."""

OTHERS_INSTEAD = "it belongs to a network of detectron2's that this project does not have; leave it out"


def is_harmless(key: str) -> bool:
    """Whether a key of detectron2's that nobody reads may have any value."""
    return any(key == part or key.startswith(f"{part}.") for part in HARMLESS)
