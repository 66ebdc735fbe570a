"""The checkpointer: fvcore's, for .pth files only, which never runs code from a file."""

from typing import Any
from urllib.parse import urlparse

import torch
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from detectron2.utils import comm
from detectron2.utils.file_io import PathManager


class DetectionCheckpointer(Checkpointer):
    """Load and save a model's weights, and by name the state of what goes with it (`checkpointables`).

    `save` writes to `save_dir`, in the main process only unless `save_to_disk` says otherwise.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables: Any
    ) -> None:
        if save_to_disk is None:
            save_to_disk = comm.is_main_process()
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = PathManager

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a file into the model and the checkpointables (None: all); what does not fit is logged as a warning.

        Returns what else the file holds; nothing if `path` (a file or http address) is empty. Raises ValueError if the
        file's format, or a query in its address, is not in this subset, and AssertionError if there is no such file.
        """
        if path:
            query = urlparse(path).query
            if query:
                raise ValueError(f"'?{query}' after a checkpoint's name is not in this subset: {path}")
            path = self.path_manager.get_local_path(path)
        return super().load(path, checkpointables)

    def _load_file(self, filename: str) -> dict[str, Any]:
        """The content of a file as {"model": state dict, ...}; a bare state dict is taken as the model's."""
        if filename.endswith((".pkl", ".pyth")):
            raise ValueError(f"{filename}: Caffe2 and pycls checkpoints are not in this subset; convert it to .pth")
        loaded = torch.load(filename, map_location="cpu", weights_only=True)
        return loaded if "model" in loaded else {"model": loaded}

    def _load_model(self, checkpoint: Any) -> Any:
        """Load checkpoint["model"]; returns missing_keys, unexpected_keys and incorrect_shapes.

        Not reported as missing: the pixel statistics, which come from the configuration.
        """
        incompatible = super()._load_model(checkpoint)
        buffers = {name for name, _ in self.model.named_buffers(recurse=False)}
        known = buffers & {"pixel_mean", "pixel_std"}
        incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if key not in known]
        return incompatible
