"""OpenSeg-R: open-vocabulary segmentation with step-by-step visual reasoning.

from maft import load_segmentor

segmentor = load_segmentor("base", "pretrained/maftp_b.pth")
result = segmentor("kitchen.jpg", ["cup, mug", "table", "wall"], reasons={"cup, mug": ["a curved handle"]})
result.overlay().save("kitchen_overlay.png")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maft.errors import UserError
    from maft.predictor import Seen, Segmentor, load_segmentor
    from maft.result import FoundClass, Result

__all__ = ["FoundClass", "Result", "Seen", "Segmentor", "UserError", "load_segmentor"]

_PLACES = {
    "FoundClass": "maft.result",
    "Result": "maft.result",
    "Seen": "maft.predictor",
    "Segmentor": "maft.predictor",
    "UserError": "maft.errors",
    "load_segmentor": "maft.predictor",
}


def __getattr__(name: str) -> Any:
    """The names above, imported at first use: `import maft` alone stays quick, and circles cannot arise."""
    if name not in _PLACES:
        raise AttributeError(f"module 'maft' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)
