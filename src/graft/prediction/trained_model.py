"""The model of a recorded run, with the weights of its best epoch."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from graft import backbones, runtime
from graft.config import Config, TrackingConfig
from graft.config_dataset import DatasetConfig
from graft.errors import FatalError
from graft.export.trained import TrainedModel, build
from graft.recording import CLASSES
from graft.rerun.restore import restore
from graft.tracking import recorded_run
from graft.tracking.mlflow_store import Store, open_store
from graft.tracking.recorded_run import RecordedRun

if TYPE_CHECKING:
    import tf_keras


def load(tracking: TrackingConfig, name: str) -> TrainedModel:
    """The model of a recorded run.

    Args:
        tracking: Where it was recorded.
        name: Its id, or the beginning of it.

    Raises:
        ConfigError, FatalError: as `find` and `of_run`.
    """
    store, run = find(tracking, name)
    return of_run(store, run, tracking)


def find(tracking: TrackingConfig, name: str) -> tuple[Store, RecordedRun]:
    """A recorded run, and the experiment that it lies in; arguments as those of `load`.

    Raises:
        ConfigError: if there is no such run.
        FatalError: if it is a sweep, or was recorded too incompletely.
    """
    found = recorded_run.find(open_store(tracking, create=False), name)
    if found.sweep is not None:
        raise FatalError(f"{name} is a sweep and has a model for each trial; its best is {_best_of(found.runs)}")
    (run,) = found.runs
    return found.store, run


def of_run(store: Store, run: RecordedRun, tracking: TrackingConfig) -> TrainedModel:
    """The model of `run`.

    Raises:
        ConfigError: if its backbone cannot be used any more.
        FatalError: if it left no checkpoint, or its backbone is not what it was.
    """
    with tempfile.TemporaryDirectory() as folder:
        class_names = _class_names(store, run, Path(folder))
        best = _artifact(store, run, "checkpoints/best", Path(folder))
        config = _config_of(run, tracking)
        return TrainedModel(run.id, run.name, class_names, config, _build(run, config, len(class_names), best))


def _best_of(runs: Sequence[RecordedRun]) -> str:
    best = max(runs, key=lambda run: run.metrics.get("best_val_accuracy", {}).get(0, -1.0))
    return f"{best.id} ({best.name})"


def _class_names(store: Store, run: RecordedRun, folder: Path) -> tuple[str, ...]:
    file = _artifact(store, run, CLASSES, folder)
    try:
        return tuple(str(name) for name in json.loads(file.read_bytes()))
    except (ValueError, TypeError) as error:
        raise FatalError(f"The run {run.id} ({run.name}): its artifact {CLASSES} is damaged") from error


def _artifact(store: Store, run: RecordedRun, name: str, folder: Path) -> Path:
    try:
        return store.artifact(run.id, name, folder)
    except FatalError as error:
        raise FatalError(
            f"The run {run.id} ({run.name}, {run.state}) cannot be used for predictions: its artifact {name} cannot be "
            f"read: {error}. A run leaves it behind when it comes to its end; graft rerun {run.id} makes a new one"
        ) from error


def _config_of(run: RecordedRun, tracking: TrackingConfig) -> Config:
    """The run, but on a data set that is always here: no image of its own is needed, and they may be gone."""
    of_any = {key: value for key, value in run.config["dataset"].items() if key in DatasetConfig.model_fields}
    dataset = {**of_any, "name": "digits", "splits": "auto"}
    return restore(replace(run, config={**run.config, "dataset": dataset}), tracking)


def _build(run: RecordedRun, config: Config, classes: int, best: Path) -> tf_keras.Model:
    runtime.set_up(config)
    saved = backbones.resolve(config.backbone)
    if saved.sha256 != run.tags.get("graft.backbone_sha256"):
        raise FatalError(
            f"backbone.url={config.backbone.url}: it is not the backbone that the run {run.id} was trained on: its "
            f"digest is {saved.sha256}, and was {run.tags.get('graft.backbone_sha256')}"
        )
    return build(config, saved, classes, best)
