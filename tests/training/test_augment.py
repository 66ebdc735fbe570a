"""Augmentation and training mappers against values worked out by hand, and against Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detectron2.config import CfgNode
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maft.data import augment
from maft.data.augment import Sample
from maft.data.train_mapper import TrainingMapper
from maft.errors import UserError


def a_sample(height: int, width: int, seed: int = 0) -> Sample:
    """An image whose red is its label, so that the two can be seen to move alike."""
    labels = np.random.default_rng(seed).integers(0, 200, (height, width), np.int32)
    image = np.stack([labels.astype(np.uint8)] * 3, -1)
    return Sample(image, labels, 255)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(1, 60))
def test_resizing_takes_pillows_pixels(height: int, width: int, new_height: int, new_width: int) -> None:
    sample = a_sample(height, width)
    resized = augment.resize(sample, new_height, new_width)
    size = (new_width, new_height)
    nearest = np.asarray(Image.fromarray(sample.labels).resize(size, Image.NEAREST))
    # Where a centre falls between two pixels, Pillow's rounding decides.
    clear = np.ix_(
        *((2 * np.arange(new) + 1) * old % (2 * new) != 0 for old, new in ((height, new_height), (width, new_width)))
    )
    assert np.array_equal(resized.labels[clear], nearest[clear])
    assert np.array_equal(resized.image, np.asarray(Image.fromarray(sample.image).resize(size, Image.BILINEAR)))


def test_shortest_edge_draws_from_the_lengths_and_keeps_to_the_longest() -> None:
    sample, rng = a_sample(30, 60), np.random.default_rng(0)
    sizes = {augment.random_shortest_edge(sample, rng, (15, 30, 45), 80, "choice").size for _ in range(60)}
    assert sizes == {(15, 30), (30, 60), (40, 80)}  # 45 x 90 would be too long
    drawn = [augment.random_shortest_edge(sample, rng, (20, 22), 80, "range").size[0] for _ in range(60)]
    assert set(drawn) == {20, 21, 22}
    assert augment.random_shortest_edge(sample, rng, (0,), 80, "choice") is sample


def test_crop_without_a_dominating_class() -> None:
    """Three quarters of the image are class 1; only windows on its right edge have both in balance."""
    labels = np.ones((20, 40), np.int32)
    labels[:, 30:] = 2
    sample = Sample(np.zeros((20, 40, 3), np.uint8), labels, 255)
    shares, unconstrained = [], []
    for seed in range(40):
        for share, found in ((0.75, shares), (1.0, unconstrained)):
            window = augment.random_crop(sample, np.random.default_rng(seed), "absolute", (10, 16), largest_share=share)
            assert window.size == (10, 16) and window.image.shape == (10, 16, 3)
            found.append(np.bincount(window.labels.ravel()).max() / 160)
    assert np.mean(np.array(shares) < 0.75) > 0.9, "ten attempts find such a window nearly always"
    assert np.mean(np.array(unconstrained) < 0.75) < 0.5


@pytest.mark.parametrize(
    ("kind", "amount", "size"),
    [("absolute", (8, 99), (8, 30)), ("relative", (0.5, 0.25), (10, 8)), ("absolute_range", (7, 7), (7, 7))],
)
def test_crop_sizes(kind: augment.CropType, amount: tuple[float, float], size: tuple[int, int]) -> None:
    assert augment.random_crop(a_sample(20, 30), np.random.default_rng(1), kind, amount).size == size


def test_relative_range_lies_between_share_and_whole() -> None:
    rng = np.random.default_rng(0)
    sizes = np.array(
        [augment.random_crop(a_sample(100, 50), rng, "relative_range", (0.5, 0.8)).size for _ in range(80)]
    )
    assert sizes.min(0)[0] in range(50, 60) and sizes.max(0)[0] in range(90, 101)
    assert sizes.min(0)[1] in range(40, 43) and sizes.max(0)[1] in range(48, 51)


def test_image_and_labels_move_alike() -> None:
    """Flip, crop and padding: wherever there is a label, the image's red is that label."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        sample = augment.random_flip(a_sample(24, 36, seed), rng, "horizontal" if seed % 2 else "vertical")
        sample = augment.random_crop(sample, rng, "absolute", (20, 20))
        sample = augment.pad(sample, 32, 30)
        assert sample.size == (32, 30) and (sample.labels[20:] == 255).all() and (sample.image[:, 20:] == 128).all()
        assert np.array_equal(sample.image[:20, :20, 0], sample.labels[:20, :20])


def test_flip_every_second_time() -> None:
    sample, rng = a_sample(3, 4), np.random.default_rng(0)
    flipped = [
        np.array_equal(augment.random_flip(sample, rng, "horizontal").labels[:, ::-1], sample.labels)
        for _ in range(400)
    ]
    assert 160 < sum(flipped) < 240
    assert augment.random_flip(sample, rng, "none") is sample


def test_jitter_scales_cuts_and_pads() -> None:
    sample = a_sample(30, 60)
    small = augment.large_scale_jitter(sample, np.random.default_rng(0), 40, 0.5, 0.5)
    assert small.size == (40, 40) and (small.labels[10:] == 255).all() and (small.labels[:, 20:] == 255).all()
    resized = np.asarray(Image.fromarray(sample.image).resize((20, 10), Image.BILINEAR))
    assert np.array_equal(small.image[:10, :20], resized)
    large = augment.large_scale_jitter(sample, np.random.default_rng(0), 40, 2.0, 2.0)
    assert large.size == (40, 40) and (large.labels != 255).all()


def test_colour_leaves_grey_without_hue_and_stays_in_range() -> None:
    """Brightness and contrast treat all channels alike, and a grey pixel has no hue to turn nor saturation to raise."""
    grey = Sample(np.full((4, 5, 3), 100, np.uint8), np.zeros((4, 5), np.int32), 255)
    values = set()
    for seed in range(200):
        image = augment.random_colour(grey, np.random.default_rng(seed)).image
        assert (image == image[..., :1]).all()
        values.add(int(image[0, 0, 0]))
    # (100 - 32) / 2 to (100 + 32) * 1.5
    assert min(values) < 50 and min(values) >= 34 and 150 < max(values) <= 198 and 100 in values


def test_hue_and_saturation_by_hand() -> None:
    """60 degrees turn red into yellow; half the saturation takes it half the way to white."""
    red = np.array([[[255, 0, 0]]], np.uint8)
    assert np.abs(augment._hue_and_saturation(red, 60, 1.0)[0, 0].astype(int) - [255, 255, 0]).max() <= 4
    assert np.abs(augment._hue_and_saturation(red, 0, 0.5)[0, 0].astype(int) - [255, 128, 128]).max() <= 2


def mapper(config: CfgNode, **changes: object) -> TrainingMapper:
    given = config.clone()
    given.merge_from_list(
        [item for key, value in changes.items() for item in (f"INPUT.{key.replace('__', '.')}", value)]
    )
    return TrainingMapper.from_config(given)


def test_semantic_masks_by_hand(small_config: CfgNode, world: Path) -> None:
    """The image as it is: class 2 in a rectangle, class 12 below, void elsewhere."""
    voc = world / "VOCdevkit" / "VOC2012"
    record = {
        "file_name": str(voc / "images_detectron2" / "train2.jpg"),
        "sem_seg_file_name": str(voc / "annotations_ovs" / "train" / "train2.png"),
        "meta": {"dataname": "openvocab_pascal20_sem_seg_train"},
    }
    as_it_is = mapper(small_config, MIN_SIZE_TRAIN=(0,), RANDOM_FLIP="none")
    result = as_it_is(record, np.random.default_rng(0))
    expected = np.zeros((2, 80, 110), bool)
    expected[0, 10:60, 10:50], expected[1, 60:] = True, True
    assert result["instances"].gt_classes.tolist() == [2, 12]
    assert np.array_equal(result["instances"].gt_masks.numpy(), expected)
    with Image.open(record["file_name"]) as image:
        assert np.array_equal(result["image"].numpy(), np.asarray(image).transpose(2, 0, 1))
    assert (result["height"], result["width"], result["meta"]) == (80, 110, record["meta"])
    padded = mapper(small_config, MIN_SIZE_TRAIN=(40,), SIZE_DIVISIBILITY=64)(record, np.random.default_rng(0))
    assert padded["image"].shape == (3, 64, 64) and not padded["instances"].gt_masks[:, 40:].any()


def test_panoptic_masks_by_hand(small_config: CfgNode, panoptic_record: dict) -> None:
    """Two segments of one class are two masks; a crowd and void are none."""
    settings_ = {"MIN_SIZE_TRAIN": (0,), "RANDOM_FLIP": "none", "DATASET_MAPPER_NAME": "mask_former_panoptic"}
    result = mapper(small_config, **settings_)(panoptic_record, np.random.default_rng(0))
    assert result["instances"].gt_classes.tolist() == [3, 3]
    expected = np.zeros((2, 40, 60), bool)
    expected[0, :20, :30], expected[1, 20:, :30] = True, True
    assert np.array_equal(result["instances"].gt_masks.numpy(), expected)
    settings_["CROP__ENABLED"], settings_["CROP__TYPE"], settings_["CROP__SIZE"] = True, "absolute", [20, 20]
    sizes = set()
    for seed in range(30):
        instances = mapper(small_config, **settings_)(panoptic_record, np.random.default_rng(seed))["instances"]
        assert instances.gt_masks.shape[1:] == (20, 20)
        assert all(mask.any() for mask in instances.gt_masks), "a segment that the crop has lost is no target"
        sizes.add(len(instances))
    assert sizes == {0, 1, 2}


def test_jitter_of_a_record_is_a_function_of_the_generator(small_config: CfgNode, panoptic_record: dict) -> None:
    jitter = mapper(small_config, DATASET_MAPPER_NAME="coco_panoptic_lsj", IMAGE_SIZE=48)
    assert jitter.one_size
    first, second, other = (jitter(panoptic_record, np.random.default_rng(seed))["image"] for seed in (4, 4, 5))
    assert first.shape == (3, 48, 48) and (first == second).all() and not (first == other).all()


def test_what_is_wrong_with_a_record_or_key(small_config: CfgNode, panoptic_record: dict, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="has no label maps"):
        mapper(small_config)(panoptic_record, rng)
    Image.new("RGB", (10, 10)).save(tmp_path / "small.png")
    panoptic = mapper(small_config, DATASET_MAPPER_NAME="coco_panoptic_lsj")
    with pytest.raises(UserError, match="40 x 60 pixels, its annotation 10 x 10"):
        panoptic(panoptic_record | {"pan_seg_file_name": str(tmp_path / "small.png")}, rng)
    with pytest.raises(UserError, match="no such panoptic label file"):
        panoptic(panoptic_record | {"pan_seg_file_name": str(tmp_path / "none.png")}, rng)
    for key, value in (("RANDOM_FLIP", "diagonal"), ("MIN_SIZE_TRAIN", (-3,)), ("CROP__TYPE", "round")):
        with pytest.raises(UserError, match=key.replace("__", ".")):
            mapper(small_config, **{key: value})
    with pytest.raises(UserError, match="MIN_SCALE"):
        mapper(small_config, DATASET_MAPPER_NAME="coco_panoptic_lsj", MIN_SCALE=0.0)
