"""The model: a backbone, a new head on it, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import tensorflow as tf
import tf_keras

from graft.config import Config


class SeededDropout(tf_keras.layers.Layer):
    """Dropout whose masks hang on the seed and the number of the training step alone.

    Keras' own Dropout draws from a generator that is in no checkpoint and that an earlier model in the same
    process moves on: a resumed run, or the second trial of a warm worker, would see other masks. Here the step
    counter is a weight, so it is saved and restored with the model. Rate and seed are weights too, so that training
    steps are compiled once for all rates and seeds.

    Args:
        rate: Fraction of the values set to 0 in training; the others are scaled by 1 / (1 - rate).
        seed: Decides the masks, together with the step.
    """

    def __init__(self, rate: float, seed: int, **options: object) -> None:
        super().__init__(**options)
        self._initial = {"step": 0, "rate": rate, "seed": seed}

    def build(self, input_shape: tf.TensorShape) -> None:
        self.step, self.rate, self.seed = (
            self.add_weight(
                name,
                shape=(),
                dtype=tf.float32 if name == "rate" else tf.int64,
                initializer=tf_keras.initializers.Constant(value),
                trainable=False,
            )
            for name, value in self._initial.items()
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training:
            return inputs
        key = tf.stack([self.seed, self.step.assign_add(1)])
        # Philox by name: the default algorithm differs between devices.
        return tf.nn.experimental.stateless_dropout(inputs, self.rate.read_value(), seed=key, rng_alg="philox")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self._initial["rate"], "seed": self._initial["seed"]}


HEAD = "head"
BACKBONE = "backbone"


def build_head(feature_width: int, config: Config, *, classes: int) -> tf_keras.Model:
    """The new head: features [batch, feature_width] in, logits [batch, classes] out.

    Args:
        feature_width: How many features the backbone gives.
        config: `head_width`, `dropout_rate` and `seed` are read.
        classes: Number of classes.
    """
    layers = [tf_keras.layers.InputLayer((feature_width,))]
    if config.head_width:
        layers.append(_dense(config.head_width, config.seed, activation="relu"))
        layers.append(SeededDropout(config.dropout_rate, config.seed))  # at rate 0, too: one training step for all
    layers.append(_dense(classes, config.seed + 1))
    return tf_keras.Sequential(layers, name=HEAD)


def build_model(backbone: tf_keras.layers.Layer, config: Config, *, classes: int) -> tf_keras.Model:
    """Backbone and head: uint8 images [batch, size, size, 3] in, logits [batch, classes] out.

    Args:
        backbone: A hub layer, frozen or trainable, from images in `config.value_range` to [batch, width].
        config: As for `build_head`, and the image size.
        classes: Number of classes.
    """
    images = tf_keras.Input((config.image_size, config.image_size, 3), dtype=tf.uint8)
    low, high = config.value_range
    # As `scale_pixels`, to the last bit; unlike a Lambda around it, it can be cloned, which Estimator does.
    scale = tf_keras.layers.Rescaling((high - low) / 255, low, name="scale")
    features = backbone(scale(images))
    return tf_keras.Model(images, build_head(features.shape[-1], config, classes=classes)(features))


def head_of(model: tf_keras.Model) -> tf_keras.Model:
    """The head of what `build_model` or `build_head` gave."""
    return model if model.name == HEAD else model.get_layer(HEAD)


def reset(model: tf_keras.Model, config: Config, pretrained: Sequence[npt.NDArray[Any]]) -> None:
    """Makes a trained model what it was when it was built, but with the dropout rate and the seed of `config`.

    Args:
        model: By `build_head` or `build_model`, for a configuration that differs in those two alone.
        config: As for `build_head`.
        pretrained: The weights of the backbone before training; empty if training did not change them.
    """
    head = head_of(model)
    head.set_weights(build_head(head.input_shape[-1], config, classes=head.output_shape[-1]).get_weights())
    if pretrained:
        model.get_layer(BACKBONE).set_weights(pretrained)


def trained_part(model: tf_keras.Model, config: Config) -> tf_keras.Model:
    """What training changes, and so what checkpoints hold: the whole model, or its head on a frozen backbone.

    A frozen backbone is known by its digest; writing it after every epoch would only cost time and space.
    """
    return model if config.trainable else head_of(model)


def scale_pixels(pixels: tf.Tensor, config: Config) -> tf.Tensor:
    """uint8 pixels of any shape as float32 in `config.value_range`."""
    low, high = config.value_range
    return tf.cast(pixels, tf.float32) * ((high - low) / 255) + low


def _dense(width: int, seed: int, activation: str | None = None) -> tf_keras.layers.Dense:
    # A seed of its own: the initial weights hang on nothing that the process did before.
    initializer = tf_keras.initializers.GlorotUniform(seed=seed)
    return tf_keras.layers.Dense(width, activation=activation, kernel_initializer=initializer)
