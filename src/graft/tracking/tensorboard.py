"""The record as TensorBoard events, under ``<directory>/tensorboard``: look with `make tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.scalar.summary_v2 import scalar_pb

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
        values: dict[str, dict[str, float]] = {"train": {}, "validation": {}}
        for name, value in metrics.items():
            prefix, _, measure = name.partition("_")
            tag = measure if prefix in ("train", "val") else name
            values["validation" if prefix == "val" else "train"][f"epoch/{tag}"] = value
        for run, of_run in values.items():
            self._write(run, of_run, step)
            self._writers[run].flush()

    def log_step(self, metrics: Mapping[str, float], *, step: int, epoch: int, of: int) -> None:
        self._write("train", {f"step/{name}": value for name, value in metrics.items()}, step)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        return

    def close(self, state: State, failure: str | None = None) -> None:
        for writer in self._writers.values():
            writer.close()

    def _write(self, run: str, values: Mapping[str, float], step: int) -> None:
        summary = Summary()
        for tag, value in values.items():
            if (tag, step) not in self._there[run]:
                self._there[run].add((tag, step))
                summary.value.extend(scalar_pb(tag, value).value)
        if summary.value:  # in one operation: one a value takes longer than many an epoch of a head
            with self._writers[run].as_default():
                tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step=step)


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
