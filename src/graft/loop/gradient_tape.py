"""The training loop, written out: one epoch trains on every batch, validates, records and saves."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf
import tf_keras

from graft.config import Config
from graft.data.pipeline import Data, InMemory
from graft.data.splits import Rows
from graft.loop.course import MOST_CLASSES_CONFUSED, Course, Tested
from graft.loop.result import Confusion, StopSignal, TrainResult
from graft.loop.trained_model import TrainedModel, balanced_weights
from graft.tracking.recorder import Recorder


class Trainer(TrainedModel):
    """A model, its optimiser and the compiled steps that train it, for any number of runs, one after the other.

    Tracing the steps takes longer than many a training of a head. What differs between the trials of a sweep, the
    learning rate, the dropout rate and the seed, are variables in them, so one trace serves all.

    Args:
        model: The data's inputs, images or features, to logits [batch, classes].
        config: The optimiser, whether classes are weighted, and whether XLA compiles the steps.

    Attributes:
        train_on_batch: One step, on inputs [batch, …] and int32 labels [batch]. Gives mean loss and accuracy, float32
            scalars, of all batches since `reset_means`.
        evaluate_batch: The same without training.
        train_on: The steps of an epoch, on inputs and labels that lie in memory, the int64 rows of them in the order
            they are taken in, and the batch size. Gives what `train_on_batch` would after each step, float32 [steps].
        evaluate_on: The same without training.
    """

    def __init__(self, model: tf_keras.Model, config: Config) -> None:
        super().__init__(model, config)
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
        # There is nothing in the steps for AutoGraph; reading their source would take a third of the first tracing.
        train, evaluate = map(tf.autograph.experimental.do_not_convert, (self._train_on_batch, self._evaluate_batch))
        self.train_on_batch = compiled(train, input_signature=any_batch)
        self.evaluate_batch = compiled(evaluate, input_signature=any_batch)
        # The same steps, for inputs that lie in memory: a whole epoch in one call.
        every_batch = functools.partial(_every_batch, known_shapes=config.jit_compile)
        self.train_on = compiled(functools.partial(every_batch, train))
        self.evaluate_on = compiled(functools.partial(every_batch, evaluate))

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
        true, predicted = (tf.one_hot(each, self._confusion.shape[0]) for each in (labels, tf.argmax(logits, axis=1)))
        self._confusion.assign_add(tf.matmul(true, predicted, transpose_a=True))
        return tf.constant(0.0)

    def _weights_of(self, labels: tf.Tensor) -> tf.Tensor | None:
        return None if self._class_weights is None else tf.gather(self._class_weights, labels)

    def _count(self, loss: tf.Tensor, labels: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        self._mean_loss.update_state(loss, sample_weight=tf.shape(labels)[0])  # the last batch may be smaller
        self._accuracy.update_state(labels, logits)
        return self._mean_loss.result(), self._accuracy.result()

    def weigh_classes(self, data: Data) -> None:
        """Lets the classes of `data` count as `balanced_weights` says, if that is wanted."""
        if self._class_weights is not None:
            self._class_weights.assign(balanced_weights(data))

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

    Arguments and errors are those of `graft.loop.Loop.fit`.
    """
    trainer.weigh_classes(data)
    course = Course(trainer, data, config, directory, recorder, stop_reason)
    while (epoch := course.next_epoch()) is not None:
        course.begin_epoch()
        for step, loss, accuracy in _train(trainer, data, config, epoch):
            course.log_step(step, loss, accuracy)
        course.begin_validation()
        course.end_epoch(*_evaluate(trainer, data, data.splits.val, config))

    def test() -> Tested:
        with trainer.counting_confusion() as counts:
            loss, accuracy = _evaluate(trainer, data, data.splits.test, config)
            return Tested(float(loss), float(accuracy), counts())

    return course.finish(test)


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


def _evaluate(trainer: Trainer, data: Data, rows: Rows, config: Config) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean loss and accuracy over the images at `rows`, each of them counting alike."""
    trainer.reset_means()
    if isinstance(data.inputs, InMemory):
        losses, accuracies = trainer.evaluate_on(*data.inputs.tensors, tf.constant(rows), config.batch_size)
        return losses[-1], accuracies[-1]
    for inputs, labels in data.batches(rows, config.batch_size):
        loss, accuracy = trainer.evaluate_batch(inputs, labels)
    return loss, accuracy


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
