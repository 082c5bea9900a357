"""The training loop as Estimator has it: `train_and_evaluate`, of the Keras model that `model_to_estimator` converted.

`tf.estimator` was removed after TensorFlow 2.15. `graft.preparation.check` refuses this loop elsewhere, so that the
module is imported only where there is one.

From the same seed it begins with the same weights, and takes the same batches and dropout masks, as the other loops.
What is different:

- Estimator trains a clone of the model in a graph and a session of its own, and builds another graph to evaluate it
  after every epoch, so its epochs take longer.
- It takes Keras' legacy optimisers alone, which compute in another order: the curve is close to that of the other
  loops, and not the same to the last bit. From run to run it is.
- It computes in float32, without XLA.
- Training goes on from a checkpoint of Estimator's own, which lies beside Graft's until the end.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras

from graft.config import Config, SgdConfig
from graft.data.pipeline import Data
from graft.errors import FailedTrial
from graft.loop.checkpoints import LATEST_KEPT, Damaged, make_latest, read_whole
from graft.loop.course import Course, tested
from graft.loop.keras_in_sessions import RateOfTheEpoch, for_a_session, keras_of_sessions
from graft.loop.optimizers import learning_rate_of
from graft.loop.result import StopSignal, TrainResult
from graft.loop.trained_model import TrainedModel, balanced_weights
from graft.model import BACKBONE, HEAD, head_of
from graft.tensorflow_paths import literal
from graft.tracking.recorder import Recorder

FOLDER = "estimator"  # beside Graft's own checkpoints

Batch = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


class Trainer(TrainedModel):
    """A model, and the same once more as `model_to_estimator` can clone it, for any number of runs, one by one.

    Args:
        model: The data's inputs, images or features, to logits [batch, classes].
        config: Whether the backbone is trained.
    """

    def __init__(self, model: tf_keras.Model, config: Config) -> None:
        super().__init__(model, config.model_copy(update={"mixed_precision": False}))
        self._head = head_of(model).layers
        # Under names that no variable of a module has.
        self._cloned_head = [for_a_session(layer, f"{HEAD}_{number}") for number, layer in enumerate(self._head)]
        before = [layer for layer in model.layers[1:] if layer.name != HEAD] if model.name != HEAD else []
        inputs = outputs = tf_keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype)
        for layer in [*before, *self._cloned_head]:  # not the head as a model of its own, which the clone gets wrong
            outputs = layer(outputs)
        self.cloned = tf_keras.Model(inputs, outputs)
        # Estimator's checkpoints number the layers that have weights.
        weighted = [layer for layer in [*before, *self._head] if layer.weights]
        self._trained = tf.train.Checkpoint(
            **{
                f"layer_with_weights-{number}": _named_by_itself(layer)
                for number, layer in enumerate(weighted)
                if layer.name != BACKBONE or config.trainable
            }
        )

    def read(self, checkpoint: str) -> None:
        """Puts what training changes from a checkpoint of Estimator into the model."""
        self._trained.read(checkpoint).assert_existing_objects_matched().expect_partial()

    def begin_in(self, folder: Path) -> tf.estimator.WarmStartSettings:
        """Writes the weights of the head into `folder`, for the clone to begin with; a module brings its own.

        `model_to_estimator` would write all weights there, but it stumbles over a module that has other variables
        beside them. It takes what it finds.
        """
        weights = [weight for layer in self._head for weight in layer.weights]
        first = tf.train.Checkpoint(weights=weights).save(str(folder / "keras" / "first"))
        cloned = [weight.name for layer in self._cloned_head for weight in layer.weights]
        return tf.estimator.WarmStartSettings(
            first,
            # A list of patterns stands for variables that are not trained, too, such as dropout's.
            [f"{re.escape(name)}$" for name in cloned],
            var_name_to_prev_var_name={
                name.removesuffix(":0"): f"weights/{number}/.ATTRIBUTES/VARIABLE_VALUE"
                for number, name in enumerate(cloned)
            },
        )


def _named_by_itself(layer: tf_keras.layers.Layer) -> Any:
    """A module by its own structure: `hub.KerasLayer` goes by the names of variables, and two may have the same."""
    return tf.train.Checkpoint(_func=layer.resolved_object) if layer.name == BACKBONE else layer


def fit(
    trainer: Trainer, data: Data, config: Config, directory: Path, recorder: Recorder, stop_reason: StopSignal
) -> TrainResult:
    """Trains, goes on from the latest checkpoint if there is one, and tests the best checkpoint.

    Arguments and errors are those of `graft.loop.Loop.fit`.

    Raises:
        FailedTrial: also with the cause ``damaged_checkpoint`` if Estimator's checkpoint of an epoch that Graft saved
            cannot be read.
    """
    course = Course(trainer, data, config, directory, recorder, stop_reason)
    folder = directory / "checkpoints" / FOLDER
    if (epoch := course.next_epoch()) is not None:
        course.begin_epoch()
        _set_back(folder, epoch * course.steps)
        with keras_of_sessions() as outside:
            follower = _FollowsTheCourse(course, trainer, outside)
            try:
                tf.estimator.train_and_evaluate(
                    _estimator(trainer, config, folder, follower),
                    tf.estimator.TrainSpec(
                        lambda: _training(data, config, range(epoch, config.epochs)), config.epochs * course.steps
                    ),
                    tf.estimator.EvalSpec(
                        lambda: data.batches(data.splits.val, config.batch_size),
                        steps=None,
                        exporters=follower,
                        throttle_secs=0,
                    ),
                )
            except tf.compat.v1.train.NanLossDuringTrainingError:
                course.log_step(course.steps, math.nan, 0.0)
    result = course.finish(lambda: tested(trainer.model, data, config))
    if result.stopped != "interrupted":
        shutil.rmtree(folder, ignore_errors=True)
    return result


def _set_back(folder: Path, step: int) -> None:
    """Lets Estimator go on after `step`, where Graft does: it may have saved a later epoch that was never evaluated.

    Raises:
        FailedTrial: if its checkpoint cannot be read.
    """
    if step == 0:
        shutil.rmtree(folder, ignore_errors=True)
        return
    checkpoint = folder / f"model.ckpt-{step}"
    try:
        read_whole(checkpoint)
    except Damaged as damage:
        raise FailedTrial(
            f"{damage}, and without it Estimator cannot go on. In an empty folder, the same command begins anew.",
            cause="damaged_checkpoint",
        ) from damage
    make_latest(checkpoint)


def _training(data: Data, config: Config, epochs: range) -> tf.data.Dataset:
    batches = data.train_epochs(config.batch_size, seed=config.seed, epochs=epochs)
    if config.class_weights == "none":
        return batches
    weights = balanced_weights(data)
    # The names by which an Estimator that was a Keras model knows the weights of a batch.
    return batches.map(
        lambda inputs, labels: ({"features": inputs, "sample_weights": tf.gather(weights, labels)}, labels)
    )


def _estimator(trainer: Trainer, config: Config, folder: Path, follower: _FollowsTheCourse) -> tf.estimator.Estimator:
    """What `model_to_estimator` makes of the model, with a hook and metrics that follow the course."""
    steps = follower.steps
    trainer.cloned.compile(
        optimizer=_legacy_optimizer(config, steps),
        loss=tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    folder.mkdir(parents=True, exist_ok=True)  # none is made where a link leads nowhere
    beginning = trainer.begin_in(literal(folder))
    converted = tf_keras.estimator.model_to_estimator(
        trainer.cloned,
        config=tf.estimator.RunConfig(
            model_dir=str(literal(folder)),
            tf_random_seed=config.seed,
            save_checkpoints_steps=steps,
            save_summary_steps=None,
            log_step_count_steps=None,
        ),
    )

    def model_fn(features: Any, labels: tf.Tensor, mode: str, config: tf.estimator.RunConfig) -> Any:
        spec = converted.model_fn(features, labels, mode, config)
        (logits,) = spec.predictions.values()
        predicted = tf.argmax(logits, axis=1, output_type=labels.dtype)
        if mode == tf.estimator.ModeKeys.TRAIN:
            spec.scaffold.saver.saver_def.max_to_keep = LATEST_KEPT + 1  # one more than Graft: it saves first
            right = tf.reduce_sum(tf.cast(tf.equal(predicted, labels), tf.float32))
            hook = _StepsAndEpochs(follower, folder, spec.scaffold, (spec.loss, right, tf.size(labels)))
            return spec._replace(training_hooks=[hook])
        # Not Estimator's own loss: that is a mean over batches, of which the last is smaller, and regularised.
        losses = tf_keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        metrics = {
            "val_loss": tf.compat.v1.metrics.mean(losses),
            "val_accuracy": tf.compat.v1.metrics.accuracy(labels, predicted),
        }
        return spec._replace(eval_metric_ops=metrics)

    return tf.estimator.Estimator(model_fn, config=converted.config, warm_start_from=beginning)


def _legacy_optimizer(config: Config, steps: int) -> tf_keras.optimizers.legacy.Optimizer:
    rate = RateOfTheEpoch([learning_rate_of(config, epoch) for epoch in range(config.epochs)], steps)
    if isinstance(config.optimizer, SgdConfig):
        return tf_keras.optimizers.legacy.SGD(rate, momentum=config.optimizer.momentum)
    return tf_keras.optimizers.legacy.Adam(rate)


class _FollowsTheCourse(tf.estimator.Exporter):
    """Tells the course of every step; and of every evaluation, which is what Estimator has exporters for."""

    name = "course"

    def __init__(self, course: Course, trainer: Trainer, outside: Callable[[], Any]) -> None:
        self._course, self._trainer, self._outside = course, trainer, outside
        self.steps = course.steps
        self.over = False
        self._begin()

    def _begin(self) -> None:
        self._step, self._loss, self._right, self._images = 0, 0.0, 0.0, 0

    def step(self, loss: float, right: float, images: int) -> None:
        """After every step: the mean loss of its batch, how many images were taken for what they are, of how many."""
        self._step += 1
        self._loss, self._right, self._images = self._loss + loss * images, self._right + right, self._images + images
        with self._outside():
            self._course.log_step(self._step, self._loss / self._images, self._right / self._images)
        if self._step == self.steps:
            self._course.begin_validation()

    def export(
        self,
        estimator: tf.estimator.Estimator,
        export_path: str,
        checkpoint_path: str,
        eval_result: Mapping[str, float],
        is_the_final_export: bool,
    ) -> None:
        with self._outside():
            self._trainer.read(checkpoint_path)
            self._course.end_epoch(eval_result["val_loss"], eval_result["val_accuracy"])
            self.over = self._course.next_epoch() is None
            if not self.over:
                self._course.begin_epoch()
                self._begin()


class _StepsAndEpochs(tf.compat.v1.train.CheckpointSaverHook):
    """Estimator's own hook that saves, and has every checkpoint evaluated, between what the course is told and asks."""

    def __init__(self, follower: _FollowsTheCourse, folder: Path, scaffold: Any, batch: Batch) -> None:
        super().__init__(str(literal(folder)), save_steps=follower.steps, scaffold=scaffold, save_graph_def=False)
        self._follower, self._batch = follower, batch

    def before_run(self, run_context: Any) -> Any:
        return tf.compat.v1.train.SessionRunArgs((super().before_run(run_context).fetches, self._batch))

    def after_run(self, run_context: Any, run_values: Any) -> None:
        step, (loss, right, images) = run_values.results
        self._follower.step(float(loss), float(right), int(images))
        super().after_run(run_context, run_values._replace(results=step))
        if self._follower.over:
            run_context.request_stop()
