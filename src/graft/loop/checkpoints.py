"""Checkpoints of a run: the latest, to go on from, and the best by validation accuracy, to keep.

Once a run is over and recorded, its history takes the place of the latest: `close`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path

import tensorflow as tf
import tf_keras

from graft import files
from graft.errors import FailedTrial, FatalError
from graft.loop.result import History, best_epoch
from graft.tensorflow_paths import literal

log = logging.getLogger(__name__)

LATEST, CLOSED = "latest", "closed"
LATEST_KEPT = 2  # so that one is left if the other is damaged


class Checkpoints:
    """Writes and restores the checkpoints under ``<directory>/checkpoints``, ``latest`` and ``best``.

    A latest one holds what is trained, dropout's step counter in it, the optimiser and the history up to it, so that
    they are whole together or not at all. The data position needs no saving: the order of an epoch follows from seed
    and epoch. ``history.json`` is a copy, for readers. What is damaged, a checkpoint's own checksums tell.

    Args:
        directory: The run's folder, the same for every attempt.
        trained: What training changes: the built model, or the head of one with a frozen backbone.
        optimizer: Its slots are built here, because restoring into an unbuilt optimiser is put off silently.

    Attributes:
        history_alone: What `restore_latest` found is the history of a run that was closed; nothing was restored.
    """

    def __init__(self, directory: Path, trained: tf_keras.Model, optimizer: tf_keras.optimizers.Optimizer) -> None:
        optimizer.build(trained.trainable_variables)
        folder = directory / "checkpoints"
        self._history_file = folder / "history.json"
        self._aside = folder / "set_aside"
        with tf.device("cpu"):  # there are no strings on a GPU
            self._history = tf.Variable("", dtype=tf.string)
        self._latest = _Series(
            folder / LATEST, tf.train.Checkpoint(model=trained, optimizer=optimizer, history=self._history)
        )
        self._closed = _Series(folder / CLOSED, tf.train.Checkpoint(history=self._history))
        self._best = _Series(folder / "best", tf.train.Checkpoint(model=trained))
        self.history_alone = False

    def save(self, history: History) -> None:
        """Saves the state after the last epoch of `history`; as the best too, if that epoch is the best so far."""
        epoch = len(history) - 1
        if best_epoch(history) == epoch:
            self._best.write(epoch)
        self._history.assign(json.dumps(history))
        self._latest.write(epoch)  # after the best that belongs to it: it is what a restart looks for
        self._publish(history)
        kept = range(max(0, epoch + 1 - LATEST_KEPT), epoch + 1)
        self._latest.keep(kept)
        self._best.keep({best_epoch(history[: latest + 1]) for latest in kept})

    def restore_latest(self) -> History:
        """Goes back to the latest checkpoint that is whole, with its best, and returns the history up to it.

        Damage is found before anything is restored. Where no checkpoint is whole, the history is empty and nothing has
        been changed.
        """
        found = self._closed.epochs()
        for epoch in reversed(found):
            try:
                history = self._history_of(self._closed, epoch)
            except Damaged as damage:
                log.warning("%s: the latest one is looked for", damage)
            else:
                self.history_alone = True
                self._publish(history)
                return history
        self._closed.set_aside(0, self._aside)  # it would be taken for that of what is trained now
        latest = self._latest.epochs()
        history = []
        for epoch in reversed(latest):
            try:
                history = self._history_of(self._latest, epoch)
                break
            except Damaged as damage:
                log.warning("%s: training goes back beyond its epoch %d", damage, epoch + 1)
        # What is later was saved on the way to a state that is gone. The latest first: without its best it is none.
        self._latest.set_aside(len(history), self._aside)
        self._best.set_aside(len(history), self._aside)
        if history:
            self._latest.read(len(history) - 1)
            self._publish(history)
            log.info("Going on after %d epochs from %s", len(history), self._latest.path(len(history) - 1))
        elif found or latest:
            log.warning("No checkpoint in %s is whole: training starts from the beginning", self._latest.folder)
        return history

    def begin_anew(self) -> None:
        """Sets aside what a closed run left: it is to go on, and its state is gone."""
        self._closed.set_aside(0, self._aside)
        self._best.set_aside(0, self._aside)
        self._publish([])
        self.history_alone = False

    def restore_best(self, history: History) -> None:
        """Puts the weights of the best epoch of `history` into what is trained.

        Raises:
            FailedTrial: with the cause ``damaged_checkpoint`` if its checkpoint was damaged since it was written.
        """
        try:
            self._best.check(best_epoch(history))
        except Damaged as damage:
            raise FailedTrial(
                f"{damage}, and it is the best one. The same command goes on from what is whole.",
                cause="damaged_checkpoint",
            ) from damage
        self._best.read(best_epoch(history))

    def keep_best_only(self, history: History) -> None:
        """Removes what is beside the best checkpoint in its folder, and what was set aside, once training is over."""
        best = best_epoch(history)
        make_latest(self._best.path(best))
        self._best.keep([best])
        shutil.rmtree(self._aside, ignore_errors=True)

    def _history_of(self, series: _Series, epoch: int) -> History:
        """The history in the checkpoint of `epoch` in `series`, which is whole and has its best beside it."""
        reader = series.check(epoch)
        if not reader.has_tensor(HISTORY):
            raise Damaged(series.path(epoch), "no history is in it")
        history: History = json.loads(reader.get_tensor(HISTORY))
        self._best.check(best_epoch(history))
        return history

    def _publish(self, history: History) -> None:
        files.write(self._history_file, json.dumps(history))


def close(directory: Path, history: History) -> None:
    """Keeps the history of a run that is over in place of its latest checkpoints, which are most of what it left.

    Another attempt, at a trial whose controller died before it heard of the end, tests the best one and is done.

    Args:
        directory: The run's folder.
        history: Of all its epochs.
    """
    folder, epoch = directory / "checkpoints", len(history) - 1
    with tf.device("cpu"):
        told = tf.Variable(json.dumps(history), dtype=tf.string)
    closed = _Series(folder / CLOSED, tf.train.Checkpoint(history=told))
    try:
        closed.check(epoch)  # TensorFlow writes over a checkpoint in place, so one that is whole is left alone
    except Damaged:
        closed.write(epoch)
    closed.keep([epoch])
    shutil.rmtree(folder / LATEST, ignore_errors=True)


def read_best(folder: Path, trained: tf_keras.Model) -> None:
    """Puts the weights of the best epoch of a run that has ended into `trained`.

    Args:
        folder: The run's ``checkpoints/best``, or a copy of it.
        trained: Built as it was for the run: the model, or the head of one with a frozen backbone.

    Raises:
        FatalError: if the folder does not hold the checkpoint of such a model, or it is damaged.
    """
    series = _Series(folder, tf.train.Checkpoint(model=trained))
    try:
        (epoch,) = series.epochs()
        series.check(epoch)
        series.read(epoch)
    except (Damaged, ValueError, AssertionError, tf.errors.OpError) as error:
        raise FatalError(f"The best checkpoint cannot be read: {' '.join(str(error).split())[:300]}") from error


HISTORY = "history/.ATTRIBUTES/VARIABLE_VALUE"


class Damaged(Exception):
    """A checkpoint that cannot be restored."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"The checkpoint {path} is damaged ({reason})")


def read_whole(path: Path) -> tf.train.CheckpointReader:
    """Reads a checkpoint whole, and restores nothing.

    Raises:
        Damaged: if it is not there, or not what was written.
    """
    try:
        reader = tf.train.load_checkpoint(_name_of(path))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except Exception as error:  # whatever Python has for TensorFlow's status: OutOfRange comes as an IndexError
        reason = str(error).strip() or type(error).__name__
        raise Damaged(path, reason.splitlines()[0]) from error
    return reader


def make_latest(path: Path) -> None:
    """Makes a checkpoint the one that `tf.train.latest_checkpoint` finds in its folder, also in a copy of it."""
    record = f'model_checkpoint_path: "{path.name}"\nall_model_checkpoint_paths: "{path.name}"\n'
    files.write(path.parent / "checkpoint", record)


class _Series:
    """Checkpoints of the same objects in a folder, one an epoch: ``ckpt-<epoch>``.

    TensorFlow's CheckpointManager would trust the file ``checkpoint``, and keeps what is newest, not what is needed.
    """

    def __init__(self, folder: Path, objects: tf.train.Checkpoint) -> None:
        self.folder = folder
        self._objects = objects
        self._save_counter = objects.save_counter  # made by being asked for; `tf.train.Checkpoint.restore` looks for it

    def path(self, epoch: int) -> Path:
        """The files of the checkpoint have endings to it."""
        return self.folder / f"ckpt-{epoch}"

    def epochs(self) -> list[int]:
        """Of the checkpoints that there is anything of, in order."""
        numbers = {_epoch_of(file) for file in self.folder.glob("ckpt-*.*")}
        return sorted(number for number in numbers if number is not None)

    def write(self, epoch: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._objects.write(_name_of(self.path(epoch)))

    def check(self, epoch: int) -> tf.train.CheckpointReader:
        """As `read_whole`."""
        return read_whole(self.path(epoch))

    def read(self, epoch: int) -> None:
        self._objects.read(_name_of(self.path(epoch))).assert_existing_objects_matched()

    def keep(self, epochs: Collection[int]) -> None:
        """Removes every other checkpoint, and what a process that died while it wrote one left behind."""
        for file in self.folder.glob("ckpt-*"):
            if file.is_dir():
                shutil.rmtree(file)
            elif _epoch_of(file) not in epochs:
                file.unlink()

    def set_aside(self, epoch: int, folder: Path) -> None:
        """Moves the checkpoints of `epoch` and later ones under `folder`, in place of what was set aside before."""
        for later in (number for number in self.epochs() if number >= epoch):
            (folder / self.folder.name).mkdir(parents=True, exist_ok=True)
            for file in self.folder.glob(f"ckpt-{later}.*"):
                os.replace(file, folder / self.folder.name / file.name)


def _name_of(path: Path) -> str:
    """What TensorFlow takes for the name of a checkpoint."""
    return str(literal(path.parent) / path.name)


def _epoch_of(file: Path) -> int | None:
    """``ckpt-7.index`` is of epoch 7; None for what is no file of a checkpoint."""
    number = file.name.removeprefix("ckpt-").split(".")[0]
    return int(number) if number.isdecimal() else None
