"""The input pipeline: the same tf.data pipeline for every loop, over the store of resized images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from graft.config import Config
from graft.data import splits
from graft.data.sources import ImageSet
from graft.data.splits import Rows, Splits
from graft.data.store import ImageStore, open_store


@dataclass(frozen=True)
class Data:
    """A data set ready to be trained on.

    Attributes:
        store: Its images, resized.
        splits: Rows of the store.
        sha256: Fingerprint of the images and classes in use.
    """

    store: ImageStore
    splits: Splits
    sha256: str

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.store.images.class_names

    def train_batches(self, batch_size: int, *, seed: int, epoch: int) -> tf.data.Dataset:
        """The training split in an order that `seed` and `epoch` alone decide.

        So an epoch that is run again after a crash sees the same batches as it would have without one.
        """
        order = np.random.default_rng([seed, epoch]).permutation(self.splits.train)
        return self.batches(order, batch_size)

    def batches(self, rows: Rows, batch_size: int) -> tf.data.Dataset:
        """The images at `rows` in that order, as (uint8 [batch, size, size, 3], int32 [batch]).

        The last batch may be smaller.
        """
        store, size = self.store, self.store.file.shape[1]

        def gather(batch: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
            return store.pixels(batch), store.images.labels[batch]

        def load(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            images, classes = tf.numpy_function(gather, [batch], (tf.uint8, tf.int32), stateful=False)
            return tf.ensure_shape(images, (None, size, size, 3)), tf.ensure_shape(classes, (None,))

        return tf.data.Dataset.from_tensor_slices(rows).batch(batch_size).map(load, num_parallel_calls=2).prefetch(2)


def prepare(images: ImageSet, config: Config) -> Data:
    """Decodes, resizes and divides `images`, which `splits.choose` chose.

    Raises:
        ConfigError: for unreadable images under ``dataset.on_corrupt=error``, or if without them a class is too small.
    """
    store = open_store(images, config.image_size, on_corrupt=config.dataset.on_corrupt)
    return Data(store, splits.split(store.images, config.dataset), store.images.sha256())
