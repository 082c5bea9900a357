"""The training loop, written out: one epoch trains on every batch, validates, records and saves."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras

from graft import runtime
from graft.config import Config
from graft.data.pipeline import Data, InMemory
from graft.data.splits import Rows
from graft.errors import FailedTrial
from graft.loop.checkpoints import Checkpoints
from graft.loop.optimizers import learning_rate_of, make_optimizer, state_of
from graft.loop.result import Confusion, StopReason, StopSignal, TrainResult, best_epoch
from graft.model import trained_part
from graft.tracking.recorder import Recorder

log = logging.getLogger(__name__)

MOST_CLASSES_CONFUSED = 1000
"""Beyond it nobody reads a confusion matrix, and its counts would take more room than many a head."""


class Trainer:
    """A model, its optimiser and the compiled steps that train it, for any number of runs, one after the other.

    Tracing the steps takes longer than many a training of a head. What differs between the trials of a sweep, the
    learning rate, the dropout rate and the seed, are variables in them, so one trace serves all.

    Args:
        model: The data's inputs, images or features, to logits [batch, classes].
        config: The optimiser, whether classes are weighted, and whether XLA compiles the steps.
    """

    def __init__(self, model: tf_keras.Model, config: Config) -> None:
        self.model = model
        self.half_precision = runtime.half_precision(config)
        self.optimizer = make_optimizer(config, scale_loss=self.half_precision)
        self.optimizer.build(model.trainable_variables)
        self._unused_optimizer = [variable.numpy() for variable in state_of(self.optimizer)]
        self._loss_function = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        weighted = config.class_weights != "none"
        self._class_weights = tf.Variable(tf.ones(model.output_shape[-1]), trainable=False) if weighted else None
        self._mean_loss = tf_keras.metrics.Mean()
        self._accuracy = tf_keras.metrics.SparseCategoricalAccuracy()
        classes = model.output_shape[-1]
        confused = classes <= MOST_CLASSES_CONFUSED
        self._confusion = tf.Variable(tf.zeros((classes, classes)), trainable=False) if confused else None
        self._counts_confusion = tf.Variable(False, trainable=False)  # asked in the step: one trace serves all splits
        compiled = functools.partial(tf.function, jit_compile=config.jit_compile)
        inputs = model.inputs[0]
        # Of any batch size from the start: the smaller batch at the end of an epoch is not worth another trace.
        any_batch = (tf.TensorSpec(inputs.shape, inputs.dtype), tf.TensorSpec((None,), tf.int32))
        self.train_on_batch = compiled(self._train_on_batch, input_signature=any_batch)
        self.evaluate_batch = compiled(self._evaluate_batch, input_signature=any_batch)
        # The same steps, for inputs that lie in memory: a whole epoch in one call.
        every_batch = functools.partial(_every_batch, known_shapes=config.jit_compile)
        self.train_on = compiled(functools.partial(every_batch, self._train_on_batch))
        self.evaluate_on = compiled(functools.partial(every_batch, self._evaluate_batch))

    def _train_on_batch(self, inputs: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """One training step; mean loss and accuracy since the last reset, this batch included."""
        with tf.GradientTape() as tape:
            logits = self.model(inputs, training=True)
            loss = self._loss_function(labels, logits, self._weights_of(labels)) + tf.add_n([0.0, *self.model.losses])
            minimised = self.optimizer.get_scaled_loss(loss) if self.half_precision else loss
        gradients = tape.gradient(minimised, self.model.trainable_variables)
        if self.half_precision:
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))
        return self._count(loss, labels, logits)

    def _evaluate_batch(self, inputs: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Loss and accuracy without training, as means since the last reset."""
        logits = self.model(inputs, training=False)
        if self._confusion is not None:
            tf.cond(self._counts_confusion, lambda: self._confuse(labels, logits), lambda: tf.constant(0.0))
        return self._count(self._loss_function(labels, logits), labels, logits)

    def _confuse(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Adds a batch to the confusion counts, [true class, predicted class]."""
        assert self._confusion is not None
        # As a product of 0s and 1s, which float32 adds exactly: adding at indices is not deterministic on every device.
        true, predicted = (tf.one_hot(each, len(self._confusion)) for each in (labels, tf.argmax(logits, axis=1)))
        self._confusion.assign_add(tf.matmul(true, predicted, transpose_a=True))
        return tf.constant(0.0)

    def _weights_of(self, labels: tf.Tensor) -> tf.Tensor | None:
        return None if self._class_weights is None else tf.gather(self._class_weights, labels)

    def _count(self, loss: tf.Tensor, labels: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        self._mean_loss.update_state(loss, sample_weight=tf.shape(labels)[0])  # the last batch may be smaller
        self._accuracy.update_state(labels, logits)
        return self._mean_loss.result(), self._accuracy.result()

    def reset_optimizer(self, learning_rate: float) -> None:
        """Makes the optimiser what it was before the first step of any run."""
        for variable, value in zip(state_of(self.optimizer), self._unused_optimizer, strict=True):
            variable.assign(value)
        self.optimizer.learning_rate = learning_rate

    def weigh_classes(self, data: Data) -> None:
        """Gives each class the weight n / (classes x n_c) of its n_c among the n training images, if any are wanted.

        As scikit-learn's ``class_weight="balanced"``: every class has the same sum of weights, and their mean over the
        training images is 1.
        """
        if self._class_weights is not None:
            counts = np.bincount(data.images.labels[data.splits.train], minlength=len(data.class_names))
            self._class_weights.assign((counts.sum() / (len(counts) * counts)).astype(np.float32))

    def reset_means(self) -> None:
        self._mean_loss.reset_state()
        self._accuracy.reset_state()

    @contextmanager
    def counting_confusion(self) -> Iterator[Callable[[], Confusion | None]]:
        """Within the block, evaluation also counts which class was taken for which; the value gives the counts.

        They stay on the device until they are asked for, and are None beyond `MOST_CLASSES_CONFUSED` classes.
        """
        confusion = self._confusion
        if confusion is None:
            yield lambda: None
            return
        confusion.assign(tf.zeros_like(confusion))
        self._counts_confusion.assign(True)
        try:
            yield lambda: tuple(tuple(int(count) for count in row) for row in confusion.numpy())
        finally:
            self._counts_confusion.assign(False)


def fit(
    trainer: Trainer, data: Data, config: Config, directory: Path, recorder: Recorder, stop_reason: StopSignal
) -> TrainResult:
    """Trains, goes on from the latest checkpoint if there is one, and tests the best checkpoint.

    Args:
        trainer: Holds the untrained model.
        data: The three splits.
        config: Epochs, batch size, learning rate and seed.
        directory: The run's folder; checkpoints go under it.
        recorder: Gets the metrics of every epoch, and loss and accuracy every `loop.log_every` steps.
        stop_reason: Asked between epochs, and before the first one of an attempt that goes on, whether to stop and why.

    Raises:
        FailedTrial: with the cause ``diverged`` once a loss is no longer a finite number; with ``damaged_checkpoint``
            if the best checkpoint cannot be read in the end.
    """
    runtime.set_precision(trainer.half_precision)
    trainer.reset_optimizer(config.learning_rate)
    trainer.weigh_classes(data)
    checkpoints = Checkpoints(directory, trained_part(trainer.model, config), trainer.optimizer)
    history = checkpoints.restore_latest()
    for epoch, metrics in enumerate(history):
        # A process that died may have saved an epoch and not recorded it; recorders pass over what they have.
        recorder.log_metrics(metrics, step=epoch)
    if len(history) >= config.epochs:
        log.info("Every epoch is trained: what is left is to test the best")
    steps = math.ceil(len(data.splits.train) / config.batch_size)
    stopped: StopReason | None = None
    for epoch in range(len(history), config.epochs):
        # Here and not at the end: what an attempt was told before it died is asked again by the next one.
        if history and (stopped := stop_reason()):
            break
        if config.patience and history and epoch - 1 - best_epoch(history) >= config.patience:
            break
        started = time.perf_counter()
        trainer.optimizer.learning_rate = learning_rate_of(config, epoch)
        for step, train_loss, train_accuracy in _train(trainer, data, config, epoch):
            if step % config.loop.log_every == 0 or step == steps:
                metrics = {"loss": _finite(train_loss, config), "accuracy": float(train_accuracy)}
                recorder.log_step(metrics, step=epoch * steps + step, epoch=epoch, of=steps)
        trained = time.perf_counter()
        val_loss, val_accuracy = _evaluate(trainer, data, data.splits.val, config)
        history.append(
            {
                "train_loss": metrics["loss"],
                "train_accuracy": metrics["accuracy"],
                "val_loss": val_loss,
                "val_accuracy": val_accuracy,
                "epoch_seconds": time.perf_counter() - started,
                "images_per_second": len(data.splits.train) / (trained - started),
                "learning_rate": float(trainer.optimizer.learning_rate),
            }
        )
        checkpoints.save(history)
        recorder.log_metrics(history[-1], step=epoch)

    test_loss, test_accuracy, confusion = None, None, None
    if stopped == "pruned":  # and so over, as an interrupted one is not
        checkpoints.keep_best_only(history)
    if stopped is None:
        checkpoints.restore_best(history)
        checkpoints.keep_best_only(history)
        with trainer.counting_confusion() as counts:
            test_loss, test_accuracy = _evaluate(trainer, data, data.splits.test, config)
            confusion = counts()
    parameters = sum(math.prod(variable.shape) for variable in trainer.model.trainable_variables)
    return TrainResult(history, test_loss, test_accuracy, parameters, stopped, confusion=confusion)


def _train(trainer: Trainer, data: Data, config: Config, epoch: int) -> Iterator[tuple[int, tf.Tensor, tf.Tensor]]:
    """Trains one epoch; yields for every step, counted from 1, the epoch's mean loss and accuracy so far."""
    trainer.reset_means()
    if isinstance(data.inputs, InMemory):
        rows = data.train_order(seed=config.seed, epoch=epoch)
        losses, accuracies = trainer.train_on(*data.inputs.tensors, tf.constant(rows), config.batch_size)
        yield from zip(range(1, len(losses) + 1), losses.numpy(), accuracies.numpy(), strict=True)
        return
    batches = data.train_batches(config.batch_size, seed=config.seed, epoch=epoch)
    for step, (inputs, labels) in enumerate(batches, start=1):
        yield step, *trainer.train_on_batch(inputs, labels)


def _evaluate(trainer: Trainer, data: Data, rows: Rows, config: Config) -> tuple[float, float]:
    """Mean loss and accuracy over the images at `rows`, each of them counting alike."""
    trainer.reset_means()
    if isinstance(data.inputs, InMemory):
        losses, accuracies = trainer.evaluate_on(*data.inputs.tensors, tf.constant(rows), config.batch_size)
        loss, accuracy = losses[-1], accuracies[-1]
    else:
        for inputs, labels in data.batches(rows, config.batch_size):
            loss, accuracy = trainer.evaluate_batch(inputs, labels)
    return _finite(loss, config), float(accuracy)


def _every_batch(
    on_batch: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
    inputs: tf.Tensor,
    labels: tf.Tensor,
    rows: tf.Tensor,
    batch_size: int,
    known_shapes: bool,
) -> tuple[tf.Tensor, tf.Tensor]:
    """`on_batch` for one batch of `rows` after the other, in the graph; what it gave, as [batches] and [batches].

    The last batch may be smaller. XLA has to know every shape, so for it that batch is taken out of the loop, at the
    price of tracing `on_batch` twice.
    """
    batches, rest = math.ceil(rows.shape[0] / batch_size), rows.shape[0] % batch_size
    alike = batches - 1 if known_shapes and rest else batches
    losses = tf.TensorArray(tf.float32, size=batches, element_shape=())
    accuracies = tf.TensorArray(tf.float32, size=batches, element_shape=())
    for batch in tf.range(alike) if alike else ():  # XLA would compile the loop all the same, and not be able to
        start = batch * batch_size
        taken = tf.slice(rows, [start], [batch_size]) if known_shapes else rows[start : start + batch_size]
        loss, accuracy = on_batch(tf.gather(inputs, taken), tf.gather(labels, taken))
        losses, accuracies = losses.write(batch, loss), accuracies.write(batch, accuracy)
    if alike < batches:
        loss, accuracy = on_batch(tf.gather(inputs, rows[-rest:]), tf.gather(labels, rows[-rest:]))
        losses, accuracies = losses.write(alike, loss), accuracies.write(alike, accuracy)
    return losses.stack(), accuracies.stack()


def _finite(loss: tf.Tensor, config: Config) -> float:
    if not math.isfinite(loss):
        raise FailedTrial(f"The loss is {float(loss)} at learning_rate={config.learning_rate:g}", cause="diverged")
    return float(loss)
