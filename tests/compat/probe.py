"""Run every probe on whichever `detectron2` this interpreter imports, and write what came out as JSON.

    python probe.py RESULT.json SCRATCH_FOLDER

A probe is a function `probe_<name>(folder) -> value` in one of the modules below. It uses only what the subset covers
and returns plain values, arrays and errors (by type), so that two implementations can be compared value for value.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

MODULES = ("probe_config", "probe_data", "probe_images", "probe_model", "probe_run")


def outcome(call: Callable[[], Any]) -> Any:
    """What `call` returns, or the type of the error it raises."""
    try:
        return call()
    except Exception as error:
        return {"raises": type(error).__name__}


def plain(value: Any) -> Any:
    """`value` as JSON that tells types apart: tuple and list, int and float, dtypes and shapes."""
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        shown = value.ravel()[:12].tolist()
        return {"array": str(value.dtype), "shape": list(value.shape), "sha256": digest, "first": repr(shown)}
    if isinstance(value, dict):
        return {"dict": [[plain(key), plain(item)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [plain(item) for item in value]}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return {"float": repr(value)}
    raise TypeError(f"a probe returned a {type(value)}")


def main() -> None:
    """Run the probes; a probe that raises is recorded with its error, and compared like any other."""
    result_file, folder = Path(sys.argv[1]), Path(sys.argv[2])
    import detectron2

    results: dict[str, Any] = {"version": detectron2.__version__, "file": detectron2.__file__, "probes": {}}
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in [name for name in vars(module) if name.startswith("probe_")]:
            scratch = folder / name
            scratch.mkdir(parents=True)
            results["probes"][name] = plain(getattr(module, name)(scratch))
    result_file.write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
