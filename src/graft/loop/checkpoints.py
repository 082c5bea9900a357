"""Checkpoints of a run: the latest, to go on from, and the best by validation accuracy, to keep."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import tensorflow as tf
import tf_keras

from graft.loop.result import History, best_epoch

log = logging.getLogger(__name__)


class Checkpoints:
    """Writes and restores the checkpoints under ``<directory>/checkpoints``.

    The latest holds what is trained, dropout's step counter in it, and the optimiser. The data position needs no
    saving: the order of an epoch follows from seed and epoch.

    Args:
        directory: The run's folder, the same for every attempt.
        trained: What training changes: the built model, or the head of one with a frozen backbone.
        optimizer: Its slots are built here, because restoring into an unbuilt optimiser is put off silently.
    """

    def __init__(self, directory: Path, trained: tf_keras.Model, optimizer: tf_keras.optimizers.Optimizer) -> None:
        optimizer.build(trained.trainable_variables)
        folder = directory / "checkpoints"
        self._history = folder / "history.json"
        # Two of each, so that one is left if the process dies while it writes the other. The best that goes with
        # the latest is found by its epoch: one of a later epoch may have been saved just before the process died.
        self._latest = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=trained, optimizer=optimizer), str(folder / "latest"), max_to_keep=2
        )
        self._best = tf.train.CheckpointManager(tf.train.Checkpoint(model=trained), str(folder / "best"), max_to_keep=2)

    def save(self, history: History) -> None:
        """Saves the state after the last epoch of `history`; as the best too, if that epoch is the best so far."""
        epoch = len(history) - 1
        if best_epoch(history) == epoch:
            self._best.save(checkpoint_number=epoch)
        partial = self._history.with_suffix(".partial")
        partial.write_text(json.dumps(history))
        os.replace(partial, self._history)
        self._latest.save(checkpoint_number=epoch)  # last: it is what a restart looks for

    def restore_latest(self) -> History:
        """Goes back to the latest checkpoint and returns the history up to it; empty where there is none."""
        path = self._latest.latest_checkpoint
        if path is None:
            return []
        self._latest.checkpoint.restore(path).assert_existing_objects_matched()
        history: History = json.loads(self._history.read_text())[: int(path.rsplit("-", 1)[-1]) + 1]
        log.info("Going on after %d epochs from %s", len(history), path)
        return history

    def restore_best(self, history: History) -> None:
        """Puts the weights of the best epoch of `history` into what is trained."""
        self._best.checkpoint.restore(
            f"{self._best.directory}/ckpt-{best_epoch(history)}"
        ).assert_existing_objects_matched()

    def keep_best_only(self, history: History) -> None:
        """Removes what is beside the best checkpoint in its folder, once training is over."""
        name = f"ckpt-{best_epoch(history)}"
        # TensorFlow's own record of what lies in the folder. By its bare name, so that the folder can be copied and
        # `tf.train.latest_checkpoint` still finds it.
        partial = self._history.with_name("best.partial")
        partial.write_text(f'model_checkpoint_path: "{name}"\nall_model_checkpoint_paths: "{name}"\n')
        os.replace(partial, Path(self._best.directory) / "checkpoint")
        for file in Path(self._best.directory).glob("ckpt-*"):
            if file.name.split(".")[0] != name:
                file.unlink()
