"""The generic reasons that come along: written for this repository, not by the paper's model.

In a checkout they lie in `reason_data/general_reason/written/`; a wheel has them inside the package.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

NOT_THE_PAPERS = "written for this repository, not by Qwen2.5-VL-72B; not the paper's"
"""What must stand beside a result that was made with them."""

ENDING = "_class_reason.json"
_PLACE = ("reason_data", "general_reason", "written")


def shipped_folder() -> Path:
    """Where they lie; relative to the current folder where that is the checkout."""
    package = Path(str(files("reason")))
    inside = package / "written"
    if inside.is_dir():
        return inside
    root = package.resolve().parent
    here = Path(*_PLACE)
    return here if root == Path.cwd() else root / here


def shipped_file(vocabulary: str) -> Path | None:
    """The shipped generic reasons of a benchmark's vocabulary, such as "pc59"; None for another."""
    path = shipped_folder() / f"{vocabulary}{ENDING}"
    return path if path.is_file() else None


def is_shipped(path: str | Path) -> bool:
    """Whether a file of generic reasons is a shipped one, or a copy of one under any name."""
    try:
        content = Path(path).read_bytes()
        return any(
            shipped.stat().st_size == len(content) and shipped.read_bytes() == content
            for shipped in shipped_folder().glob(f"*{ENDING}")
        )
    except OSError:
        return False
