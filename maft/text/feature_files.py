"""The JSON feature files of OpenSeg-R: ready-made classifier rows of one image.

`<folder>/<vocabulary>/<CLIP type>/<stem>.json` = {"text_classifier": R lists of E numbers, "test_num_templates": rows
of every covered class, "class_index": their vocabulary indices}. The rows are those of `reference` mode. A file tells
neither the weights nor the templates it was made with.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maft.errors import UserError
from maft.text.prompts import Prompts
from reason.files import write_text

_FIELDS = ("text_classifier", "test_num_templates", "class_index")
_NORM_TOLERANCE = 1e-3
_SHOWN = 12


def feature_file_path(folder: str | Path, vocabulary: str, clip_type: str, stem: str) -> Path:
    """Where the feature file of the reason file `<stem>.json` lies."""
    return Path(folder) / vocabulary / clip_type / f"{stem}.json"


def read_feature_file(path: str | Path, prompts: Prompts, dim: int) -> Tensor:
    """The rows of one image, checked against its reasons.

    Args:
        path: the feature file.
        prompts: what the image's reason file asks for, in `reference` mode.
        dim: E, the width of the text tower's features.

    Returns:
        (R, E) float32, L2-normalised.

    Raises:
        UserError: not readable, or made from other reasons, another NUM_DES or another CLIP; names the file and both.
    """
    document = _read(path)
    for key, wanted in (("test_num_templates", prompts.rows_per_class), ("class_index", prompts.class_index or ())):
        if document[key] != list(wanted):
            raise UserError(
                f"{path}: {key} is {_short(document[key])}, but {prompts.source} gives {_short(wanted)}; check "
                "MODEL.NUM_DES, remove the file, or make it again with tools.extract_text_features --format json"
            )
    rows = _matrix(path, document["text_classifier"])
    if rows.shape != (len(prompts.row_members), dim):
        raise UserError(
            f"{path}: text_classifier is {rows.shape[0]} rows of {rows.shape[1]}, but {prompts.source} and CLIP give "
            f"{len(prompts.row_members)} rows of {dim}; check MODEL.CLIP_TYPE and MODEL.NUM_DES, or remove the file"
        )
    return torch.from_numpy(rows)


def write_feature_file(
    path: str | Path, rows: np.ndarray, rows_per_class: Sequence[int], class_index: Sequence[int]
) -> None:
    """Write one image's rows in the format above, whole or not at all.

    Args:
        path: the file; folders are made.
        rows: (R, E) float32, L2-normalised, of `reference` mode.
        rows_per_class: rows of every covered class.
        class_index: vocabulary indices of the covered classes.

    Raises:
        UserError: the file cannot be written.
    """
    document = {
        "text_classifier": rows.tolist(),
        "test_num_templates": [int(number) for number in rows_per_class],
        "class_index": [int(index) for index in class_index],
    }
    try:
        write_text(path, json.dumps(document), sync=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); free some space or mend the folder") from error


def _read(path: str | Path) -> dict[str, Any]:
    try:
        document = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: no JSON feature file, perhaps cut off ({error}); remove it or make it again"
        ) from error
    absent = [key for key in _FIELDS if not isinstance(document, dict) or not isinstance(document.get(key), list)]
    if absent:
        raise UserError(f"{path}: no list {', '.join(absent)}; a feature file has {', '.join(_FIELDS)}")
    return document


def _matrix(path: str | Path, lists: list[Any]) -> np.ndarray:
    try:
        rows = np.array(lists, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        rows = np.zeros(0, dtype=np.float32)
    if rows.ndim != 2:
        raise UserError(f"{path}: text_classifier must be rows of numbers, all of one length; make it again")
    norms = np.linalg.norm(rows, axis=1)
    if not np.isfinite(norms).all() or (np.abs(norms - 1) > _NORM_TOLERANCE).any():
        worst = int(np.nanargmax(np.where(np.isfinite(norms), np.abs(norms - 1), np.inf)))
        raise UserError(f"{path}: row {worst} of text_classifier has norm {norms[worst]:.4g}, not 1; make it again")
    return rows


def _short(values: Sequence[Any]) -> str:
    more = f", … ({len(values)} in all)" if len(values) > _SHOWN else ""
    return f"[{', '.join(str(value) for value in values[:_SHOWN])}{more}]"
