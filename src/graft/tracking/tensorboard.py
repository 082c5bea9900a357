"""The record as TensorBoard events, under ``<directory>/tensorboard``: look with `make tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf

from graft.tracking.recorder import Recorder, Scalar, State


class TensorBoardRecorder(Recorder):
    """Writes loss and accuracy every few steps, and the metrics of every epoch.

    Training and validation are runs of their own with equal tags, so that TensorBoard draws both curves into
    one chart. An attempt that goes on from a checkpoint writes another file beside the first.
    """

    def __init__(self, directory: Path) -> None:
        folder = directory / "tensorboard"
        self._writers = {name: tf.summary.create_file_writer(str(folder / name)) for name in ("train", "validation")}

    def log_params(self, params: Mapping[str, Scalar]) -> None:
        return

    def set_tags(self, tags: Mapping[str, str]) -> None:
        return

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step is None:
            return
        for name, value in metrics.items():
            prefix, _, measure = name.partition("_")
            is_measure = prefix in ("train", "val")
            with self._writers["validation" if prefix == "val" else "train"].as_default():
                tf.summary.scalar(f"epoch/{measure if is_measure else name}", value, step=step)
        self._flush()

    def log_step(self, metrics: Mapping[str, float], *, step: int, epoch: int, of: int) -> None:
        with self._writers["train"].as_default():
            for name, value in metrics.items():
                tf.summary.scalar(f"step/{name}", value, step=step)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        return

    def close(self, state: State, failure: str | None = None) -> None:
        for writer in self._writers.values():
            writer.close()

    def _flush(self) -> None:
        for writer in self._writers.values():
            writer.flush()
