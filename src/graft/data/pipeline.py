"""The input pipeline: the same tf.data pipeline for every loop, over stored images or stored features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from graft.config import Augmentation, Config
from graft.cpus import usable_cpus
from graft.data import augment, splits
from graft.data.image_set import ImageSet
from graft.data.splits import Rows, Splits
from graft.data.store import open_store


class Inputs(Protocol):
    """What a model is fed for each image of a set. May be larger than memory."""

    @property
    def spec(self) -> tf.TensorSpec:
        """Shape and dtype of one input."""

    def take(self, rows: Rows) -> npt.NDArray[Any]:
        """The inputs of the images at `rows`, as [rows, …]. May be called from several threads."""


class InMemory:
    """Inputs and labels as tensors, for loops that run a whole epoch in one call.

    Args:
        inputs: They have to fit into memory.
        labels: int32 [images].

    Attributes:
        tensors: All inputs, [images, …], and all labels, int32 [images], as TensorFlow's.
    """

    def __init__(self, inputs: Inputs, labels: npt.NDArray[np.int32]) -> None:
        self._inputs = inputs
        self.tensors = (tf.constant(inputs.take(np.arange(len(labels)))), tf.constant(labels))

    @property
    def spec(self) -> tf.TensorSpec:
        """Shape and dtype of one input."""
        return self._inputs.spec

    def take(self, rows: Rows) -> npt.NDArray[Any]:
        """The inputs of the images at `rows`, as [rows, …]."""
        return self._inputs.take(rows)


@dataclass(frozen=True)
class Data:
    """A data set ready to be trained on.

    Attributes:
        images: The images in use, their labels and digests.
        inputs: What is fed for each of them: resized pixels, or features.
        splits: Rows of `images`, and of `inputs`.
        sha256: Fingerprint of the images and classes in use.
        unreadable: Names of images that were left out.
        augmentation: What becomes of training images at random. Needs pixels as inputs, unless it is ``none``.
    """

    images: ImageSet
    inputs: Inputs
    splits: Splits
    sha256: str
    unreadable: tuple[str, ...]
    augmentation: Augmentation = "none"

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.images.class_names

    def train_order(self, *, seed: int, epoch: int) -> Rows:
        """The rows of the training split as the epoch sees them, int64 [images]: `seed` and `epoch` decide."""
        return np.random.default_rng([seed, epoch]).permutation(self.splits.train)

    def train_batches(self, batch_size: int, *, seed: int, epoch: int) -> tf.data.Dataset:
        """The training split, augmented, in an order that `seed` and `epoch` alone decide.

        So an epoch that is run again after a crash sees the same batches as it would have without one. They are as
        those of `batches`.
        """
        return self._training(self.train_order(seed=seed, epoch=epoch), batch_size, seed=seed, epoch=epoch)

    def train_epochs(self, batch_size: int, *, seed: int, epochs: range) -> tf.data.Dataset:
        """The batches of `train_batches` of one epoch after the other, for a loop that asks for one data set."""

        def training(epoch: tf.Tensor) -> tf.data.Dataset:
            order = tf.numpy_function(
                lambda number: self.train_order(seed=seed, epoch=int(number)), [epoch], tf.int64, stateful=False
            )
            order = tf.ensure_shape(order, self.splits.train.shape)
            return self._training(order, batch_size, seed=seed, epoch=tf.cast(epoch, tf.int32))

        return tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(training).with_options(_untuned())

    def _training(
        self, order: Rows | tf.Tensor, batch_size: int, *, seed: int, epoch: int | tf.Tensor
    ) -> tf.data.Dataset:
        batches = self.batches(order, batch_size)
        if self.augmentation == "none":
            return batches
        change = augment.BY_NAME[self.augmentation]
        draws = augment.draws(order.shape[0], seed=seed, epoch=epoch)
        drawn = tf.data.Dataset.from_tensor_slices(draws).batch(batch_size)
        return (
            tf.data.Dataset.zip(batches, drawn)
            .map(lambda batch, draws: (change(batch[0], draws), batch[1]), num_parallel_calls=usable_cpus())
            .prefetch(2)
            .with_options(_untuned())
        )

    def batches(self, rows: Rows | tf.Tensor, batch_size: int) -> tf.data.Dataset:
        """The inputs at `rows` in that order, as ([batch, …], int32 [batch]). The last batch may be smaller."""
        inputs, labels = self.inputs, self.images.labels
        spec = inputs.spec

        def gather(batch: Rows) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
            return inputs.take(batch), labels[batch]

        def load(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            taken, classes = tf.numpy_function(gather, [batch], (spec.dtype, tf.int32), stateful=False)
            return tf.ensure_shape(taken, (None, *spec.shape)), tf.ensure_shape(classes, (None,))

        batches = tf.data.Dataset.from_tensor_slices(rows).batch(batch_size)
        return batches.map(load, num_parallel_calls=2).prefetch(2).with_options(_untuned())


def _untuned() -> tf.data.Options:
    """Without tf.data's tuner: there is nothing to tune, and an iterator's end may wait for its thread to wake up.

    That thread sleeps twice as long each time: in TensorFlow 2.21 4 s after an epoch of 6 s, 10 s after one of 11 s.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def in_memory(inputs: Inputs, labels: npt.NDArray[np.int32], budget_mb: int) -> Inputs:
    """`inputs` in memory if they are no larger than `budget_mb` megabytes of 10^6 bytes, else as they are."""
    size = len(labels) * inputs.spec.dtype.size * math.prod(inputs.spec.shape)
    return InMemory(inputs, labels) if size <= budget_mb * 10**6 else inputs


def prepare(images: ImageSet, parts: Splits, config: Config) -> Data:
    """Decodes and resizes what `splits.choose` chose.

    Raises:
        ConfigError: for unreadable images under ``dataset.on_corrupt=error``, or if without them a class is missing.
        FatalError: if an image changed meanwhile or is gone, or the resized ones cannot be stored.
    """
    store = open_store(images, config.image_size, on_corrupt=config.dataset.on_corrupt)
    parts = parts.within(store.places)
    splits.refuse_missing_classes(store.images, parts)
    return Data(store.images, store, parts, store.images.sha256(), store.unreadable, config.augment)
