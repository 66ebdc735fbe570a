"""Train MAFT+, and evaluate it and OpenSeg-R.

    python train_net.py --config-file configs/semantic/train_semantic_base.yaml --num-gpus 8
    python train_net.py --config-file configs/semantic/eval_base_reason.yaml --eval-only

Flags, yaml files and keys are the reference's: `--config-file FILE --num-gpus N --resume --eval-only KEY VALUE ...`.
Several processes come from `--num-gpus N`, or from torchrun.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import distributed

from maft.config import ACCEPTED, CHOICES, add_maft_config
from maft.data import InferenceMapper, dataset_names, register_all
from maft.data.train_mapper import MAPPERS
from maft.errors import USER_ERROR_STATUS, UserError, run_command
from maft.evaluation.evaluators import Evaluator, PanopticEvaluator, SemanticEvaluator
from maft.evaluation.loop import evaluate
from maft.evaluation.provenance import (
    ABSENT,
    collect,
    hash_config,
    hash_file,
    hash_folder,
    hash_sources,
    hash_text,
)
from maft.evaluation.results import results_folder, summary, write_results
from maft.meta_arch.maft_plus import MAFT_Plus, build_network, text_options
from maft.modeling.pixel_decoder.ops import active_backend
from maft.training.checks import check_training
from maft.training.evaluation import flat_metrics, hash_state
from maft.training.loop import train
from maft.weights.loading import load_for_evaluation
from maft.weights.saving import FINAL
from maft.weights.seeding import SEEDED

logger = logging.getLogger("maft.train_net")

PHOTOS_PREFIX, MINI_PREFIX = "photos_", "mini_"
"""How the data sets of tools/photos and tools/mini begin."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The reference's flags, and `--debug`."""
    parser = default_argument_parser(__doc__)
    parser.add_argument("--debug", action="store_true", help="show the traceback of a user error")
    return parser.parse_args(arguments)


def build_config(config_file: str, options: list[str]) -> CfgNode:
    """The frozen config of a run: defaults, then the yaml file, then KEY VALUE pairs.

    Raises:
        UserError: the file is missing or malformed, a key is unknown, or a value does not fit its key.
    """
    if not config_file:
        raise UserError("--config-file: name one, such as configs/semantic/eval_base_reason.yaml")
    if not Path(config_file).is_file():
        raise UserError(f"--config-file {config_file}: no such file; those of this project lie under configs/")
    if len(options) % 2:
        raise UserError(f"KEY VALUE pairs: '{options[-1]}' has no value")
    cfg = get_cfg()
    add_maft_config(cfg)
    try:
        cfg.merge_from_file(config_file)
    except (KeyError, ValueError, AssertionError, yaml.YAMLError, OSError) as error:
        raise UserError(f"{config_file}: {_reason_of(error)}; the keys are listed in maft/config.py") from error
    try:
        cfg.merge_from_list(options)
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(f"KEY VALUE pairs: {_reason_of(error)}; the keys are listed in maft/config.py") from error
    without_effect = [key for key in options[::2] if key in ACCEPTED]
    if without_effect:
        logger.warning("without effect, accepted for the reference's sake: %s", ", ".join(without_effect))
    for key, choices in CHOICES.items():
        value = _value(cfg, key)
        if value not in choices:
            raise UserError(f"{key}: '{value}' is not one of {', '.join(choices)}")
    if cfg.SEED < 0:
        cfg.SEED = 123
    return cfg


def _reason_of(error: Exception) -> str:
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def _value(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


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
    """Make the data sets that the config may name known, in every process; nothing of them is read yet."""
    register_all()
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    if any(name.startswith(PHOTOS_PREFIX) for name in names):
        # Only now: the photographs need packages that an evaluation of other data sets does without.
        from tools.photos.datasets import register

        register()
    if any(name.startswith(MINI_PREFIX) for name in names):
        from tools.mini.dataset import register as register_mini

        register_mini()


def check_inputs(cfg: CfgNode, *, training: bool) -> None:
    """Find out what is missing before the network is built, which takes a while.

    Raises:
        UserError: a data set is not registered, or the weight file is not there.
    """
    for key in ("TRAIN", "TEST") if training else ("TEST",):
        for name in cfg.DATASETS[key]:
            if name not in dataset_names():
                raise UserError(f"DATASETS.{key}: '{name}' is not registered; known are {', '.join(dataset_names())}")
    if training:
        check_training(cfg)
        if not cfg.MODEL.WEIGHTS:
            return
    elif not cfg.DATASETS.TEST:
        raise UserError("DATASETS.TEST: empty; name a data set, such as openvocab_pascal_ctx59_sem_seg_val")
    check_weights(cfg)


def check_weights(cfg: CfgNode) -> None:
    """Find out whether the weight file is there.

    Raises:
        UserError: it is not.
    """
    weights = cfg.MODEL.WEIGHTS
    if weights != SEEDED and not Path(weights).is_file():
        raise UserError(
            f"MODEL.WEIGHTS '{weights}': no such file; pretrained/README.md says where to get it "
            "('seeded' runs without weights, with a meaningless result)"
        )


def fingerprint(cfg: CfgNode, weights: str) -> dict[str, str]:
    """Part -> hash of everything that the result of one image depends on, `weights` being the one of the weights."""
    text = text_options(cfg, reasons=True)
    triplets = [text["generic_file"], *text["image_folders"]]
    hashes = [hash_folder(path) if Path(path).is_dir() else _hash_if_there(path) for path in triplets]
    return {
        "config": hash_config(cfg),
        "weights": weights,
        "triplets": hash_text(" ".join(hashes)),
        "code": hash_sources(),
    }


def _hash_if_there(path: str | Path) -> str:
    return hash_file(path) if Path(path).is_file() else ABSENT


def build_evaluator(cfg: CfgNode, dataset: str, records: Sequence[Mapping[str, Any]]) -> Evaluator:
    """What INPUT.DATASET_MAPPER_NAME asks for: class maps, or panoptic segments (the reference's choice of key).

    A data set that has label maps only is evaluated on them in any case.
    """
    folder = results_folder(cfg.OUTPUT_DIR, dataset)
    mapper = cfg.INPUT.DATASET_MAPPER_NAME
    if MAPPERS[mapper][0] == "segments":
        if not cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON:
            raise UserError(
                f"INPUT.DATASET_MAPPER_NAME {mapper} evaluates panoptic segments, but "
                "MODEL.MASK_FORMER.TEST.PANOPTIC_ON is False; set it to True, or the mapper to mask_former_semantic"
            )
        if "pan_seg_file_name" in records[0]:
            return PanopticEvaluator(dataset, folder, cfg.TEST.SAVE_PREDICTIONS, records=records)
        logger.info("%s has no panoptic annotations: evaluating class maps", dataset)
    if not cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_ON:
        raise UserError(
            f"INPUT.DATASET_MAPPER_NAME {mapper} evaluates class maps, but "
            "MODEL.MASK_FORMER.TEST.SEMANTIC_ON is False; set it to True"
        )
    return SemanticEvaluator(dataset, folder, cfg.TEST.SAVE_PREDICTIONS, records=records)


def evaluate_all(
    cfg: CfgNode, model: MAFT_Plus, config_file: str, *, resume: bool, iteration: int | None = None
) -> dict[str, Mapping[str, Any]]:
    """Evaluate every data set of DATASETS.TEST and write its results.

    Args:
        cfg: the whole configuration.
        model: the network; its weights are those of MODEL.WEIGHTS, unless it is in training.
        config_file: for the record.
        resume: reuse results that are finished.
        iteration: steps of training after which this is; None for weights that were loaded.

    Returns:
        Data set -> evaluation on the main process; empty on the others.
    """
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
        evaluation = evaluate(
            model,
            dataset,
            records,
            mapper,
            build_evaluator(cfg, dataset, records),
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
        evaluations[dataset] = evaluation
        provenance = collect(
            config_file=config_file,
            weights_file=cfg.MODEL.WEIGHTS if loaded else None,
            fingerprint=parts,
            op_backend=active_backend(model.device.type),
            extra=about,
        )
        write_results(cfg.OUTPUT_DIR, dataset, evaluation, provenance)
    return evaluations


def reason_places(cfg: CfgNode, model: MAFT_Plus) -> dict[str, Any]:
    """Where the reasons came from and how they were used, for the record."""
    if not model.uses_reasons:
        return {"mode": "class names only"}
    text = text_options(cfg, reasons=True)
    return {
        "mode": text["mode"],
        "attributes": text["num_des"],
        "generic": str(text["generic_file"]),
        "image-specific": [str(folder) for folder in text["image_folders"]],
    }


def run(cfg: CfgNode, arguments: argparse.Namespace) -> None:
    """Everything that one process does."""
    # Once more: processes that detectron2's launch spawns start without the parent's registrations.
    register_datasets(cfg)
    default_setup(cfg, arguments)
    setup_logger(output=cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="maft")
    setup_logger(output=cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="reason")
    model = build_network(cfg, training=not arguments.eval_only)
    if arguments.eval_only:
        load_for_evaluation(cfg, model)
        show(evaluate_all(cfg, model, arguments.config_file, resume=arguments.resume))
        return

    def evaluate_now(iteration: int) -> dict[str, float]:
        at, final = cfg.clone(), iteration == cfg.SOLVER.MAX_ITER
        at.defrost()
        if final:
            at.MODEL.WEIGHTS = str(Path(cfg.OUTPUT_DIR, FINAL))
        else:
            at.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR, "evaluations", f"{iteration:07d}"))
        evaluations = evaluate_all(
            at, model, arguments.config_file, resume=final, iteration=None if final else iteration
        )
        show(evaluations)
        return flat_metrics(evaluations)

    train(cfg, model, resume=arguments.resume, evaluate=evaluate_now if cfg.DATASETS.TEST else None)


def show(evaluations: Mapping[str, Mapping[str, Any]]) -> None:
    """Log the results of all data sets side by side."""
    if evaluations:
        logger.info("finished\n%s", summary(evaluations))


def run_spawned(cfg: CfgNode, arguments: argparse.Namespace) -> None:
    """`run`, in a process of detectron2's launch or torchrun: a user error ends it with one line and status 2."""
    status = run_command(lambda: run(cfg, arguments), debug=arguments.debug)
    if status:
        # Not sys.exit: the clean-up of a process group waits for ranks that wait for this one.
        sys.stderr.flush()
        os._exit(status)


def run_under_torchrun(cfg: CfgNode, arguments: argparse.Namespace) -> None:
    """`run` as one of the processes that torchrun started."""
    local_rank = int(os.environ["LOCAL_RANK"])
    if cfg.MODEL.DEVICE != "cpu":
        torch.cuda.set_device(local_rank)
    distributed.init_process_group("gloo" if cfg.MODEL.DEVICE == "cpu" else "nccl")
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()
    run_spawned(cfg, arguments)
    distributed.destroy_process_group()


def main(arguments: argparse.Namespace) -> int:
    """Check what the user gave, then run it in as many processes as asked for."""
    cfg = build_config(arguments.config_file, arguments.opts)
    register_datasets(cfg)
    under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    processes = choose_device(cfg, int(os.environ["LOCAL_WORLD_SIZE"]) if under_torchrun else arguments.num_gpus)
    check_inputs(cfg, training=not arguments.eval_only)
    cfg.freeze()
    if under_torchrun:
        run_under_torchrun(cfg, arguments)
    elif processes * arguments.num_machines > 1:
        try:
            launch(
                run_spawned,
                processes,
                num_machines=arguments.num_machines,
                machine_rank=arguments.machine_rank,
                dist_url=arguments.dist_url,
                args=(cfg, arguments),
            )
        except torch.multiprocessing.ProcessExitedException as error:
            if error.exit_code != USER_ERROR_STATUS:
                raise
            return USER_ERROR_STATUS
    else:
        run(cfg, arguments)
    return 0


if __name__ == "__main__":
    parsed = parse_arguments()
    sys.exit(run_command(lambda: main(parsed), debug=parsed.debug))
