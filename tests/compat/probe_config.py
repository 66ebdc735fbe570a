"""Probes of detectron2.config: the default tree, merging, and `configurable`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, configurable, get_cfg
from probe import outcome

YAML = {
    "base.yaml": """
VERSION: 2
MODEL:
  META_ARCHITECTURE: MAFT_Plus
  PIXEL_MEAN: [122.7709383, 116.7460125, 104.09373615]
  RESNETS: {DEPTH: 101, OUT_FEATURES: ["res2", "res3"]}
DATASETS:
  TEST: ("a_val",)
SOLVER: {STEPS: [10, 20], WEIGHT_DECAY_BIAS: 0.5}
""",
    "other.yaml": "MODEL: {MASK_ON: true}\nSOLVER: {BASE_LR: 0.5, STEPS: [1, 2, 3]}\n",
    "deep/middle.yaml": "_BASE_: ../base.yaml\nMODEL: {WEIGHTS: m.pth}\nDATASETS: {TEST: [b_val, c_val]}\n",
    "deep/leaf.yaml": "_BASE_: middle.yaml\nSOLVER: {WEIGHT_DECAY_BIAS: null}\nINPUT:\n  MIN_SIZE_TRAIN: (640, 800)\n",
    "deep/several.yaml": "_BASE_: [middle.yaml, ../other.yaml]\nMODEL: {RESNETS: {DEPTH: 18}}\n",
    "no_version.yaml": "SEED: 7\n",
    "later.yaml": "VERSION: 3\n",
    "unknown_key.yaml": "VERSION: 2\nMODEL: {FC_CLIPP: {A: 1}}\n",
    "unknown_section.yaml": "VERSION: 2\nMODELS: {A: 1}\n",
    "wrong_type.yaml": "VERSION: 2\nSEED: [1]\n",
    "int_for_float.yaml": "VERSION: 2\nSOLVER: {BASE_LR: 1}\n",
    "base_conflict.yaml": "_BASE_: base.yaml\nSOLVER: {STEPS: {A: 1}}\n",
    "base_missing.yaml": "_BASE_: nowhere.yaml\n",
    "not_yaml.yaml": "A: [1,\n",
}

PAIRS: list[list[Any]] = [
    ["MODEL.WEIGHTS", "x.pth", "SEED", "3"],
    ["DATASETS.TEST", "('a', 'b')"],
    ["DATASETS.TEST", "['a']"],
    ["DATASETS.TEST", '("a",)'],
    ["INPUT.MIN_SIZE_TRAIN", [1, 2]],
    ["SOLVER.WEIGHT_DECAY_BIAS", "0.25"],
    ["SOLVER.WEIGHT_DECAY_BIAS", "None"],
    ["SOLVER.BASE_LR", "1"],
    ["SOLVER.BASE_LR", "1e-4"],
    ["MODEL.MASK_ON", "True"],
    ["MODEL.MASK_ON", "true"],
    ["MODEL.PIXEL_MEAN", "[1.0, 2.0, 3.0]"],
    ["MODEL.NOTHING", "1"],
    ["NOTHING.AT_ALL", "1"],
    ["SEED"],
    ["_BASE_", "x.yaml"],
    [],
]


def _leaves(node: Any, path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in sorted(node):
        if isinstance(node[key], CfgNode):
            found.update(_leaves(node[key], f"{path}{key}."))
        else:
            found[path + key] = node[key]
    return found


def _changed(cfg: CfgNode) -> dict[str, Any]:
    """What differs from the defaults."""
    default = _leaves(get_cfg())
    return {key: value for key, value in _leaves(cfg).items() if repr(value) != repr(default.get(key, "absent"))}


def probe_defaults(folder: Path) -> Any:
    return _leaves(get_cfg())


def probe_default_sections(folder: Path) -> Any:
    cfg = get_cfg()
    # Loaded again: detectron2 writes values that are one object in its tree as anchors and aliases.
    return sorted(key for key in cfg if isinstance(cfg[key], CfgNode)), yaml.safe_load(cfg.dump()), str(cfg)


def probe_merge_files(folder: Path) -> Any:
    for name, text in YAML.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")

    def merged(name: str) -> dict[str, Any]:
        cfg = get_cfg()
        cfg.merge_from_file(str(folder / name))
        return _changed(cfg)

    return {name: outcome(lambda name=name: merged(name)) for name in [*YAML, "nowhere.yaml"]}


def probe_merge_into_older_tree(folder: Path) -> Any:
    (folder / "v2.yaml").write_text("VERSION: 2\nSEED: 1\n", encoding="utf-8")
    cfg = get_cfg()
    cfg.VERSION = 1
    return outcome(lambda: cfg.merge_from_file(str(folder / "v2.yaml")))


def probe_merge_list(folder: Path) -> Any:
    def merged(pairs: list[Any]) -> dict[str, Any]:
        cfg = get_cfg()
        cfg.merge_from_list(pairs)
        return _changed(cfg)

    return [outcome(lambda pairs=pairs: merged(pairs)) for pairs in PAIRS]


def probe_own_keys(folder: Path) -> Any:
    cfg = get_cfg()
    cfg.MODEL.FC_CLIP = CfgNode({"CLIP_MODEL_NAME": "convnext_base", "NESTED": {"A": (1, 2), "B": None}})
    cfg.MODEL.rc_weights = 5.0
    (folder / "own.yaml").write_text("VERSION: 2\nMODEL: {FC_CLIP: {NESTED: {A: [3], B: text}}, rc_weights: 1.5}\n")
    cfg.merge_from_file(str(folder / "own.yaml"))
    cfg.merge_from_list(["MODEL.FC_CLIP.NESTED.A", "(4, 5)"])
    allowed = get_cfg()
    allowed.set_new_allowed(True)
    allowed.merge_from_other_cfg(CfgNode({"BRAND": {"NEW": 1}}))
    return _changed(cfg), _changed(allowed), type(cfg.MODEL.FC_CLIP).__name__


def probe_frozen_and_clones(folder: Path) -> Any:
    cfg = get_cfg()
    twin = cfg.clone()
    cfg.SEED = 5
    cfg.freeze()

    def write(node: Any) -> None:
        node.SEED = 6

    frozen = [outcome(lambda: write(cfg)), outcome(lambda: write(cfg.MODEL)), cfg.is_frozen(), cfg.MODEL.is_frozen()]
    cfg.defrost()
    write(cfg)
    bad = outcome(lambda: setattr(cfg, "SEED", object()))
    absent = outcome(lambda: cfg.NOTHING)
    return frozen, cfg.SEED, twin.SEED, get_cfg().SEED, bad, absent, "MODEL" in cfg, cfg.get("NOTHING", 3)


class _Thing:
    @configurable
    def __init__(self, a: int, b: int = 2, *, c: int = 3) -> None:
        self.values = (a, b, c)

    @classmethod
    def from_config(cls, cfg: CfgNode, extra: int = 0) -> dict[str, Any]:
        return {"a": cfg.SEED + extra, "b": cfg.VERSION}


class _Special(_Thing):
    @classmethod
    def from_config(cls, cfg: CfgNode, **kwargs: Any) -> dict[str, Any]:
        return {"a": len(kwargs), "c": kwargs.get("c", -1)}


class _NoFromConfig:
    @configurable
    def __init__(self, a: int) -> None:
        pass


class _PlainFromConfig:
    @configurable()
    def __init__(self, a: int) -> None:
        pass

    def from_config(self, cfg: CfgNode) -> dict[str, Any]:
        return {"a": 1}


class _WrongFirst:
    @configurable
    def __init__(self, a: int) -> None:
        pass

    @classmethod
    def from_config(cls, config: CfgNode) -> dict[str, Any]:
        return {"a": 1}


def probe_configurable_classes(folder: Path) -> Any:
    cfg = get_cfg()
    return [
        outcome(lambda call=call: call().values)
        for call in (
            lambda: _Thing(1),
            lambda: _Thing(a=1, c=9),
            lambda: _Thing(cfg),
            lambda: _Thing(cfg=cfg),
            lambda: _Thing(cfg, 10),
            lambda: _Thing(cfg, extra=10, b=7, c=8),
            lambda: _Thing(cfg, nothing=1),
            lambda: _Thing(),
            lambda: _Special(cfg),
            lambda: _Special(cfg, c=4, d=5),
            lambda: _NoFromConfig(cfg),
            lambda: _NoFromConfig(1),
            lambda: _PlainFromConfig(cfg),
            lambda: _PlainFromConfig(1),
            lambda: _WrongFirst(cfg),
        )
    ]


def _function_config(cfg: CfgNode, word: str = "w") -> dict[str, Any]:
    return {"a": cfg.SEED, "word": word}


@configurable(from_config=_function_config)
def _function(a: int, *, word: str = "default", b: int = 2) -> tuple[int, str, int]:
    """What it says."""
    return a, word, b


def probe_configurable_functions(folder: Path) -> Any:
    cfg = get_cfg()
    return (
        _function(5),
        _function(cfg),
        _function(cfg, "x"),
        _function(cfg=cfg, b=8),
        _function.__doc__,
        _function.from_config is _function_config,
        outcome(lambda: configurable(lambda: None)),
        outcome(lambda: configurable(from_config="no function")),
    )
