"""Where the files lie that come along with the library: configs, CLIP architectures, and mini's weights.

In a checkout they lie where people look for them, `configs/` and `tools/mini/weights/`; a wheel has them inside the
package. Nothing is copied in git.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def package_folder() -> Path:
    """The folder of the package `maft`."""
    return Path(str(files("maft")))


def checkout() -> Path | None:
    """The root of the checkout that this library is used from; None for an installed one."""
    root = package_folder().resolve().parent
    return root if (root / "train_net.py").is_file() and (root / "pyproject.toml").is_file() else None


def config_folder() -> Path:
    """The folder of the yaml files, with the CLIP architectures in `clip/`."""
    root = checkout()
    return root / "configs" if root else package_folder() / "configs"


def config_file(name: str) -> Path:
    """A yaml file: as named from the current folder, else "configs/…" among those that come along.

    Args:
        name: such as "configs/semantic/eval_base.yaml".

    Returns:
        A path; of no file where there is neither.
    """
    path = Path(name).expanduser()
    if path.is_file() or path.parts[:1] != ("configs",):
        return path
    return config_folder().joinpath(*path.parts[1:])


MINI_MODELS = ("mini", "sed-mini")
"""The small models whose weights come along; the file of the second leaves CLIP's text tower to that of the first."""


def mini_weights(name: str = "mini") -> Path:
    """The weights of a small model that comes along, a .safetensors file.

    Args:
        name: one of `MINI_MODELS`.
    """
    root = checkout()
    folder = root / "tools" / "mini" / "weights" if root else package_folder() / "mini_weights"
    return folder / f"{name}.safetensors"
