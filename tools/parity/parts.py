"""Parts of a golden folder beside its cases: text features, names, metrics, preprocessing, functions, training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch

from maft import inference
from maft.config import build_config
from maft.data import InferenceMapper
from maft.evaluation.metrics import confusion_matrix, semantic_scores
from maft.meta_arch import build_network
from maft.modeling.classify import row_logits
from maft.modeling.grids import sine_positions
from maft.modeling.layers import mask_pool
from maft.modeling.pixel_decoder.ops import ms_deform_attn
from maft.text.encoder import load_text_encoder
from maft.weights.seeding import SEEDED

from .compare import TENSOR_BOUND, Report
from .golden import read_arrays, read_json
from .training import check_step, check_trainable, check_units_of_training

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {
    "base": "configs/semantic/eval_base_reason.yaml",
    "large": "configs/semantic/eval_large_reason.yaml",
    "panoptic": "configs/panoptic/eval_pano_reason.yaml",
}
"""Model of `state_dict_reason_*.json`, `trainable_reason_*.json`, `text_reason_*.npz` -> the config that builds it."""

Check = Callable[[], Report]


def part_checks(folder: Path) -> list[tuple[str, Check]]:
    """The checks that a folder has material for, with their names."""
    found: list[tuple[str, Check]] = []
    for model, config in CONFIGS.items():
        names, features = folder / f"state_dict_reason_{model}.json", folder / f"text_reason_{model}.npz"
        if names.is_file():
            found.append((names.stem, partial(check_state_dict, names, config)))
        trainable = folder / f"trainable_reason_{model}.json"
        if trainable.is_file():
            found.append((trainable.stem, partial(check_trainable, trainable, config)))
        if features.is_file():
            found.append((features.stem, partial(check_text, features, folder / "text_sentences.json", config)))
    of_folders = (
        ("metrics", check_metrics),
        ("preprocess", check_preprocess),
        ("units", check_units),
        ("losses", check_step),
    )
    for name, check in of_folders:
        if (folder / name).is_dir():
            found.append((name, partial(check, folder / name)))
    return found


def check_state_dict(file: Path, config: str) -> Report:
    """Names, shapes and types of every entry but the teacher's, which evaluation does not build."""
    cfg = build_config(str(ROOT / config), ["MODEL.DEVICE", "cpu"])
    ours = {
        name: (list(value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in build_network(cfg).state_dict().items()
    }
    recorded = {name: (shape, dtype) for name, shape, dtype in read_json(file) if not name.startswith("backbone_t.")}
    report = Report()
    report.equal("names", sorted(ours), sorted(recorded))
    report.equal("shapes and types", ours, recorded)
    return report


def check_text(file: Path, sentences_file: Path, config: str) -> Report:
    """Tokens and text features of sentences through the seeded text tower."""
    recorded, sentences = read_arrays(file), read_json(sentences_file)
    cfg = build_config(str(ROOT / config), [])
    name = cfg.MODEL.FC_CLIP.CLIP_MODEL_NAME
    encoder, tokenizer = load_text_encoder(name, SEEDED), open_clip.get_tokenizer(name)
    report = Report()
    report.tensor("features", encoder.encode(sentences).numpy(), recorded["features"])
    report.equal("tokens", tokenizer(sentences).tolist(), recorded["tokens"].tolist())
    return report


def check_metrics(folder: Path) -> Report:
    """Confusion matrices and scores of recorded label maps."""
    facts, arrays = read_json(folder / "metrics.json"), read_arrays(folder / "metrics.npz")
    classes, ignored = facts["classes"], facts["ignore_label"]
    report, total = Report(), np.zeros((len(classes),) * 2, dtype=np.int64)
    for pair in sorted(name for name in facts if name.startswith("pair")):
        number = pair.removeprefix("pair")
        matrix = confusion_matrix(arrays[f"pred{number}"], arrays[f"gt{number}"], len(classes), ignored)
        # The recorded matrices have one more row and column, for ignored pixels.
        report.equal(f"{pair}: confusion", matrix.tolist(), arrays[f"confusion_{pair}"][:-1, :-1].tolist())
        _compare_scores(report, pair, matrix, classes, facts[pair])
        total += matrix
    _compare_scores(report, "all", total, classes, facts["all"])
    return report


def _compare_scores(
    report: Report, name: str, matrix: np.ndarray, classes: list[str], recorded: dict[str, Any]
) -> None:
    scores = semantic_scores(matrix)
    ours = {"mIoU": scores.miou_reference, "fwIoU": scores.fwiou, "mACC": scores.macc, "pACC": scores.pacc}
    for index, label in enumerate(classes):
        ours |= {f"IoU-{label}": scores.iou[index], f"ACC-{label}": scores.acc[index]}
    keys = list(recorded)
    absent = [np.nan if recorded[key] is None else recorded[key] for key in keys]
    report.tensor(f"{name}: scores", [ours[key] for key in keys], absent, bound=1e-8)


def check_preprocess(folder: Path) -> Report:
    """Images as the test-time mapper hands them to the network."""
    facts, arrays = read_json(folder / "preprocess.json"), read_arrays(folder / "preprocess.npz")
    report = Report()
    for picture in sorted({key.split("/")[0] for key in arrays}):
        result = InferenceMapper()({"file_name": str(folder / picture)})
        image = result["image"]
        report.equal(f"{picture}: shape", list(image.shape), facts[picture]["shape"])
        for side in ("height", "width"):
            report.equal(f"{picture}: {side}", result[side], facts[picture][side])
        parts = {
            "stride16": image[:, ::16, ::16],
            "top_left_24": image[:, :24, :24],
            "bottom_right_24": image[:, -24:, -24:],
        }
        for part, value in parts.items():
            report.equal(f"{picture}: {part}", value.tolist(), arrays[f"{picture}/{part}"].tolist())
        means = image.double().mean(dim=(1, 2)).tolist()
        report.tensor(f"{picture}: mean", means, facts[picture]["mean_per_channel"], bound=1e-8)
    return report


def check_units(folder: Path) -> Report:
    """Single functions on recorded inputs."""
    facts = read_json(folder / "units.json")
    arrays = {key: torch.from_numpy(np.asarray(value)) for key, value in read_arrays(folder / "units.npz").items()}
    report = Report()
    _check_logits(report, arrays)
    pooled = mask_pool(
        arrays["mask_pooling/x"],
        torch.nn.functional.interpolate(
            arrays["mask_pooling/mask"], size=arrays["mask_pooling/x"].shape[-2:], mode="bilinear", align_corners=False
        ),
    )
    report.tensor("mask pooling", pooled, arrays["mask_pooling/out"])
    recorded = arrays["position_sine/out"]
    _, channels, height, width = recorded.shape
    report.tensor("sine positions", sine_positions(height, width, channels // 2)[None], recorded)
    deformable = {key.split("/")[1]: value for key, value in arrays.items() if key.startswith("deform_attn_core/")}
    shapes = [(int(height), int(width)) for height, width in deformable["shapes"]]
    attended = ms_deform_attn(deformable["value"], shapes, deformable["locations"], deformable["weights"])
    report.tensor("deformable attention", attended, deformable["out"])
    _check_assembly(report, arrays, facts)
    check_units_of_training(report, arrays, facts)
    return report


def _check_logits(report: Report, arrays: dict[str, torch.Tensor]) -> None:
    x, scale = arrays["logits_reason/x"], arrays["logits_reason/logit_scale"]
    attributes = arrays["logits_reason/out"].shape[-2]
    counts = arrays["logits_reason/num_templates"].tolist()
    report.tensor(
        "logits with reasons",
        row_logits(x, arrays["logits_reason/text"], scale, counts, attributes),
        arrays["logits_reason/out"],
    )
    # Recorded with CLIP's temperature, which lies beyond the clamp.
    clamped = torch.tensor(5.0)
    batched = [
        row_logits(one, rows, clamped, counts, attributes)
        for one, rows in zip(x, arrays["logits_reason_batched_text/text"], strict=True)
    ]
    report.tensor("logits, rows by image", torch.stack(batched), arrays["logits_reason_batched_text/out"])
    plain = row_logits(x, arrays["logits_plain/text"], scale, arrays["logits_plain/num_templates"].tolist(), None)
    report.tensor("logits of class names", plain, arrays["logits_plain/out"])


def _check_assembly(report: Report, arrays: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
    scores, masks = arrays["inference/mask_cls"], arrays["inference/mask_pred"]
    recorded = arrays["inference/sem_seg"]
    covered = (arrays["inference/class_index"].tolist(), recorded.shape[0])
    size = (recorded.shape[-2], recorded.shape[-1])
    maps = inference.class_maps(scores, lambda: masks, *covered, size)
    report.tensor("semantic assembly", maps.scores(), recorded, bound=TENSOR_BOUND)
    for key in [key for key in arrays if key.startswith("inference/panoptic_overlap")]:
        overlap = key.removeprefix("inference/panoptic_overlap")
        panoptic, segments = inference.panoptic_segments(
            scores,
            masks,
            *covered,
            facts["inference/thing_contiguous_ids"],
            object_mask_threshold=facts["inference/object_mask_threshold"],
            overlap_threshold=float(overlap),
        )
        report.equal(f"panoptic assembly, overlap {overlap}", panoptic.tolist(), arrays[key].tolist())
        report.equal(f"its segments, overlap {overlap}", segments, facts[f"inference/segments_info_overlap{overlap}"])
