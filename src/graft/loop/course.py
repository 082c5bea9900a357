"""The course of a training, whoever takes the steps: where it begins, what an epoch leaves behind, when it ends."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras

from graft import runtime
from graft.config import Config
from graft.data.pipeline import Data
from graft.errors import FailedTrial
from graft.loop.checkpoints import Checkpoints
from graft.loop.optimizers import learning_rate_of
from graft.loop.result import Confusion, StopReason, StopSignal, TrainResult, best_epoch
from graft.loop.trained_model import TrainedModel
from graft.model import trained_part
from graft.tracking.recorder import Recorder

log = logging.getLogger(__name__)

MOST_CLASSES_CONFUSED = 1000
"""Beyond it nobody reads a confusion matrix, and its counts would take more room than many a head."""


class Tested(NamedTuple):
    """The test split with the best checkpoint: mean cross-entropy, accuracy from 0 to 1, and what was confused."""

    loss: float
    accuracy: float
    confusion: Confusion | None


class Course:
    """One training from epoch to epoch. A loop asks for the `next_epoch`, tells what happens in it, and ends it.

    Made, it has set the model back to the latest checkpoint in `directory`, or to the beginning if there is none. Of a
    run that was closed it knows the history alone.

    Arguments are those of `graft.loop.Loop.fit`.

    Attributes:
        steps: How many batches an epoch has.
    """

    def __init__(
        self,
        trainer: TrainedModel,
        data: Data,
        config: Config,
        directory: Path,
        recorder: Recorder,
        stop_reason: StopSignal,
    ) -> None:
        self._trainer, self._data, self._config = trainer, data, config
        self._recorder, self._stop_reason = recorder, stop_reason
        self._stopped: StopReason | None = None
        self.steps = math.ceil(len(data.splits.train) / config.batch_size)
        runtime.set_precision(trainer.half_precision)
        trainer.reset_optimizer(config.learning_rate)
        self._checkpoints = Checkpoints(directory, trained_part(trainer.model, config), trainer.optimizer)
        self._history = self._checkpoints.restore_latest()
        for epoch, metrics in enumerate(self._history):
            # A process that died may have saved an epoch and not recorded it; recorders pass over what they have.
            recorder.log_metrics(metrics, step=epoch)
        if len(self._history) >= config.epochs:
            log.info("Every epoch is trained: what is left is to test the best")

    def next_epoch(self) -> int | None:
        """The number of the epoch to train now, from 0; None if training is over."""
        epoch = len(self._history)
        if epoch >= self._config.epochs:
            return None
        # Before an epoch and not after it: what an attempt was told before it died is asked again by the next one.
        if epoch and (stopped := self._stop_reason()):
            self._stopped = stopped
            return None
        patience = self._config.patience
        if patience and epoch and epoch - 1 - best_epoch(self._history) >= patience:
            return None
        if self._checkpoints.history_alone:
            log.info("This run was over after %d epochs, and its state is gone: it starts from the beginning", epoch)
            self._checkpoints.begin_anew()
            self._history.clear()
        return len(self._history)

    def begin_epoch(self) -> None:
        """Sets the epoch's learning rate; its time begins."""
        self._started = time.perf_counter()
        self._trainer.optimizer.learning_rate = learning_rate_of(self._config, len(self._history))

    def log_step(self, step: int, loss: tf.Tensor | float, accuracy: tf.Tensor | float) -> None:
        """What a step, counted from 1 in the epoch, leaves: the epoch's mean loss and accuracy so far.

        Raises:
            FailedTrial: with the cause ``diverged`` once the loss is no longer a finite number.
        """
        if step % self._config.loop.log_every == 0 or step == self.steps:
            epoch = len(self._history)
            self._training = {"loss": self._finite(loss), "accuracy": float(accuracy)}
            self._recorder.log_step(self._training, step=epoch * self.steps + step, epoch=epoch, of=self.steps)

    def begin_validation(self) -> None:
        """Every step of the epoch is taken."""
        self._trained = time.perf_counter()

    def end_epoch(self, val_loss: tf.Tensor | float, val_accuracy: tf.Tensor | float) -> None:
        """Saves and records the epoch.

        Raises:
            FailedTrial: as `log_step`.
        """
        images = len(self._data.splits.train)
        self._history.append(
            {
                "train_loss": self._training["loss"],
                "train_accuracy": self._training["accuracy"],
                "val_loss": self._finite(val_loss),
                "val_accuracy": float(val_accuracy),
                "epoch_seconds": time.perf_counter() - self._started,
                "images_per_second": images / (self._trained - self._started),
                "learning_rate": float(self._trainer.optimizer.learning_rate),
            }
        )
        self._checkpoints.save(self._history)
        self._recorder.log_metrics(self._history[-1], step=len(self._history) - 1)

    def finish(self, test: Callable[[], Tested]) -> TrainResult:
        """Has the best checkpoint tested, unless training was stopped.

        Args:
            test: Evaluates the model on the test split.

        Raises:
            FailedTrial: as `log_step`; with the cause ``damaged_checkpoint`` if the best checkpoint cannot be read.
        """
        loss, accuracy, confusion = None, None, None
        if self._stopped == "pruned":  # and so over, as an interrupted one is not
            self._checkpoints.keep_best_only(self._history)
        if self._stopped is None:
            self._checkpoints.restore_best(self._history)
            self._checkpoints.keep_best_only(self._history)
            loss, accuracy, confusion = test()
            loss = self._finite(loss)
        parameters = sum(math.prod(variable.shape) for variable in self._trainer.model.trainable_variables)
        return TrainResult(self._history, loss, accuracy, parameters, self._stopped, confusion=confusion)

    def _finite(self, loss: tf.Tensor | float) -> float:
        if not math.isfinite(loss):
            raise FailedTrial(
                f"The loss is {float(loss)} at learning_rate={self._config.learning_rate:g}", cause="diverged"
            )
        return float(loss)


def tested(model: tf_keras.Model, data: Data, config: Config) -> Tested:
    """Predicts the test split once, and counts from that what was lost, right and confused."""
    rows = data.splits.test
    logits = model.predict(data.batches(rows, config.batch_size), verbose=0)
    labels = data.images.labels[rows]
    losses = tf_keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True).numpy()
    predicted = logits.argmax(axis=1)
    return Tested(
        float(losses.mean()), float(np.mean(predicted == labels)), _confusion(labels, predicted, logits.shape[1])
    )


def _confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> Confusion | None:
    if classes > MOST_CLASSES_CONFUSED:
        return None
    counts = np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
    return tuple(tuple(int(count) for count in row) for row in counts)
