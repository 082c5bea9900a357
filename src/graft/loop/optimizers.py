"""Optimisers by configuration."""

from __future__ import annotations

import math

import tensorflow as tf
import tf_keras

from graft.config import AdamConfig, AdamWConfig, Config

EXPONENTIAL_END = 0.01  # of the learning rate, where an exponential schedule would be after the last epoch


def make_optimizer(config: Config, *, scale_loss: bool = False) -> tf_keras.optimizers.Optimizer:
    """The configured optimiser at the configured learning rate, its other settings Keras' own.

    Args:
        config: Names it.
        scale_loss: Scale the loss, so that gradients in float16 do not vanish, and skip steps in which they overflow.
    """
    optimizer = _plain(config)
    return tf_keras.mixed_precision.LossScaleOptimizer(optimizer) if scale_loss else optimizer


def state_of(optimizer: tf_keras.optimizers.Optimizer) -> list[tf.Variable]:
    """Every variable of a built optimiser; Keras leaves those of loss scaling out of `variables`."""
    scaling = getattr(optimizer, "_loss_scale", None)
    return [*optimizer.variables, *(scaling._weights.values() if scaling is not None else ())]


def learning_rate_of(config: Config, epoch: int) -> float:
    """The learning rate of an epoch, counted from 0.

    With E epochs it is ``learning_rate`` times

    - ``constant``: 1
    - ``cosine``: (1 + cos(pi epoch / E)) / 2, as Keras' CosineDecay over E
    - ``exponential``: 0.01 ** (epoch / E), as Keras' ExponentialDecay over E with a rate of 0.01
    """
    done = epoch / config.epochs
    match config.learning_rate_schedule:
        case "constant":
            return config.learning_rate
        case "cosine":
            return config.learning_rate * (1 + math.cos(math.pi * done)) / 2
        case "exponential":
            return config.learning_rate * EXPONENTIAL_END**done


def _plain(config: Config) -> tf_keras.optimizers.Optimizer:
    chosen = config.optimizer
    if isinstance(chosen, AdamConfig):
        return tf_keras.optimizers.Adam(config.learning_rate)
    if isinstance(chosen, AdamWConfig):
        return tf_keras.optimizers.AdamW(config.learning_rate, weight_decay=chosen.weight_decay)
    return tf_keras.optimizers.SGD(config.learning_rate, momentum=chosen.momentum)
