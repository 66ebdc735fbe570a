"""Whether a file holds the weights of a model: by names and shapes of its entries, and by its own checksums."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import Tensor

from maft.config import build_config
from maft.errors import UserError
from maft.meta_arch import build_network
from maft.modeling.backbone import build_clip
from maft.modeling.maft_plus import MAFTPlus
from maft.resources import config_file
from maft.weights.checkpoint import load_weights, misfit, without
from maft.weights.undrawn import Undrawn

from .catalogue import Checkpoint, Weights


@dataclass(frozen=True)
class Identified:
    """A file that fits a model.

    Attributes:
        path: the file.
        weights: which weights it holds.
        entries: number of entries that the model takes.
        teacher: number of entries of training's frozen teacher, which are left out.
        size: in bytes.
        checksums: whether the file brought checksums of its content, which then are right.
    """

    path: Path
    weights: Weights
    entries: int
    teacher: int
    size: int
    checksums: bool

    def __str__(self) -> str:
        teacher = f", {self.teacher} of the teacher left out" if self.teacher else ""
        checksums = "checksums right" if self.checksums else "the format has no checksums"
        return (
            f"{self.path}: '{self.weights.name}', {self.entries} entries with the model's names and shapes{teacher}, "
            f"{self.size / 1e6:,.0f} MB, {checksums}"
        )


@cache
def expected_entries(weights: Weights) -> Mapping[str, Tensor]:
    """Name -> tensor without memory (meta device), of the model that the weights are for. Takes about a second a model.

    Raises:
        UserError: the model cannot be built.
    """
    if isinstance(weights, Checkpoint):
        options = ["MODEL.DEVICE", "cpu", "MODEL.REASON.BANK_DIR", ""]
        with Undrawn():
            model = build_network(build_config(str(config_file(weights.config)), options))
        state = without(model.state_dict(), model.teacher_prefix)
    else:
        try:
            with Undrawn():
                state = build_clip(weights.architecture).state_dict()
        except ValueError as error:
            raise UserError(f"{weights.name}: {error}") from error
    return {name: value.to("meta") for name, value in state.items()}


def identify(path: str | Path, candidates: Sequence[Weights]) -> Identified:
    """Find out which weights a file holds, by content; its name only decides who is asked first.

    Args:
        path: a .pth, .bin, .pt or .safetensors file.
        candidates: the weights that it may be, at least one.

    Raises:
        UserError: the file is missing, no weight file at all, damaged, or of another model.
    """
    path = Path(path)
    state = load_weights(path)
    checksums = _verify_checksums(path)
    best: tuple[int, str] = (-1, "")
    for weights in sorted(candidates, key=lambda entry: Path(entry.file).stem != path.stem):
        expected = expected_entries(weights)
        # A published checkpoint carries the frozen teacher of its training, which evaluation does not need.
        used = without(state, MAFTPlus.teacher_prefix)
        problem = misfit(expected, used)
        if not problem:
            return Identified(path, weights, len(used), len(state) - len(used), path.stat().st_size, checksums)
        alike = sum(name in used and used[name].shape == value.shape for name, value in expected.items())
        best = max(best, (alike, f"not the weights of '{weights.name}': {problem}"), key=lambda entry: entry[0])
    others = "" if len(candidates) == 1 else f" (nor those of {len(candidates) - 1} other models, which differ more)"
    raise UserError(f"{path}: {best[1]}{others}")


def _verify_checksums(path: Path) -> bool:
    """Read a file of torch.save's zip format through and compare its checksums; False for formats without any.

    Raises:
        UserError: a checksum is wrong.
    """
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); fetch it again") from error
    if damaged:
        raise UserError(f"{path}: damaged, the checksum of its part {damaged} is wrong; fetch it again")
    return True
