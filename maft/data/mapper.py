"""From a record to the model's input at test time (docs/numerics.md, "Image")."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from maft.errors import UserError
from maft.sizes import resized
from reason.imagefile import ImageFileError, opened, orientation, read_rgb

Masks = Literal["classes", "segments"]

MAPPERS: dict[str, tuple[Masks, bool]] = {
    "mask_former_semantic": ("classes", False),
    "mask_former_panoptic": ("segments", False),
    "coco_semantic_lsj": ("classes", True),
    "coco_panoptic_lsj": ("segments", True),
}
"""INPUT.DATASET_MAPPER_NAME -> what is learnt and evaluated, and whether training images get large-scale jitter."""


def exif_note(path: str | Path) -> str:
    """What to add to a message about sizes that differ: "" where an image's EXIF orientation cannot be the reason."""
    try:
        with opened(path) as image:
            turned = orientation(image)
    except ImageFileError:
        return ""
    if turned < 5:
        return ""
    return f". Its EXIF orientation is {turned}: labels must lie on the stored pixels, not on the turned image"


class InferenceMapper:
    """Read the image of a record and resize it for the network.

    The short edge becomes `short_edge`, unless the long one would then exceed `max_size`; both are rounded as
    detectron2's ResizeShortestEdge does, and PIL interpolates bilinearly. Labels are not read: evaluators do that, in
    original size.

    Args:
        short_edge: pixels (INPUT.MIN_SIZE_TEST); 0 leaves the image as it is.
        max_size: pixels (INPUT.MAX_SIZE_TEST).
        image_format: channel order (INPUT.FORMAT), "RGB" for every published model.
        obey_exif: turn photographs upright. Images of data sets are read as stored: that is the grid of their labels.
    """

    def __init__(
        self, *, short_edge: int = 800, max_size: int = 1333, image_format: str = "RGB", obey_exif: bool = False
    ) -> None:
        if short_edge < 0 or max_size <= 0:
            raise UserError(
                f"INPUT.MIN_SIZE_TEST {short_edge}, INPUT.MAX_SIZE_TEST {max_size}: sizes are in pixels; "
                "the published ones are 800 and 1333"
            )
        if image_format not in ("RGB", "BGR"):
            raise UserError(f"INPUT.FORMAT '{image_format}': RGB or BGR; every published model takes RGB")
        self.image_format, self.obey_exif = image_format, obey_exif
        self.short_edge, self.max_size = short_edge, max_size

    @classmethod
    def from_config(cls, cfg: Any, *, obey_exif: bool = False) -> InferenceMapper:
        """The mapper that a configuration's INPUT section describes."""
        given = cfg.INPUT
        return cls(
            short_edge=given.MIN_SIZE_TEST,
            max_size=given.MAX_SIZE_TEST,
            image_format=given.FORMAT,
            obey_exif=obey_exif,
        )

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """The model's input for one record.

        Args:
            record: with `file_name`; everything in it is passed on. It is not changed.

        Returns:
            the record with `image`, uint8 (3, H, W), resized, and `height` and `width` of the image before that: the
            size that results have.

        Raises:
            UserError: the image is missing, cut off or no image, or has another size than the record says.
        """
        pixels = self.read(record["file_name"])
        height, width = pixels.shape[:2]
        for key, actual in (("height", height), ("width", width)):
            if record.get(key, actual) != actual:
                raise UserError(
                    f"{record['file_name']}: its {key} is {actual}, the annotations say {record[key]}; "
                    f"image and annotation file do not belong together{exif_note(record['file_name'])}"
                )
        image = resized(np.ascontiguousarray(pixels), self.short_edge, self.max_size)
        return {**record, "height": height, "width": width, "image": image}

    def read(self, path: str) -> np.ndarray:
        """The image at `path`, uint8 (H, W, 3) in `image_format`.

        Raises:
            UserError: missing, cut off or no image.
        """
        try:
            pixels = read_rgb(path, obey_exif=self.obey_exif)
        except ImageFileError as error:
            raise UserError(str(error)) from error
        return pixels[..., ::-1] if self.image_format == "BGR" else pixels
