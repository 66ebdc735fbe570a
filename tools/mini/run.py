"""Evaluating the mini world: every method through the functions of train_net.py, in one process.

One pass of the network serves both evaluators, of class maps and of segments; nothing else differs from
`train_net.py --config-file configs/mini/eval_reason.yaml --eval-only`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.data import DatasetCatalog

from maft.data import InferenceMapper
from maft.evaluation.evaluators import CombinedEvaluator, PanopticEvaluator, SemanticEvaluator
from maft.evaluation.loop import evaluate
from maft.evaluation.provenance import collect, hash_file
from maft.evaluation.results import results_folder, write_results
from maft.meta_arch import build_network
from maft.modeling.pixel_decoder.ops import active_backend
from maft.weights.loading import load_for_evaluation
from maft.weights.seeding import SEEDED
from tools.mini.dataset import Layout, prepare
from tools.mini.methods import CLOSED, CONFIG_PLAIN, CONFIG_REASON, Method, main_methods, sweep_methods
from tools.mini.observer import DEFAULT_LEVEL, LEVELS
from tools.mini.report import SWEEP_FILE, write_report
from tools.mini.results import (
    closed_sentence,
    read_evaluation,
    results_document,
    scores_of,
    table,
    weights_hash,
    write_json,
)
from train_net import build_config, check_inputs, choose_device, fingerprint, reason_places, register_datasets

logger = logging.getLogger(__name__)

_READING = (
    "mIoU and PQ in percent; mIoU per group in the reference's definition, restricted to the group's classes. "
    '"varying": the new\nclasses whose colour is another one in every picture. The reasons are written by a simulated '
    'observer that errs:\nsee docs/mini.md.'
)


def evaluate_methods(
    methods: Sequence[Method],
    output: Path,
    overrides: Mapping[str, str],
    *,
    resume: bool,
    configs: tuple[str, str] = (CONFIG_PLAIN, CONFIG_REASON),
) -> None:
    """Evaluate methods one after the other; the results of each lie in its folder.

    Args:
        methods: which ones.
        output: a folder a method is made in it; the features of sentences are shared in its `text_bank`.
        overrides: KEY VALUE pairs of the user, which win.
        resume: reuse finished evaluations; unfinished ones go on anyway.
        configs: configuration files without and with reasons.

    Raises:
        UserError: a configuration, the weights or a file is missing or malformed.
    """
    common = {} if torch.cuda.is_available() else {"MODEL.DEVICE": "cpu"}
    for method in methods:
        print(f"\n== {method.title}{f' ({method.name})' if '@' in method.name else ''}", flush=True)
        keys = common | {
            "DATASETS.TEST": f"('{method.dataset}',)",
            "OUTPUT_DIR": str(output / method.name),
            "MODEL.REASON.BANK_DIR": str(output / "text_bank"),
            "TEST.SAVE_PREDICTIONS": str(method.shown),
            **method.keys,
            **overrides,
        }
        logger.info("%s: %s", method.name, keys)
        _evaluate(configs[method.reasons], keys, method.dataset, resume=resume)


def run(output: Path, overrides: Mapping[str, str], *, resume: bool, sweep: bool) -> None:
    """Draw the pictures where that is still to be done, evaluate, print the table, write results.json and the report.

    Args:
        output: where everything goes.
        overrides: KEY VALUE pairs of the user.
        resume: reuse finished evaluations.
        sweep: evaluate with the other observers, too, and write observer_sweep.json.

    Raises:
        UserError: see `evaluate_methods`, or a file cannot be written.
    """
    layout = prepare(splits=("val", "closed"))["val"]
    _log_to(output / "log.txt")
    methods = main_methods(layout)
    evaluate_methods((*methods, CLOSED), output, overrides, resume=resume)
    evaluations = {method.name: read_evaluation(output / method.name) for method in methods}
    print(f"\n{table(evaluations, {method.name: method.title for method in methods})}\n\n{_READING}")
    print(closed_sentence(read_evaluation(output / CLOSED.name, CLOSED.dataset)))
    write_json(output / "results.json", results_document(evaluations))
    if sweep:
        write_json(output / SWEEP_FILE, _sweep(layout, output, overrides, evaluations, resume=resume))
    report = write_report(layout, output, output / "report.html")
    print(f"\nreport: {report}\nfigures: {output / 'results.json'}")


def _sweep(
    layout: Layout,
    output: Path,
    overrides: Mapping[str, str],
    evaluations: Mapping[str, Mapping[str, Any]],
    *,
    resume: bool,
) -> dict[str, Any]:
    """The value of observer_sweep.json; the default observer's rows are those of the main evaluations."""
    others = sweep_methods(layout)
    evaluate_methods(others, output / "sweep", overrides, resume=resume)
    found: dict[str, Mapping[str, Any]] = {}
    found |= {method.name: read_evaluation(output / "sweep" / method.name) for method in others}
    found |= {f"{name}@{DEFAULT_LEVEL}": evaluations[name] for name in ("generic", "image")}
    names = [f"{name}@{level}" for level in LEVELS for name in ("generic", "image")] + [others[-1].name]
    rows = [
        {"reasons": name.split("@")[0], "observer": name.split("@")[1], "scores": scores_of(found[name])}
        for name in names
    ]
    return {"weights_hash": weights_hash(list(found.values())), "rows": rows}


def _log_to(path: Path) -> None:
    """Everything goes to a file; warnings also to the screen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(path, mode="w", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    screen = logging.StreamHandler()
    screen.setLevel(logging.WARNING)
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(file)
    root.addHandler(screen)


def _evaluate(config_file: str, keys: Mapping[str, str], dataset: str, *, resume: bool) -> None:
    """What train_net.py does, but for an evaluator of both tasks."""
    cfg = build_config(config_file, [word for pair in keys.items() for word in pair])
    register_datasets(cfg)
    choose_device(cfg, num_gpus=1)
    check_inputs(cfg, training=False)
    cfg.freeze()
    model = build_network(cfg)
    load_for_evaluation(cfg, model)
    weights_file = None if cfg.MODEL.WEIGHTS == SEEDED else cfg.MODEL.WEIGHTS
    parts = fingerprint(cfg, hash_file(weights_file) if weights_file else SEEDED)
    records = DatasetCatalog.get(dataset)
    folder = results_folder(cfg.OUTPUT_DIR, dataset)
    kinds = (SemanticEvaluator, PanopticEvaluator)
    evaluation = evaluate(
        model,
        dataset,
        records,
        InferenceMapper.from_config(cfg),
        CombinedEvaluator([kind(dataset, folder, cfg.TEST.SAVE_PREDICTIONS, records=records) for kind in kinds]),
        output_dir=folder,
        batch_size=cfg.TEST.BATCH_SIZE,
        resume=resume,
        fingerprint=parts,
        usage=model.text.usage,
    )
    model.text.bank.flush()
    assert evaluation is not None, "one process, which is the main one"
    provenance = collect(
        config_file=config_file,
        weights_file=weights_file,
        fingerprint=parts,
        op_backend=active_backend(model.device.type),
        extra={"architecture": cfg.MODEL.META_ARCHITECTURE, "reasons": reason_places(cfg, model)},
    )
    write_results(cfg.OUTPUT_DIR, dataset, evaluation, provenance)
