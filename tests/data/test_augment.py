"""Augmentation: what it does to pixels, and that seed, epoch and position alone decide it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import backbone_at

from graft import run
from graft.config import Augmentation, Config
from graft.data import augment, pipeline, splits

MakeConfig = Callable[..., Config]

COLOURS = np.random.default_rng(0).integers(60, 180, (6, 12, 10, 3)).astype(np.uint8)
BELOW_1 = np.nextafter(np.float32(1), np.float32(0))


@pytest.fixture
def data(make_config: MakeConfig) -> pipeline.Data:
    config = make_config("dataset.max_images=100", "dataset.image_size=8", "augment=flip")
    return pipeline.prepare(*splits.choose(config.dataset), config)


def epoch(data: pipeline.Data, seed: int, number: int, batch_size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    batches = list(data.train_batches(batch_size, seed=seed, epoch=number).as_numpy_iterator())
    return np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])


def drawn(**columns: float | np.ndarray) -> np.ndarray:
    """Draws that change nothing, but for the named columns."""
    neutral = {"FLIP": 0.9, "AREA": BELOW_1, "TOP": 0, "LEFT": 0, "BRIGHTNESS": 0.5, "CONTRAST": 0.5, "SATURATION": 0.5}
    made = np.empty((len(COLOURS), augment.COLUMNS), np.float32)
    for name, value in {**neutral, **columns}.items():
        made[:, getattr(augment, name)] = value
    return made


def test_flip_mirrors_about_half_of_the_training_images_and_keeps_their_labels(data: pipeline.Data) -> None:
    images, labels = epoch(data, seed=0, number=0)
    originals, classes = epoch(replace(data, augmentation="none"), seed=0, number=0)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(labels, classes)
    mirrored = [bool((image != original).any()) for image, original in zip(images, originals, strict=True)]
    for image, original, flipped in zip(images, originals, mirrored, strict=True):
        np.testing.assert_array_equal(image, original[:, ::-1] if flipped else original)
    assert 0.3 < np.mean(mirrored) < 0.7
    # Known in advance: another process, or another machine, draws the same.
    assert mirrored[:12] == [True] * 3 + [False] * 3 + [True, False] + [True] * 4


def test_images_that_validate_and_test_are_left_alone(data: pipeline.Data) -> None:
    for rows in (data.splits.val, data.splits.test):
        images = np.concatenate([images for images, _ in data.batches(rows, 16).as_numpy_iterator()])
        np.testing.assert_array_equal(images, data.inputs.take(rows))


@pytest.mark.parametrize("kind", ["flip", "standard"])
def test_an_epoch_that_is_run_again_sees_the_same_pixels(data: pipeline.Data, kind: Augmentation) -> None:
    data = replace(data, augmentation=kind)
    first, _ = epoch(data, seed=3, number=2)
    assert first.shape == (len(data.splits.train), 8, 8, 3)
    assert len(first) % 16, "the last batch is to be a smaller one"
    np.testing.assert_array_equal(epoch(data, seed=3, number=2)[0], first)
    other_batches, _ = epoch(data, seed=3, number=2, batch_size=5)
    np.testing.assert_allclose(other_batches, first, atol=0 if kind == "flip" else 1)  # a level: of rounding


def test_epochs_and_seeds_have_draws_of_their_own(data: pipeline.Data) -> None:
    def mirrored(seed: int, number: int) -> np.ndarray:
        images, _ = epoch(data, seed, number)
        originals, _ = epoch(replace(data, augmentation="none"), seed, number)
        return (images != originals).any(axis=(1, 2, 3))

    first = mirrored(seed=0, number=0)  # by place in the epoch: the order alone would not do
    for other in (mirrored(seed=0, number=1), mirrored(seed=1, number=0)):
        assert 0.2 < np.mean(other != first) < 0.8


def test_standard_crops_at_most_a_fifth_of_the_area_and_resizes_back() -> None:
    ramp = np.broadcast_to(np.arange(0, 250, 10, np.uint8)[:, None, None], (25, 25, 3))
    images = np.stack([ramp, np.swapaxes(ramp, 0, 1)] * 3)
    for top, left in ((0, 0), (BELOW_1, 0), (0, BELOW_1)):
        changed = np.asarray(augment.standard(images, drawn(AREA=0, TOP=top, LEFT=left)), np.float32)
        side = 0.8**0.5
        for image, start in ((changed[0, :, 3, 1], top * (1 - side)), (changed[1, 3, :, 1], left * (1 - side))):
            np.testing.assert_allclose(image, 240 * np.linspace(start, start + side, 25), atol=0.51)
    mirrored = augment.standard(images, drawn(AREA=0, LEFT=0.3, FLIP=0.1))
    np.testing.assert_array_equal(mirrored, augment.standard(images, drawn(AREA=0, LEFT=0.3))[:, :, ::-1])


def test_standard_changes_colours_one_after_the_other_by_at_most_a_fifth() -> None:
    np.testing.assert_array_equal(augment.standard(COLOURS, drawn()), COLOURS)
    random = np.random.default_rng(1).random((3, len(COLOURS))).astype(np.float32)
    random[:, 0], random[:, 1] = 0, BELOW_1
    factors = (0.8 + 0.4 * random)[..., np.newaxis, np.newaxis, np.newaxis]
    luma = np.array([0.299, 0.587, 0.114])
    pixels = COLOURS * factors[0]
    mean_grey = (pixels @ luma).mean(axis=(1, 2))[:, np.newaxis, np.newaxis, np.newaxis]
    pixels = factors[1] * pixels + (1 - factors[1]) * mean_grey
    pixels = factors[2] * pixels + (1 - factors[2]) * (pixels @ luma)[..., np.newaxis]
    assert pixels.min() > 0
    assert pixels.max() < 255
    changed = augment.standard(COLOURS, drawn(BRIGHTNESS=random[0], CONTRAST=random[1], SATURATION=random[2]))
    np.testing.assert_allclose(changed, pixels, atol=0.51)


def test_what_is_brighter_than_white_is_white() -> None:
    white = np.full_like(COLOURS, 250)
    np.testing.assert_array_equal(augment.standard(white, drawn(BRIGHTNESS=1)), np.full_like(COLOURS, 255))


def test_a_frozen_backbone_is_given_the_augmented_images_and_no_stored_features(
    make_config: MakeConfig, tiny_backbone: Path
) -> None:
    small = (*backbone_at(tiny_backbone), "dataset.image_size=16", "dataset.max_images=60")
    kinds: tuple[Augmentation, ...] = ("none", "flip", "standard")  # one process may run them one after the other
    for kind in kinds:
        prepared = run.prepare(make_config(*small, f"augment={kind}", "features=auto"))
        assert (prepared.features is None) == (kind != "none")
        assert prepared.data.augmentation == kind
        if kind != "none":
            assert prepared.data.inputs.spec.shape == (16, 16, 3)
