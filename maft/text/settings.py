"""What decides the text that a model is asked with: one typed object, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class ReasonSettings:
    """Which reasons, which sentences, and where their features are kept.

    Attributes:
        reasons: False asks by class names only; the files below are then not looked at.
        generic_file: generic reasons of the vocabulary (MODEL.TEST_CLASS_REASON_JSON), "generic" for those that come
            along; None for none.
        image_folders: folders of image-specific reason files; every image without a file there gets `fallback`.
        image_specific: whether such files are asked for; without, generic reasons are what is meant.
        fallback: "generic", or "error" to stop at an image without reasons of its own.
        templates: name of the template set.
        mode: "reference" or "aligned".
        num_des: K, attributes per class.
        feature_dir: JSON feature files of the reference; None for none.
        clip_type, reason_data: folders below `feature_dir`.
        bank_dir: where text features are kept; None keeps them in memory.
        bank_dtype: "float32" or "float16".
        text_precision: what sentences are encoded in, see `CLIPTextEncoder`.
        places: where image-specific reasons were looked for, for the log.
    """

    reasons: bool = False
    generic_file: str | Path | None = None
    image_folders: tuple[Path, ...] = ()
    image_specific: bool = True
    fallback: str = "generic"
    templates: str = "vild"
    mode: str = "reference"
    num_des: int = 3
    feature_dir: str | Path | None = None
    clip_type: str = "Convnext-B"
    reason_data: str = ""
    bank_dir: str | Path | None = None
    bank_dtype: Literal["float32", "float16"] = "float32"
    text_precision: Literal["float32", "bfloat16"] = "float32"
    places: str = ""
