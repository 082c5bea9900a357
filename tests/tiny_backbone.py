"""A backbone small enough to train end to end in a test, as TF Hub's modules are: saved, called, fine-tuned.

It is written without Graft's own export, so that it stands for a module that someone else made.
"""

from __future__ import annotations

import os
from pathlib import Path

# Read by TensorFlow when it is first imported: hub.KerasLayer is a layer of tf_keras.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import numpy as np
import tensorflow as tf

GRID = 4


def feature_width(width: int = 8) -> int:
    """How many features a tiny backbone of `width` filters gives."""
    return width * GRID * GRID


def save_tiny_backbone(
    folder: Path, input_size: int | None = None, width: int = 8, seed: int = 0, antialias: bool = True
) -> Path:
    """Writes a reusable SavedModel with two convolutions and batch norms, and a grid of features.

    Images are float32 [batch, height, width, 3] from 0 to 1, features float32 [batch, `feature_width`].
    A head on it learns the digits to more than 0.9 in a few epochs. The same seed gives the same weights.

    Args:
        folder: Made if it is not there.
        input_size: The only height and width in pixels that it takes; None for any.
        width: Number of filters of each convolution.
        seed: Of the weights.
        antialias: Whether images are made small with an operation that TFLite does not have.

    Returns:
        `folder`.
    """
    network = TinyBackbone(width, seed, antialias)
    network.calibrate(seed)

    root = tf.train.Checkpoint(network=network)
    root.__call__ = tf.function(network.__call__)
    for training in (False, True):
        root.__call__.get_concrete_function(
            tf.TensorSpec((None, input_size, input_size, 3), tf.float32),
            training=training,
            batch_norm_momentum=tf.TensorSpec((), tf.float32),
        )
    root.variables = list(network.variables)
    root.trainable_variables = list(network.trainable_variables)
    root.regularization_losses = []
    tf.saved_model.save(root, str(folder))
    return folder


class TinyBackbone(tf.Module):
    """Random filters see strokes and their ends well enough; the grid says where they are."""

    def __init__(self, width: int, seed: int, antialias: bool) -> None:
        super().__init__()
        self.antialias = antialias
        generator = np.random.default_rng(seed)
        self.kernels, self.scales, self.offsets, self.means, self.variances = [], [], [], [], []
        for inputs in (3, width):
            kernel = generator.normal(size=(3, 3, inputs, width)) * np.sqrt(2 / (9 * inputs))
            self.kernels.append(tf.Variable(kernel, dtype=tf.float32, name="kernel"))
            self.scales.append(tf.Variable(tf.ones(width), name="scale"))
            self.offsets.append(tf.Variable(tf.zeros(width), name="offset"))
            self.means.append(tf.Variable(tf.zeros(width), trainable=False, name="moving_mean"))
            self.variances.append(tf.Variable(tf.ones(width), trainable=False, name="moving_variance"))

    def __call__(
        self, images: tf.Tensor, training: bool = False, batch_norm_momentum: float | tf.Tensor = 0.9
    ) -> tf.Tensor:
        # A fixed small size first, so that large images cost no more than small ones.
        x = tf.image.resize(images, (4 * GRID, 4 * GRID), antialias=self.antialias)
        for layer in range(2):
            x = tf.nn.conv2d(x, self.kernels[layer], strides=1, padding="SAME")
            x = tf.nn.relu(self._batch_norm(layer, x, training, batch_norm_momentum))
            x = tf.nn.avg_pool2d(x, ksize=2, strides=2, padding="VALID")
        return tf.reshape(x, (-1, feature_width(x.shape[-1])))

    def _batch_norm(self, layer: int, x: tf.Tensor, training: bool, momentum: float | tf.Tensor) -> tf.Tensor:
        mean, variance = self.means[layer], self.variances[layer]
        if training:
            batch_mean, batch_variance = tf.nn.moments(x, axes=(0, 1, 2))
            mean.assign(momentum * mean + (1 - momentum) * batch_mean)
            variance.assign(momentum * variance + (1 - momentum) * batch_variance)
            mean, variance = batch_mean, batch_variance
        return tf.nn.batch_normalization(x, mean, variance, self.offsets[layer], self.scales[layer], 1e-3)

    def calibrate(self, seed: int) -> None:
        """Gives the moving averages the values they would have after training on blurred blots."""
        blots = np.random.default_rng(seed).random((64, 5, 5, 1), np.float32) > 0.5
        images = tf.image.resize(tf.repeat(tf.cast(blots, tf.float32), 3, axis=-1), (4 * GRID, 4 * GRID))
        self(images, training=True, batch_norm_momentum=0.0)
