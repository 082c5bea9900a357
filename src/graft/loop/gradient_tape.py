"""The training loop, written out: one epoch trains on every batch, validates, records and saves."""

from __future__ import annotations

import math
import time
from pathlib import Path

import tensorflow as tf
import tf_keras

from graft.config import Config
from graft.data.pipeline import Data
from graft.errors import FailedTrial
from graft.loop.checkpoints import Checkpoints
from graft.loop.optimizers import make_optimizer
from graft.loop.result import StopReason, StopSignal, TrainResult, best_epoch
from graft.model import trained_part
from graft.tracking.recorder import Recorder


def fit(
    model: tf_keras.Model, data: Data, config: Config, directory: Path, recorder: Recorder, stop_reason: StopSignal
) -> TrainResult:
    """Trains `model`, goes on from its latest checkpoint if there is one, and tests the best checkpoint.

    Args:
        model: The data's inputs, images or features, to logits [batch, classes].
        data: The three splits.
        config: Epochs, batch size, optimiser and seeds.
        directory: The run's folder; checkpoints go under it.
        recorder: Gets the metrics of every epoch, and loss and accuracy every `loop.log_every` steps.
        stop_reason: Asked after every epoch but the last whether to stop, and why.

    Raises:
        FailedTrial: with the cause ``diverged`` once a loss is no longer a finite number.
    """
    optimizer = make_optimizer(config)
    loss_function = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    mean_loss = tf_keras.metrics.Mean()
    accuracy = tf_keras.metrics.SparseCategoricalAccuracy()

    @tf.function(jit_compile=config.jit_compile, reduce_retracing=True)
    def train_step(inputs: tf.Tensor, labels: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True)
            loss = loss_function(labels, logits) + tf.add_n([0.0, *model.losses])
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        mean_loss.update_state(loss, sample_weight=tf.shape(labels)[0])
        accuracy.update_state(labels, logits)

    @tf.function(jit_compile=config.jit_compile, reduce_retracing=True)
    def evaluation_step(inputs: tf.Tensor, labels: tf.Tensor) -> None:
        logits = model(inputs, training=False)
        mean_loss.update_state(loss_function(labels, logits), sample_weight=tf.shape(labels)[0])
        accuracy.update_state(labels, logits)

    def results() -> tuple[float, float]:
        """Loss and accuracy since they were last reset."""
        loss = float(mean_loss.result())
        if not math.isfinite(loss):
            raise FailedTrial(f"The loss is {loss} at learning_rate={config.learning_rate:g}", cause="diverged")
        return loss, float(accuracy.result())

    def reset() -> None:
        mean_loss.reset_state()
        accuracy.reset_state()

    def evaluate(batches: tf.data.Dataset) -> tuple[float, float]:
        reset()
        for inputs, labels in batches:
            evaluation_step(inputs, labels)
        return results()

    checkpoints = Checkpoints(directory, trained_part(model, config), optimizer)
    history = checkpoints.restore_latest()
    for epoch, metrics in enumerate(history):
        # A process that died may have saved an epoch and not recorded it; recorders pass over what they have.
        recorder.log_metrics(metrics, step=epoch)
    steps = math.ceil(len(data.splits.train) / config.batch_size)
    validation = data.batches(data.splits.val, config.batch_size)
    stopped: StopReason | None = None
    for epoch in range(len(history), config.epochs):
        if config.patience and history and epoch - 1 - best_epoch(history) >= config.patience:
            break
        started = time.perf_counter()
        reset()
        batches = data.train_batches(config.batch_size, seed=config.seed, epoch=epoch)
        for step, (inputs, labels) in enumerate(batches, start=1):
            train_step(inputs, labels)
            if step % config.loop.log_every == 0 or step == steps:
                loss, correct = results()
                recorder.log_step({"loss": loss, "accuracy": correct}, step=epoch * steps + step, epoch=epoch, of=steps)
        train_loss, train_accuracy = results()
        trained = time.perf_counter()
        val_loss, val_accuracy = evaluate(validation)
        history.append(
            {
                "train_loss": train_loss,
                "train_accuracy": train_accuracy,
                "val_loss": val_loss,
                "val_accuracy": val_accuracy,
                "epoch_seconds": time.perf_counter() - started,
                "images_per_second": len(data.splits.train) / (trained - started),
                "learning_rate": float(optimizer.learning_rate),
            }
        )
        checkpoints.save(history)
        recorder.log_metrics(history[-1], step=epoch)
        if epoch + 1 < config.epochs and (stopped := stop_reason()):  # after the last epoch there is nothing to save
            break

    test_loss, test_accuracy = None, None
    if stopped is None:
        checkpoints.restore_best(history)
        checkpoints.keep_best_only(history)
        test_loss, test_accuracy = evaluate(data.batches(data.splits.test, config.batch_size))
    parameters = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return TrainResult(history, test_loss, test_accuracy, parameters, stopped)
