"""What Keras' layers need to live in the graph of a session, which TensorFlow 2.15 still has for Estimator."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
import tf_keras
from tensorflow.python.eager import context  # tf.init_scope leaves functions, but not the graph of a session

from graft import runtime
from graft.model import SeededDropout


@contextmanager
def keras_of_sessions() -> Iterator[Callable[[], Any]]:
    """Within the block Keras' layers are made for sessions; the value leads back outside, in the middle of one.

    Keras exchanges the base classes of its layers, and of all that were made of them, when one is made for a session,
    and back when one is made elsewhere; the models that there are do not survive either.
    """
    bases = {kind: kind.__bases__ for kind in _kinds_of(tf_keras.layers.Layer)}

    def restore() -> None:
        for kind, before in bases.items():
            if kind.__bases__ != before:
                kind.__bases__ = before

    @contextmanager
    def outside() -> Iterator[None]:
        restore()
        with context.eager_mode():
            yield

    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it says at every turn that Estimator is going to be removed
    with runtime.stderr_set_aside("a session was opened"), tf.Graph().as_default(), tf.compat.v1.Session() as session:
        session.run(tf.constant(0))  # the first one says that an optimisation is not used
    try:
        with warnings.catch_warnings():
            # Of what Estimator calls, and of the initialisers that a clone has and does not use.
            warnings.filterwarnings(
                "ignore", message=r".*(set_learning_phase|state_updates|initializers\.serialize)", category=UserWarning
            )
            yield outside
    finally:
        logger.setLevel(level)
        restore()


def _kinds_of(kind: type) -> set[type]:
    kinds = {kind}
    each: type
    for each in kind.__subclasses__():
        kinds |= _kinds_of(each)
    return kinds


def for_a_session(layer: tf_keras.layers.Layer, name: str) -> tf_keras.layers.Layer:
    """The same layer, without its weights, for a clone that is made in a session."""
    kind = _Dropout if isinstance(layer, SeededDropout) else type(layer)
    return kind.from_config({**layer.get_config(), "name": name})


class _Dropout(SeededDropout):
    """In the graph of a session it is not called with `training`: the graph is for training, or it is not."""

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        phase = tf_keras.backend.learning_phase()
        return super().call(inputs, training=isinstance(phase, int) and phase == 1)


@tf_keras.utils.register_keras_serializable("graft")
class RateOfTheEpoch(tf_keras.optimizers.schedules.LearningRateSchedule):
    """One rate an epoch of so many steps.

    Not Keras' PiecewiseConstantDecay: the clone of an optimiser gets Keras' own schedules by their names, under which
    `tf_keras` finds those of the `keras` that TensorFlow 2.15 has beside it, as soon as `hub.KerasLayer` imported that.
    """

    def __init__(self, rates: Sequence[float], steps: int) -> None:
        self._rates, self._steps = rates, steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        return tf.gather(tf.constant(self._rates), tf.cast(step, tf.int32) // self._steps)

    def get_config(self) -> dict[str, Any]:
        return {"rates": self._rates, "steps": self._steps}
