"""Writes a network in the form that TF Hub's layers expect: a reusable SavedModel.

The interface is TF Hub's (tensorflow.org/hub/reusable_saved_models): the root object can be called, and
lists what can be trained. It imports TensorFlow, so it is imported late.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import tensorflow as tf


class Network(Protocol):
    """A `tf.Module` from float32 images [batch, height, width, 3] to features [batch, width]."""

    @property
    def variables(self) -> Sequence[tf.Variable]: ...

    @property
    def trainable_variables(self) -> Sequence[tf.Variable]: ...

    def __call__(
        self, images: tf.Tensor, training: bool = ..., batch_norm_momentum: float | tf.Tensor = ...
    ) -> tf.Tensor: ...


def save(network: Network, folder: Path) -> None:
    """Writes `network` as a reusable SavedModel that takes images of any height and width.

    Once loaded, `batch_norm_momentum` may be a Python number or a scalar tensor, and may be left out.
    """
    root = tf.train.Checkpoint(network=network)
    # Networks have no control flow that hangs on a tensor, and AutoGraph would read their code for over a second.
    root.__call__ = tf.function(network.__call__, autograph=False)
    for training in (False, True):
        root.__call__.get_concrete_function(
            tf.TensorSpec((None, None, None, 3), tf.float32, name="images"),
            training=training,
            # A tensor, so that one function serves every momentum.
            batch_norm_momentum=tf.TensorSpec((), tf.float32, name="batch_norm_momentum"),
        )
    # Plain attributes: the properties of a tf.Module are not saved.
    root.variables = list(network.variables)
    root.trainable_variables = list(network.trainable_variables)
    root.regularization_losses = []
    tf.saved_model.save(root, str(folder))
