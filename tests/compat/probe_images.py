"""Probes of reading and resizing images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from PIL import Image
from probe import outcome

SIDES = (1, 2, 31, 127, 300, 333, 375, 427, 480, 499, 500, 599, 601, 640, 799, 800, 801, 1023, 1332, 1333, 1334, 2999)


def _image(height: int, width: int, *tail: int) -> np.ndarray:
    return np.random.default_rng(height * 10007 + width).integers(0, 256, (height, width, *tail), dtype=np.uint8)


def probe_output_shapes(folder: Path) -> Any:
    shape = T.ResizeShortestEdge.get_output_shape
    pairs = [(height, width) for height in SIDES for width in SIDES]
    pairs += np.random.default_rng(0).integers(20, 3000, (3000, 2)).tolist()
    return [[*shape(h, w, 800, 1333), *shape(h, w, 640, 2560), *shape(h, w, 333, 400)] for h, w in pairs]


def probe_chosen_lengths(folder: Path) -> Any:
    image = _image(37, 53, 3)
    results = []
    for arguments in (
        {"short_edge_length": 64},
        {"short_edge_length": (20, 80)},
        {"short_edge_length": [20, 80], "max_size": 60},
        {"short_edge_length": [16, 33, 47], "sample_style": "choice"},
        {"short_edge_length": 50, "sample_style": "choice", "max_size": 55},
        {"short_edge_length": 0, "sample_style": "choice"},
    ):
        np.random.seed(3)
        augmentation = T.ResizeShortestEdge(**arguments)
        transforms = [augmentation.get_transform(image) for _ in range(5)]
        results.append([[type(one).__name__, one.apply_image(image).shape] for one in transforms])
    results.append(outcome(lambda: T.ResizeShortestEdge([1, 2, 3])))
    results.append(outcome(lambda: T.ResizeShortestEdge(10, sample_style="other")))
    return results


def probe_resized_pixels(folder: Path) -> Any:
    results = []
    for height, width, new_height, new_width in ((37, 53, 74, 106), (53, 37, 20, 14), (31, 31, 47, 47), (8, 9, 9, 8)):
        resize = T.ResizeTransform(height, width, new_height, new_width)
        cubic = T.ResizeTransform(height, width, new_height, new_width, Image.BICUBIC)
        colour, grey = _image(height, width, 3), _image(height, width)
        for image in (colour, grey, grey[:, :, None], colour[:, :, ::-1], colour.transpose(1, 0, 2).transpose(1, 0, 2)):
            results += [resize.apply_image(image), cubic.apply_image(image), resize.apply_segmentation(image)]
        for image in (colour / np.float32(255), grey / 255.0, _image(height, width, 2, 3).astype(np.float32)):
            results += [resize.apply_image(image), cubic.apply_image(image), resize.apply_segmentation(image)]
        results.append(resize.apply_image(colour.astype(np.float32)[:, ::-1]))
        results.append(outcome(lambda resize=resize, grey=grey: resize.apply_segmentation(grey.astype(np.int32))))
        results.append(outcome(lambda resize=resize, grey=grey: resize.apply_image(grey[1:])))
        results.append(resize.apply_coords(np.array([[0.0, 0.0], [width, height], [1.5, 2.5]])))
        results.append(resize.apply_box(np.array([[1.0, 2.0, 5.0, 6.0]])))
    return results


class _SeesBoth(T.Augmentation):
    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        return T.ResizeTransform(height, width, int(sem_seg.max()), width)


class _NoTransform(T.Augmentation):
    def get_transform(self, image: np.ndarray) -> Any:
        return "nothing"


def probe_augmentations(folder: Path) -> Any:
    def made() -> T.AugInput:
        labels = _image(20, 30) % 40
        return T.AugInput(_image(20, 30, 3), boxes=np.array([[1.0, 2.0, 11.0, 12.0]]), sem_seg=labels)

    first = made()
    chosen = T.AugmentationList([T.ResizeShortestEdge(45, 60), T.NoOpTransform(), _SeesBoth()])(first)
    second = made()
    same, transforms = T.apply_augmentations([T.ResizeTransform(20, 30, 40, 60)], second)
    image, _ = T.apply_augmentations([T.ResizeShortestEdge(10)], _image(20, 30, 3))
    return [
        [first.image, first.boxes, first.sem_seg, len(chosen.transforms), type(chosen).__name__],
        [same is second, second.image, len(transforms.transforms), transforms.apply_segmentation(_image(20, 30))],
        image,
        chosen.apply_image(_image(20, 30, 3)),
        made().apply_augmentations([T.NoOpTransform()]).apply_image(_image(4, 4)),
        outcome(lambda: _NoTransform()(made())),
        outcome(lambda: _SeesBoth()(T.AugInput(_image(20, 30, 3)))),
        outcome(lambda: T.AugmentationList(["text"])),
        outcome(lambda: T.AugInput([[1, 2]])),
        outcome(lambda: T.AugInput(np.zeros(3))),
        outcome(lambda: T.Augmentation().get_transform(_image(4, 4))),
    ]


def _write_images(folder: Path) -> list[str]:
    colour = Image.fromarray(_image(24, 36, 3))
    colour.save(folder / "colour.png")
    colour.convert("L").save(folder / "grey.png")
    colour.convert("P").save(folder / "palette.png")
    colour.convert("RGBA").save(folder / "alpha.png")
    colour.convert("CMYK").save(folder / "cmyk.jpg")
    colour.convert("1").save(folder / "bits.png")
    Image.fromarray(_image(24, 36).astype(np.uint16) * 257).save(folder / "deep.png")
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        colour.save(folder / f"turned_{orientation}.jpg", exif=exif, quality=95)
        colour.convert("L").save(folder / f"turned_grey_{orientation}.png", exif=exif)
    colour.save(folder / "broken_exif.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    (folder / "text.jpg").write_text("no image", encoding="utf-8")
    (folder / "empty.png").write_bytes(b"")
    whole = (folder / "turned_6.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    return [*sorted(file.name for file in folder.iterdir()), "nowhere.png"]


def probe_read_image(folder: Path) -> Any:
    names = _write_images(folder)
    formats = (None, "RGB", "BGR", "L", "no such mode")
    return {
        f"{name} as {format}": outcome(lambda name=name, format=format: read_image(str(folder / name), format=format))
        for name in names
        for format in formats
    }
