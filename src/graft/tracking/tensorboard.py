"""The record as TensorBoard events, under ``<directory>/tensorboard``: look with `make tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event

from graft.tracking.recorder import Recorder, Scalar, State


class TensorBoardRecorder(Recorder):
    """Writes loss and accuracy every few steps, and the metrics of every epoch.

    Training and validation are runs of their own with equal tags, so that TensorBoard draws both curves into
    one chart. An attempt that goes on from a checkpoint writes another file beside the first, of what that one lacks:
    a point that is there twice would draw the curve back to it.
    """

    def __init__(self, directory: Path) -> None:
        folder = directory / "tensorboard"
        self._there = {name: _points_in(folder / name) for name in ("train", "validation")}
        self._writers = {name: tf.summary.create_file_writer(str(folder / name)) for name in self._there}

    def log_params(self, params: Mapping[str, Scalar]) -> None:
        return

    def set_tags(self, tags: Mapping[str, str]) -> None:
        return

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step is None:
            return
        for name, value in metrics.items():
            prefix, _, measure = name.partition("_")
            tag = measure if prefix in ("train", "val") else name
            self._write("validation" if prefix == "val" else "train", f"epoch/{tag}", value, step)
        for writer in self._writers.values():
            writer.flush()

    def log_step(self, metrics: Mapping[str, float], *, step: int, epoch: int, of: int) -> None:
        for name, value in metrics.items():
            self._write("train", f"step/{name}", value, step)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        return

    def close(self, state: State, failure: str | None = None) -> None:
        for writer in self._writers.values():
            writer.close()

    def _write(self, run: str, tag: str, value: float, step: int) -> None:
        if (tag, step) not in self._there[run]:
            self._there[run].add((tag, step))
            with self._writers[run].as_default():
                tf.summary.scalar(tag, value, step=step)


def _points_in(folder: Path) -> set[tuple[str, int]]:
    """Tag and step of everything that earlier attempts wrote."""
    points: set[tuple[str, int]] = set()
    for file in folder.glob("events.*"):
        try:
            for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
                event = Event.FromString(record)
                points |= {(value.tag, event.step) for value in event.summary.value}
        except tf.errors.DataLossError:  # the process died while it wrote
            continue
    return points
