"""A small convolutional network, trained on scikit-learn's handwritten digits.

Five convolutions with batch norms, as EfficientNet-Lite has them, and a mean over all positions, so that images of any
size can be looked at. It imports TensorFlow, so it is imported late.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from graft.backbones.efficientnet_lite import BATCH_NORM_MOMENTUM, ConvolutionBatchNorm

FEATURE_WIDTH = 128
LAYERS = ((16, 1), (32, 2), (64, 2), (128, 1), (FEATURE_WIDTH, 2))  # filters and stride
SIDE = 32  # pixels that the digits, 8 a side, are resized to
TRAIN_FRACTION = 0.75
EPOCHS, BATCH, LEARNING_RATE = 10, 32, 1e-3


class DigitsNetwork(tf.Module):
    """From images to the features before the classifier.

    Args of the call:
        images: float32 [batch, height, width, 3], RGB from 0 to 1, of any size.
        training: Whether batch norms use the statistics of the batch and update their moving averages.
        batch_norm_momentum: The share of the old moving averages that an update keeps, from 0 to 1.

    Returns of the call:
        float32 [batch, 128], the mean over all positions of the last layer, from 0 to 6.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(name="digits_network")
        weights = _DrawnWeights(seed)
        self.layers, inputs = [], 3
        for number, (outputs, stride) in enumerate(LAYERS):
            names = f"convolution_{number}", f"batch_norm_{number}"
            self.layers.append(
                ConvolutionBatchNorm(weights, *names, kernel=3, inputs=inputs, outputs=outputs, stride=stride)
            )
            inputs = outputs

    def __call__(
        self, images: tf.Tensor, training: bool = False, batch_norm_momentum: float | tf.Tensor = BATCH_NORM_MOMENTUM
    ) -> tf.Tensor:
        x = images * 2 - 1
        for layer in self.layers:
            x = layer(x, training, batch_norm_momentum)
        return tf.reduce_mean(x, axis=(1, 2))


class _DrawnWeights:
    """Initial weights: convolutions as He et al. (2015) draw them, batch norms that change nothing."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def take(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        if name.startswith("convolution"):
            return (self._random.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
        ones = name.endswith((".weight", ".running_var"))
        return (np.ones if ones else np.zeros)(shape, np.float32)


def train(seed: int = 0) -> tuple[DigitsNetwork, float]:
    """The network, trained, and its accuracy, from 0 to 1, on the quarter of the digits that it was not trained on.

    Args:
        seed: Of the initial weights, of the order, and of which digits are held back.
    """
    images, labels = _digits()
    order = np.random.default_rng(seed).permutation(len(labels))
    trained_on, held_back = np.split(order, [int(TRAIN_FRACTION * len(order))])
    network = DigitsNetwork(seed)
    initializer = tf_keras.initializers.GlorotUniform(seed=seed)
    kernel = tf.Variable(initializer((FEATURE_WIDTH, 10)))
    variables = [*network.trainable_variables, kernel]
    optimizer = tf_keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(variables)

    @tf.function
    def step(batch: tf.Tensor, classes: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            logits = tf.matmul(network(batch, training=True), kernel)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    for epoch in range(EPOCHS):
        order = np.random.default_rng([seed, epoch]).permutation(trained_on)
        for start in range(0, len(order) - BATCH + 1, BATCH):
            taken = order[start : start + BATCH]
            step(tf.gather(images, taken), tf.gather(labels, taken))
    predicted = tf.argmax(tf.matmul(network(tf.gather(images, held_back)), kernel), axis=1)
    return network, float(np.mean(predicted.numpy() == labels[held_back]))


def _digits() -> tuple[tf.Tensor, NDArray[np.int32]]:
    """All 1,797 digits as float32 [images, SIDE, SIDE, 3] from 0 to 1, and their labels."""
    digits = load_digits()
    grey = tf.constant(digits.images[..., None] / 16, tf.float32)
    return tf.repeat(tf.image.resize(grey, (SIDE, SIDE)), 3, axis=-1), digits.target.astype(np.int32)
