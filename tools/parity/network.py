"""One case of a golden folder: the network built from the case's config, with seeded weights, entry by entry."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maft import inference
from maft.class_maps import ClassMaps
from maft.config import build_config
from maft.errors import UserError
from maft.meta_arch import MAFT_Plus, build_network
from maft.modeling.classify import row_logits
from maft.modeling.layers import mask_pool
from maft.modeling.maft_plus import Regions, RegionScores, resize
from maft.modeling.transformer_decoder import DecoderOutput
from maft.text.prompts import Prompts, generic_prompts, image_prompts, plain_prompts
from maft.text.rows import Classifier
from maft.weights.seeding import seed_module
from reason.triplets import parse_generic, parse_image
from reason.vocabulary import Vocabulary

from .compare import PIXEL_BOUND, RESULT_BOUND, TENSOR_BOUND, Check, Report
from .golden import Case, Inputs

MODES = ("image", "generic", "plain")
_NOT_COMPARED = {"case", "repo", "config", "opts", "torch", "generic_error"}
_PICTURE, _PICTURE_WITHOUT_REASONS = "picture.jpg", "without-reasons.jpg"


def check_case(case: Case, inputs: Inputs, root: Path, dtype: torch.dtype = torch.float32) -> Report:
    """Compare every entry of one case.

    Args:
        case, inputs: of the golden folder.
        root: the repository, in which the case's config file lies.
        dtype: MODEL.PRECISION; the bounds are those of float32.
    """
    with TemporaryDirectory() as scratch:
        model = _build(case, inputs, root, Path(scratch))
        with torch.inference_mode():
            ours = _entries(case, inputs, model, dtype)
    return _compare(case, ours)


def _precision(dtype: torch.dtype) -> AbstractContextManager[object]:
    """As an evaluation runs under MODEL.PRECISION."""
    return nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype=dtype)


def _build(case: Case, inputs: Inputs, root: Path, scratch: Path) -> MAFT_Plus:
    folder = scratch / "reasons"
    folder.mkdir()
    (folder / Path(_PICTURE).with_suffix(".json")).write_text(json.dumps(inputs.image_reason))
    generic = scratch / "generic.json"
    generic.write_text(json.dumps(inputs.generic_reason))
    options = {
        "MODEL.DEVICE": "cpu",
        "MODEL.TEST_CLASS_REASON_JSON": str(generic),
        "MODEL.REASON_DIR": str(folder),
        "MODEL.REASON_DATA": "",
        "MODEL.NUM_DES": inputs.num_des,
        "MODEL.REASON.FEATURE_DIR": "",
        "MODEL.REASON.BANK_DIR": "",
    }
    pairs = [str(item) for pair in options.items() for item in pair]
    cfg = build_config(str(root / case.facts["config"]), [*pairs, *map(str, case.facts.get("opts", []))])
    return seed_module(build_network(cfg))


def _record(image: np.ndarray, size: Sequence[int], file_name: str, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
        "height": size[0],
        "width": size[1],
        "file_name": file_name,
        "vocabulary": vocabulary,
    }


@dataclass(frozen=True)
class _Segmented:
    """The whole network, run as an evaluation runs it: record to result."""

    model: MAFT_Plus
    dtype: torch.dtype

    def __call__(self, record: dict[str, Any]) -> Any:
        with _precision(self.dtype):
            return self.model([record])[0]


def _entries(case: Case, inputs: Inputs, model: MAFT_Plus, dtype: torch.dtype) -> dict[str, Any]:
    """Our value of every entry that the format knows, by name."""
    modes = [mode for mode in MODES if any(key.startswith(f"{mode}/") for key in case.arrays)]
    if any(model.uses_reasons == (mode == "plain") for mode in modes):
        raise UserError(f"{case.name}: {case.facts['config']} does not build the architecture of {', '.join(modes)}")
    record = _record(case.arrays["image"], case.arrays["image"].shape[:2], _PICTURE, inputs.vocabulary)
    pixels = model.pad(record["image"])[None]
    with _precision(dtype):
        features = model.backbone(pixels)
        mask_features, maps = model.sem_seg_head.pixel_decoder(features)
        layers = model.sem_seg_head.predictor(maps, mask_features, every_layer=True)
        regions = model.find_regions(pixels).float()
    # As the results are made: in float32, whatever the network ran in.
    features = {name: value.float() for name, value in features.items()}
    mask_features, maps = mask_features.float(), [one.float() for one in maps]
    layers = [DecoderOutput(layer.mask_logits.float(), layer.class_embeddings.float()) for layer in layers]
    ours = _shared(model, features, mask_features, maps, layers, regions)
    for mode in modes:
        name = _PICTURE_WITHOUT_REASONS if mode == "generic" else _PICTURE
        sized = _record(case.arrays["image"], inputs.result_sizes[mode], name, inputs.vocabulary)
        classifier = model.classifier_for(sized)
        scores = model.score_regions(regions, 0, classifier.rows, classifier.rows_per_class, classifier.attributes)
        entries = (
            _prompt_facts(mode, inputs, classifier)
            | _scores(model, classifier, layers, scores)
            | _results(case, mode, _Segmented(model, dtype), sized, classifier, scores)
        )
        ours |= {f"{mode}/{key}": value for key, value in entries.items()}
    if "unpadded/image" in case.arrays:
        unpadded = _record(case.arrays["unpadded/image"], inputs.result_sizes["unpadded"], _PICTURE, inputs.vocabulary)
        result = _Segmented(model, dtype)(unpadded)
        ours |= {f"unpadded/{key}": value for key, value in _semantic(result["class_maps"]).items()}
        if "panoptic_seg" in result:
            ours["unpadded/panoptic_seg"], ours["unpadded/segments_info"] = result["panoptic_seg"]
    return ours


def _shared(
    model: MAFT_Plus,
    features: dict[str, Tensor],
    mask_features: Tensor,
    maps: list[Tensor],
    layers: list[DecoderOutput],
    regions: Regions,
) -> dict[str, Any]:
    dense, masks = features["clip_vis_dense"], regions.mask_logits
    pooled = mask_pool(dense, resize(masks, dense.shape[-2:]))
    ours: dict[str, Any] = {
        "backbone/clip_vis_dense": dense,
        "pixel_decoder/mask_features/slice": mask_features[0, :16, ::4, ::4],
        "decoder/pred_masks/stride4": masks[0, :, ::4, ::4],
        "decoder/pred_masks/first2": masks[0, :2],
        "decoder/pred_masks/positive_fraction_per_query": (masks[0] > 0).float().mean(dim=(1, 2)),
        "mask_pooled/slice": pooled[0, :, :32],
        "pooled_clip_feature/slice": regions.clip_embeddings[0, :, :64],
        "pooled_clip_feature/norm": regions.clip_embeddings[0].norm(dim=-1),
        "img_feat": regions.image_features,
    }
    whole = {f"backbone/{name}": value for name, value in features.items()}
    whole |= {"pixel_decoder/mask_features": mask_features, "decoder/pred_masks": masks}
    whole |= {f"pixel_decoder/multi_scale_{level}": value for level, value in enumerate(maps)}
    whole |= {"mask_pooled": pooled, "pooled_clip_feature": regions.clip_embeddings}
    for name, value in whole.items():
        ours[f"{name}/stats"] = _stats(value)
        ours[f"{name}/shape"] = list(value.shape)
    for name in features:
        ours[f"backbone/{name}/slice"] = features[name][0, :8, :5, :7]
    for level, value in enumerate(maps):
        ours[f"pixel_decoder/multi_scale_{level}/slice"] = value[0, :16, :5, :7]
    for number, layer in enumerate(layers[:-1]):
        ours[f"decoder/aux_{number}/pred_masks_slice"] = layer.mask_logits[0, :8, ::8, ::8]
    return ours


def _stats(value: Tensor) -> list[float]:
    value = value.double()
    return [value.mean().item(), value.std().item(), value.abs().max().item()]


def _prompt_facts(mode: str, inputs: Inputs, classifier: Classifier) -> dict[str, Any]:
    prompts = _prompts(mode, inputs)
    index = classifier.class_index
    return {
        "sentences": list(prompts.sentences),
        "num_templates": list(classifier.rows_per_class),
        "class_index": None if index is None else list(index),
        "num_perclass_reason": classifier.attributes,
    }


def _prompts(mode: str, inputs: Inputs) -> Prompts:
    if mode == "plain":
        return plain_prompts(inputs.synonyms)
    if mode == "generic":
        reasons = parse_generic(inputs.generic_reason, where="inputs.json: generic_reason")
        return generic_prompts(inputs.synonyms, reasons, inputs.num_des, "reference", "inputs.json")
    reasons = parse_image(inputs.image_reason, where="inputs.json: image_reason").reasons
    prompts = image_prompts(inputs.synonyms, reasons, inputs.num_des, "reference", "inputs.json")
    # Reasons that name no class of the vocabulary leave the image with generic ones.
    return prompts if prompts is not None else _prompts("generic", inputs)


def _scores(
    model: MAFT_Plus, classifier: Classifier, layers: list[DecoderOutput], scores: RegionScores
) -> dict[str, Any]:
    ours: dict[str, Any] = {
        "text_classifier": classifier.rows,
        "cdt": scores.changed_rows[None],
        "pred_logits": scores.decoder_logits[None],
        "out_vocab_logits": scores.clip_logits[None],
        "mask_cls": scores.log_scores,
    }
    rows = torch.cat((classifier.rows, F.normalize(model.void_embedding.weight, dim=-1)))
    for number, layer in enumerate(layers[:-1]):
        assert layer.class_embeddings is not None
        ours[f"aux_{number}_pred_logits"] = row_logits(
            layer.class_embeddings,
            rows,
            model.sem_seg_head.predictor.logit_scale,
            classifier.rows_per_class,
            classifier.attributes,
        )
    return ours


def _results(
    case: Case, mode: str, run: _Segmented, record: dict[str, Any], classifier: Classifier, scores: RegionScores
) -> dict[str, Any]:
    model, result = run.model, run(record)
    ours = _semantic(result["class_maps"])
    probabilities = inference.query_probabilities(scores.log_scores)[:, :-1]
    ours["query_class_probabilities"] = inference.scatter_classes(
        probabilities, classifier.class_index, classifier.num_classes, dim=1
    )
    if "panoptic_seg" in result:
        ours["panoptic_seg"], ours["segments_info"] = result["panoptic_seg"]
        configured = model.result_options
        ours["thresholds"] = {
            "object_mask_threshold": configured.object_mask_threshold,
            "overlap_threshold": configured.overlap_threshold,
        }
        prefix = f"{mode}/panoptic_seg_object"
        for suffix in [key.removeprefix(prefix) for key in case.arrays if key.startswith(prefix)]:
            least, overlap = map(float, suffix.split("_overlap"))
            model.result_options = replace(configured, object_mask_threshold=least, overlap_threshold=overlap)
            segments = run(record)["panoptic_seg"]
            ours[f"panoptic_seg_object{suffix}"], ours[f"segments_info_object{suffix}"] = segments
        model.result_options = configured
    return ours


def _semantic(class_maps: ClassMaps) -> dict[str, Any]:
    maps, labels = class_maps.scores(), class_maps.labels()
    best = maps.topk(min(2, len(maps)), dim=0).values
    return {
        "sem_seg_f16": maps.half(),
        "sem_seg_stride3": maps[:, ::3, ::3],
        "sem_seg_stats": np.array([_stats(one) for one in maps]),
        "argmax": labels,
        "argmax_margin_f16": (best[0] - best[-1]).half(),
        "argmax_histogram": torch.bincount(labels.flatten(), minlength=len(maps)).tolist(),
    }


def _compare(case: Case, ours: dict[str, Any]) -> Report:
    report = Report()
    inputs = {"image", "unpadded/image"}
    for key, recorded in case.arrays.items():
        if key in inputs:
            continue
        if key not in ours:
            report.unknown(key)
        elif key.rsplit("/", 1)[-1].startswith(("argmax_margin", "sem_seg", "query_class", "positive_fraction")):
            report.tensor(key, ours[key], recorded, RESULT_BOUND)
        elif recorded.dtype.kind in "iub":
            report.pixels(key, ours[key], recorded)
        else:
            report.tensor(key, ours[key], recorded, TENSOR_BOUND)
    for key, recorded in case.facts.items():
        if key in _NOT_COMPARED:
            continue
        if key not in ours:
            report.unknown(key)
        elif key.endswith("argmax_histogram"):
            moved = np.abs(np.subtract(ours[key], recorded)).sum() / 2 / sum(recorded)
            report.checks.append(Check(key, float(moved), PIXEL_BOUND, "pixels"))
        else:
            report.equal(key, ours[key], recorded)
    return report
