"""What goes into the wheel: the packages, and data from where they lie in the checkout. All else is in pyproject.toml.

No package is called `tools` once it is installed: that folder's name is `openseg_r` in the wheel.
"""

from pathlib import Path

from setuptools import find_packages, setup

CONFIGS = ("maft.configs", *(f"maft.configs.{folder.name}" for folder in Path("configs").iterdir() if folder.is_dir()))
PLACES = {
    "openseg_r": "tools",
    "maft.configs": "configs",
    "maft.mini_weights": "tools/mini/weights",
    "reason.vocabularies": "datasets/vocabularies",
    "reason.written": "reason_data/general_reason/written",
}
"""Package -> its folder, where that has another name."""

setup(
    packages=[
        *find_packages(include=["maft", "maft.*", "reason", "reason.*"]),
        "openseg_r",
        *(f"openseg_r.{name}" for name in find_packages("tools")),
        *CONFIGS,
        "maft.mini_weights",
        "reason.vocabularies",
        "reason.written",
    ],
    package_dir=PLACES,
    include_package_data=False,
    package_data={
        "": ["*.html", "*.css", "*.js"],
        "maft": ["py.typed"],
        **{package: ["*.yaml", "*.json"] for package in CONFIGS},
        "maft.mini_weights": ["*.safetensors"],
        "maft.modeling.pixel_decoder.ops": ["csrc/*", "make.sh"],
        "openseg_r.examples": ["*.json", "image_reason/*.json"],
        "openseg_r.mini": ["*.json", "reasons/*.json"],
        "reason": ["py.typed"],
        "reason.asking.prompts": ["*/*.txt"],
        "reason.vocabularies": ["*.json"],
        "reason.written": ["*.json", "*.tsv"],
    },
)
