"""The checkpointer: fvcore's, for .pth files only, which never runs code from a file."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlparse

import torch
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

__all__ = ["DetectionCheckpointer"]

_FOREIGN = (".pkl", ".pyth")


class DetectionCheckpointer(Checkpointer):
    """Load and save a model's weights, and the state of what goes with it.

    Args:
        model: the model; a data-parallel wrapper is taken off.
        save_dir: where `save` writes, and where `last_checkpoint` names the newest file.
        save_to_disk: whether `save` does anything; default: in the main process only.
        checkpointables: further objects with state_dict and load_state_dict, by name.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables: Any
    ) -> None:
        if save_to_disk is None:
            save_to_disk = comm.is_main_process()
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = PathManager

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a file into the model and the checkpointables; keys that do not fit are logged as warnings.

        Args:
            path: file or http address; empty: nothing is loaded.
            checkpointables: names of those to load; None: all that the file has.

        Returns:
            what else the file holds.

        Raises:
            ValueError: the file's format, or a query in its address, is not in this subset.
            AssertionError: no such file.
        """
        if path:
            query = urlparse(path).query
            if query:
                raise ValueError(f"'?{query}' after a checkpoint's name is not in this subset: {path}")
            path = self.path_manager.get_local_path(path)
        return super().load(path, checkpointables)

    def _load_file(self, filename: str) -> dict[str, Any]:
        """The content of a file as {"model": state dict, ...}; a bare state dict is taken as the model's."""
        if filename.endswith(_FOREIGN):
            raise ValueError(f"{filename}: Caffe2 and pycls checkpoints are not in this subset; convert it to .pth")
        loaded = torch.load(filename, map_location="cpu", weights_only=True)
        return loaded if "model" in loaded else {"model": loaded}

    def _load_model(self, checkpoint: Any) -> Any:
        """Load checkpoint["model"]; returns missing_keys, unexpected_keys and incorrect_shapes.

        The pixel statistics come from the configuration and old detectors store their anchors: neither is reported.
        """
        incompatible = super()._load_model(checkpoint)
        own_buffers = {name for name, _ in self.model.named_buffers(recurse=False)}
        from_config = own_buffers & {"pixel_mean", "pixel_std"}
        incompatible.missing_keys[:] = [k for k in incompatible.missing_keys if k not in from_config]
        incompatible.unexpected_keys[:] = [
            k for k in incompatible.unexpected_keys if "anchor_generator.cell_anchors" not in k
        ]
        return incompatible
