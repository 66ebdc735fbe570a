"""What of SED learns, and at which rate (docs/numerics_sed.md section 9)."""

from __future__ import annotations

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
