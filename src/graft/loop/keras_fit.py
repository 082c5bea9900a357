"""The training loop as Keras has it: `Model.fit`, with a callback that records, saves and stops."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tf_keras

from graft.config import Config
from graft.data.pipeline import Data
from graft.loop.course import Course, tested
from graft.loop.result import StopSignal, TrainResult
from graft.loop.trained_model import TrainedModel, balanced_weights
from graft.tracking.recorder import Recorder

CROSS_ENTROPY = "cross_entropy"
"""Keras adds what regularises the weights to the loss of the validation images too; as a metric it stays out."""


class Trainer(TrainedModel):
    """A model, its optimiser, and the Keras model compiled with them, for any number of runs, one after the other.

    Args:
        model: The data's inputs, images or features, to logits [batch, classes].
        config: The optimiser, how often a step is logged, and whether XLA compiles the steps.
    """

    def __init__(self, model: tf_keras.Model, config: Config) -> None:
        super().__init__(model, config)
        # Another one, of the same layers: what is compiled takes its optimiser and metrics into its checkpoints.
        self.compiled = tf_keras.Model(model.inputs, model.outputs)
        self.compiled.compile(
            optimizer=self.optimizer,
            loss=tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[
                tf_keras.metrics.SparseCategoricalCrossentropy(name=CROSS_ENTROPY, from_logits=True),
                tf_keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            ],
            jit_compile=config.jit_compile,
            steps_per_execution=config.loop.log_every,  # what happens in between nobody asks for
        )


def fit(
    trainer: Trainer, data: Data, config: Config, directory: Path, recorder: Recorder, stop_reason: StopSignal
) -> TrainResult:
    """Trains, goes on from the latest checkpoint if there is one, and tests the best checkpoint.

    From the same seed it takes the steps of `gradient_tape.fit`, to the same curve within 1e-6. Arguments and errors
    are those of `graft.loop.Loop.fit`.
    """
    course = Course(trainer, data, config, directory, recorder, stop_reason)
    if (epoch := course.next_epoch()) is not None:
        trainer.compiled.fit(
            data.train_epochs(config.batch_size, seed=config.seed, epochs=range(epoch, config.epochs)),
            initial_epoch=epoch,
            epochs=config.epochs,
            steps_per_epoch=course.steps,
            validation_data=data.batches(data.splits.val, config.batch_size),
            class_weight=dict(enumerate(balanced_weights(data))) if config.class_weights != "none" else None,
            callbacks=[_FollowsTheCourse(course)],
            verbose=0,
        )
    return course.finish(lambda: tested(trainer.compiled, data, config))


class _FollowsTheCourse(tf_keras.callbacks.Callback):
    def __init__(self, course: Course) -> None:
        super().__init__()
        self._course = course

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._course.begin_epoch()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        assert logs is not None
        self._course.log_step(batch + 1, logs["loss"], logs["accuracy"])
        if batch + 1 == self._course.steps:
            self._course.begin_validation()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        assert logs is not None
        self._course.end_epoch(logs[f"val_{CROSS_ENTROPY}"], logs["val_accuracy"])
        self.model.stop_training = self._course.next_epoch() is None
