"""Which published weights there are, where they come from, and which model each must fit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from maft.resources import checkout

DRIVE = "https://drive.google.com/file/d/{}/view?usp=sharing"
HUB = "https://huggingface.co/{}"
ENDINGS = (".safetensors", ".bin", ".pt", ".pth")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of MAFT+ or SED, which holds CLIP as well.

    Attributes:
        name: how the user calls it.
        file: its name in pretrained/.
        config: the config, below the repository's root, whose model it fits.
        url: its page, as in pretrained/README.md.
        use: what it is for.
    """

    name: str
    file: str
    config: str
    url: str
    use: str


@dataclass(frozen=True)
class Clip:
    """CLIP as training starts from it.

    Attributes:
        name: how the user calls it.
        file: the name in pretrained/ of a copy put there by hand; the ending is that of the file that is given.
        architecture: open_clip's name of the model.
        tag: open_clip's name of the weights.
        url: their page.
        use: what it is for.
    """

    name: str
    file: str
    architecture: str
    tag: str
    url: str
    use: str


Weights = Checkpoint | Clip
_TRAINING = "training only; evaluation finds CLIP inside the checkpoint"

CATALOGUE: Mapping[str, Weights] = {
    entry.name: entry
    for entry in (
        Checkpoint(
            "base",
            "maftp_b.pth",
            "configs/semantic/eval_base_reason.yaml",
            DRIVE.format("1BeEeKOnWWIWIH-QWK_zLhAPUzCOnHuFG"),
            "eval_reason_base.sh",
        ),
        Checkpoint(
            "large",
            "maftp_l.pth",
            "configs/semantic/eval_large_reason.yaml",
            DRIVE.format("1EQo5guVuKkSSZj4bv0FQN_4X9h_Rwfe5"),
            "eval_reason_large.sh",
        ),
        Checkpoint(
            "pano",
            "maftp_l_pano.pth",
            "configs/panoptic/eval_pano_reason.yaml",
            DRIVE.format("1znk_uco8fwvbA0kndy4kGyVp22KbQr6g"),
            "eval_reason_pano.sh",
        ),
        Checkpoint(
            "sed-base",
            "sed_b.pth",
            "configs/sed/eval_base_reason.yaml",
            DRIVE.format("1qx6zGZgSPkF6TObregRz4uzQqSRHrgUw"),
            "eval_reason_base.sh --model sed",
        ),
        Checkpoint(
            "sed-large",
            "sed_l.pth",
            "configs/sed/eval_large_reason.yaml",
            DRIVE.format("1zAXE0QXy47n0cVn7j_2cSR85eqxdDGg8"),
            "eval_reason_large.sh --model sed",
        ),
        Clip(
            "clip-base",
            "clip_convnext_base_w_320.bin",
            "convnext_base_w_320",
            "laion_aesthetic_s13b_b82k_augreg",
            HUB.format("laion/CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K-augreg"),
            _TRAINING,
        ),
        Clip(
            "clip-large",
            "clip_convnext_large_d_320.bin",
            "convnext_large_d_320",
            "laion2b_s29b_b131k_ft_soup",
            HUB.format("laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"),
            _TRAINING,
        ),
    )
}
DEFAULT = tuple(
    name for name, entry in CATALOGUE.items() if isinstance(entry, Checkpoint) and not name.startswith("sed-")
)
"""What is fetched when nothing is named: the models of the paper's weights, MAFT+."""


def by_hand(entry: Weights) -> str:
    """How to get the file without this command, for messages."""
    return f"get it from {entry.url} with a browser, then: python -m tools.fetch_weights {entry.name} --from FILE"


def default_folder() -> Path:
    """pretrained/ of this checkout, as it is named from the current folder; without a checkout, of that folder."""
    return Path(os.path.relpath((checkout() or Path()) / "pretrained"))


def in_place(entry: Weights, folder: Path) -> Path | None:
    """The file that stands for an entry in the folder, in whichever format it was brought; None if there is none."""
    named = folder / entry.file
    places = [named, *(named.with_suffix(ending) for ending in ENDINGS)]
    return next((place for place in places if place.is_file()), None)
