"""Optimisers by configuration."""

from __future__ import annotations

import tf_keras

from graft.config import AdamConfig, AdamWConfig, Config


def make_optimizer(config: Config) -> tf_keras.optimizers.Optimizer:
    """The configured optimiser at the configured learning rate, its other settings Keras' own."""
    chosen = config.optimizer
    if isinstance(chosen, AdamConfig):
        return tf_keras.optimizers.Adam(config.learning_rate)
    if isinstance(chosen, AdamWConfig):
        return tf_keras.optimizers.AdamW(config.learning_rate, weight_decay=chosen.weight_decay)
    return tf_keras.optimizers.SGD(config.learning_rate, momentum=chosen.momentum)
