"""An evaluation, as the command lines run it: config, data sets, model, evaluators, fingerprint, results.

`maft.launch` starts it, or a training, in as many processes as asked for.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from maft.config import build_config
from maft.data import InferenceMapper, dataset_names, register_all, register_file, register_modules
from maft.data.mapper import MAPPERS
from maft.errors import UserError
from maft.evaluation.evaluators import Evaluator, PanopticEvaluator, SemanticEvaluator
from maft.evaluation.instances import InstanceEvaluator
from maft.evaluation.loop import evaluate
from maft.evaluation.provenance import (
    ABSENT,
    collect,
    hash_config,
    hash_file,
    hash_folder,
    hash_state,
    hash_text,
)
from maft.evaluation.results import GENERIC_ORIGIN, results_folder, summary, write_results
from maft.evaluation.sources import hash_sources
from maft.files import check_folder
from maft.memory import keep_freed_memory
from maft.meta_arch import MAFT_Plus, build_network
from maft.meta_arch.parts import reason_settings
from maft.meta_arch.vocabularies import registered_vocabulary
from maft.modeling.pixel_decoder.ops import active_backend
from maft.weights.loading import build_for_evaluation
from maft.weights.seeding import SEEDED
from reason.datasetfile import DatasetFile, is_dataset_file
from reason.shipped import GENERIC, NOT_THE_PAPERS, is_shipped, shipped_folder
from reason.suggest import did_you_mean

logger = logging.getLogger(__name__)

BuildEvaluator = Callable[[CfgNode, str, Sequence[Mapping[str, Any]]], Evaluator]
"""What makes the evaluator of a data set, from config, name and records."""


def evaluate_config(
    config_file: str, options: Sequence[str], *, resume: bool, evaluator: BuildEvaluator | None = None
) -> dict[str, Mapping[str, Any]]:
    """Evaluate what a config names, from the file to the written results, in this process.

    Args:
        config_file: the yaml file.
        options: KEY VALUE pairs.
        resume: reuse results that are finished.
        evaluator: see `evaluate_all`.

    Returns:
        Data set -> evaluation.

    Raises:
        UserError: see `build_config`, `check_inputs` and `maft.evaluation.loop.evaluate`.
    """
    cfg = build_config(config_file, list(options))
    register_datasets(cfg)
    choose_device(cfg, num_gpus=1)
    check_inputs(cfg)
    cfg.freeze()
    say_vocabularies(cfg, "TEST")
    model = build_for_evaluation(partial(build_network, cfg), cfg.MODEL.WEIGHTS)
    return evaluate_all(cfg, model, config_file, resume=resume, evaluator=evaluator)


def choose_device(cfg: CfgNode, num_gpus: int) -> int:
    """Fit MODEL.DEVICE and the number of processes to the machine, and say so where they change.

    Returns:
        How many processes to start.

    Raises:
        UserError: more GPUs are asked for than there are.
    """
    there = torch.cuda.device_count()
    if cfg.MODEL.DEVICE.startswith("cuda") and not there:
        sys.stderr.write("no GPU here: running on the CPU, in one process (MODEL.DEVICE cpu, --num-gpus 1)\n")
        cfg.MODEL.DEVICE = "cpu"
        return 1
    if cfg.MODEL.DEVICE == "cpu":
        return 1
    if num_gpus > there:
        raise UserError(f"--num-gpus {num_gpus}: this machine has {there}; pass --num-gpus {there}")
    return num_gpus


def register_datasets(cfg: CfgNode) -> None:
    """Make the data sets that the config may name known, in every process; no image of them is read yet.

    Raises:
        UserError, VocabularyError: a module of DATASETS.REGISTER, or a yaml file in a data set's place, cannot be used.
    """
    register_all()
    register_modules(cfg.DATASETS.REGISTER)
    named = [name for key in ("TRAIN", "TEST") for name in cfg.DATASETS[key] if is_dataset_file(name)]
    if not named:
        return
    own = {name: register_file(name) for name in named}
    # Processes that are started later know nothing of this one's registrations: they find the files in REGISTER.
    cfg.DATASETS.REGISTER = (*cfg.DATASETS.REGISTER, *own)
    with_reasons = [own[name] for name in cfg.DATASETS.TEST if name in own and own[name].has_reasons]
    for key in ("TRAIN", "TEST"):
        cfg.DATASETS[key] = tuple(own[name].name if name in own else name for name in cfg.DATASETS[key])
    if with_reasons:
        _take_reasons(cfg, with_reasons[0])
    if with_reasons and len(cfg.DATASETS.TEST) > 1:
        raise UserError(f"DATASETS.TEST: {with_reasons[0].path} brings reasons of its own; evaluate it alone")


def _take_reasons(cfg: CfgNode, own: DatasetFile) -> None:
    """Let the config name the reasons of a data-set file, and no others."""
    cfg.MODEL.REASON_DIR, cfg.MODEL.REASON_DATA = "", ""
    if own.generic_reasons is not None:
        cfg.MODEL.TEST_CLASS_REASON_JSON = str(own.generic_reasons)
    elif own.shipped_reasons:
        cfg.MODEL.TEST_CLASS_REASON_JSON = GENERIC
    if own.image_reasons is not None:
        cfg.MODEL.REASON_DIR, cfg.MODEL.REASON_DATA = str(own.image_reasons.parent), own.image_reasons.name


def check_inputs(cfg: CfgNode) -> None:
    """Find out what an evaluation lacks before the network is built, which takes a while.

    Raises:
        UserError: no data set is named, one is not registered, or the weight file is not there.
    """
    check_datasets(cfg, "TEST")
    if not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST: empty; name a data set, such as openvocab_pascal_ctx59_sem_seg_val")
    check_weights(cfg)
    check_folder("OUTPUT_DIR", cfg.OUTPUT_DIR)


def check_datasets(cfg: CfgNode, *keys: str) -> None:
    """Find out whether the data sets of DATASETS.TRAIN or DATASETS.TEST are known.

    Raises:
        UserError: one is not.
    """
    for key in keys:
        for name in cfg.DATASETS[key]:
            if name not in dataset_names():
                raise UserError(
                    f"DATASETS.{key}: '{name}' is not registered{did_you_mean(name, dataset_names())}; "
                    f"known are {', '.join(dataset_names())}; "
                    "DATASETS.REGISTER names modules that know others (datasets/README.md)"
                )


def say_vocabularies(cfg: CfgNode, *keys: str) -> None:
    """Log the vocabularies of the data sets of DATASETS.TRAIN or DATASETS.TEST, before anything takes long.

    Raises:
        UserError: see `registered_vocabulary`.
    """
    for key in keys:
        for name in cfg.DATASETS[key]:
            logger.info("%s", registered_vocabulary(name, f"DATASETS.{key}").summary)


def check_weights(cfg: CfgNode) -> None:
    """Find out whether the weight file is there.

    Raises:
        UserError: it is not.
    """
    weights = cfg.MODEL.WEIGHTS
    if weights != SEEDED and not os.path.isfile(weights):
        raise UserError(
            f"MODEL.WEIGHTS '{weights}': no such file; pretrained/README.md says where to get it "
            "('seeded' runs without weights, with a meaningless result)"
        )


def fingerprint(cfg: CfgNode, weights: str) -> dict[str, str]:
    """Part -> hash of everything that the result of one image depends on, `weights` being the one of the weights."""
    settings = reason_settings(cfg, reasons=True)
    generic = shipped_folder() if settings.generic_file == GENERIC else settings.generic_file or ""
    triplets = [generic, *settings.image_folders]
    hashes = [hash_folder(path) if Path(path).is_dir() else _hash_if_there(path) for path in triplets]
    return {
        "config": hash_config(cfg),
        "weights": weights,
        "triplets": hash_text(" ".join(hashes)),
        "code": _own_sources(),
    }


@cache
def _own_sources() -> str:
    """The hash of what this process runs: the code it has imported stays, whatever happens to the files."""
    return hash_sources()


def _hash_if_there(path: str | Path) -> str:
    return hash_file(path) if Path(path).is_file() else ABSENT


def build_evaluator(cfg: CfgNode, dataset: str, records: Sequence[Mapping[str, Any]]) -> Evaluator:
    """What INPUT.DATASET_MAPPER_NAME asks for: class maps, or panoptic segments (the reference's choice of key).

    A data set that has label maps only is evaluated on them in any case, one of instances by the AP of its masks.
    """
    folder = results_folder(cfg.OUTPUT_DIR, dataset)
    if MetadataCatalog.get(dataset).evaluator_type == "coco":
        if not cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON:
            raise UserError(f"{dataset} evaluates instances; set MODEL.MASK_FORMER.TEST.INSTANCE_ON True")
        return InstanceEvaluator(dataset, folder, cfg.TEST.SAVE_PREDICTIONS, records=records)
    mapper = cfg.INPUT.DATASET_MAPPER_NAME
    if MAPPERS[mapper][0] == "segments":
        if not cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON:
            raise UserError(
                f"INPUT.DATASET_MAPPER_NAME {mapper} evaluates panoptic segments, but "
                "MODEL.MASK_FORMER.TEST.PANOPTIC_ON is False; set it to True, or the mapper to mask_former_semantic"
            )
        if "pan_seg_file_name" in records[0]:
            if cfg.TEST.SAVE_ORACLE:
                raise UserError(
                    f"TEST.SAVE_ORACLE True: saves class maps, and INPUT.DATASET_MAPPER_NAME {mapper} evaluates "
                    "panoptic segments; set the mapper to mask_former_semantic, or the key to False"
                )
            return PanopticEvaluator(dataset, folder, cfg.TEST.SAVE_PREDICTIONS, records=records)
        logger.info("%s has no panoptic annotations: evaluating class maps", dataset)
    if not cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_ON:
        raise UserError(
            f"INPUT.DATASET_MAPPER_NAME {mapper} evaluates class maps, but "
            "MODEL.MASK_FORMER.TEST.SEMANTIC_ON is False; set it to True"
        )
    return semantic_evaluator(cfg, dataset, records)


def semantic_evaluator(cfg: CfgNode, dataset: str, records: Sequence[Mapping[str, Any]]) -> SemanticEvaluator:
    """The evaluator of class maps, which saves what the keys of TEST say."""
    saved = {"save_predictions": cfg.TEST.SAVE_PREDICTIONS, "save_oracle": cfg.TEST.SAVE_ORACLE}
    return SemanticEvaluator(dataset, results_folder(cfg.OUTPUT_DIR, dataset), records=records, **saved)


def evaluate_all(
    cfg: CfgNode,
    model: MAFT_Plus,
    config_file: str,
    *,
    resume: bool,
    iteration: int | None = None,
    evaluator: BuildEvaluator | None = None,
) -> dict[str, Mapping[str, Any]]:
    """Evaluate every data set of DATASETS.TEST and write its results.

    Args:
        cfg: the whole configuration.
        model: the network; its weights are those of MODEL.WEIGHTS, unless it is in training.
        config_file: for the record.
        resume: reuse results that are finished.
        iteration: steps of training after which this is; None for weights that were loaded.
        evaluator: makes the evaluator of each data set; `build_evaluator` if None.

    Returns:
        Data set -> evaluation, with its provenance, on the main process; empty on the others.
    """
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    about = {"architecture": cfg.MODEL.META_ARCHITECTURE, "reasons": reason_places(cfg, model)}
    loaded = iteration is None and cfg.MODEL.WEIGHTS != SEEDED
    weights = hash_file(cfg.MODEL.WEIGHTS) if loaded else SEEDED
    if iteration is not None:
        weights = hash_state(model)
        about["training"] = {"iteration": iteration, "of": cfg.SOLVER.MAX_ITER}
    parts = fingerprint(cfg, weights)
    mapper = InferenceMapper.from_config(cfg)
    evaluations: dict[str, Mapping[str, Any]] = {}
    # More workers than cores only cost memory; the reference's yaml files ask for four.
    workers = min(cfg.DATALOADER.NUM_WORKERS, os.cpu_count() or 1)
    for dataset in cfg.DATASETS.TEST:
        records = DatasetCatalog.get(dataset)
        with precision(cfg):
            evaluation = evaluate(
                model,
                dataset,
                records,
                mapper,
                (evaluator or build_evaluator)(cfg, dataset, records),
                output_dir=results_folder(cfg.OUTPUT_DIR, dataset),
                batch_size=cfg.TEST.BATCH_SIZE,
                num_workers=workers,
                resume=resume,
                fingerprint=parts,
                usage=model.text.usage,
            )
        model.text.bank.flush()
        if evaluation is None:
            continue
        provenance = collect(
            config_file=config_file,
            weights_file=cfg.MODEL.WEIGHTS if loaded else None,
            fingerprint=parts,
            op_backend=active_backend(model.device.type),
            extra=about,
        )
        evaluations[dataset] = {**evaluation, "provenance": provenance}
        write_results(cfg.OUTPUT_DIR, dataset, evaluation, provenance)
    return evaluations


def precision(cfg: CfgNode) -> AbstractContextManager[object]:
    """What MODEL.PRECISION says an evaluation runs in."""
    if cfg.MODEL.PRECISION == "float32":
        return nullcontext()
    return torch.autocast(torch.device(cfg.MODEL.DEVICE).type, dtype=torch.bfloat16)


def reason_places(cfg: CfgNode, model: MAFT_Plus) -> dict[str, Any]:
    """Where the reasons came from and how they were used, for the record."""
    if not model.uses_reasons:
        return {"mode": "class names only"}
    settings = reason_settings(cfg, reasons=True)
    return {
        "mode": settings.mode,
        "attributes": settings.num_des,
        "generic": str(settings.generic_file),
        **({GENERIC_ORIGIN: NOT_THE_PAPERS} if is_shipped(settings.generic_file or "") else {}),
        "image-specific": [str(folder) for folder in settings.image_folders],
    }


def show(evaluations: Mapping[str, Mapping[str, Any]]) -> None:
    """Log the results of all data sets side by side."""
    if evaluations:
        logger.info("finished\n%s", summary(evaluations))
