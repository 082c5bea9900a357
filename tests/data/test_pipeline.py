"""The input pipeline: every image once an epoch, in an order that seed and epoch decide."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from graft.config import Augmentation, Config
from graft.data import pipeline, splits


@pytest.fixture
def data(make_config: Callable[..., Config]) -> pipeline.Data:
    config = make_config("dataset.max_images=100", "dataset.image_size=8")
    return pipeline.prepare(*splits.choose(config.dataset), config)


def epoch(data: pipeline.Data, seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    batches = list(data.train_batches(16, seed=seed, epoch=number).as_numpy_iterator())
    assert all(len(images) == 16 for images, _ in batches[:-1])
    return np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])


def test_an_epoch_has_every_training_image_once_with_its_label(data: pipeline.Data) -> None:
    images, labels = epoch(data, seed=0, number=0)
    train = data.splits.train
    assert images.dtype == np.uint8
    wanted = sorted(zip(map(bytes, data.inputs.take(train)), data.images.labels[train].tolist(), strict=True))
    assert sorted(zip(map(bytes, images), labels.tolist(), strict=True)) == wanted


def test_seed_and_epoch_decide_the_order(data: pipeline.Data) -> None:
    first, _ = epoch(data, seed=0, number=0)
    again, _ = epoch(data, seed=0, number=0)
    np.testing.assert_array_equal(first, again)
    assert (epoch(data, seed=0, number=1)[0] != first).any()
    assert (epoch(data, seed=1, number=0)[0] != first).any()


def test_evaluation_batches_keep_their_order(data: pipeline.Data) -> None:
    batches = list(data.batches(data.splits.val, 7).as_numpy_iterator())
    np.testing.assert_array_equal(
        np.concatenate([labels for _, labels in batches]), data.images.labels[data.splits.val]
    )


class SlowAtFirst:
    """Every second batch is there before the one in front of it."""

    def __init__(self, inputs: pipeline.Inputs) -> None:
        self._inputs = inputs
        self._taken = 0

    @property
    def spec(self) -> tf.TensorSpec:
        return self._inputs.spec

    def take(self, rows: np.ndarray) -> np.ndarray:
        self._taken += 1
        time.sleep(0.05 if self._taken % 2 else 0)
        return self._inputs.take(rows)


@pytest.mark.parametrize("augmentation", ["none", "standard"])
def test_batches_that_are_read_side_by_side_keep_their_order(data: pipeline.Data, augmentation: Augmentation) -> None:
    data = replace(data, augmentation=augmentation)
    expected = epoch(data, seed=0, number=0)
    found = epoch(replace(data, inputs=SlowAtFirst(data.inputs)), seed=0, number=0)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
