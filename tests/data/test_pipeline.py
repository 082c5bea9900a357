"""The input pipeline: every image once an epoch, in an order that seed and epoch decide."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from graft.config import Config
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
