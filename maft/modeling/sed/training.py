"""What of SED learns, and at which rate (docs/numerics_sed.md section 9)."""

from __future__ import annotations

from typing import Any

from torch import nn

CLIP = "sem_seg_head.predictor.clip_model."
DECODER = "sem_seg_head.predictor.transformer."
EARLY_HEADS = tuple(f"{DECODER}head{number}." for number in range(3))

FINETUNE = ("full", "full_res5", "conv", "mlp", "prompt", "attention", "fast_infer")
"""Values of MODEL.SEM_SEG_HEAD.CLIP_FINETUNE. "prompt" and "attention" name parts that a ConvNeXt does not have."""


def learns(name: str, finetune: str) -> bool:
    """Whether a parameter is trained.

    Args:
        name: its full name.
        finetune: one of `FINETUNE`. In "fast_infer" only the three early heads learn; in all others the decoder does,
            and of CLIP's image tower the part that the value names. The text tower never learns.

    Raises:
        ValueError: another value.
    """
    if finetune not in FINETUNE:
        raise ValueError(f"'{finetune}' is not one of {', '.join(FINETUNE)}")
    if finetune == "fast_infer":
        return name.startswith(EARLY_HEADS)
    if name.startswith(DECODER):
        return True
    if not name.startswith(f"{CLIP}visual."):
        return False
    parts = {"full": "", "full_res5": "stages.3", "conv": "conv", "mlp": "mlp"}
    return finetune in parts and parts[finetune] in name


def optimizer_groups(
    model: nn.Module, *, rate: float, clip_multiplier: float, decay: float, norm_decay: float
) -> list[dict[str, Any]]:
    """One group a learning parameter.

    Norms of torch's own classes and their subclasses decay by `norm_decay`; everything else by `decay`: biases, layer
    scales, and the decoder's `ChannelNorm`, which is none of them (quirk 7).

    Args:
        model: a SED.
        rate: SOLVER.BASE_LR.
        clip_multiplier: SOLVER.CLIP_MULTIPLIER, the part of it that CLIP learns at.
        decay, norm_decay: SOLVER.WEIGHT_DECAY, SOLVER.WEIGHT_DECAY_NORM.
    """
    norms = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase, nn.LocalResponseNorm)
    groups = []
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(module_name, recurse=False):
            if parameter.requires_grad:
                own_rate = rate * clip_multiplier if name.startswith(CLIP) else rate
                own_decay = norm_decay if isinstance(module, norms) else decay
                groups.append({"params": [parameter], "lr": own_rate, "weight_decay": own_decay})
    return groups
