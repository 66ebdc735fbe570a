"""Evaluating the mini world: every method through `maft.run`, in one process.

One pass of the network serves both evaluators, of class maps and of segments; nothing else differs from
`train_net.py --config-file configs/mini/eval_reason.yaml --eval-only`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from maft.errors import UserError
from maft.evaluation.evaluators import CombinedEvaluator, Evaluator, PanopticEvaluator
from maft.evaluation.results import results_folder
from maft.resources import checkout, mini_weights
from maft.run import evaluate_config, semantic_evaluator
from maft.weights.seeding import SEEDED

from . import ask_model, dataset
from .dataset import MODEL, Layout, prepare
from .methods import CLOSED, WEIGHTS, Method, SegmentorName, main_methods, sed_methods, sweep_methods
from .report import SWEEP_FILE, write_report
from .results import (
    closed_sentence,
    read_evaluation,
    results_document,
    scores_of,
    table,
    weights_hash,
    write_json,
)

logger = logging.getLogger(__name__)

_READING = (
    "mIoU and PQ in percent; mIoU per group in the reference's definition, restricted to the group's classes. "
    '"varying": the new\nclasses whose colour is another one in every image. The reasons are those that a small '
    "Qwen2.5-VL wrote about these\nimages under vLLM: see docs/mini_lmm.md."
)


def evaluate_methods(
    methods: Sequence[Method],
    output: Path,
    overrides: Mapping[str, str],
    *,
    resume: bool,
) -> None:
    """Evaluate methods one after the other; the results of each lie in its folder.

    Args:
        methods: which ones.
        output: a folder a method is made in it; the features of sentences are shared in its `text_bank`.
        overrides: KEY VALUE pairs of the user, which win.
        resume: reuse finished evaluations; unfinished ones go on anyway.

    Raises:
        UserError: a configuration, the weights or a file is missing or malformed.
    """
    common = {} if torch.cuda.is_available() else {"MODEL.DEVICE": "cpu"}
    for method in methods:
        print(f"\n== {method.title}{f' ({method.name})' if '@' in method.name else ''}", flush=True)
        keys = (
            common
            | _weights(method.segmentor)
            | {
                "DATASETS.TEST": f"('{method.dataset}',)",
                "DATASETS.REGISTER": f"('{dataset.__name__}',)",
                "DATALOADER.NUM_WORKERS": "0",
                "OUTPUT_DIR": str(output / method.name),
                "MODEL.REASON.BANK_DIR": str(output / "text_bank"),
                "TEST.SAVE_PREDICTIONS": str(method.shown),
                **method.keys,
                **overrides,
            }
        )
        logger.info("%s: %s", method.name, keys)
        pairs = [word for pair in keys.items() for word in pair]
        evaluator = _both_tasks if method.panoptic else semantic_evaluator
        evaluate_config(method.config, pairs, resume=resume, evaluator=evaluator)


def _weights(segmentor: SegmentorName) -> dict[str, str]:
    """The keys that name the weights, where the configuration's, which are those of a checkout, do not hold."""
    if checkout() is not None:
        return {}
    keys = {"MODEL.WEIGHTS": str(mini_weights(WEIGHTS[segmentor]))}
    return keys | {"SED.CLIP_WEIGHTS": str(mini_weights())} if segmentor == "sed" else keys


def run(
    output: Path,
    overrides: Mapping[str, str],
    *,
    resume: bool,
    sweep: bool,
    segmentor: SegmentorName | None = None,
    reason: bool = False,
) -> None:
    """Draw the images where that is still to be done, evaluate, print the table, write results.json and the report.

    Args:
        output: where everything goes.
        overrides: KEY VALUE pairs of the user.
        resume: reuse finished evaluations.
        sweep: evaluate with the other observers, too, and write observer_sweep.json.
        segmentor: evaluate one of the two; None: both, but MAFT+ alone if the user names weights of his own. The report
            needs MAFT+.
        reason: let the model write its reasons anew, under vLLM, and evaluate with those.

    Raises:
        UserError: see `evaluate_methods` and `ask_model.make_reasons`, or a file cannot be written.
    """
    if sweep and segmentor == "sed":
        raise UserError("--observer-sweep: measures MAFT+; leave out --model sed")
    if segmentor is None and overrides.get("MODEL.WEIGHTS", SEEDED) != SEEDED:
        segmentor = "maft"
        print("MODEL.WEIGHTS: taken for MAFT+, which is evaluated alone; --model sed evaluates SED")
    # First, since what ships may be about other images: preparing these is then an error that asks for new reasons.
    made = ask_model.make_reasons(output / "reasons", resume=resume) if reason else None
    layout = replace(prepare(splits=("val", "closed"))["val"], made=made)
    if made is not None:
        print(f"\n{ask_model.compared(made)}")
    _log_to(output / "log.txt")
    of_maft = () if segmentor == "sed" else main_methods(layout)
    methods = of_maft if segmentor == "maft" else (*of_maft, *sed_methods(layout))
    evaluate_methods((*methods, CLOSED) if of_maft else methods, output, overrides, resume=resume)
    evaluations = {method.name: read_evaluation(output / method.name, panoptic=method.panoptic) for method in methods}
    print(f"\n{table(evaluations, {method.name: method.title for method in methods})}\n\n{_READING}")
    write_json(output / "results.json", results_document(evaluations))
    if of_maft:
        print(closed_sentence(read_evaluation(output / CLOSED.name, CLOSED.dataset)))
        if sweep:
            write_json(output / SWEEP_FILE, _sweep(layout, output, overrides, evaluations, resume=resume))
        print(f"\nreport: {write_report(layout, output, output / 'report.html', methods)}")
    print(f"figures: {output / 'results.json'}")


def _sweep(
    layout: Layout,
    output: Path,
    overrides: Mapping[str, str],
    evaluations: Mapping[str, Mapping[str, Any]],
    *,
    resume: bool,
) -> dict[str, Any]:
    """The value of observer_sweep.json; the model's rows are those of the main evaluations."""
    others = sweep_methods(layout)
    evaluate_methods(others, output / "sweep", overrides, resume=resume)
    found: dict[str, Mapping[str, Any]] = {f"{name}@{MODEL}": evaluations[name] for name in ("generic", "image")}
    found |= {method.name: read_evaluation(output / "sweep" / method.name) for method in others}
    rows = [
        {"reasons": name.split("@")[0], "observer": name.split("@")[1], "scores": scores_of(results)}
        for name, results in found.items()
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


def _both_tasks(cfg: CfgNode, name: str, records: Sequence[Mapping[str, Any]]) -> Evaluator:
    """One pass of the network serves an evaluator of class maps and one of segments."""
    folder = results_folder(cfg.OUTPUT_DIR, name)
    segments = PanopticEvaluator(name, folder, cfg.TEST.SAVE_PREDICTIONS, records=records)
    return CombinedEvaluator([semantic_evaluator(cfg, name, records), segments])
