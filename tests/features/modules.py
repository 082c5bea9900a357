"""Small modules that the engines are tried on: two that every engine can run, and one that none can be trusted with."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import numpy as np
import tensorflow as tf


class Convolutions(tf.Module):
    """A strided convolution, a batch norm, ReLU6, a depthwise convolution and a mean, as mobile networks have them."""

    def __init__(self) -> None:
        super().__init__()
        random = np.random.default_rng(1)
        self.kernel = tf.Variable(random.normal(size=(3, 3, 3, 12)), dtype=tf.float32)
        self.depthwise = tf.Variable(random.normal(size=(3, 3, 12, 1)), dtype=tf.float32)
        self.mean = tf.Variable(random.normal(size=12), dtype=tf.float32, trainable=False)
        self.variance = tf.Variable(random.random(12) + 0.5, dtype=tf.float32, trainable=False)

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        x = tf.nn.conv2d(images, self.kernel, strides=2, padding="SAME")
        x = tf.nn.relu6(tf.nn.batch_normalization(x, self.mean, self.variance, None, None, 1e-3))
        x = tf.nn.depthwise_conv2d(x, self.depthwise, strides=(1, 1, 1, 1), padding="SAME")
        return tf.reduce_mean(x, axis=(1, 2))


class Attention(tf.Module):
    """Patches, a softmax over them and GELU, as vision transformers have them."""

    def __init__(self) -> None:
        super().__init__()
        random = np.random.default_rng(2)
        self.patches = tf.Variable(random.normal(size=(2, 2, 3, 16)), dtype=tf.float32)
        self.dense = tf.Variable(random.normal(size=(16, 16)), dtype=tf.float32)

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        patches = tf.nn.conv2d(images, self.patches, strides=2, padding="VALID")
        tokens = tf.reshape(patches, (tf.shape(images)[0], -1, 16))
        weights = tf.nn.softmax(tf.matmul(tokens, tokens, transpose_b=True) / 4)
        return tf.reduce_max(tf.nn.gelu(tf.matmul(tf.matmul(weights, tokens), self.dense)), axis=1)


class WithRandomFlip(Convolutions):
    """Someone left the augmentation in."""

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        flipped = tf.where(tf.random.uniform((tf.shape(images)[0], 1, 1, 1)) < 0.5, images[:, :, ::-1], images)
        return super().__call__(flipped, training)


def save(module: tf.Module, folder: Path) -> Path:
    """Writes `module` as a reusable SavedModel."""
    root = tf.train.Checkpoint(module=module)
    root.__call__ = tf.function(module.__call__)
    for training in (False, True):
        root.__call__.get_concrete_function(tf.TensorSpec((None, None, None, 3), tf.float32), training=training)
    root.variables = list(module.variables)
    root.trainable_variables = list(module.trainable_variables)
    root.regularization_losses = getattr(module, "regularization_losses", [])
    tf.saved_model.save(root, str(folder))
    return folder
